//! Users and their credentials in SQLite: one method per call.
//!
//! What ends sessions sets `sessions_not_before` to a time after every session that exists: one
//! millisecond past the store's clock as it stands *inside* the transaction, the caller's time and
//! the value it had before. A login takes its session's start before it reads the credential
//! ([`crate::model::Credential::session_start_ms`]), so a session that rests on an older state of
//! the account is dead whenever it is written, while one that rests on the new state starts at
//! `sessions_not_before` at the earliest and lives.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::secrets::AccountFile;
use super::sqlite::Wanted;
use super::{Registered, StoreError, Taken, TokenUse, Updated, outbox};
use crate::clock::Clock;
use crate::entropy;
use crate::model::{
    Credential, DisplayName, Email, Forms, Identifier, Letter, NewUser, PasswordHash, Phone, User,
    UserId,
};

/// Kinds of hashes told to whoever picks a dummy; the rest would not be noticed.
pub(super) const HASH_MIX_MAX: i64 = 16;
/// How long a used token is remembered; a token lives for a day at most
/// ([`super::RESET_TOKEN_TTL_MS_MAX`]).
pub(super) const USED_TOKEN_MS: i64 = 2 * super::RESET_TOKEN_TTL_MS_MAX;

impl AccountFile {
    pub(super) fn taken(
        &mut self,
        email: Email,
        phone: Option<Phone>,
    ) -> Result<Taken, StoreError> {
        self.file
            .read(|file| is_taken(file, &email, phone.as_ref()))
    }

    pub(super) fn register(
        &mut self,
        wanted: Wanted<'_>,
        now_ms: i64,
        user: NewUser,
    ) -> Result<Registered, StoreError> {
        self.write_and_post(wanted, |file, outbox| {
            let taken = is_taken(file, &user.email, user.phone.as_ref())?;
            if taken.email {
                return Ok(Registered::EmailTaken);
            }
            if taken.phone {
                return Ok(Registered::PhoneTaken);
            }
            file.prepare_cached(
                "INSERT INTO users (uid, email, phone, display_name, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                free_uid(file)?,
                user.email.as_str(),
                user.phone.as_ref().map(Phone::as_str),
                user.display_name.as_ref().map(DisplayName::as_str),
                now_ms,
            ])?;
            let id = UserId(file.last_insert_rowid());
            put_credential(file, now_ms, id, &user.hash)?;
            if user.welcome {
                outbox.post(file, now_ms, Letter::Welcome, Some(id), None)?;
            }
            Ok(Registered::Done(id))
        })
    }

    pub(super) fn credential(
        &mut self,
        identifier: Identifier,
    ) -> Result<Option<Credential>, StoreError> {
        // An identifier that nobody can have is looked up all the same: it costs the same.
        let (wanted, forms) = match &identifier {
            Identifier::Email(text) => (OF_FORMS, Forms::of(text)),
            Identifier::Phone(text) => ("phone = ?1", Forms::one(text)),
            Identifier::Overlong(_) => ("phone = ?1", Forms::one("")),
        };
        self.file.read(|file| {
            file.prepare_cached(&format!("{CREDENTIAL} WHERE users.{wanted} {FORMS_ORDER}"))?
                .query_row(forms.all(), to_credential)
                .optional()
        })
    }

    pub(super) fn credential_of(&mut self, user: UserId) -> Result<Option<Credential>, StoreError> {
        self.file.read(|file| find_credential(file, user))
    }

    pub(super) fn user(&mut self, user: UserId) -> Result<Option<User>, StoreError> {
        self.file.read(|file| find_user(file, user))
    }

    pub(super) fn rehash(
        &mut self,
        user: UserId,
        old: PasswordHash,
        new: PasswordHash,
    ) -> Result<bool, StoreError> {
        self.file.write(|file| {
            let changed = file
                .prepare_cached(
                    "UPDATE credentials SET secret_hash = ?3, nfc_of = ?4
                     WHERE user_id = ?1 AND type = 'password' AND secret_hash = ?2",
                )?
                .execute(params![user.0, old.as_str(), new.as_str(), new.mark()])?;
            Ok(changed > 0)
        })
    }

    pub(super) fn use_reset_token(
        &mut self,
        wanted: Wanted<'_>,
        now_ms: i64,
        token_sha256: [u8; 32],
        user: UserId,
        new: PasswordHash,
        end_sessions: bool,
    ) -> Result<TokenUse, StoreError> {
        self.write_and_post(wanted, |file, outbox| {
            if !find_user(file, user)?.is_some_and(|user| user.is_active) {
                return Ok(TokenUse::NoUser);
            }
            let recorded = file
                .prepare_cached(
                    "INSERT INTO used_tokens (sha256, used_at) VALUES (?1, ?2)
                     ON CONFLICT DO NOTHING",
                )?
                .execute(params![token_sha256, now_ms])?;
            if recorded == 0 {
                return Ok(TokenUse::Used);
            }
            put_credential(file, now_ms, user, &new)?;
            if end_sessions {
                end_sessions_now(file, now_ms, user)?;
            }
            outbox.post(file, now_ms, Letter::ResetDone, Some(user), None)?;
            Ok(TokenUse::Done)
        })
    }

    pub(super) fn change_password(
        &mut self,
        wanted: Wanted<'_>,
        now_ms: i64,
        user: UserId,
        old: PasswordHash,
        new: PasswordHash,
    ) -> Result<Option<Credential>, StoreError> {
        self.write_and_post(wanted, |file, outbox| {
            let found = find_credential(file, user)?;
            let is_current = |found: &Credential| found.is_active && found.hash == Some(old);
            if !found.is_some_and(|found| is_current(&found)) {
                return Ok(None);
            }
            put_credential(file, now_ms, user, &new)?;
            end_sessions_now(file, now_ms, user)?;
            outbox.post(file, now_ms, Letter::PasswordChanged, Some(user), None)?;
            find_credential(file, user)
        })
    }

    pub(super) fn set_password(
        &mut self,
        wanted: Wanted<'_>,
        now_ms: i64,
        user: UserId,
        new: PasswordHash,
    ) -> Result<bool, StoreError> {
        self.write_and_post(wanted, |file, outbox| {
            if !end_sessions_now(file, now_ms, user)? {
                return Ok(false);
            }
            put_credential(file, now_ms, user, &new)?;
            outbox.post(file, now_ms, Letter::ResetDone, Some(user), None)?;
            Ok(true)
        })
    }

    pub(super) fn update_profile(
        &mut self,
        user: UserId,
        display_name: Option<Option<DisplayName>>,
        phone: Option<Option<Phone>>,
    ) -> Result<Updated, StoreError> {
        self.file.write(|file| {
            let Some(mut found) = find_user(file, user)? else {
                return Ok(Updated::NoUser);
            };
            found.display_name = display_name.unwrap_or(found.display_name);
            found.phone = phone.unwrap_or(found.phone);
            if let Some(phone) = &found.phone
                && owner_of_phone(file, phone)?.is_some_and(|owner| owner != user)
            {
                return Ok(Updated::PhoneTaken);
            }
            file.prepare_cached("UPDATE users SET display_name = ?2, phone = ?3 WHERE id = ?1")?
                .execute(params![
                    user.0,
                    found.display_name.as_ref().map(DisplayName::as_str),
                    found.phone.as_ref().map(Phone::as_str)
                ])?;
            Ok(Updated::Done(found))
        })
    }

    pub(super) fn delete_user(&mut self, user: UserId) -> Result<bool, StoreError> {
        self.file.write(|file| {
            let Some(found) = find_user(file, user)? else {
                return Ok(false);
            };
            outbox::forget(file, &found)?;
            // The credentials go with it (ON DELETE CASCADE).
            file.prepare_cached("DELETE FROM users WHERE id = ?1")?
                .execute([user.0])?;
            Ok(true)
        })
    }

    pub(super) fn set_active(
        &mut self,
        now_ms: i64,
        user: UserId,
        is_active: bool,
    ) -> Result<bool, StoreError> {
        self.file.write(|file| {
            let found = file
                .prepare_cached("UPDATE users SET is_active = ?2 WHERE id = ?1")?
                .execute(params![user.0, is_active])?;
            if !is_active {
                end_sessions_now(file, now_ms, user)?;
            }
            Ok(found > 0)
        })
    }

    pub(super) fn end_sessions_before_now(
        &mut self,
        now_ms: i64,
        user: UserId,
    ) -> Result<bool, StoreError> {
        self.file.write(|file| end_sessions_now(file, now_ms, user))
    }

    pub(super) fn list_users(
        &mut self,
        after: UserId,
        rows_max: u32,
    ) -> Result<Vec<User>, StoreError> {
        self.file.read(|file| {
            file.prepare_cached(&format!("{USER} WHERE id > ?1 ORDER BY id LIMIT ?2"))?
                .query_map(params![after.0, rows_max], to_user)?
                .collect()
        })
    }

    pub(super) fn find_users(&mut self, text: String) -> Result<Vec<User>, StoreError> {
        let trimmed = text.trim();
        let lower = trimmed.to_lowercase();
        let forms = Forms::of(&lower);
        let [given, unicode, ascii] = forms.all();
        self.file.read(|file| {
            file.prepare_cached(&format!(
                "{USER} WHERE {OF_FORMS} OR phone = ?4 OR uid = ?1 OR id = ?5 ORDER BY id"
            ))?
            .query_map(
                params![given, unicode, ascii, trimmed, trimmed.parse::<i64>().ok()],
                to_user,
            )?
            .collect()
        })
    }

    pub(super) fn hash_mix(&mut self) -> Result<Vec<(String, u32)>, StoreError> {
        self.file.read(|file| {
            file.prepare_cached(
                "SELECT parameters, credentials FROM hash_mix ORDER BY credentials DESC LIMIT ?1",
            )?
            .query_map([HASH_MIX_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
        })
    }

    /// Deletes a few rows that are of no use any more. Whether there may be more.
    pub(super) fn sweep(&mut self, now_ms: i64) -> bool {
        let before_ms = now_ms.saturating_sub(USED_TOKEN_MS);
        let due = self.file.read(|file| {
            file.prepare_cached("SELECT EXISTS (SELECT 1 FROM used_tokens WHERE used_at <= ?1)")?
                .query_row([before_ms], |row| row.get(0))
        });
        if due != Ok(true) {
            return false;
        }
        let swept = self.file.write(|file| {
            file.prepare_cached(
                "DELETE FROM used_tokens WHERE sha256 IN
                 (SELECT sha256 FROM used_tokens WHERE used_at <= ?1 ORDER BY used_at LIMIT ?2)",
            )?
            .execute(params![before_ms, super::chats::SWEPT_MAX])
        });
        swept == Ok(super::chats::SWEPT_MAX as usize)
    }
}

const USER: &str = "SELECT id, uid, email, phone, display_name, is_active, created_at,
    sessions_not_before FROM users";

fn to_user(row: &Row<'_>) -> rusqlite::Result<User> {
    let email: Option<String> = row.get(2)?;
    let phone: Option<String> = row.get(3)?;
    let display_name: Option<String> = row.get(4)?;
    Ok(User {
        id: UserId(row.get(0)?),
        uid: row.get(1)?,
        email: email.map(Email::stored),
        phone: phone.map(Phone::stored),
        display_name: display_name.map(DisplayName::stored),
        is_active: row.get::<_, Option<_>>(5)?.unwrap_or_default(),
        created_ms: row.get(6)?,
        sessions_not_before_ms: row.get(7)?,
    })
}

/// Whose address is one of the [`Forms::all`].
const OF_FORMS: &str = "email IN (?1, ?2, ?3)";
/// What was typed comes first: the service before took in all of them as accounts of their own.
const FORMS_ORDER: &str =
    "ORDER BY users.email = ?1 DESC, users.email = ?2 DESC, users.email = ?3 DESC LIMIT 1";

const CREDENTIAL: &str = "SELECT users.id, uid, secret_hash, coalesce(changed_ms, 0),
    coalesce(is_active, 0), sessions_not_before, nfc_of
    FROM users LEFT JOIN credentials ON user_id = users.id AND type = 'password'";

fn to_credential(row: &Row<'_>) -> rusqlite::Result<Credential> {
    let hash: Option<String> = row.get(2)?;
    let mark: Option<String> = row.get(6)?;
    Ok(Credential {
        user: UserId(row.get(0)?),
        uid: row.get(1)?,
        hash: hash.map(|phc| PasswordHash::stored(phc, mark.as_deref())),
        password_changed_ms: row.get(3)?,
        is_active: row.get(4)?,
        sessions_not_before_ms: row.get(5)?,
    })
}

pub(super) fn find_user(file: &Connection, user: UserId) -> rusqlite::Result<Option<User>> {
    file.prepare_cached(&format!("{USER} WHERE id = ?1"))?
        .query_row([user.0], to_user)
        .optional()
}

fn find_credential(file: &Connection, user: UserId) -> rusqlite::Result<Option<Credential>> {
    file.prepare_cached(&format!("{CREDENTIAL} WHERE users.id = ?1"))?
        .query_row([user.0], to_credential)
        .optional()
}

fn is_taken(file: &Connection, email: &Email, phone: Option<&Phone>) -> rusqlite::Result<Taken> {
    Ok(Taken {
        email: file
            .prepare_cached(&format!("SELECT 1 FROM users WHERE {OF_FORMS}"))?
            .exists(email.forms().all())?,
        phone: match phone {
            Some(phone) => owner_of_phone(file, phone)?.is_some(),
            None => false,
        },
    })
}

fn owner_of_phone(file: &Connection, phone: &Phone) -> rusqlite::Result<Option<UserId>> {
    file.prepare_cached("SELECT id FROM users WHERE phone = ?1")?
        .query_row([phone.as_str()], |row| row.get(0).map(UserId))
        .optional()
}

/// 48 random bits: two alike are rare, but there are sites with a million users.
fn free_uid(file: &Connection) -> rusqlite::Result<String> {
    loop {
        let uid: String = entropy::bytes::<6>()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let is_taken = file
            .prepare_cached("SELECT 1 FROM users WHERE uid = ?1")?
            .exists([&uid])?;
        if !is_taken {
            return Ok(uid);
        }
    }
}

/// Gives the user a password that the person has chosen now.
fn put_credential(
    file: &Connection,
    now_ms: i64,
    user: UserId,
    hash: &PasswordHash,
) -> rusqlite::Result<()> {
    file.prepare_cached(
        "INSERT INTO credentials (user_id, type, secret_hash, created_at, changed_ms, nfc_of)
         VALUES (?1, 'password', ?2, ?3, ?3, ?4)
         ON CONFLICT (user_id, type) WHERE type IN ('password', 'totp', 'webauthn') DO UPDATE SET
             secret_hash = excluded.secret_hash, nfc_of = excluded.nfc_of,
             changed_ms = max(excluded.changed_ms, changed_ms + 1)",
    )?
    .execute(params![user.0, hash.as_str(), now_ms, hash.mark()])?;
    Ok(())
}

/// Every session that exists is dead after this commit, also in the millisecond of a login. Whether
/// there is such a user.
fn end_sessions_now(file: &Connection, now_ms: i64, user: UserId) -> rusqlite::Result<bool> {
    let now_ms = now_ms.max(Clock::System.wall_ms());
    let found = file
        .prepare_cached(
            "UPDATE users SET sessions_not_before = max(?2, sessions_not_before) + 1 WHERE id = ?1",
        )?
        .execute(params![user.0, now_ms])?;
    Ok(found > 0)
}
