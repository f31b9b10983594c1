//! The schema in PostgreSQL: files in order, each applied once, in a transaction, by one process at a
//! time. The first is what the service that CloudChat replaces has made, so both kinds of databases
//! go the same way.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::connection::{Connection, Server, Trouble};
use crate::config::Database;
use crate::store::OnEvent;

/// In order; a schema's number is how many of them have been applied.
const MIGRATIONS: &[(&str, &str)] = &[
    (
        "0001_users",
        include_str!("../../../sql/postgres/0001_users.sql"),
    ),
    (
        "0002_accounts",
        include_str!("../../../sql/postgres/0002_accounts.sql"),
    ),
];

/// Held by whoever migrates: "cloudcha" in ASCII, so that no other program means the same.
const LOCK: i64 = 0x636c_6f75_6463_6861;

/// For all files together.
const TIMEOUT: Duration = Duration::from_secs(1800);

/// A server that is in use must not stand still because a migration waits for its tables; and one
/// migration may wait for another.
const LIMITS: &str = "SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = '600s'";

/// Whether the schema is the one that this version works on. Err: one line with what to do.
pub(super) async fn check(connection: &Connection) -> Result<(), String> {
    let found = applied(connection)
        .await
        .map_err(|error| error.to_string())?;
    let known = MIGRATIONS.len();
    match found.cmp(&known) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(format!(
            "its schema is {found}, this cloudchat needs {known}: run `cloudchat migrate`"
        )),
        std::cmp::Ordering::Greater => Err(newer(found)),
    }
}

fn newer(found: usize) -> String {
    let known = MIGRATIONS.len();
    format!(
        "made by a newer cloudchat (schema {found}, this one knows {known}); start the newer one"
    )
}

/// How many files have been applied.
async fn applied(connection: &Connection) -> Result<usize, Trouble> {
    const SELECT: &str = "SELECT coalesce(max(number), 0) FROM schema_migrations";
    match connection.once(SELECT, &[]).await {
        Ok(rows) => {
            let number = rows
                .first()
                .map(|row| row.try_get::<_, i32>(0))
                .transpose()?;
            Ok(number.and_then(|n| n.try_into().ok()).unwrap_or(0))
        }
        Err(trouble) if trouble.is_no_table() => Ok(0),
        Err(trouble) => Err(trouble),
    }
}

/// Applies what is missing, or only tries it (`is_trial`), all in one transaction that is rolled back.
/// The names of the files.
///
/// # Errors
/// One line that names the server and what is wrong; files before the one at fault stay applied.
pub fn migrate(
    database: &Database,
    is_trial: bool,
    on_event: OnEvent,
) -> Result<Vec<&'static str>, String> {
    let server = Server::new(database, on_event)?;
    super::wait_for(database, TIMEOUT, async {
        let connection = server.connect().await.map_err(|error| error.to_string())?;
        let found = applied(&connection)
            .await
            .map_err(|error| error.to_string())?;
        if found > MIGRATIONS.len() {
            return Err(newer(found));
        }
        let mut done = Vec::new();
        if is_trial {
            begin(&connection)
                .await
                .map_err(|error| error.to_string())?;
        }
        for (index, (name, sql)) in MIGRATIONS.iter().enumerate() {
            let number = index + 1;
            let step = step(&connection, number, name, sql, is_trial).await;
            if step.map_err(|error| format!("{name}: {error}"))? {
                done.push(*name);
            }
        }
        // Closing it rolls a trial back.
        connection.abort();
        Ok(done)
    })
}

/// Begins a transaction, and waits until no other process migrates. The lock ends with it, so it
/// works through a PgBouncer in transaction mode.
async fn begin(connection: &Connection) -> Result<(), Trouble> {
    connection
        .batch(&format!(
            "BEGIN; {LIMITS}; SELECT pg_advisory_xact_lock({LOCK});
             CREATE TABLE IF NOT EXISTS schema_migrations (
                 number     INTEGER PRIMARY KEY,
                 name       TEXT NOT NULL,
                 applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
             )"
        ))
        .await
}

/// Whether this file was missing.
async fn step(
    connection: &Connection,
    number: usize,
    name: &'static str,
    sql: &str,
    is_trial: bool,
) -> Result<bool, Trouble> {
    if !is_trial {
        begin(connection).await?;
    }
    // Another process may have been faster.
    let is_missing = applied(connection).await? < number;
    if is_missing {
        connection.batch(sql).await?;
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        connection
            .once(
                "INSERT INTO schema_migrations (number, name) VALUES ($1, $2)",
                &[(&number, Type::INT4), (&name, Type::TEXT)],
            )
            .await?;
    }
    if !is_trial {
        connection.batch("COMMIT").await?;
    }
    Ok(is_missing)
}
