//! One SQLite file: opening it, migrating it, and the two ways of using it, [`File::read`] and
//! [`File::write`], which turn every failure into one report and [`StoreError::Unavailable`].

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use tokio::time::Instant;

use super::health::Health;
use super::schema::{self, Migration, Upkeep};
use super::{OnEvent, StoreError};
use crate::clock;

/// Bytes of a database page; SQLite's own default, stated because `disk_bytes_max` counts in it.
const PAGE_BYTES: i64 = 4096;
/// Pages in the write-ahead log at which a commit copies them into the file (about 4 MiB).
const WAL_PAGES_MAX: i64 = 1000;
/// Prepared statements kept per file; more than there are.
const STATEMENTS_MAX: usize = 48;
/// How long a write that is tried again anyway waits for another process.
const BUSY_SOON: Duration = Duration::from_millis(100);
/// How long two processes that start together wait for each other to switch on the log.
const WAL_SWITCH_TRIES: u32 = 100;
const WAL_SWITCH_PAUSE: Duration = Duration::from_millis(20);
/// How long a write that went well proves to health checks that others would, too: each costs a wait for the disk.
const PROOF_LIFE: Duration = Duration::from_secs(10);

/// What distinguishes one file from the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Its name in the data folder.
    pub name: &'static str,
    /// In order; `user_version` is how many of them have been applied.
    pub migrations: &'static [Migration],
    /// What is done about an older schema.
    pub upkeep: Upkeep,
    /// `FULL`: what was committed survives a power cut; `NORMAL`: it survives the process.
    pub synchronous: &'static str,
    /// Page cache in KiB.
    pub cache_kib: i64,
    /// Bytes the file may grow to.
    pub disk_bytes_max: Option<i64>,
    /// How long a call waits while another process writes.
    pub busy: Duration,
}

/// Whether somebody still waits for a write.
pub(super) type Wanted<'a> = &'a dyn Fn() -> bool;

/// An open file.
#[derive(Debug)]
pub(super) struct File {
    connection: Connection,
    path: PathBuf,
    migrations: &'static [Migration],
    /// The schema is older, and has been left so.
    is_behind: bool,
    busy: Duration,
    health: Health,
    /// When [`File::prove`] has last written; `None` also after a write that failed.
    proven_at: Option<Instant>,
}

impl File {
    /// Opens the file, and makes it if it is missing or migrates it, both if the plan says so. Err: one line that names
    /// it.
    pub(super) fn open(dir: &Path, plan: Plan, on_event: OnEvent) -> Result<Self, String> {
        let path = dir.join(plan.name);
        let (connection, is_behind) = connect(&path, &plan)
            .and_then(|mut connection| {
                let is_behind = schema::open(&mut connection, &path, plan.migrations, plan.upkeep)?;
                Ok((connection, is_behind))
            })
            .map_err(|why| format!("{}: {why}", path.display()))?;
        let health = Health::new(plan.name, on_event);
        Ok(Self {
            connection,
            path,
            migrations: plan.migrations,
            is_behind,
            busy: plan.busy,
            health,
            proven_at: None,
        })
    }

    /// Migrates a file that was left as it was. Err: one line that names it; the file is as before.
    pub(super) fn bring_up_to_date(&mut self) -> Result<(), String> {
        if !self.is_behind {
            return Ok(());
        }
        let done = schema::migrate(&mut self.connection, &self.path, self.migrations);
        done.map_err(|why| format!("{}: {why}", self.path.display()))?;
        self.is_behind = false;
        Ok(())
    }

    /// Reads; each statement sees the latest commit of any process.
    pub(super) fn read<T>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        work(&self.connection).map_err(|error| self.health.failed(clock::now(), &error))
    }

    /// Reads and writes in one transaction that no other process can come between. When this
    /// returns, a kill of this process loses nothing of it.
    pub(super) fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.write_while(&|| true, work)
    }

    /// The same, but nothing is written if this is no longer `wanted` when the lock has been had, or
    /// right before the commit. Then the error says that it took too long.
    pub(super) fn write_while<T>(
        &mut self,
        wanted: Wanted<'_>,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let outcome = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(|transaction| {
                if !wanted() {
                    return Ok(None);
                }
                let value = work(&transaction)?;
                if !wanted() {
                    // Dropping the transaction rolls it back.
                    return Ok(None);
                }
                transaction.commit()?;
                Ok(Some(value))
            });
        match outcome {
            Ok(Some(value)) => {
                self.health.succeeded(clock::now);
                Ok(value)
            }
            Ok(None) => Err(StoreError::TimedOut),
            Err(error) => {
                self.proven_at = None;
                Err(self.health.failed(clock::now(), &error))
            }
        }
    }

    /// Whether the file can be written: a page is written as it is, unless one was within [`PROOF_LIFE`]
    /// and no write has failed since.
    pub(super) fn prove(&mut self) -> Result<(), StoreError> {
        const NUMBER: &str = "user_version";
        let now = clock::now();
        if (self.proven_at).is_some_and(|at| now.saturating_duration_since(at) < PROOF_LIFE) {
            return Ok(());
        }
        self.write_soon(|file| {
            // SQLite does not look whether that changes anything.
            let number: i64 = file.pragma_query_value(None, NUMBER, |row| row.get(0))?;
            file.pragma_update(None, NUMBER, number)
        })?;
        self.proven_at = Some(now);
        Ok(())
    }

    /// The same as [`File::write`] for what nobody waits for and is tried again: it hardly waits for
    /// another process, because nobody else is served meanwhile.
    pub(super) fn write_soon<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.wait_for_others(BUSY_SOON)?;
        let outcome = self.write(work);
        self.wait_for_others(self.busy)?;
        outcome
    }

    fn wait_for_others(&mut self, busy: Duration) -> Result<(), StoreError> {
        let outcome = self.connection.busy_timeout(busy);
        outcome.map_err(|error| self.health.failed(clock::now(), &error))
    }

    /// Copies the write-ahead log into the file and empties it, unless another process is using
    /// it; the last process to close the file does this anyway.
    pub(super) fn checkpoint(&mut self) {
        let outcome = self
            .connection
            .busy_timeout(Duration::from_millis(200))
            .and_then(|()| {
                self.connection
                    .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            });
        if let Err(error) = outcome {
            self.health.failed(clock::now(), &error);
        }
    }

    /// Reports something about this file that is not a failure of a call.
    pub(super) fn report(&self, event: &'static str) {
        self.health.report(event);
    }
}

fn connect(path: &Path, plan: &Plan) -> Result<Connection, String> {
    let made = match plan.upkeep {
        Upkeep::Never => Ok(()),
        Upkeep::Now | Upkeep::Later => make_private(path),
    };
    // This makes nothing.
    let opened = made.and_then(|()| OpenOptions::new().append(true).open(path).map(drop));
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if plan.upkeep == Upkeep::Never => {
            "is missing: the server makes it when it is started".to_owned()
        }
        _ => format!("cannot open for writing: {error}"),
    })?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| explain(&error))?;
    set_up(&connection, plan).map_err(|error| explain(&error))?;
    Ok(connection)
}

/// Makes an empty file unless there is something: SQLite would make it readable for everybody; its logs take the
/// file's mode. Not at the end of a link, which anybody may have put there who may write in the folder.
fn make_private(path: &Path) -> io::Result<()> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop),
    }
}

fn set_up(connection: &Connection, plan: &Plan) -> rusqlite::Result<()> {
    connection.busy_timeout(plan.busy)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update(None, "cache_size", -plan.cache_kib)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    switch_to_wal(connection)?;
    connection.pragma_update(None, "synchronous", plan.synchronous)?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES_MAX)?;
    let log_bytes = WAL_PAGES_MAX * PAGE_BYTES;
    connection.pragma_update(None, "journal_size_limit", log_bytes)?;
    if let Some(bytes) = plan.disk_bytes_max {
        connection.pragma_update(None, "max_page_count", (bytes / PAGE_BYTES).max(1))?;
    }
    Ok(())
}

/// Write-ahead logging is a property of the file, so this matters once in its life. SQLite does
/// not wait here for another process that does the same, so we do.
fn switch_to_wal(connection: &Connection) -> rusqlite::Result<()> {
    let mut tries = WAL_SWITCH_TRIES;
    loop {
        match connection.pragma_update(None, "journal_mode", "wal") {
            Err(error) if is_busy(&error) && tries > 0 => {
                tries -= 1;
                std::thread::sleep(WAL_SWITCH_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// A failure in words that tell what to do, where there is something.
pub(super) fn explain(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            format!("damaged or no database ({error}); move it away or restore it")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            format!("cannot be written ({error})")
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("another program holds it locked ({error})")
        }
        Some(ErrorCode::DiskFull) => format!("no room ({error}); see store.disk_bytes_max"),
        _ => error.to_string(),
    }
}
