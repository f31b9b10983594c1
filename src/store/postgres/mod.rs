//! The account store in PostgreSQL, directly or through PgBouncer in transaction mode.
//!
//! Each core has a pool of connections. A call has a deadline (`database.timeout_seconds`, or what is
//! left to its request, see `patience`) that covers waiting for a connection and opening one; a
//! connection that has not answered by then is closed. What is of use to its caller only (see
//! `calls`) runs in a transaction that is committed if the caller still waits. What only reads shares
//! a connection with whatever else reads at the moment, each sent without waiting for the others' rows:
//! at saturation that halves the work of everybody between here and the tables.

mod catalogue;
mod connection;
mod inspect;
mod lease;
mod migrate;
mod outbox;
mod statement;
mod tls;
mod users;

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool::managed;
use tokio::time::timeout_at;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::health::Health;
use super::outbox::{FULL, FullReport};
use super::patience::Spending;
use super::secrets::Secrets;
use super::{OnEvent, StoreError};
use crate::clock;
use crate::config::{self, Database};
use crate::entropy;
use crate::metrics;
use connection::{Manager, Parameters, Server, Trouble};
use lease::Reading;
use statement::Statement;

pub use inspect::{PostgresFacts, inspect, would_start};
pub use migrate::Step;
pub(super) use migrate::migrate;

/// For connecting, looking at the schema and reading the secrets.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The account store of this process.
pub(super) struct Postgres {
    shared: Arc<Shared>,
    connections_per_core: usize,
    secrets: Arc<Secrets>,
}

/// What all cores share.
#[derive(Debug)]
struct Shared {
    server: Arc<Server>,
    timeout: Duration,
    /// Mails that may wait.
    outbox_max: i64,
    health: Mutex<Health>,
    full_report: Mutex<FullReport>,
}

impl Postgres {
    /// Connects once, to see that the schema is ours and to read the secrets.
    ///
    /// Err: one line that names the server and what is wrong with it.
    pub fn start(
        settings: &config::Store,
        database: &Database,
        on_event: OnEvent,
    ) -> Result<Self, String> {
        let server = Arc::new(Server::new(database, on_event)?);
        let secrets = wait_for(database, START_TIMEOUT, async {
            let connection = server.connect().await.map_err(|error| error.to_string())?;
            migrate::check(&connection).await?;
            let secrets = secrets(&connection).await;
            secrets.map_err(|error| format!("cannot read or write its secrets: {error}"))
        })?;
        Ok(Self {
            shared: Arc::new(Shared {
                server,
                timeout: database.timeout,
                outbox_max: settings.outbox_max.try_into().unwrap_or(i64::MAX),
                health: Mutex::new(Health::new("PostgreSQL", on_event)),
                full_report: Mutex::default(),
            }),
            connections_per_core: database.connections_per_core,
            secrets: Arc::new(secrets),
        })
    }

    /// A pool for one core.
    pub fn connect(&self) -> Pool {
        let manager = Manager(Arc::clone(&self.shared.server));
        let connections = managed::Pool::builder(manager)
            .max_size(self.connections_per_core)
            .build();
        Pool {
            shared: Arc::clone(&self.shared),
            connections: connections.expect("a pool without time-outs needs no runtime"),
            reading: Arc::default(),
        }
    }

    pub fn secrets(&self) -> Arc<Secrets> {
        Arc::clone(&self.secrets)
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Postgres")
    }
}

/// Runs something that takes the server, on a thread of its own: this may be a runtime's.
fn wait_for<T: Send>(
    database: &Database,
    limit: Duration,
    work: impl Future<Output = Result<T, String>> + Send,
) -> Result<T, String> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .map_err(|error| format!("runtime: {error}"))?;
        let outcome = runtime.block_on(async { tokio::time::timeout(limit, work).await });
        // A name that is still being looked up must not hold this up.
        runtime.shutdown_background();
        outcome.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    };
    let outcome = std::thread::scope(|scope| scope.spawn(run).join());
    let outcome = outcome.unwrap_or_else(|_| Err("a thread panicked".to_owned()));
    outcome.map_err(|why| format!("{}: {why}", database.shown()))
}

/// Random keys, made by whoever comes first.
async fn secrets(connection: &connection::Connection) -> Result<Secrets, Trouble> {
    Ok(Secrets {
        hmac_key: secret(connection, super::secrets::HMAC_KEY).await?,
        device_key: secret(connection, super::secrets::DEVICE_KEY).await?,
        mix_key: secret(connection, super::secrets::MIX_KEY).await?,
    })
}

async fn secret(
    connection: &connection::Connection,
    name: &'static str,
) -> Result<[u8; 32], Trouble> {
    let made = entropy::bytes::<32>();
    connection
        .once(
            "INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            &[(&name, Type::TEXT), (&&made[..], Type::BYTEA)],
        )
        .await?;
    let rows = connection
        .once(
            "SELECT value FROM secrets WHERE name = $1",
            &[(&name, Type::TEXT)],
        )
        .await?;
    let row = rows.first().expect("it has just been written");
    // The table holds no other lengths.
    Ok(row.try_get::<_, &[u8]>(0)?.try_into().unwrap_or(made))
}

/// One core's way to the server; cheap to clone.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
    connections: managed::Pool<Manager>,
    /// What calls that only read have out of the pool: the next one joins them, so that many travel
    /// together and wake each end once.
    reading: Arc<Reading>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} connections)", self.connections.status().size)
    }
}

/// Why a call gave no rows.
enum Refusal {
    /// A unique key; nothing was written.
    Conflict,
    Store(StoreError),
}

impl Refusal {
    /// For statements that meet no unique key.
    fn of_store(self) -> StoreError {
        match self {
            Refusal::Store(error) => error,
            Refusal::Conflict => StoreError::Unavailable,
        }
    }
}

/// What a call does to the connection it is made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Reads only: shares a connection with others that do.
    Read,
    /// Stands alone.
    Single,
    /// Stands or falls with its caller; waits first for the transactions that have taken the same lock.
    Bound { lock: Option<i64> },
}

impl Pool {
    /// A statement that only reads.
    async fn read_rows(
        &self,
        statement: Statement,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let rows = self.call(statement, parameters, Kind::Read).await;
        rows.map_err(Refusal::of_store)
    }

    /// A statement by itself.
    async fn rows(
        &self,
        statement: Statement,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let rows = self.call(statement, parameters, Kind::Single).await;
        rows.map_err(Refusal::of_store)
    }

    /// The same, where a unique key may be taken.
    async fn unless_taken(
        &self,
        statement: Statement,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Refusal> {
        self.call(statement, parameters, Kind::Single).await
    }

    /// A statement that stands or falls with its caller.
    async fn bound_rows(
        &self,
        statement: Statement,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        self.bound_rows_after(None, statement, parameters).await
    }

    /// The same, after the transactions that have taken the same lock: it sees what they have written.
    async fn bound_rows_after(
        &self,
        lock: Option<i64>,
        statement: Statement,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let rows = self.call(statement, parameters, Kind::Bound { lock }).await;
        rows.map_err(Refusal::of_store)
    }

    /// Boxed where it is largest: else every future around it would hold that much, and be copied with it
    /// several times before it is first polled.
    fn call<'a>(
        &'a self,
        statement: Statement,
        parameters: Parameters<'a>,
        kind: Kind,
    ) -> Pin<Box<impl Future<Output = Result<Vec<Row>, Refusal>>>> {
        Box::pin(self.call_here(statement, parameters, kind))
    }

    async fn call_here(
        &self,
        statement: Statement,
        parameters: Parameters<'_>,
        kind: Kind,
    ) -> Result<Vec<Row>, Refusal> {
        let spending = Spending::begin(metrics::Store::Postgres, self.shared.timeout);
        let deadline = spending.deadline;
        let lease = self.lease(deadline, kind).await?;
        let connection = lease.connection();
        let call = lease.ask();
        loop {
            let is_unnamed = self.shared.server.is_unnamed();
            let begin = match kind {
                Kind::Read | Kind::Single => None,
                Kind::Bound { lock: None } => Some(Cow::Borrowed("BEGIN")),
                // Whatever the role's default is: a statement must see what others have committed while it waited.
                Kind::Bound { lock: Some(key) } => Some(
                    format!(
                        "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({key})"
                    )
                    .into(),
                ),
            };
            let attempt = connection.rows(statement, parameters, is_unnamed, begin.as_deref());
            match timeout_at(deadline, attempt).await {
                Ok(Ok(rows)) => {
                    lease.end(call);
                    self.health().succeeded(clock::now);
                    return Ok(rows);
                }
                Err(_) => {
                    lease.spoil();
                    return Err(self.timed_out("no answer in time"));
                }
                Ok(Err(trouble)) if trouble.is_conflict() => {
                    self.health().succeeded(clock::now);
                    return Err(Refusal::Conflict);
                }
                // It failed before it did anything, and what it began is rolled back first.
                Ok(Err(trouble)) if !is_unnamed && self.shared.server.falls_back(&trouble) => {
                    let settled = timeout_at(deadline, connection.settle()).await;
                    if !matches!(settled, Ok(Ok(()))) {
                        lease.spoil();
                        return Err(self.timed_out("no answer in time"));
                    }
                }
                Ok(Err(trouble)) => {
                    if trouble.is_read_only() {
                        self.shared.server.retire();
                    }
                    // Whatever it was, the next call begins on a connection that is known to work.
                    lease.spoil();
                    return Err(self.failed(&trouble));
                }
            }
        }
    }

    fn failed(&self, cause: &dyn fmt::Display) -> Refusal {
        Refusal::Store(self.health().failed(clock::now(), cause))
    }

    fn timed_out(&self, what: &'static str) -> Refusal {
        self.health().failed(clock::now(), &what);
        Refusal::Store(StoreError::TimedOut)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        // Nothing panics while it is held, and a wrong report would do no harm.
        let health = self.shared.health.lock();
        health.unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports a mail that there was no room for.
    fn note_dropped(&self, is_dropped: bool) {
        let full_report = self.shared.full_report.lock();
        let mut full_report = full_report.unwrap_or_else(PoisonError::into_inner);
        if is_dropped && full_report.is_due() {
            self.health().report(FULL);
        }
    }

    /// What came back is not what was asked for.
    fn unreadable(&self, error: &tokio_postgres::Error) -> StoreError {
        self.health().failed(clock::now(), error)
    }

    /// Whether it can be read, and would be written to.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let name = super::secrets::HMAC_KEY;
        let rows = self.read_rows(Statement::Ping, &[&name]).await?;
        let why = match rows.first().map(|row| row.try_get(0)) {
            Some(Ok(true)) => return Ok(()),
            Some(_) => {
                self.shared.server.retire();
                "it takes no writes"
            }
            None => "its secrets are gone",
        };
        Err(self.health().failed(clock::now(), &why))
    }
}
