//! What `cloudchat doctor` wants to know of a database and of the pooler before it. Nothing is changed.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::catalogue::holds_all_texts;
use super::connection::{Connection, Server, Trouble};
use super::{START_TIMEOUT, migrate, wait_for};
use crate::config::Database;

/// For a look that must not keep anybody waiting.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// How often it is looked whether two connections share one of the server's.
const LOOKS_MAX: usize = 10;
/// Connections made one after the other to see whether one gets what another had.
const CONNECTIONS_MAX: usize = 5;

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresFacts {
    /// `server_version_num`, such as 150004.
    pub version: i32,
    /// `max_connections`.
    pub connections_max: i32,
    /// Whether the schema is the one that this version works on; if not, one line.
    pub schema: Result<(), String>,
    /// Transactions may write.
    pub takes_writes: bool,
    /// What its texts are encoded in, if that lacks characters.
    pub narrow_encoding: Option<String>,
    /// Something stands before it that has connections of its own, such as PgBouncer.
    pub is_pooled: bool,
    /// It hands them out by the transaction.
    pub is_by_transaction: bool,
    /// It keeps prepared statements all the same.
    pub keeps_statements: bool,
    /// Statements may be put together into transactions.
    pub has_transactions: bool,
}

/// Connects and looks. Blocks, for ten seconds at most.
///
/// # Errors
/// One line that names the server and why it cannot be looked at.
pub fn inspect(database: &Database) -> Result<PostgresFacts, String> {
    let server = Server::new(database, |_, _| ())?;
    wait_for(database, START_TIMEOUT, async {
        let one = server.connect().await.map_err(|error| error.to_string())?;
        let two = server.connect().await.map_err(|error| error.to_string())?;
        let schema = migrate::check(&one).await;
        let seen = look(&server, &one, &two, schema).await;
        one.abort();
        two.abort();
        seen.map_err(|error| error.to_string())
    })
}

/// Whether a server would start on it: its schema, and the rights of this role. Blocks, for a few seconds at most.
///
/// # Errors
/// One line with what to do, or why the server cannot be reached.
pub fn would_start(database: &Database) -> Result<(), String> {
    let server = Server::new(database, |_, _| ())?;
    wait_for(database, LOOK_TIMEOUT, async {
        let connection = server.connect().await.map_err(|error| error.to_string())?;
        let checked = migrate::check(&connection).await;
        connection.abort();
        checked
    })
}

async fn look(
    server: &Server,
    one: &Connection,
    two: &Connection,
    schema: Result<(), String>,
) -> Result<PostgresFacts, Trouble> {
    const FACTS: &str = "SELECT current_setting('server_version_num')::int4,
        current_setting('max_connections')::int4,
        current_setting('transaction_read_only') = 'off', current_setting('server_encoding')";
    let rows = one.once(FACTS, &[]).await?;
    let row = rows.first().ok_or(Trouble::NoConnection)?;
    let (version, connections_max) = (row.try_get(0)?, row.try_get(1)?);
    let takes_writes = row.try_get(2)?;
    let encoding: String = row.try_get(3)?;
    let mut is_by_transaction = false;
    for _ in 0..LOOKS_MAX {
        // With a server connection for each of ours they never meet on one.
        if backend(one).await? == backend(two).await? {
            is_by_transaction = true;
            break;
        }
    }
    Ok(PostgresFacts {
        version,
        connections_max,
        schema,
        takes_writes,
        narrow_encoding: Some(encoding).filter(|encoding| !holds_all_texts(encoding)),
        is_pooled: is_by_transaction || keeps_connections(server).await?,
        is_by_transaction,
        keeps_statements: one.has_names_of_the_pooler().await?,
        // Last, for a pooler that has none closes the connection.
        has_transactions: has_transactions(two).await?,
    })
}

/// Whether one can begin, which a pooler that hands out its connections by the statement refuses.
async fn has_transactions(connection: &Connection) -> Result<bool, Trouble> {
    match connection.batch("BEGIN").await {
        Ok(()) => connection.batch("ROLLBACK").await.map(|()| true),
        Err(Trouble::Failed(error)) if error.as_db_error().is_some() => Ok(false),
        Err(trouble) => Err(trouble),
    }
}

/// Whether a new connection gets a process that one before it had, as from a pooler that hands them out by the
/// session. PostgreSQL itself makes one for each; ports say nothing, for they may be mapped.
async fn keeps_connections(server: &Server) -> Result<bool, Trouble> {
    let mut seen = Vec::with_capacity(CONNECTIONS_MAX);
    for _ in 0..CONNECTIONS_MAX {
        let connection = server.connect().await?;
        let process = backend(&connection).await;
        connection.abort();
        let process = process?;
        if seen.contains(&process) {
            return Ok(true);
        }
        seen.push(process);
    }
    Ok(false)
}

/// The process that serves this connection now.
async fn backend(connection: &Connection) -> Result<i32, Trouble> {
    let none: &[(&(dyn tokio_postgres::types::ToSql + Sync), Type)] = &[];
    let rows = connection.once("SELECT pg_backend_pid()", none).await?;
    Ok(rows.first().map_or(Ok(0), |row| row.try_get(0))?)
}
