//! The configuration: typed, read once, checked once. Every key, its default and why it is there
//! stand in `config.toml.example`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// All settings, after file, environment and command line have been merged and checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub server: Server,
    pub log: Log,
    pub memory: usize,
    pub chat: Chat,
    pub upstream: Upstream,
    /// In order of preference; the first is asked first.
    pub providers: Vec<Provider>,
    pub store: Store,
    /// What the operator should know although the server starts; logged once.
    pub warnings: Vec<String>,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug, Clone)]
pub struct Server {
    pub listen: Vec<Listen>,
    /// Threads, each with its own runtime; 0 in the file means one per core.
    pub workers: usize,
    /// `""`, or `/something` without a slash at the end.
    pub prefix: String,
    /// Origins that may post from a browser, besides our own host; lower case, no slash at the end.
    pub origins: Vec<String>,
    /// Peers whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether a peer on a Unix socket is such a proxy.
    pub trust_unix: bool,
    pub head_timeout: Duration,
    pub body_timeout: Duration,
    pub idle_timeout: Duration,
    /// How long a client may take no byte of its answer.
    pub write_timeout: Duration,
    pub drain_timeout: Duration,
    pub auth_body_bytes_max: usize,
    pub chat_body_bytes_max: usize,
    /// `SO_SNDBUF` of clients and `SO_RCVBUF` of providers as asked for; the kernel doubles it.
    pub socket_buffer_bytes: usize,
    pub app_cookie: String,
    pub auth_cookie: String,
    pub cookie_secure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Logfmt,
    Json,
}

#[derive(Debug, Clone)]
pub struct Log {
    pub format: LogFormat,
    /// Whether request lines hold the client's address.
    pub client_address: bool,
}

#[derive(Debug, Clone)]
pub struct Chat {
    pub require_login: bool,
    /// 0 = no limit.
    pub rate_per_minute: u32,
    pub streams_per_client_max: usize,
    pub heartbeat: Duration,
    pub stream_max: Duration,
    /// Exchanges (question and answer) remembered.
    pub history_max: usize,
    pub history_bytes_max: usize,
    /// Answer without memory when the session store is down.
    pub without_history: bool,
    pub session_ttl: Duration,
    pub system_prompt: String,
    pub answer_bytes_max: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roots {
    BuiltIn,
    System,
}

#[derive(Debug, Clone)]
pub struct Upstream {
    pub connect_timeout: Duration,
    pub first_event_timeout: Duration,
    pub between_events_timeout: Duration,
    /// Failures in a row that open a provider's breaker; 0 = never.
    pub breaker_failures_max: u32,
    pub breaker_open: Duration,
    /// Idle connections kept per provider and core.
    pub idle_max: usize,
    pub idle_timeout: Duration,
    pub roots: Roots,
    /// PEM file with further roots.
    pub ca_file: Option<PathBuf>,
    /// `SO_RCVBUF` as asked for (from `server.socket_buffer_bytes`).
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
    pub name: String,
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    pub port: u16,
    /// Path of the base URL without a slash at the end, for instance `/v1`.
    pub path: String,
    pub model: String,
    pub key: Option<Secret>,
    /// Whether the request names the user (as an HMAC).
    pub send_user: bool,
    /// Members of the request besides `model`, `messages` and `stream`: the inside of a JSON
    /// object, for instance `"temperature":0.7,"max_tokens":2000`.
    pub extra: String,
}

/// The embedded store.
#[derive(Debug, Clone)]
pub struct Store {
    pub dir: PathBuf,
    /// Chats kept; the ones that expire first make room.
    pub chats_max: usize,
    /// Rate-limit windows kept.
    pub windows_max: usize,
    /// Bytes of the session database file.
    pub disk_bytes_max: u64,
    /// Calls waiting for the store's thread.
    pub queue_max: usize,
    pub timeout: Duration,
}
