//! Chats in SQL, and the session file as a whole: one method per call.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::schema::{Migration, Upkeep};
use super::sqlite::{File, Plan};
use super::{
    Begun, ChatKey, Found, Generation, OnEvent, OwnChat, Owner, Reserved, StoreError, Turn, Window,
    logins, windows,
};
use crate::config::Lives;
use crate::model::UserId;
use crate::{entropy, llm::history};

/// Rows deleted at once to make room for a new one; more than one only after the maximum was
/// lowered.
pub(super) const EVICTED_MAX: i64 = 100;
/// Rows of each kind deleted by one sweep, so that no call waits long for it.
pub(super) const SWEPT_MAX: i64 = 25;
/// How long an expired chat stays in its store, unseen: a chat that expires between its question
/// and the provider's first word (`upstream.first_event_seconds`) must not lose its history.
pub(super) const GRACE_MS: i64 = 15 * 60 * 1000;

/// The file's name in the data folder.
pub(super) const FILE_NAME: &str = "sessions.db";
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration::adds(include_str!(
        "../../sql/sqlite/sessions/0001_chats_and_windows.sql"
    )),
    Migration::adds(include_str!("../../sql/sqlite/sessions/0002_sessions.sql")),
    Migration::adds(include_str!("../../sql/sqlite/sessions/0003_clients.sql")),
];

/// How many rows of each kind are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowLimits {
    pub chats_max: i64,
    pub windows_max: i64,
    pub sessions_max: i64,
}

/// Chats may fill all but an eighth of the file: what is left is for logins and rate limits.
const CHATS_SHARE: (i64, i64) = (7, 8);
/// When room is made, at least this part of it.
const ROOM_PART: i64 = 32;

/// The session file.
#[derive(Debug)]
pub(super) struct SessionFile {
    pub(super) file: File,
    pub(super) limits: RowLimits,
    /// Bytes that the file may have while chats are added.
    bytes_max: i64,
    pub(super) lives: Lives,
    /// The clock was set back, and rows of before may end too late.
    pub(super) ends_late: bool,
}

impl SessionFile {
    pub(super) fn open(
        dir: &Path,
        limits: RowLimits,
        lives: Lives,
        disk_bytes_max: i64,
        busy: std::time::Duration,
        upkeep: Upkeep,
        on_event: OnEvent,
    ) -> Result<Self, String> {
        let plan = Plan {
            name: FILE_NAME,
            migrations: MIGRATIONS,
            upkeep,
            synchronous: "NORMAL",
            cache_kib: 256,
            disk_bytes_max: Some(disk_bytes_max),
            busy,
        };
        let file = File::open(dir, plan, on_event)?;
        Ok(Self {
            file,
            limits,
            bytes_max: disk_bytes_max / CHATS_SHARE.1 * CHATS_SHARE.0,
            lives,
            ends_late: false,
        })
    }

    pub(super) fn begin(
        &mut self,
        now_ms: i64,
        chat: Option<ChatKey>,
        owner: Owner,
        windows: Vec<Window>,
    ) -> Result<Begun, StoreError> {
        if !windows.is_empty()
            && let Reserved::Over { retry_after_s, .. } = self.reserve(now_ms, windows)?
        {
            return Ok(Begun::Limited { retry_after_s });
        }
        let chat = match chat {
            Some(key) => self.find(now_ms, key, owner)?,
            None => None,
        };
        Ok(Begun::Ready { chat })
    }

    fn find(
        &mut self,
        now_ms: i64,
        key: ChatKey,
        owner: Owner,
    ) -> Result<Option<Found>, StoreError> {
        let found = self.file.read(|file| {
            file.prepare_cached(
                "SELECT generation, expires_ms, messages FROM chats
                 WHERE key = ?1 AND owner IS ?2 AND expires_ms > ?3",
            )?
            .query_row(params![key.0, owner.id(), now_ms], |row| {
                Ok(Found {
                    generation: row.get(0)?,
                    ends_ms: row.get(1)?,
                    messages: row.get(2)?,
                })
            })
            .optional()
        })?;
        Ok(found.map(|found| Found {
            messages: self.readable(found.messages),
            ..found
        }))
    }

    pub(super) fn open_chat(
        &mut self,
        expires_ms: i64,
        key: ChatKey,
        owner: Owner,
        generation: Generation,
        new: bool,
    ) -> Result<(), StoreError> {
        let (chats_max, bytes_max) = (self.limits.chats_max, self.bytes_max);
        self.file.write(|file| {
            if new {
                make_room(file, chats_max)?;
                free_bytes(file, bytes_max, key)?;
            }
            // A new one that exists was made by a call whose caller had given up waiting.
            let sql = if new {
                "INSERT INTO chats (key, owner, generation, expires_ms, messages)
                 VALUES (?1, ?2, ?3, ?4, x'')
                 ON CONFLICT (key) DO UPDATE SET expires_ms = excluded.expires_ms
                 WHERE generation = excluded.generation AND owner IS excluded.owner"
            } else {
                "UPDATE chats SET expires_ms = ?4
                 WHERE key = ?1 AND owner IS ?2 AND generation = ?3"
            };
            file.prepare_cached(sql)?.execute(params![
                key.0,
                owner.id(),
                generation,
                expires_ms
            ])?;
            Ok(())
        })
    }

    pub(super) fn save(&mut self, now_ms: i64, turn: &Turn) -> Result<bool, StoreError> {
        let bytes_max = self.bytes_max;
        let (stored, was_readable) = self.file.write(|file| {
            free_bytes(file, bytes_max, turn.chat)?;
            let messages: Option<Vec<u8>> = file
                .prepare_cached("SELECT messages FROM chats WHERE key = ?1 AND generation = ?2")?
                .query_row(params![turn.chat.0, turn.generation], |row| row.get(0))
                .optional()?;
            let Some(messages) = messages else {
                return Ok((false, true));
            };
            let (readable, is_first) = (history::check(&messages), messages.is_empty());
            let messages = history::append(
                if readable { &messages } else { &[] },
                &turn.question_escaped,
                &turn.answer_escaped,
                turn.limits.exchanges_max,
                turn.limits.bytes_max,
            );
            file.prepare_cached("UPDATE chats SET messages = ?2, expires_ms = ?3 WHERE key = ?1")?
                .execute(params![
                    turn.chat.0,
                    messages,
                    now_ms.saturating_add(turn.ttl_ms)
                ])?;
            if let Some(client) = turn.client.filter(|_| is_first) {
                file.prepare_cached(
                    "INSERT INTO chat_clients VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                )?
                .execute(params![turn.chat.0, client])?;
            }
            Ok((true, readable))
        })?;
        if !was_readable {
            self.file.report(UNREADABLE);
        }
        Ok(stored)
    }

    pub(super) fn reset(&mut self, key: ChatKey, owner: Owner) -> Result<(), StoreError> {
        let generation: Generation = entropy::bytes();
        self.file.write(|file| {
            file.prepare_cached(
                "UPDATE chats SET messages = x'', generation = ?3 WHERE key = ?1 AND owner IS ?2",
            )?
            .execute(params![key.0, owner.id(), generation])?;
            Ok(())
        })
    }

    pub(super) fn delete_chat(&mut self, key: ChatKey, owner: Owner) -> Result<(), StoreError> {
        self.file.write(|file| {
            file.prepare_cached("DELETE FROM chats WHERE key = ?1 AND owner IS ?2")?
                .execute(params![key.0, owner.id()])?;
            Ok(())
        })
    }

    pub(super) fn chats_of(
        &mut self,
        now_ms: i64,
        user: UserId,
        after: i64,
        rows_max: u32,
    ) -> Result<Vec<OwnChat>, StoreError> {
        let found = self.file.read(|file| {
            file.prepare_cached(
                "SELECT rowid, expires_ms, messages FROM chats
                 WHERE owner = ?1 AND rowid > ?2 AND expires_ms > ?3 ORDER BY rowid LIMIT ?4",
            )?
            .query_map(params![user.0, after, now_ms, rows_max], |row| {
                Ok(OwnChat {
                    place: row.get(0)?,
                    expires_ms: row.get(1)?,
                    messages: row.get(2)?,
                })
            })?
            .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let readable = found.into_iter().map(|chat| OwnChat {
            messages: self.readable(chat.messages),
            ..chat
        });
        Ok(readable.collect())
    }

    pub(super) fn delete_chats_of(
        &mut self,
        user: UserId,
        rows_max: u32,
    ) -> Result<u32, StoreError> {
        self.file.write(|file| {
            let deleted = file
                .prepare_cached(
                    "DELETE FROM chats WHERE rowid IN
                     (SELECT rowid FROM chats WHERE owner = ?1 LIMIT ?2)",
                )?
                .execute(params![user.0, rows_max])?;
            Ok(u32::try_from(deleted).unwrap_or(u32::MAX))
        })
    }

    /// Whether the file can be read and written, and its lock be had: without that no chat is answered.
    pub(super) fn ping(&mut self) -> Result<(), StoreError> {
        self.file.prove()?;
        self.file.write(|file| {
            file.prepare_cached("SELECT chats FROM totals")?
                .query_row([], |_| Ok(()))
        })
    }

    /// Deletes a few rows that have expired. Whether there may be more.
    pub(super) fn sweep(&mut self, now_ms: i64) -> bool {
        if self.ends_late {
            self.shorten(now_ms);
        }
        let chats_before_ms = now_ms.saturating_sub(GRACE_MS);
        // Looking first keeps an idle process from taking the write lock for nothing.
        let due = self.file.read(|file| {
            file.prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM chats WHERE expires_ms <= ?1)
                     OR EXISTS (SELECT 1 FROM windows WHERE ends_ms <= ?2)",
            )?
            .query_row([chats_before_ms, now_ms], |row| row.get(0))
            .and_then(|due: bool| Ok(due || logins::are_due(file, now_ms)?))
        });
        if due != Ok(true) {
            return false;
        }
        let swept = self.file.write(|file| {
            let chats = delete_expired(file, chats_before_ms, SWEPT_MAX)?;
            let windows = windows::sweep(file, now_ms, SWEPT_MAX)?;
            let logins = logins::sweep(file, now_ms)?;
            Ok(chats.max(windows).max(logins) >= SWEPT_MAX as usize)
        });
        swept == Ok(true)
    }

    pub(super) fn checkpoint(&mut self) {
        self.file.checkpoint();
    }

    /// A history that does not parse counts as empty.
    fn readable(&self, messages: Vec<u8>) -> Vec<u8> {
        if history::check(&messages) {
            return messages;
        }
        self.file.report(UNREADABLE);
        Vec::new()
    }
}

/// The event of a stored history that does not parse.
pub(super) const UNREADABLE: &str = "stored history unreadable, taken as empty";

fn make_room(connection: &Connection, chats_max: i64) -> rusqlite::Result<()> {
    let chats: i64 = connection
        .prepare_cached("SELECT chats FROM totals")?
        .query_row([], |row| row.get(0))?;
    let excess = (chats + 1).saturating_sub(chats_max);
    if excess > 0 {
        delete_expired(connection, i64::MAX, excess.min(EVICTED_MAX))?;
    }
    Ok(())
}

/// Makes room for the chat of that key, if the file is as large as chats may make it: the client whose chats take
/// most loses the oldest of them. (Those that expire first would be other people's: whoever fills a file does
/// it with the newest.)
fn free_bytes(connection: &Connection, bytes_max: i64, keep: ChatKey) -> rusqlite::Result<()> {
    // Statements of their own: as tables, pragmas are prepared anew at each look.
    let number = |pragma: &str| -> rusqlite::Result<i64> {
        let mut pragma = connection.prepare_cached(pragma)?;
        pragma.query_row([], |row| row.get(0))
    };
    let pages = number("PRAGMA page_count")? - number("PRAGMA freelist_count")?;
    if pages * number("PRAGMA page_size")? <= bytes_max {
        return Ok(());
    }
    let client: Option<Option<Vec<u8>>> = connection
        .prepare_cached(
            "SELECT client FROM chats LEFT JOIN chat_clients USING (key)
             GROUP BY client ORDER BY sum(length(messages)) DESC LIMIT 1",
        )?
        .query_row([], |row| row.get(0))
        .optional()?;
    let Some(client) = client else {
        return Ok(());
    };
    connection
        .prepare_cached(
            "DELETE FROM chats WHERE rowid IN (
                 SELECT rowid FROM (
                     SELECT chats.rowid,
                         sum(length(messages)) OVER (ORDER BY chats.rowid) - length(messages) AS before
                     FROM chats LEFT JOIN chat_clients USING (key)
                     WHERE client IS ?1 AND chats.key <> ?2
                 ) WHERE before < ?3)",
        )?
        .execute(params![client, keep.0, bytes_max / ROOM_PART])?;
    Ok(())
}

/// Those first that expire first.
fn delete_expired(connection: &Connection, now_ms: i64, rows_max: i64) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "DELETE FROM chats WHERE rowid IN
             (SELECT rowid FROM chats WHERE expires_ms <= ?1 ORDER BY expires_ms LIMIT ?2)",
        )?
        .execute(params![now_ms, rows_max])
}
