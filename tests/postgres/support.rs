//! A store on a database of its own, and short words for its calls.

use std::sync::{Mutex, OnceLock};

use cloudchat::config::{self, Config, Sources};
use cloudchat::model::{Email, NewUser, PasswordHash, Token, UserId};
use cloudchat::store::{Backend, NewSession, Stores, migrate};
use tempfile::TempDir;

use super::services::Services;

/// Far enough from now that no sweep touches what a test makes (the year 2100).
pub const T0: i64 = 4_102_444_800_000;
pub const HOUR: i64 = 3_600_000;

/// Ways to the server: its variable, and how statements are prepared.
const WAYS: [(&str, &str); 4] = [
    ("POSTGRES", "named"),
    ("PGBOUNCER", "named"),
    ("PGBOUNCER_OLD", "unnamed"),
    ("PGBOUNCER_ZERO", "auto"),
];

/// A running store with its accounts at the end of one of the ways, and its sessions in a folder.
pub struct Open<const WAY: usize> {
    folder: TempDir,
    settings: config::Store,
    backend: Backend,
    pub stores: Stores,
}

impl<const WAY: usize> Open<WAY> {
    pub fn fresh() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut config::Store)) -> Self {
        let (server, statements) = WAYS[WAY];
        let services = shared();
        let url = format!("{}/{}", services.address(server), services.database());
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(&folder, &url, statements);
        migrate(settings.database.as_ref().unwrap(), false, quiet).unwrap();
        change(&mut settings);
        Self::at(folder, settings)
    }

    fn at(folder: TempDir, settings: config::Store) -> Self {
        let backend = Backend::start(&settings, quiet).unwrap();
        Self {
            stores: backend.connect(),
            folder,
            settings,
            backend,
        }
    }

    /// A second server on the same database.
    pub fn beside(other: &Self) -> Backend {
        let settings = config::Store {
            dir: other.folder.path().join("other"),
            ..other.settings.clone()
        };
        Backend::start(&settings, quiet).unwrap()
    }

    pub fn stop(self) {
        self.backend.stop().unwrap();
    }

    /// Stops it and starts it again.
    pub fn again(self, change: impl FnOnce(&mut config::Store)) -> Self {
        let mut settings = self.settings;
        change(&mut settings);
        self.backend.stop().unwrap();
        Self::at(self.folder, settings)
    }
}

/// Nothing is to be reported, except once that the server does not keep statements.
pub fn quiet(event: &'static str, detail: String) {
    static WARNED: Mutex<()> = Mutex::new(());
    let _one_at_a_time = WARNED.lock();
    let expected = ["statements without names", "outbox full, mail dropped"];
    assert!(expected.contains(&event), "{event}: {detail}");
}

pub fn settings(folder: &TempDir, url: &str, statements: &str) -> config::Store {
    let file = folder.path().join("config.toml");
    let text = format!(
        "[server]\nworkers = 1\n[database]\nurl = \"{url}\"\nstatements = \"{statements}\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let sources = Sources {
        file: Some(&file),
        data_dir: Some(folder.path()),
        ..Sources::default()
    };
    Config::load(sources).unwrap().store
}

pub fn new_user(email: &str) -> NewUser {
    NewUser {
        email: Email::parse(email).unwrap(),
        phone: None,
        display_name: None,
        hash: PasswordHash::new("$a$b$c".to_owned()),
        welcome: true,
    }
}

/// Holds tables of this database until it commits: the server has what others send, and works on it
/// later.
pub async fn locked(services: &Services, name: &str, tables: &str) -> tokio_postgres::Client {
    let admin = format!("{}/{name}", services.address("POSTGRES_ADMIN"));
    let (locker, driver) = tokio_postgres::connect(&admin, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(driver);
    let lock = format!("BEGIN; LOCK TABLE {tables}");
    locker.batch_execute(&lock).await.unwrap();
    locker
}

pub fn login(user: UserId, start_ms: i64) -> (Token, NewSession) {
    let token = Token::new();
    let new = NewSession {
        token: token.clone(),
        user,
        start_ms,
        ttl_ms: HOUR,
        address: String::new(),
        user_agent: String::new(),
        replaces: None,
    };
    (token, new)
}

/// Servers that all tests use which do not harm them.
pub fn shared() -> &'static Services {
    static SHARED: OnceLock<Services> = OnceLock::new();
    SHARED.get_or_init(|| Services::start("postgres,pgbouncer,pgbouncer-old,pgbouncer-zero"))
}
