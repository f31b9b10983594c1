//! One connection to PostgreSQL, and the pool that makes them: each core has its own.
//!
//! Statements are prepared once per connection and kept under their number. A connection is driven by
//! a task of the runtime that has opened it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use tokio::sync::OnceCell;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::statement::Statement;
use super::tls::Tls;
use crate::clock;
use crate::config::{Database, DatabaseTls, Statements};
use crate::store::OnEvent;

/// Told once, with the setting that is missing.
const FORGETFUL: &str = "the server does not keep prepared statements, as a PgBouncer in transaction \
    mode: set max_prepared_statements = 200 in pgbouncer.ini (PgBouncer 1.21 or later), or \
    database.statements = \"unnamed\"; until the next start each statement is sent anew";
/// A peer that has vanished is noticed after so long without a word.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
/// How often a server that takes no writes is looked for under its name.
const RETIRE_EVERY_MS: u64 = 1000;

/// What a statement is called with.
pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// How connections are made; one per process.
#[derive(Debug)]
pub(super) struct Server {
    config: tokio_postgres::Config,
    tls: Tls,
    connect_timeout: Duration,
    /// Whether what `is_unnamed` says may change.
    is_auto: bool,
    is_unnamed: AtomicBool,
    retired: Arc<Retired>,
    on_event: OnEvent,
}

/// When connections to a server that takes no writes were last given up: another may have its name by now, and
/// those that only read would stay with it for ever.
#[derive(Debug)]
struct Retired {
    start: Instant,
    /// Milliseconds after the start; connections that are older are not used any more.
    at_ms: AtomicU64,
}

impl Retired {
    fn now_ms(&self) -> u64 {
        let passed = clock::now() - self.start;
        passed.as_millis().try_into().unwrap_or(u64::MAX)
    }
}

impl Server {
    pub fn new(settings: &Database, on_event: OnEvent) -> Result<Self, String> {
        let mut config = tokio_postgres::Config::new();
        for (host, port) in &settings.hosts {
            config.host(host).port(*port);
        }
        config
            .user(&settings.user)
            .dbname(&settings.name)
            .application_name("cloudchat")
            .ssl_mode(match settings.tls {
                DatabaseTls::Disable => SslMode::Disable,
                DatabaseTls::Prefer => SslMode::Prefer,
                DatabaseTls::Require | DatabaseTls::VerifyCa | DatabaseTls::VerifyFull => {
                    SslMode::Require
                }
            })
            .target_session_attrs(match settings.is_writable {
                true => TargetSessionAttrs::ReadWrite,
                false => TargetSessionAttrs::Any,
            })
            // Of each host; the whole is limited too.
            .connect_timeout(settings.connect_timeout)
            .tcp_user_timeout(settings.connect_timeout + settings.timeout)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES);
        // A Unix socket has no TLS, whatever is asked for elsewhere.
        if settings.hosts.iter().all(|(host, _)| host.starts_with('/')) {
            config.ssl_mode(SslMode::Disable);
        }
        if let Some(password) = &settings.password {
            config.password(&password.0);
        }
        Ok(Self {
            config,
            tls: Tls::new(settings)?,
            connect_timeout: settings.connect_timeout,
            is_auto: settings.statements == Statements::Auto,
            is_unnamed: AtomicBool::new(settings.statements == Statements::Unnamed),
            retired: Arc::new(Retired {
                start: clock::now(),
                at_ms: AtomicU64::new(0),
            }),
            on_event,
        })
    }

    /// A connection; its task runs on this runtime.
    pub async fn connect(&self) -> Result<Connection, Trouble> {
        let connected = tokio::time::timeout(self.connect_timeout, self.open()).await;
        connected.map_err(|_| Trouble::NoConnection)?
    }

    async fn open(&self) -> Result<Connection, Trouble> {
        let opened_ms = self.retired.now_ms();
        let (client, driver) = self.config.connect(self.tls.clone()).await?;
        // Its end shows in the client.
        let task = tokio::spawn(async move { driver.await.unwrap_or_default() });
        let connection = Connection {
            client,
            statements: [const { OnceCell::const_new() }; Statement::COUNT].into(),
            in_transaction: AtomicBool::new(false),
            retired: Arc::clone(&self.retired),
            opened_ms,
            task: task.abort_handle(),
        };
        if self.is_auto && !self.is_unnamed() && connection.is_forgetful().await? {
            self.forget_names();
        }
        Ok(connection)
    }

    pub fn is_unnamed(&self) -> bool {
        self.is_unnamed.load(Ordering::Relaxed)
    }

    /// The server takes no writes: all connections are opened anew, but not again within [`RETIRE_EVERY_MS`].
    pub fn retire(&self) {
        let now_ms = self.retired.now_ms();
        let at_ms = self.retired.at_ms.load(Ordering::Relaxed);
        if now_ms - at_ms >= RETIRE_EVERY_MS {
            self.retired.at_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// Whether a call that failed so may be made again without names, which it is from now on.
    pub fn falls_back(&self, trouble: &Trouble) -> bool {
        let falls_back = self.is_auto && trouble.is_lost_statement();
        if falls_back {
            self.forget_names();
        }
        falls_back
    }

    fn forget_names(&self) {
        if !self.is_unnamed.swap(true, Ordering::Relaxed) {
            (self.on_event)("statements without names", FORGETFUL.to_owned());
        }
    }
}

/// Opens a core's connections.
#[derive(Debug)]
pub(super) struct Manager(pub Arc<Server>);

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = Trouble;

    async fn create(&self) -> Result<Connection, Trouble> {
        // Boxed, because it is large and seldom: every way to a connection would hold room for it.
        Box::pin(self.0.connect()).await
    }

    async fn recycle(
        &self,
        connection: &mut Connection,
        _: &Metrics,
    ) -> RecycleResult<Self::Error> {
        match connection.is_closed() {
            true => Err(RecycleError::message("closed")),
            false => Ok(()),
        }
    }
}

/// An open connection. Statements that stand alone may be sent without waiting for each other's rows,
/// which come in the same order.
pub(super) struct Connection {
    client: Client,
    /// By their number, once they have been prepared.
    statements: Box<[OnceCell<tokio_postgres::Statement>]>,
    /// A transaction has begun that must not outlive the call.
    in_transaction: AtomicBool,
    retired: Arc<Retired>,
    /// As [`Retired::at_ms`].
    opened_ms: u64,
    task: AbortHandle,
}

impl Connection {
    /// Sends a statement, and waits for its rows: one round trip, and another when a named one is
    /// first used here. One with a `begin` runs in the transaction that this begins, which is committed only if
    /// the caller still waits: one round trip more, and nobody else may send anything meanwhile.
    pub async fn rows(
        &self,
        statement: Statement,
        parameters: Parameters<'_>,
        is_unnamed: bool,
        begin: Option<&str>,
    ) -> Result<Vec<Row>, Trouble> {
        let named = self.prepared(statement, is_unnamed).await?;
        let Some(begin) = begin else {
            return Ok(self.send(named, statement, parameters).await?);
        };
        self.in_transaction.store(true, Ordering::Relaxed);
        let sent = self.send(named, statement, parameters);
        let begun = self.client.batch_execute(begin);
        // Both are sent before either is answered.
        let (begun, rows) = tokio::join!(biased; begun, sent);
        begun?;
        let rows = rows?;
        self.client.batch_execute("COMMIT").await?;
        self.in_transaction.store(false, Ordering::Relaxed);
        Ok(rows)
    }

    async fn send(
        &self,
        named: Option<&tokio_postgres::Statement>,
        statement: Statement,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        if let Some(named) = named {
            return self.client.query(named, parameters).await;
        }
        let types = statement.types().iter().cloned();
        let typed: Vec<(&(dyn ToSql + Sync), Type)> =
            parameters.iter().copied().zip(types).collect();
        self.client.query_typed(statement.sql(), &typed).await
    }

    async fn prepared(
        &self,
        statement: Statement,
        is_unnamed: bool,
    ) -> Result<Option<&tokio_postgres::Statement>, Trouble> {
        if is_unnamed {
            return Ok(None);
        }
        let prepare = || {
            self.client
                .prepare_typed(statement.sql(), statement.types())
        };
        let kept = self.statements[statement as usize].get_or_try_init(prepare);
        Ok(Some(kept.await?))
    }

    /// Whether it has ended, from either side, or is to end.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed() || self.opened_ms < self.retired.at_ms.load(Ordering::Relaxed)
    }

    /// Several statements at once, without parameters.
    pub async fn batch(&self, sql: &str) -> Result<(), Trouble> {
        Ok(self.client.batch_execute(sql).await?)
    }

    /// A statement that is used once.
    pub async fn once(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Trouble> {
        Ok(self.client.query_typed(sql, parameters).await?)
    }

    /// Whether names of other connections are in use here already, or what was just prepared is not
    /// there: then a pooler hands out its server connections by the transaction, and does not look
    /// at names. One that does gives them names of its own. Without this a name could lead to
    /// another process's statement.
    async fn is_forgetful(&self) -> Result<bool, Trouble> {
        const NAMES: &str = "SELECT count(*) FROM pg_catalog.pg_prepared_statements
            WHERE name ~ '^s[0-9]+$' AND NOT from_sql";
        let seen = async {
            let names = self.client.prepare_typed(NAMES, &[]).await?;
            let row = self.client.query_one(&names, &[]).await?;
            // Our own is one of them, unless it got another name.
            row.try_get::<_, i64>(0)
        };
        match seen.await.map_err(Trouble::Failed) {
            Ok(names) => Ok(names > 1),
            Err(trouble) if trouble.is_lost_statement() => Ok(true),
            Err(trouble) => Err(trouble),
        }
    }

    /// Whether what is prepared here gets a name from somebody between us and the server, who keeps it
    /// for us; the server itself takes the one we give.
    pub async fn has_names_of_the_pooler(&self) -> Result<bool, Trouble> {
        const OTHERS: &str = "SELECT count(*) FROM pg_catalog.pg_prepared_statements
            WHERE name !~ '^s[0-9]+$' AND NOT from_sql";
        let seen = async {
            let names = self.client.prepare_typed(OTHERS, &[]).await?;
            self.client
                .query_one(&names, &[])
                .await?
                .try_get::<_, i64>(0)
        };
        match seen.await.map_err(Trouble::Failed) {
            Ok(names) => Ok(names > 0),
            Err(trouble) if trouble.is_lost_statement() => Ok(false),
            Err(trouble) => Err(trouble),
        }
    }

    /// Waits until all that was sent is answered, and the transaction of a call that was given up has ended.
    pub async fn settle(&self) -> Result<(), Trouble> {
        let has_begun = self.in_transaction.swap(false, Ordering::Relaxed);
        self.batch(if has_begun { "ROLLBACK" } else { "" }).await
    }

    /// Closes the connection at once, whatever is under way; what was not committed is lost.
    pub fn abort(self) {
        self.task.abort();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({} open)", u8::from(!self.client.is_closed()))
    }
}

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Connecting took too long.
    NoConnection,
    /// The server or the way to it.
    Failed(tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Failed(error)
    }
}

impl Trouble {
    fn code(&self) -> Option<&SqlState> {
        match self {
            Trouble::NoConnection => None,
            Trouble::Failed(error) => error.code(),
        }
    }

    /// Somebody has that already.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(&SqlState::UNIQUE_VIOLATION)
    }

    /// Somebody else has what was to be locked.
    pub fn is_lock_in_use(&self) -> bool {
        let in_use = [
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::T_R_DEADLOCK_DETECTED,
        ];
        self.code().is_some_and(|code| in_use.contains(code))
    }

    /// The server takes no writes, at least not from us.
    pub fn is_read_only(&self) -> bool {
        self.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
    }

    /// The table is not there.
    pub fn is_no_table(&self) -> bool {
        self.code() == Some(&SqlState::UNDEFINED_TABLE)
    }

    /// The server connection at hand knows nothing of the name, or another statement of that name.
    fn is_lost_statement(&self) -> bool {
        let Trouble::Failed(error) = self else {
            return false;
        };
        error.as_db_error().is_some_and(|db| {
            let code = db.code();
            *code == SqlState::INVALID_SQL_STATEMENT_NAME
                || *code == SqlState::DUPLICATE_PSTATEMENT
                // PgBouncer says this of much else.
                || (*code == SqlState::PROTOCOL_VIOLATION && db.message().starts_with("bind message"))
        })
    }
}

/// Holds no values: those of a conflict stand in the error's detail only.
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = match self {
            Trouble::NoConnection => return f.write_str("no connection in time"),
            Trouble::Failed(error) => error,
        };
        if let Some(db) = error.as_db_error() {
            let (code, message) = (db.code().code(), db.message().lines().next());
            return write!(f, "{} (SQLSTATE {code})", message.unwrap_or_default());
        }
        write!(f, "{error}")?;
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
