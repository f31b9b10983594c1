//! Login sessions and reset tokens in SQL: one method per call. Both are kept under the SHA-256 of
//! what their holder shows.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::chats::{EVICTED_MAX, SWEPT_MAX, SessionFile};
use super::secrets::AccountFile;
use super::{NewSession, SESSIONS_PER_USER_MAX, Session, SessionInfo, StoreError};
use crate::model::{Token, UserId};

/// How exactly it is known when a session was last used: a session costs one write in so long.
pub(super) const SEEN_EVERY_MS: u64 = 60_000;

impl SessionFile {
    pub(super) fn create_session(&mut self, new: NewSession) -> Result<(), StoreError> {
        let sessions_max = self.limits.sessions_max;
        let key = new.token.sha256();
        self.file.write(|file| {
            if let Some(replaced) = &new.replaces {
                delete(file, &replaced.sha256())?;
            }
            make_room(file, sessions_max)?;
            file.prepare_cached(
                "INSERT INTO sessions
                     (key, user_id, created_ms, last_seen_ms, expires_ms, address, user_agent)
                 VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                key,
                new.user.0,
                new.start_ms,
                new.start_ms.saturating_add(new.ttl_ms),
                new.address,
                new.user_agent
            ])?;
            file.prepare_cached(
                "DELETE FROM sessions WHERE rowid IN
                 (SELECT rowid FROM sessions WHERE user_id = ?1 AND key <> ?2
                  ORDER BY created_ms DESC, rowid DESC LIMIT -1 OFFSET ?3)",
            )?
            .execute(params![new.user.0, key, SESSIONS_PER_USER_MAX - 1])?;
            Ok(())
        })
    }

    pub(super) fn session(
        &mut self,
        now_ms: i64,
        token: Token,
    ) -> Result<Option<Session>, StoreError> {
        let key = token.sha256();
        let found = self.file.read(|file| {
            file.prepare_cached(
                "SELECT user_id, created_ms, last_seen_ms FROM sessions
                 WHERE key = ?1 AND expires_ms > ?2",
            )?
            .query_row(params![key, now_ms], |row| {
                let session = Session {
                    user: UserId(row.get(0)?),
                    created_ms: row.get(1)?,
                    is_noted: true,
                };
                Ok((session, row.get::<_, i64>(2)?))
            })
            .optional()
        })?;
        let Some((session, last_seen_ms)) = found else {
            return Ok(None);
        };
        if now_ms.abs_diff(last_seen_ms) >= SEEN_EVERY_MS {
            // A failure is reported where it happens; on a full disk sessions are readable still.
            self.file
                .write(|file| {
                    file.prepare_cached("UPDATE sessions SET last_seen_ms = ?2 WHERE key = ?1")?
                        .execute(params![key, now_ms])
                })
                .ok();
        }
        Ok(Some(session))
    }

    pub(super) fn end_session(&mut self, token: Token) -> Result<Option<UserId>, StoreError> {
        let key = token.sha256();
        self.file.write(|file| delete(file, &key))
    }

    pub(super) fn sessions_of(
        &mut self,
        now_ms: i64,
        user: UserId,
    ) -> Result<Vec<SessionInfo>, StoreError> {
        self.file.read(|file| {
            file.prepare_cached(
                "SELECT key, created_ms, last_seen_ms, address, user_agent FROM sessions
                 WHERE user_id = ?1 AND expires_ms > ?2 ORDER BY created_ms DESC, rowid DESC",
            )?
            .query_map(params![user.0, now_ms], to_info)?
            .collect()
        })
    }

    pub(super) fn end_session_by_id(
        &mut self,
        user: UserId,
        id: String,
    ) -> Result<bool, StoreError> {
        self.file.write(|file| {
            let ended = file
                .prepare_cached(
                    "DELETE FROM sessions
                     WHERE user_id = ?1 AND lower(hex(substr(key, 1, 8))) = ?2",
                )?
                .execute(params![user.0, id])?;
            Ok(ended > 0)
        })
    }

    pub(super) fn end_sessions_of(
        &mut self,
        user: UserId,
        except: Option<Token>,
    ) -> Result<u32, StoreError> {
        let except = except.map(|token| token.sha256());
        self.file.write(|file| {
            let ended = file
                .prepare_cached("DELETE FROM sessions WHERE user_id = ?1 AND key IS NOT ?2")?
                .execute(params![user.0, except])?;
            Ok(u32::try_from(ended).unwrap_or(u32::MAX))
        })
    }

    pub(super) fn put_reset_token(
        &mut self,
        now_ms: i64,
        token_sha256: [u8; 32],
        user: UserId,
        ttl_ms: i64,
    ) -> Result<(), StoreError> {
        let expires_ms = now_ms.saturating_add(ttl_ms.min(super::RESET_TOKEN_TTL_MS_MAX));
        self.file.write(|file| {
            file.prepare_cached(
                "INSERT INTO reset_tokens (user_id, key, expires_ms) VALUES (?1, ?2, ?3)
                 ON CONFLICT (user_id) DO UPDATE SET
                     key = excluded.key, expires_ms = excluded.expires_ms",
            )?
            .execute(params![user.0, token_sha256, expires_ms])?;
            Ok(())
        })
    }

    pub(super) fn reset_token(
        &mut self,
        now_ms: i64,
        token_sha256: [u8; 32],
    ) -> Result<Option<UserId>, StoreError> {
        self.file.read(|file| {
            file.prepare_cached(
                "SELECT user_id FROM reset_tokens WHERE key = ?1 AND expires_ms > ?2",
            )?
            .query_row(params![token_sha256, now_ms], |row| row.get(0).map(UserId))
            .optional()
        })
    }

    pub(super) fn drop_reset_tokens(&mut self, user: UserId) -> Result<(), StoreError> {
        self.file.write(|file| {
            file.prepare_cached("DELETE FROM reset_tokens WHERE user_id = ?1")?
                .execute([user.0])?;
            Ok(())
        })
    }
}

/// Whether a session or a token has expired.
pub(super) fn are_due(file: &Connection, now_ms: i64) -> rusqlite::Result<bool> {
    file.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM sessions WHERE expires_ms <= ?1)
             OR EXISTS (SELECT 1 FROM reset_tokens WHERE expires_ms <= ?1)",
    )?
    .query_row([now_ms], |row| row.get(0))
}

/// Deletes a few that have expired; the larger of the two numbers.
pub(super) fn sweep(file: &Connection, now_ms: i64) -> rusqlite::Result<usize> {
    let tokens = file
        .prepare_cached(
            "DELETE FROM reset_tokens WHERE user_id IN
             (SELECT user_id FROM reset_tokens WHERE expires_ms <= ?1
              ORDER BY expires_ms LIMIT ?2)",
        )?
        .execute([now_ms, SWEPT_MAX])?;
    Ok(tokens.max(delete_expired(file, now_ms, SWEPT_MAX)?))
}

fn make_room(file: &Connection, sessions_max: i64) -> rusqlite::Result<()> {
    let sessions: i64 = file
        .prepare_cached("SELECT sessions FROM totals")?
        .query_row([], |row| row.get(0))?;
    let excess = (sessions + 1).saturating_sub(sessions_max);
    if excess > 0 {
        delete_expired(file, i64::MAX, excess.min(EVICTED_MAX))?;
    }
    Ok(())
}

/// Those first that expire first.
fn delete_expired(file: &Connection, now_ms: i64, rows_max: i64) -> rusqlite::Result<usize> {
    file.prepare_cached(
        "DELETE FROM sessions WHERE rowid IN
         (SELECT rowid FROM sessions WHERE expires_ms <= ?1 ORDER BY expires_ms LIMIT ?2)",
    )?
    .execute([now_ms, rows_max])
}

fn delete(file: &Connection, key: &[u8; 32]) -> rusqlite::Result<Option<UserId>> {
    file.prepare_cached("DELETE FROM sessions WHERE key = ?1 RETURNING user_id")?
        .query_row([key], |row| row.get(0).map(UserId))
        .optional()
}

/// What its user may see of a session's key: 64 of its 256 bits; no way back to the cookie, and no two
/// alike among 50.
pub(super) fn short_id(key: &[u8; 32]) -> String {
    key[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn to_info(row: &Row<'_>) -> rusqlite::Result<SessionInfo> {
    let key: [u8; 32] = row.get(0)?;
    Ok(SessionInfo {
        id: short_id(&key),
        created_ms: row.get(1)?,
        last_seen_ms: row.get(2)?,
        address: row.get(3)?,
        user_agent: row.get(4)?,
        key,
    })
}

/// Where both files are this thread's own, it costs one more read to see that the account does not
/// admit the session any more: its row may have outlived a crash. An account file that cannot be
/// read keeps nobody from chatting.
pub(super) fn chat_user(
    now_ms: i64,
    token: Token,
    sessions: &mut SessionFile,
    accounts: Option<&mut AccountFile>,
) -> Result<Option<Session>, StoreError> {
    let Some(session) = sessions.session(now_ms, token)? else {
        return Ok(None);
    };
    let Some(accounts) = accounts else {
        return Ok(Some(session));
    };
    let admits = accounts.user(session.user).map(|user| {
        // The row stays for whoever ends it; it is of no use until then.
        user.is_some_and(|user| user.admits(session.created_ms))
    });
    Ok(admits.unwrap_or(true).then_some(session))
}
