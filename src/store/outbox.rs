//! The outbox in SQL: mails that wait to be sent, and survive restarts. A full outbox drops the
//! mail, never the change that it reports.

use std::time::Duration;

use rusqlite::{Connection, Row, params};
use tokio::time::Instant;

use super::secrets::AccountFile;
use super::sqlite::Wanted;
use super::{LETTER_PAUSE_MS_MAX, OutboxRow, Posted, StoreError};
use crate::clock;
use crate::model::{Email, Identifier, Letter, Phone, User, UserId};

/// What is reported of it.
pub(super) const FULL: &str = "outbox full, mail dropped";
/// A full outbox is reported once in so long, however many mails it drops.
const REPORT_PAUSE: Duration = Duration::from_secs(60);

/// The outbox within a transaction.
#[derive(Debug)]
pub(super) struct Outbox {
    rows_max: usize,
    /// Whether a mail of this transaction was dropped.
    dropped: bool,
}

impl Outbox {
    /// Adds a mail that is due at once; not if one of its kind to the same recipient waits already.
    pub(super) fn post(
        &mut self,
        file: &Connection,
        now_ms: i64,
        letter: Letter,
        user: Option<UserId>,
        identifier: Option<&str>,
    ) -> rusqlite::Result<()> {
        let rows: u32 = file
            .prepare_cached("SELECT count(*) FROM outbox")?
            .query_row([], |row| row.get(0))?;
        if rows as usize >= room(self.rows_max, letter) {
            self.dropped = true;
            return Ok(());
        }
        let waits = file
            .prepare_cached(
                "SELECT 1 FROM outbox WHERE kind = ?1 AND user_id IS ?2 AND identifier IS ?3",
            )?
            .exists(params![letter.name(), user.map(|user| user.0), identifier])?;
        if waits {
            return Ok(());
        }
        file.prepare_cached(
            "INSERT INTO outbox (kind, user_id, identifier, created_at, due_at)
             VALUES (?1, ?2, ?3, ?4, ?4)",
        )?
        .execute(params![
            letter.name(),
            user.map(|user| user.0),
            identifier,
            now_ms
        ])?;
        Ok(())
    }
}

/// How many mails may wait before one of this kind: a quarter is kept for those that are asked for.
fn room(rows_max: usize, letter: Letter) -> usize {
    match letter {
        Letter::Reset => rows_max,
        Letter::Welcome | Letter::ResetDone | Letter::PasswordChanged => rows_max - rows_max / 4,
    }
}

/// What is due later than this was posted, or claimed, before the clock was set back, and is due now.
pub(super) fn latest_ms(now_ms: i64) -> i64 {
    now_ms.saturating_add(2 * LETTER_PAUSE_MS_MAX)
}

/// When a full outbox was last reported.
#[derive(Debug, Default)]
pub(super) struct FullReport(Option<Instant>);

impl FullReport {
    /// Whether a mail that was dropped now is to be reported.
    pub(super) fn is_due(&mut self) -> bool {
        let now = clock::now();
        let is_due = self
            .0
            .is_none_or(|last| now.duration_since(last) >= REPORT_PAUSE);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

impl AccountFile {
    /// A transaction that may post mails; see [`File::write_while`].
    pub(super) fn write_and_post<T>(
        &mut self,
        wanted: Wanted<'_>,
        work: impl FnOnce(&Connection, &mut Outbox) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut outbox = Outbox {
            rows_max: self.outbox_max,
            dropped: false,
        };
        let value = self
            .file
            .write_while(wanted, |file| work(file, &mut outbox))?;
        if outbox.dropped && self.full_report.is_due() {
            self.file.report(FULL);
        }
        Ok(value)
    }

    pub(super) fn post_reset_request(
        &mut self,
        wanted: Wanted<'_>,
        now_ms: i64,
        identifier: Identifier,
    ) -> Result<Posted, StoreError> {
        self.write_and_post(wanted, |file, outbox| {
            outbox.post(file, now_ms, Letter::Reset, None, identifier.as_str())?;
            Ok(match outbox.dropped {
                true => Posted::Dropped,
                false => Posted::Queued,
            })
        })
    }

    pub(super) fn claim_letters(
        &mut self,
        now_ms: i64,
        lease_ms: i64,
        rows_max: u32,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        let latest_ms = latest_ms(now_ms);
        // Looking first keeps a sender with nothing to do from taking the write lock.
        let due = self.file.read(|file| {
            file.prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM outbox WHERE due_at <= ?1 OR due_at > ?2)",
            )?
            .query_row([now_ms, latest_ms], |row| row.get::<_, bool>(0))
        })?;
        if !due {
            return Ok(Vec::new());
        }
        self.file.write_soon(|file| {
            let rows: Vec<OutboxRow> = file
                .prepare_cached(
                    "SELECT id, kind, user_id, identifier, created_at, tries FROM outbox
                     WHERE due_at <= ?1 OR due_at > ?2 ORDER BY due_at, id LIMIT ?3",
                )?
                .query_map(params![now_ms, latest_ms, rows_max], to_row)?
                .collect::<rusqlite::Result<_>>()?;
            let mut lease = file
                .prepare_cached("UPDATE outbox SET due_at = ?2, tries = tries + 1 WHERE id = ?1")?;
            for row in &rows {
                lease.execute([row.id, now_ms.saturating_add(lease_ms)])?;
            }
            Ok(rows)
        })
    }

    pub(super) fn finish_letter(&mut self, id: i64) -> Result<(), StoreError> {
        self.file.write_soon(|file| {
            file.prepare_cached("DELETE FROM outbox WHERE id = ?1")?
                .execute([id])?;
            Ok(())
        })
    }

    pub(super) fn retry_letter(&mut self, id: i64, next_ms: i64) -> Result<(), StoreError> {
        self.file.write_soon(|file| {
            file.prepare_cached("UPDATE outbox SET due_at = ?2 WHERE id = ?1")?
                .execute([id, next_ms])?;
            Ok(())
        })
    }

    pub(super) fn release_letters(&mut self, now_ms: i64) -> Result<(), StoreError> {
        self.file.write_soon(|file| {
            file.prepare_cached("UPDATE outbox SET due_at = ?1 WHERE due_at > ?1")?
                .execute([now_ms])?;
            Ok(())
        })
    }
}

/// Nothing is sent to a user who is gone.
pub(super) fn forget(file: &Connection, user: &User) -> rusqlite::Result<()> {
    file.prepare_cached("DELETE FROM outbox WHERE user_id = ?1 OR identifier IN (?2, ?3)")?
        .execute(params![
            user.id.0,
            user.email.as_ref().map(Email::as_str),
            user.phone.as_ref().map(Phone::as_str)
        ])?;
    Ok(())
}

fn to_row(row: &Row<'_>) -> rusqlite::Result<OutboxRow> {
    let kind: String = row.get(1)?;
    let user: Option<i64> = row.get(2)?;
    let identifier: Option<String> = row.get(3)?;
    Ok(OutboxRow {
        id: row.get(0)?,
        letter: Letter::named(&kind).ok_or(rusqlite::Error::InvalidQuery)?,
        user: user.map(UserId),
        identifier: identifier.as_deref().and_then(Identifier::parse),
        created_ms: row.get(4)?,
        tries: row.get(5)?,
    })
}
