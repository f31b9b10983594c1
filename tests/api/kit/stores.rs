//! Which stores the servers of this run keep their data in; each server has some of its own.
//!
//! `CLOUDCHAT_TEST_STORES` names the pair, accounts first: `sqlite`, `postgres`, `pgbouncer`,
//! `pgbouncer-old` or `pgbouncer-zero`, then `-embedded`, `-redis`, `-cluster` or `-sentinel`. Without
//! it both are embedded. The servers and their addresses come from `tests/services/run`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use cloudchat::config::environment;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls};

use super::server::run;

/// Servers that keep data; `None` is embedded.
#[derive(Default)]
pub struct Pair {
    pub accounts: Option<Accounts>,
    /// As `redis.url` takes it.
    pub sessions: Option<String>,
    /// Whether other tests use them too, so that Redis keys need a prefix.
    pub is_shared: bool,
}

/// A PostgreSQL, without a database's name.
pub struct Accounts {
    /// What a server of ours connects to; a PgBouncer, perhaps.
    pub url: String,
    /// What stands behind it.
    pub direct: String,
    /// The name of an empty database of the newest schema.
    template: OnceLock<String>,
}

/// The stores of one server, or of several side by side; gone with the last of them.
pub struct Stores {
    /// The data folder, which the embedded ones are in.
    pub folder: TempDir,
    /// Lines for the configuration that name the others.
    pub settings: String,
    /// A database of PostgreSQL.
    database: Option<Database>,
}

/// A database of PostgreSQL; dropped with this.
pub struct Database {
    pub name: String,
    /// The server that it is in.
    pub direct: String,
}

/// What `tests/services/run` says.
fn address(name: &str) -> String {
    let name = format!(
        "CLOUDCHAT_TEST_{}",
        name.to_ascii_uppercase().replace('-', "_")
    );
    environment(&name).unwrap_or_else(|| panic!("{name} is not set: run tests/run"))
}

impl Accounts {
    pub fn new(url: &str, direct: &str) -> Self {
        Self {
            url: url.to_owned(),
            direct: direct.to_owned(),
            template: OnceLock::new(),
        }
    }

    /// Makes an empty database of the newest schema: a copy of one that the program itself has made.
    fn database(&self) -> Database {
        let template = self.template.get_or_init(|| {
            let name = new_name("template");
            administer(&self.direct, &format!("CREATE DATABASE {name}"));
            migrate(&format!("{}/{name}", self.direct));
            name
        });
        let name = new_name("test");
        let sql = format!("CREATE DATABASE {name} TEMPLATE {template}");
        administer(&self.direct, &sql);
        Database {
            name,
            direct: self.direct.clone(),
        }
    }
}

/// One that no other test of any process has.
fn new_name(kind: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{kind}_{}_{number}", std::process::id())
}

impl Pair {
    pub fn of_this_run() -> &'static Self {
        static PAIR: OnceLock<Pair> = OnceLock::new();
        PAIR.get_or_init(|| {
            let name = environment("CLOUDCHAT_TEST_STORES").unwrap_or_default();
            let (accounts, sessions) = match name.as_str() {
                "" | "embedded" => ("sqlite", "embedded"),
                name => name.rsplit_once('-').expect("ACCOUNTS-SESSIONS"),
            };
            Self {
                accounts: match accounts {
                    "sqlite" => None,
                    name => Some(Accounts::new(&address(name), &address("postgres"))),
                },
                sessions: match sessions {
                    "embedded" => None,
                    "redis" => Some(address("redis")),
                    other => Some(address(&format!("redis-{other}"))),
                },
                is_shared: true,
            }
        })
    }

    /// Lines for a configuration: this database, and keys that begin with this prefix.
    fn settings(&self, database: &str, prefix: &str) -> String {
        let accounts = self.accounts.as_ref().map(|accounts| {
            let url = &accounts.url;
            format!("database.url = \"{url}/{database}\"\n")
        });
        let sessions = self
            .sessions
            .as_ref()
            .map(|url| format!("redis.url = {url:?}\nredis.key_prefix = \"{prefix}\"\n"));
        accounts.unwrap_or_default() + &sessions.unwrap_or_default()
    }
}

/// Lines for a configuration that is only checked: nobody connects.
pub fn settings_to_check() -> String {
    Pair::of_this_run().settings("nobody", "nobody")
}

impl Stores {
    /// Empty ones, of the newest schema.
    pub fn fresh(pair: &Pair) -> Self {
        Self::of(pair, pair.accounts.as_ref().map(Accounts::database))
    }

    /// This database, if the pair has one, and new ones of the rest.
    pub fn of(pair: &Pair, database: Option<Database>) -> Self {
        let name = database.as_ref().map_or("", |database| &database.name);
        let prefix = if pair.is_shared {
            new_name("t") + ":"
        } else {
            String::new()
        };
        Self {
            folder: tempfile::tempdir().expect("there is room for temporary files"),
            settings: pair.settings(name, &prefix),
            database,
        }
    }

    /// Changes the accounts as nobody does through a server: by SQL that both kinds know. How many
    /// rows were concerned.
    pub fn execute(&self, sql: &str) -> u64 {
        match &self.database {
            Some(Database { name, direct }) => {
                let client = connect(&format!("{direct}/{name}"));
                runtime()
                    .block_on(client.execute_typed(sql, &[]))
                    .unwrap_or_else(|error| panic!("{sql}: {error}"))
            }
            None => {
                let file = Connection::open(self.folder.path().join("accounts.db"));
                let file = file.expect("it is the store's file");
                file.busy_timeout(super::PATIENCE).expect("it can be set");
                let rows = file.execute(sql, []);
                rows.unwrap_or_else(|error| panic!("{sql}: {error}")) as u64
            }
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let dropped = try_to_administer(&self.direct, &drop);
        // A test that has failed says why; its server may be gone.
        assert!(dropped.is_ok() || thread::panicking(), "{dropped:?}");
    }
}

/// Brings the schema of this database up to date.
pub fn migrate(url: &str) {
    let (code, _, errors) = run(&["migrate"], &[("DATABASE_URL", url)]);
    assert_eq!(code, 0, "{errors}");
}

/// Runs a command of the whole database server.
fn administer(url: &str, sql: &str) {
    try_to_administer(url, sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn try_to_administer(url: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
    let client = try_to_connect(&format!("{url}/postgres"))?;
    runtime().block_on(client.batch_execute(sql))
}

/// A connection that lasts as long as the client.
pub fn connect(url: &str) -> Client {
    try_to_connect(url).expect("PostgreSQL is there")
}

fn try_to_connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let connect = tokio_postgres::connect(url, NoTls);
    let (client, connection) = runtime().block_on(connect)?;
    runtime().spawn(connection);
    Ok(client)
}

/// Keeps the connections alive, on a thread of its own.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build();
        runtime.expect("a runtime can be made")
    })
}
