//! What outlives a request: logins, chats and rate-limit windows ([`Sessions`]), users, mails to be
//! sent and secrets ([`Accounts`]).
//!
//! [`Backend::start`] opens what is needed once per process, [`Backend::connect`] gives each core its
//! handles. Either store may be a SQLite file; one thread owns those that are (`embedded`). Nothing
//! outside this folder knows SQL or the name of a Redis key.

mod accounts;
pub mod backup;
mod calls;
mod chats;
mod embedded;
mod folder;
mod health;
mod lives;
mod logins;
mod outbox;
mod outcomes;
mod patience;
mod postgres;
mod redis;
mod roots;
mod schema;
mod secrets;
mod sessions;
mod sqlite;
mod users;
mod windows;

use std::fmt;
use std::sync::Arc;

use crate::config;
use crate::error::Error;
use embedded::{Embedded, Files};

pub use accounts::Accounts;
pub use folder::owner as folder_owner;
pub use outcomes::{
    ADDRESS_CHARS_MAX, NewSession, OutboxRow, OwnChat, Posted, Registered, Reservation, Reserved,
    SESSIONS_PER_USER_MAX, Session, SessionInfo, Taken, TokenUse, USER_AGENT_CHARS_MAX, Updated,
};
pub use patience::limit;
pub use postgres::{
    PostgresFacts, Step as MigrationStep, inspect as inspect_postgres,
    would_start as would_start_on_postgres,
};
pub use redis::{RedisFacts, inspect as inspect_redis};
pub use schema::Upkeep;
pub use sessions::Sessions;

/// Longest life of a reset token, milliseconds: a used one is remembered for longer.
pub const RESET_TOKEN_TTL_MS_MAX: i64 = 24 * 60 * 60 * 1000;

/// Longest that a mail waits before it is tried again, milliseconds.
pub const LETTER_PAUSE_MS_MAX: i64 = 60 * 60 * 1000;

/// Told what the operator should know: the event and its detail, which holds no secret. Called
/// on the store's thread.
pub type OnEvent = fn(event: &'static str, detail: String);

/// The running stores of this process.
#[derive(Debug)]
pub struct Backend {
    /// The thread of those that are files; `None` if neither is.
    embedded: Option<Embedded>,
    accounts: AccountsBackend,
    sessions: SessionsBackend,
}

/// Who keeps the accounts.
#[derive(Debug)]
enum AccountsBackend {
    /// The store's thread of this process.
    Sqlite {
        queue: embedded::Queue,
        secrets: Arc<secrets::Secrets>,
    },
    /// A server.
    Postgres(postgres::Postgres),
}

/// Who keeps the sessions.
#[derive(Debug)]
enum SessionsBackend {
    /// The store's thread of this process.
    Embedded(embedded::Queue),
    /// A server, or several.
    Redis(redis::Redis),
}

impl Backend {
    /// Opens the files that are needed, makes or migrates what is missing and starts their thread;
    /// connects once to the servers, whose schema must be there ([`migrate`]). Blocks, a few seconds
    /// at most.
    ///
    /// # Errors
    /// One clear line that names the file, folder or server and what is wrong with it.
    pub fn start(settings: &config::Store, on_event: OnEvent) -> Result<Self, String> {
        Self::start_with(settings, Upkeep::Now, on_event)
    }

    /// The same, beside a process that may be of an earlier version: what is done about its files' schema is
    /// the caller's choice.
    ///
    /// # Errors
    /// As [`Backend::start`].
    pub fn start_with(
        settings: &config::Store,
        upkeep: Upkeep,
        on_event: OnEvent,
    ) -> Result<Self, String> {
        let mut files = Files::new(settings, upkeep, on_event);
        let accounts = match &settings.database {
            Some(database) => {
                AccountsBackend::Postgres(postgres::Postgres::start(settings, database, on_event)?)
            }
            None => {
                let (queue, secrets) = files.open_accounts()?;
                AccountsBackend::Sqlite {
                    queue,
                    secrets: Arc::new(secrets),
                }
            }
        };
        let sessions = match &settings.redis {
            Some(redis) => SessionsBackend::Redis(redis::Redis::start(settings, redis, on_event)?),
            None => SessionsBackend::Embedded(files.open_sessions()?),
        };
        Ok(Self {
            embedded: files.start()?,
            accounts,
            sessions,
        })
    }

    /// Whether a server has kept accounts under these settings before. `true` also if that cannot be seen; starting
    /// then tells why.
    pub fn is_made(settings: &config::Store) -> bool {
        let file = settings.dir.join(secrets::FILE_NAME);
        settings.database.is_some() || file.try_exists().unwrap_or(true)
    }

    /// Handles for one core; connections to servers are its own, and open when they are first needed.
    pub fn connect(&self) -> Stores {
        Stores {
            sessions: match &self.sessions {
                SessionsBackend::Embedded(queue) => Sessions::Embedded(queue.clone()),
                SessionsBackend::Redis(redis) => Sessions::Redis(redis.connect()),
            },
            accounts: match &self.accounts {
                AccountsBackend::Sqlite { queue, secrets } => Accounts::Sqlite {
                    queue: queue.clone(),
                    secrets: Arc::clone(secrets),
                },
                AccountsBackend::Postgres(postgres) => Accounts::Postgres {
                    pool: postgres.connect(),
                    secrets: postgres.secrets(),
                },
            },
        }
    }

    /// Migrates the files that were left as they were ([`Upkeep::Later`]). Until then, nothing may be asked of
    /// the stores; from then on, a server of the version before can read no passwords from them.
    ///
    /// # Errors
    /// One line that names a file; it is as before.
    pub async fn bring_up_to_date(&self) -> Result<(), String> {
        match &self.embedded {
            Some(embedded) => embedded.bring_up_to_date().await,
            None => Ok(()),
        }
    }

    /// Resolves when the store's thread has ended: after [`Backend::stop`], or because it
    /// panicked, which should end the process with an error. Never, if there is none.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let ended = self.embedded.as_ref().map(Embedded::ended);
        async move {
            match ended {
                Some(ended) => ended.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Takes no further calls (they get [`StoreError::Unavailable`]), carries out what is queued,
    /// empties the write-ahead logs and closes the files. Blocks, at most about ten seconds.
    ///
    /// # Errors
    /// One line when the thread did not finish in time or had panicked.
    pub fn stop(self) -> Result<(), String> {
        self.embedded.map_or(Ok(()), Embedded::stop)
    }
}

/// Brings the schema in PostgreSQL up to what this version needs, or only tells what that would do
/// (`is_trial`). Blocks until no other process migrates.
///
/// # Errors
/// Lines on what is wrong, the first of which names the server; see [`MigrationStep`] for what is done by then.
pub fn migrate(
    database: &config::Database,
    is_trial: bool,
    on_event: OnEvent,
) -> Result<Vec<MigrationStep>, String> {
    postgres::migrate(database, is_trial, on_event)
}

/// One core's handles; cheap to clone.
#[derive(Debug, Clone)]
pub struct Stores {
    /// Logins, chats and rate-limit windows.
    pub sessions: Sessions,
    /// Users, mails and secrets.
    pub accounts: Accounts,
}

impl Stores {
    /// Begins to connect to servers, where that is worth while before the first request: it takes a
    /// moment, and file descriptors that may be scarce later. Called on the core's runtime.
    pub fn begin(&self) {
        if let Sessions::Redis(link) = &self.sessions {
            link.begin();
        }
    }
}

/// Why a store gave no answer; the cause has been reported where it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreError {
    /// The disk is full or broken, another process holds the file, the server cannot be reached, or
    /// the store has stopped.
    Unavailable,
    /// No answer within the `timeout_seconds` of the store, or what `store.request_seconds_max` left of it; some writes may still be carried out.
    TimedOut,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StoreError::Unavailable => "the store is unavailable",
            StoreError::TimedOut => "the store did not answer in time",
        })
    }
}

impl std::error::Error for StoreError {}

/// Which of the two it was is for the log; the client is to try again.
impl From<StoreError> for Error {
    fn from(_: StoreError) -> Self {
        Self::STORE_DOWN
    }
}

/// What a chat is stored under: the SHA-256 of its `cc_app` cookie, so that whoever reads the
/// file cannot continue anybody's chat.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChatKey([u8; 32]);

impl ChatKey {
    /// The key of this cookie value.
    pub fn of(cookie: &str) -> Self {
        Self(sha256(cookie.as_bytes()))
    }
}

/// Not shown, not even hashed: keys have no place in a log.
impl fmt::Debug for ChatKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChatKey")
    }
}

/// Whose chat it is; nobody else can continue or reset it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// Whoever has the cookie and is not logged in.
    Anonymous,
    /// This user id.
    User(i64),
}

impl Owner {
    fn id(self) -> Option<i64> {
        match self {
            Owner::Anonymous => None,
            Owner::User(id) => Some(id),
        }
    }
}

/// Random, changed by every reset: tells a save that its history is gone.
pub type Generation = [u8; 16];

/// A rate limit to count a hit against.
#[derive(Clone, PartialEq, Eq)]
pub struct Window {
    /// At most [`WINDOW_KEY_BYTES_MAX`] bytes.
    key: Vec<u8>,
    limit: u32,
    length_ms: i64,
}

/// Longest key of a window as stored.
pub const WINDOW_KEY_BYTES_MAX: usize = 64;

impl Window {
    /// `limit` hits in `length_ms` milliseconds for `key`; a key longer than
    /// [`WINDOW_KEY_BYTES_MAX`] is replaced by its SHA-256.
    pub fn new(key: &[u8], limit: u32, length_ms: i64) -> Self {
        let key = if key.len() <= WINDOW_KEY_BYTES_MAX {
            key.to_vec()
        } else {
            sha256(key).to_vec()
        };
        Self {
            key,
            limit,
            length_ms,
        }
    }
}

/// The key holds a client's address.
impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Window({} in {} ms)", self.limit, self.length_ms)
    }
}

/// The answer to [`Sessions::begin_chat`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// Over the limit; the hit was not counted.
    Limited {
        /// Whole seconds until the window ends, at least 1.
        retry_after_s: u32,
    },
    /// Within the limit; the hit was counted.
    Ready {
        /// The chat, if there is one of this owner that has not expired.
        chat: Option<Found>,
    },
}

/// A chat as stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Found {
    /// To be given to [`Sessions::open_chat`] and [`Sessions::save_turn`].
    pub generation: Generation,
    /// When it ends unless it is renewed, in milliseconds since 1970.
    pub ends_ms: i64,
    /// One JSON message per line ([`crate::llm::history`]); empty after a reset.
    pub messages: Vec<u8>,
}

/// Messages have no place in a log.
impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Found({} bytes)", self.messages.len())
    }
}

/// How much of a chat is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Exchanges (question and answer) kept when the history is cut back.
    pub exchanges_max: usize,
    /// Stored bytes; the oldest exchanges go first, whole.
    pub bytes_max: usize,
}

/// A finished exchange, to be added to its chat.
#[derive(Clone, PartialEq, Eq)]
pub struct Turn {
    /// The chat it belongs to.
    pub chat: ChatKey,
    /// The generation the turn began with; under another one it is dropped.
    pub generation: Generation,
    /// Inside of a JSON string.
    pub question_escaped: Vec<u8>,
    /// Inside of a JSON string.
    pub answer_escaped: Vec<u8>,
    /// Whose it is when room must be made: see [`client_tag`]; none if that is not known.
    pub client: Option<ClientTag>,
    /// How much is kept.
    pub limits: HistoryLimits,
    /// How long the chat lives from now, milliseconds.
    pub ttl_ms: i64,
}

/// A client's address as the session file keeps it.
pub type ClientTag = [u8; 8];

/// A keyed hash of an address, so that the file tells nobody where its chats came from.
pub fn client_tag(key: &[u8; 32], address: &[u8]) -> ClientTag {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
    let mut context = ring::hmac::Context::with_key(&key);
    context.update(b"chat client\0");
    context.update(address);
    let tag = context.sign();
    *tag.as_ref()
        .first_chunk()
        .expect("an HMAC-SHA256 has 32 bytes")
}

/// Messages have no place in a log.
impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turn")
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest
        .as_ref()
        .try_into()
        .expect("a SHA-256 digest has 32 bytes")
}
