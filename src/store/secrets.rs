//! The account file: opening it, and the secrets that all servers of a site share.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{OptionalExtension as _, params};

use super::outbox::FullReport;
use super::schema::{Migration, Upkeep};
use super::sqlite::{File, Plan};
use super::{OnEvent, StoreError};
use crate::entropy;

pub(super) const MIGRATIONS: &[Migration] = &[
    Migration::adds(include_str!("../../sql/sqlite/accounts/0001_secrets.sql")),
    Migration::adds(include_str!("../../sql/sqlite/accounts/0002_users.sql")),
    Migration {
        sql: include_str!("../../sql/sqlite/accounts/0003_credentials.sql"),
        rebuilds: &["users", "credentials"],
    },
    Migration::adds(include_str!("../../sql/sqlite/accounts/0004_nfc.sql")),
];
/// The file's name in the data folder.
pub(super) const FILE_NAME: &str = "accounts.db";
pub(super) const HMAC_KEY: &str = "hmac";
pub(super) const DEVICE_KEY: &str = "device";
pub(super) const MIX_KEY: &str = "mix";

/// Random keys, made once and the same for all servers of a site.
pub struct Secrets {
    pub(super) hmac_key: [u8; 32],
    pub(super) device_key: [u8; 32],
    pub(super) mix_key: [u8; 32],
}

/// Keys stay hidden.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

/// The account file.
#[derive(Debug)]
pub(super) struct AccountFile {
    pub(super) file: File,
    /// Mails that may wait.
    pub(super) outbox_max: usize,
    pub(super) full_report: FullReport,
}

impl AccountFile {
    /// Opens the file and reads its secrets, which are made when they are missing.
    pub(super) fn open(
        dir: &Path,
        outbox_max: usize,
        busy: Duration,
        upkeep: Upkeep,
        on_event: OnEvent,
    ) -> Result<(Self, Secrets), String> {
        let plan = Plan {
            name: FILE_NAME,
            migrations: MIGRATIONS,
            upkeep,
            synchronous: "FULL",
            cache_kib: 256,
            disk_bytes_max: None,
            busy,
        };
        let mut file = File::open(dir, plan, on_event)?;
        let secrets = secrets(&mut file).map_err(|error| {
            let path = dir.join(plan.name);
            format!(
                "{}: cannot read or write its secrets: {error}",
                path.display()
            )
        })?;
        let accounts = Self {
            file,
            outbox_max,
            full_report: FullReport::default(),
        };
        Ok((accounts, secrets))
    }

    pub(super) fn ping(&mut self) -> Result<(), StoreError> {
        self.file.prove()?;
        self.file.read(|file| {
            file.prepare_cached("SELECT 1 FROM secrets WHERE name = ?1")?
                .query_row([HMAC_KEY], |_| Ok(()))
        })
    }

    pub(super) fn checkpoint(&mut self) {
        self.file.checkpoint();
    }
}

fn secrets(file: &mut File) -> Result<Secrets, StoreError> {
    Ok(Secrets {
        hmac_key: secret(file, HMAC_KEY)?,
        device_key: secret(file, DEVICE_KEY)?,
        mix_key: secret(file, MIX_KEY)?,
    })
}

fn secret(file: &mut File, name: &str) -> Result<[u8; 32], StoreError> {
    const READ: &str = "SELECT value FROM secrets WHERE name = ?1";
    let stored = file.read(|file| {
        file.prepare(READ)?
            .query_row([name], |row| row.get(0))
            .optional()
    })?;
    if let Some(key) = stored {
        return Ok(key);
    }
    file.write(|file| {
        // Two processes that start together agree on the key of the first.
        file.execute(
            "INSERT INTO secrets (name, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![name, entropy::bytes::<32>()],
        )?;
        file.query_row(READ, [name], |row| row.get(0))
    })
}
