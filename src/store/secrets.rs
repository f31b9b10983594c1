//! The account file in SQL: so far the secrets that all servers of a site share.

use std::path::Path;
use std::time::Duration;

use rusqlite::params;

use super::sqlite::{File, Plan};
use super::{OnEvent, StoreError};
use crate::entropy;

const MIGRATIONS: &[&str] = &[include_str!("../../sql/sqlite/accounts/0001_secrets.sql")];
const HMAC_KEY: &str = "hmac";

/// The account file.
#[derive(Debug)]
pub(super) struct AccountFile {
    file: File,
}

impl AccountFile {
    /// Opens the file and reads its HMAC key, which is made when the file is new.
    pub(super) fn open(
        dir: &Path,
        busy: Duration,
        on_event: OnEvent,
    ) -> Result<(Self, [u8; 32]), String> {
        let plan = Plan {
            name: "accounts.db",
            migrations: MIGRATIONS,
            synchronous: "FULL",
            cache_kib: 64,
            disk_bytes_max: None,
            busy,
        };
        let mut file = File::open(dir, plan, on_event)?;
        let key = hmac_key(&mut file).map_err(|error| {
            let path = dir.join(plan.name);
            format!(
                "{}: cannot read or write its secrets: {error}",
                path.display()
            )
        })?;
        Ok((Self { file }, key))
    }

    pub(super) fn ping(&mut self) -> Result<(), StoreError> {
        self.file.read(|file| {
            file.prepare_cached("SELECT 1 FROM secrets WHERE name = ?1")?
                .query_row([HMAC_KEY], |_| Ok(()))
        })
    }

    pub(super) fn checkpoint(&mut self) {
        self.file.checkpoint();
    }
}

fn hmac_key(file: &mut File) -> Result<[u8; 32], StoreError> {
    let stored = file.read(|file| {
        file.prepare("SELECT value FROM secrets WHERE name = ?1")?
            .query_row([HMAC_KEY], |row| row.get(0))
            .map(Some)
            .or_else(|error| match error {
                rusqlite::Error::QueryReturnedNoRows => Ok(None),
                other => Err(other),
            })
    })?;
    if let Some(key) = stored {
        return Ok(key);
    }
    file.write(|file| {
        // Two processes that start together agree on the key of the first.
        file.execute(
            "INSERT INTO secrets (name, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![HMAC_KEY, entropy::bytes::<32>()],
        )?;
        file.query_row(
            "SELECT value FROM secrets WHERE name = ?1",
            [HMAC_KEY],
            |row| row.get(0),
        )
    })
}
