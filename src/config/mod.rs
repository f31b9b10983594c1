//! The configuration: typed, read once, checked once. Every key, its default and why it is there
//! stand in `config.toml.example`.
//!
//! Defaults are replaced by the file, the file by the environment, the environment by the command
//! line. Without `--config` the package's files are read where they are ([`Installed`]). All mistakes are
//! reported together, one line each. This is the only module that reads the environment.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

pub use self::database::{Database, DatabaseTls, Statements};
pub use self::guide::Guide;
pub use self::installed::Installed;
pub use self::mail::{Language, Mail, MailServer, TlsMode};
pub use self::redis::{Redis, RedisKind};
pub use crate::log::Format as LogFormat;

mod auth;
mod database;
mod env_file;
mod environment;
mod guide;
mod headers;
mod installed;
mod load;
mod mail;
mod parse;
mod provider;
mod read;
mod redis;
mod service_url;

/// The cookie that says "this browser has logged in before"; its name is not configurable.
pub const DEVICE_COOKIE: &str = "cc_dev";

/// Every key with its default and a line of why.
pub const EXAMPLE: &str = include_str!("../../config.toml.example");

/// All settings, after file, environment and command line have been merged and checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Listeners, cookies, HTTP limits.
    pub server: Server,
    /// Log lines.
    pub log: Log,
    /// Where the metrics can be had, a loopback address; `None`: nothing is counted.
    pub metrics: Option<SocketAddr>,
    /// Bytes from which `budget` derives every limit, 1M to 1024G.
    pub memory: usize,
    /// What clients of a chat get.
    pub chat: Chat,
    /// Logins and passwords.
    pub auth: Auth,
    /// How providers are spoken to.
    pub upstream: Upstream,
    /// In order of preference; the first is asked first; names are unique; at most 16.
    pub providers: Vec<Provider>,
    /// Where accounts and sessions are kept.
    pub store: Store,
    /// Mails to users.
    pub mail: Mail,
    /// What the operator should know although the server starts; logged once.
    pub warnings: Vec<String>,
}

/// Where settings come from, besides the defaults.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// `--config`.
    pub file: Option<&'a Path>,
    /// Looks up an environment variable; [`environment`] for the process's own.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Names of all variables that are set, to find those that were meant to be ours;
    /// [`environment_names`] for the process's own.
    pub names: &'a [String],
    /// `--listen`, replaces the file's list unless empty.
    pub listen: &'a [String],
    /// `--data-dir`.
    pub data_dir: Option<&'a Path>,
}

impl Default for Sources<'_> {
    fn default() -> Self {
        Self {
            file: None,
            env: &|_| None,
            names: &[],
            listen: &[],
            data_dir: None,
        }
    }
}

impl Config {
    /// Reads and merges the sources and checks the result.
    ///
    /// # Errors
    /// All mistakes, one line each, naming file, variable or option, the key, and what is allowed.
    pub fn load(sources: Sources<'_>) -> Result<Self, Vec<String>> {
        load::load(&sources)
    }
}

/// A variable of the process's environment, for [`Sources::env`]. Bytes that are no UTF-8 become
/// U+FFFD, which no setting that matters accepts.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn environment(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// The names of all variables of the process's environment, for [`Sources::names`].
pub fn environment_names() -> Vec<String> {
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter_map(|name| name.into_string().ok()).collect()
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An address; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// An absolute path of at most 107 bytes.
    Unix(PathBuf),
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Listeners, cookies, HTTP limits.
#[derive(Debug, Clone)]
pub struct Server {
    /// At least one; none twice.
    pub listen: Vec<Listen>,
    /// Threads, each with its own runtime, 1 to 64; 0 in the file means one per core.
    pub workers: usize,
    /// `""`, or `/something` without a slash at the end.
    pub prefix: String,
    /// Origins that may post from a browser, besides our own host; lower case, no slash at the end.
    pub origins: Vec<String>,
    /// The web site in front, for links in mails: `http(s)://host[:port][/path]` without a slash at
    /// the end.
    pub frontend_base_url: Option<String>,
    /// Peers whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether a peer on a Unix socket is such a proxy.
    pub trust_unix: bool,
    /// From a connection's first byte to the end of the request's head, 0.05 to 600 s.
    pub head_timeout: Duration,
    /// From the end of the head to the end of the body, 0.05 to 600 s.
    pub body_timeout: Duration,
    /// How long a connection may wait for its next request, 0.05 to 3600 s.
    pub idle_timeout: Duration,
    /// How long a client may take no byte of its answer, 0.05 to 3600 s.
    pub write_timeout: Duration,
    /// How long running streams may go on after the stop signal, 0 to 3600 s.
    pub drain_timeout: Duration,
    /// How long a new process may take to be ready to serve in this one's place, 0.05 to 600 s.
    pub upgrade_timeout: Duration,
    /// Connections of one client while more than half of all are used, 0 to 1,000,000; 0: an eighth of all.
    pub connections_per_client_max: usize,
    /// Longest request body under `/auth`, 1K to 16M.
    pub auth_body_bytes_max: usize,
    /// Longest request body of a chat, 1K to 16M.
    pub chat_body_bytes_max: usize,
    /// `SO_SNDBUF` of clients and `SO_RCVBUF` of providers as asked for, 4K to 4M; the kernel
    /// doubles it.
    pub socket_buffer_bytes: usize,
    /// Name of the cookie that a chat belongs to; an RFC 6265 token.
    pub app_cookie: String,
    /// Name of the cookie of a login; an RFC 6265 token.
    pub auth_cookie: String,
    /// Whether cookies carry `Secure`.
    pub cookie_secure: bool,
}

/// Log lines.
#[derive(Debug, Clone)]
pub struct Log {
    /// Logfmt or JSON.
    pub format: LogFormat,
    /// Whether request lines hold the client's address.
    pub client_address: bool,
    /// How often a line tells the memory in use, 1 to 86,400 s; `None`: never.
    pub memory_every: Option<Duration>,
    /// Whether stderr is the systemd journal (found out, not configured).
    pub journal: bool,
}

/// What clients of a chat get.
#[derive(Debug, Clone)]
pub struct Chat {
    /// Whether anonymous chats get 401.
    pub require_login: bool,
    /// Chats per minute of a user, to 1,000,000; 0 = no limit. Ten times as many of all users at one address.
    pub rate_per_minute: u32,
    /// Chats per minute of an address that is not logged in, to 1,000,000; 0 = no limit.
    pub anonymous_rate_per_minute: u32,
    /// Chats per day of an address, logged in or not, to 1,000,000,000; 0 = no limit.
    pub per_day_max: u32,
    /// Chats per hour of the whole site, to 1,000,000,000; 0 = no limit.
    pub site_per_hour_max: u32,
    /// Streams of one user, or of one address that is not logged in, at once, 1 to 100,000. Eight times as many
    /// of all at one address.
    pub streams_per_client_max: usize,
    /// An empty line goes out after so long a silence, 0.05 to 300 s.
    pub heartbeat: Duration,
    /// How long a connection stays open behind an error line, 0 to 10 s.
    pub break_wait: Duration,
    /// Longest stream, 0.05 s to a day.
    pub stream_max: Duration,
    /// Exchanges (question and answer) remembered, 1 to 1,000.
    pub history_max: usize,
    /// Bytes of them as stored, 1K to 16M; at least `answer_bytes_max`.
    pub history_bytes_max: usize,
    /// Answer without memory when the session store is down.
    pub without_history: bool,
    /// Life of a chat after its last turn, 0.05 s to a year.
    pub session_ttl: Duration,
    /// The first message of every prompt; up to 64 KiB.
    pub system_prompt: String,
    /// Bytes of an answer that are remembered (all of it is forwarded), 4K to 1M.
    pub answer_bytes_max: usize,
    /// Texts that a question may ask for; at most 8.
    pub guides: Vec<Guide>,
}

impl Chat {
    /// The life of a chat in milliseconds, as stores count it.
    pub fn session_ttl_ms(&self) -> i64 {
        i64::try_from(self.session_ttl.as_millis()).unwrap_or(i64::MAX)
    }

    /// How long the store keeps a chat, in milliseconds: a sixtieth longer than
    /// [`Chat::session_ttl`], so that a question which comes before that is over need not renew it.
    pub fn stored_ms(&self) -> i64 {
        let ttl_ms = self.session_ttl_ms();
        ttl_ms.saturating_add(ttl_ms / 60)
    }
}

/// Logins and passwords.
#[derive(Debug, Clone)]
pub struct Auth {
    /// Life of a login, 1 s to a year.
    pub session_ttl: Duration,
    /// Life of a mailed link, 1 s to a day.
    pub reset_token_ttl: Duration,
    /// Whether a replaced password ends all sessions of its user.
    pub reset_revokes_sessions: bool,
    /// Whether the answer to "forgot" holds the token: for tests only, and only without `cookie_secure`.
    pub debug_return_reset_token: bool,
    /// Whether a hash with other parameters than today's is replaced when its user logs in.
    pub rehash: bool,
    /// Memory that one hash may take, 19M to 4G; a stored one that needs more matches nothing.
    pub hash_memory_max: usize,
    /// Passwords waiting for the hasher or under work, 1 to 1,024.
    pub hash_queue_max: usize,
    /// How long one may wait for its answer, 0.05 to 60 s.
    pub hash_timeout: Duration,
}

impl Auth {
    /// The life of a login in milliseconds, as stores count it.
    pub fn session_ttl_ms(&self) -> i64 {
        i64::try_from(self.session_ttl.as_millis()).unwrap_or(i64::MAX)
    }

    /// The life of a mailed link in milliseconds.
    pub fn reset_token_ttl_ms(&self) -> i64 {
        i64::try_from(self.reset_token_ttl.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Which certificate authorities vouch for providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roots {
    /// Mozilla's list, compiled in.
    BuiltIn,
    /// The operating system's list.
    System,
}

/// How providers are spoken to.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Name lookup, connect and TLS handshake together, 0.05 to 300 s.
    pub connect_timeout: Duration,
    /// From the request to the first event, over all providers tried, 0.05 to 3600 s.
    pub first_event_timeout: Duration,
    /// Longest silence after it, 0.05 to 3600 s.
    pub between_events_timeout: Duration,
    /// Failures in a row that open a provider's breaker, to 1,000; 0 = never.
    pub breaker_failures_max: u32,
    /// How long it stays open before a probe, 0.05 to 3600 s.
    pub breaker_open: Duration,
    /// Idle connections kept per provider and core, 0 to 64.
    pub idle_max: usize,
    /// How long they are kept, 0.05 to 3600 s.
    pub idle_timeout: Duration,
    /// Certificate authorities.
    pub roots: Roots,
    /// PEM file with further roots.
    pub ca_file: Option<PathBuf>,
    /// `SO_RCVBUF` as asked for while few streams run; at least [`Self::socket_buffer_bytes`].
    pub receive_buffer_bytes: usize,
    /// `SO_RCVBUF` as asked for with many (from `server.socket_buffer_bytes`).
    pub socket_buffer_bytes: usize,
}

/// A text that never shows itself in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// An OpenAI-compatible service.
#[derive(Debug, Clone)]
pub struct Provider {
    /// For log lines: 1 to 32 of `[A-Za-z0-9._-]`.
    pub name: String,
    /// `https`.
    pub tls: bool,
    /// Host name or address, lower case, without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
    /// Path of the base URL without a slash at the end, for instance `/v1`; may be empty.
    pub path: String,
    /// What the request asks for; 1 to 256 bytes.
    pub model: String,
    /// Visible ASCII, up to 4 KiB.
    pub key: Option<Secret>,
    /// Further header fields of every request, by name: at most 16, at most 4 KiB together; none that frames a
    /// message or that [`upstream`](crate::upstream) writes itself.
    pub headers: Vec<(String, Secret)>,
    /// Whether the request names the user (as an HMAC).
    pub send_user: bool,
    /// Whether `[DONE]` without a finish reason before it ends a complete answer.
    pub done_is_complete: bool,
    /// Members of the request besides `model`, `messages`, `stream` and `user`: the inside of a
    /// JSON object, for instance `"max_tokens":2000,"temperature":0.7`.
    pub extra: String,
}

impl Provider {
    /// The base URL as `http(s)://host:port/path`, for the operator.
    pub fn base_url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let (open, close) = if self.host.contains(':') {
            ("[", "]")
        } else {
            ("", "")
        };
        format!(
            "{scheme}://{open}{}{close}:{}{}",
            self.host, self.port, self.path
        )
    }
}

/// Where accounts and sessions are kept: each in a file of the data folder, unless a server is named.
#[derive(Debug, Clone)]
pub struct Store {
    /// Holds the accounts instead of a file.
    pub database: Option<Database>,
    /// Holds the sessions instead of a file.
    pub redis: Option<Redis>,
    /// Folder of its files: `--data-dir`, else `server.data_dir`, else systemd's
    /// `$STATE_DIRECTORY`, else `$XDG_DATA_HOME/cloudchat`, else `$HOME/.local/share/cloudchat`,
    /// else `data` in the working directory.
    pub dir: PathBuf,
    /// Chats kept, to 100,000,000; the ones that expire first make room.
    pub chats_max: usize,
    /// Rate-limit windows kept, to 100,000,000.
    pub windows_max: usize,
    /// Login sessions kept, to 100,000,000; the ones that expire first make room.
    pub sessions_max: usize,
    /// How long what it keeps lives.
    pub lives: Lives,
    /// Mails that may wait to be sent (`mail.queue_max`), to 1,000,000; further ones are dropped.
    pub outbox_max: usize,
    /// Bytes of the session database file, 1M to 1024G.
    pub disk_bytes_max: u64,
    /// Calls waiting for the store's thread, 1 to 65536.
    pub queue_max: usize,
    /// How long a call may take, waiting included, 0.05 to 60 s.
    pub timeout: Duration,
    /// How long all calls of one request may take together, 0.05 to 60 s.
    pub request_max: Duration,
}

/// How long what a session store keeps lives, in milliseconds. What ends much later than that from now was written
/// before the clock was set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lives {
    /// A chat after its last turn ([`Chat::stored_ms`]).
    pub chat_ms: i64,
    /// A login, also one of the service that CloudChat replaces.
    pub session_ms: i64,
    /// A mailed link.
    pub reset_token_ms: i64,
}
