//! Merges the sources into a [`Config`]. Each key stands here once: its name, the variable that
//! replaces it, its default and its bounds.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::read::{Reader, quoted};
use super::{
    Chat, Config, DEVICE_COOKIE, Listen, Lives, Log, LogFormat, Roots, Server, Sources, Store,
    Upstream, auth, database, guide, mail, parse, provider, redis,
};
use crate::log;

/// Most threads; more cores than this are not used.
const WORKERS_MAX: usize = 64;
/// Nginx closes a connection that is silent for longer (`proxy_read_timeout`), in seconds.
const NGINX_SILENCE_MAX: f64 = 60.0;
const DAY: f64 = 86_400.0;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const SYSTEM_PROMPT: &str = "请你扮演张人大，英文名 Renda Zhang";
/// Longest system prompt: it goes out with every request.
const SYSTEM_PROMPT_BYTES_MAX: usize = 64 << 10;

pub fn load(sources: &Sources<'_>) -> Result<Config, Vec<String>> {
    let (file, text) = match sources.file {
        None => ("configuration".into(), String::new()),
        Some(path) => {
            let file = path.display().to_string();
            match std::fs::read_to_string(path) {
                Ok(text) => (file, text),
                Err(error) => return Err(vec![format!("{file}: cannot be read: {error}")]),
            }
        }
    };
    let mut reader = Reader::new(file, &text, sources.env);
    let config = read(&mut reader, sources);
    if reader.mistakes.is_empty() {
        Ok(config)
    } else {
        Err(reader.mistakes)
    }
}

/// Reads everything; the result counts only if the reader has noted no mistake.
fn read(reader: &mut Reader<'_>, sources: &Sources<'_>) -> Config {
    let mut warnings = Vec::new();
    let (server, data_dir) = server(reader, sources);
    let can_link = server.frontend_base_url.is_some();
    let mail = mail::read(reader, can_link, &mut warnings);
    let store = store(reader, &server, data_dir, mail.queue_max, &mut warnings);
    // The passwords of the service that CloudChat replaces are in PostgreSQL.
    let has_old_hashes = store.database.is_some();
    let mut config = Config {
        log: log(reader),
        metrics: metrics(reader),
        memory: memory(reader, has_old_hashes),
        chat: chat(reader, sources.file, &mut warnings),
        auth: auth::read(reader, has_old_hashes, server.cookie_secure, &mut warnings),
        upstream: upstream(reader, server.socket_buffer_bytes),
        providers: provider::read(reader, &mut warnings),
        store,
        mail,
        server,
        warnings: Vec::new(),
    };
    config.store.lives = Lives {
        chat_ms: config.chat.stored_ms(),
        session_ms: config.auth.session_ttl_ms(),
        reset_token_ms: config.auth.reset_token_ttl_ms(),
    };
    reader.finish();
    warnings.extend(reader.env.warnings(sources.names, &provider::variables()));
    Config { warnings, ..config }
}

fn server(reader: &mut Reader<'_>, sources: &Sources<'_>) -> (Server, PathBuf) {
    let mut section = reader.section("server");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mistakes_before = section.reader.mistakes.len();
    let in_file = section.list("listen", &["127.0.0.1:5000"], parse::listen);
    let in_file = (section.reader.mistakes.len() == mistakes_before).then(|| in_file.concat());
    let workers = section.integer("workers", 0, 0..=WORKERS_MAX);
    let prefix = section.text("prefix", parse::prefix).unwrap_or_default();
    let mut origins = section.list("origins", &[], parse::origin);
    let proxies = ["127.0.0.0/8", "::1", "unix"];
    let proxies = section.list("trusted_proxies", &proxies, parse::proxy);
    let frontend = section.text(
        ("frontend_base_url", "FRONTEND_BASE_URL"),
        |text| match text {
            "" => Ok(None),
            _ => parse::url(text).map(Some),
        },
    );
    let frontend = frontend.flatten();
    if let Some(origin) = frontend.as_ref().map(parse::Url::origin)
        && !origins.contains(&origin)
    {
        origins.push(origin);
    }
    let cookie = |text: &str| match parse::cookie_name(text) {
        Ok(name) if name == DEVICE_COOKIE => {
            Err(format!("{DEVICE_COOKIE} is another cookie's name"))
        }
        result => result,
    };
    let app_cookie = section.text(("app_cookie", "APP_SESSION_COOKIE_NAME"), cookie);
    let auth_cookie = section.text(("auth_cookie", "AUTH_COOKIE_NAME"), cookie);
    let server = Server {
        listen: Vec::new(),
        workers: if workers == 0 {
            cores.min(WORKERS_MAX)
        } else {
            workers
        },
        prefix,
        origins,
        frontend_base_url: frontend.map(|url| url.origin() + &url.path),
        trust_unix: proxies.contains(&None),
        trusted_proxies: proxies.into_iter().flatten().collect(),
        head_timeout: section.seconds("head_seconds", 10.0, 0.05..=600.0),
        body_timeout: section.seconds("body_seconds", 10.0, 0.05..=600.0),
        idle_timeout: section.seconds("idle_seconds", 75.0, 0.05..=3600.0),
        write_timeout: section.seconds("write_seconds", 60.0, 0.05..=3600.0),
        drain_timeout: section.seconds("drain_seconds", 30.0, 0.0..=3600.0),
        upgrade_timeout: section.seconds("upgrade_seconds", 30.0, 0.05..=600.0),
        connections_per_client_max: section.integer("connections_per_client_max", 0, 0..=1_000_000),
        auth_body_bytes_max: section.memory("auth_body_bytes_max", "64K", KIB..=16 * MIB),
        chat_body_bytes_max: section.memory("chat_body_bytes_max", "256K", KIB..=16 * MIB),
        socket_buffer_bytes: section.memory("socket_buffer_bytes", "8K", 4 * KIB..=4 * MIB),
        app_cookie: app_cookie.unwrap_or_else(|| "cc_app".into()),
        auth_cookie: auth_cookie.unwrap_or_else(|| "cc_auth".into()),
        cookie_secure: section.bool(("cookie_secure", "COOKIE_SECURE"), true),
    };
    if server.app_cookie == server.auth_cookie {
        section.mistake("app_cookie", "must differ from auth_cookie");
    }
    let in_file_dir = section.text("data_dir", |text| Ok(PathBuf::from(text)));
    section.finish();
    let listen = listen(reader, in_file, sources.listen);
    let data_dir = data_dir(reader, sources, in_file_dir.unwrap_or_default());
    (Server { listen, ..server }, data_dir)
}

/// The command line's addresses, or the file's (`None` if something is wrong with them, which has
/// been noted); none missing, none twice.
fn listen(reader: &mut Reader<'_>, in_file: Option<Vec<Listen>>, given: &[String]) -> Vec<Listen> {
    if given.is_empty() {
        let Some(listen) = in_file else {
            return Vec::new();
        };
        if listen.is_empty() {
            reader.mistake("server.listen", "at least one address is needed");
        }
        if let Some(twice) = twice(&listen) {
            reader.mistake("server.listen", format_args!("{twice} is listed twice"));
        }
        return listen;
    }
    let mut listen = Vec::new();
    for text in given {
        match parse::listen(text) {
            Ok(addresses) => listen.extend(addresses),
            Err(what) => reader.mistakes.push(format!("--listen: {what}")),
        }
    }
    if let Some(twice) = twice(&listen) {
        let mistake = format!("--listen: {twice} is given twice");
        reader.mistakes.push(mistake);
    }
    listen
}

/// The first address that stands in the list before; port 0 is another one each time.
fn twice(listen: &[Listen]) -> Option<&Listen> {
    let port_0 = |listen: &Listen| matches!(listen, Listen::Tcp(address) if address.port() == 0);
    let mut numbered = listen.iter().enumerate();
    let again = numbered.find(|(i, address)| listen[..*i].contains(address) && !port_0(address));
    again.map(|(_, address)| address)
}

/// See [`Store::dir`].
fn data_dir(reader: &Reader<'_>, sources: &Sources<'_>, in_file: PathBuf) -> PathBuf {
    let set = |name: &str| reader.env.outside(name).map(PathBuf::from);
    let given = sources.data_dir.map(PathBuf::from).unwrap_or(in_file);
    if !given.as_os_str().is_empty() {
        return given;
    }
    // systemd lists several folders with colons between; the first is the service's own.
    let state = reader.env.outside("STATE_DIRECTORY");
    if let Some(first) = state.as_deref().and_then(|list| list.split(':').next()) {
        return first.into();
    }
    set("XDG_DATA_HOME")
        .or_else(|| Some(set("HOME")?.join(".local/share")))
        .map_or_else(|| "data".into(), |dir| dir.join("cloudchat"))
}

fn log(reader: &mut Reader<'_>) -> Log {
    let stream = reader.env.outside("JOURNAL_STREAM");
    let mut section = reader.section("log");
    let formats = [("logfmt", LogFormat::Logfmt), ("json", LogFormat::Json)];
    let log = Log {
        format: section.choice("format", &formats),
        client_address: section.bool("client_address", false),
        memory_every: {
            let is_wanted = section.bool(("memory", "ENABLE_SCHEDULER"), false);
            let every = section.seconds("memory_seconds", 60.0, 1.0..=DAY);
            is_wanted.then_some(every)
        },
        journal: log::is_journal(stream.as_deref()),
    };
    section.finish();
    log
}

fn metrics(reader: &mut Reader<'_>) -> Option<SocketAddr> {
    let mut section = reader.section("metrics");
    let listen = section.text("listen", |text| match text.parse::<SocketAddr>() {
        _ if text.is_empty() => Ok(None),
        Ok(address) if address.ip().is_loopback() => Ok(Some(address)),
        Ok(_) => Err(format!(
            "{} is no loopback address; anybody could read it",
            quoted(text)
        )),
        Err(_) => Err(format!(
            "{} is no address such as \"127.0.0.1:9500\"",
            quoted(text)
        )),
    });
    section.finish();
    listen.flatten()
}

fn memory(reader: &mut Reader<'_>, has_old_hashes: bool) -> usize {
    let mut section = reader.section("limits");
    let default = if has_old_hashes { "128M" } else { "64M" };
    // The budget knows the least that is enough.
    let memory = section.memory("memory", default, MIB..=1024 * GIB);
    section.finish();
    memory
}

fn chat(reader: &mut Reader<'_>, file: Option<&Path>, warnings: &mut Vec<String>) -> Chat {
    let mut section = reader.section("chat");
    let system_prompt = section.text(("system_prompt", "SYSTEM_PROMPT"), |text| {
        if text.len() > SYSTEM_PROMPT_BYTES_MAX {
            return Err(format!("is longer than {SYSTEM_PROMPT_BYTES_MAX} bytes"));
        }
        Ok(text.into())
    });
    let rate_per_minute = section.integer("rate_per_minute", 20, 0..=1_000_000);
    let chat = Chat {
        require_login: section.bool("require_login", false),
        rate_per_minute,
        anonymous_rate_per_minute: section.integer(
            "anonymous_rate_per_minute",
            rate_per_minute,
            0..=1_000_000,
        ),
        per_day_max: section.integer("per_day_max", 0, 0..=1_000_000_000),
        site_per_hour_max: section.integer("site_per_hour_max", 0, 0..=1_000_000_000),
        streams_per_client_max: section.integer("streams_per_client_max", 8, 1..=100_000),
        heartbeat: section.seconds("heartbeat_seconds", 15.0, 0.05..=300.0),
        break_wait: section.seconds("break_seconds", 1.0, 0.0..=10.0),
        stream_max: section.seconds("stream_seconds_max", 1800.0, 0.05..=DAY),
        history_max: section.integer(("history_max", "MAX_HISTORY"), 6, 1..=1000),
        history_bytes_max: section.memory("history_bytes_max", "64K", KIB..=16 * MIB),
        without_history: section.bool("without_history", false),
        session_ttl: section.seconds(
            ("session_seconds", "SESSION_EXPIRE"),
            3600.0,
            0.05..=365.0 * DAY,
        ),
        system_prompt: system_prompt.unwrap_or_else(|| SYSTEM_PROMPT.into()),
        answer_bytes_max: section.memory("answer_bytes_max", "32K", 4 * KIB..=MIB),
        guides: guide::read(&mut section, file),
    };
    if chat.history_bytes_max < chat.answer_bytes_max {
        let what = "must be at least chat.answer_bytes_max, or no long answer is remembered";
        section.mistake("history_bytes_max", what);
    }
    if chat.heartbeat.as_secs_f64() >= NGINX_SILENCE_MAX {
        warnings.push(format!(
            "chat.heartbeat_seconds: a proxy such as Nginx gives up after {NGINX_SILENCE_MAX} s"
        ));
    }
    section.finish();
    chat
}

fn upstream(reader: &mut Reader<'_>, socket_buffer_bytes: usize) -> Upstream {
    let mut section = reader.section("upstream");
    let ca_file = section.text("ca_file", |text| match text {
        "" => Ok(None),
        _ => match std::fs::File::open(text) {
            Ok(_) => Ok(Some(PathBuf::from(text))),
            Err(error) => Err(format!("{} cannot be opened: {error}", quoted(text))),
        },
    });
    let roots = [("built-in", Roots::BuiltIn), ("system", Roots::System)];
    let upstream = Upstream {
        connect_timeout: section.seconds("connect_seconds", 10.0, 0.05..=300.0),
        first_event_timeout: section.seconds("first_event_seconds", 600.0, 0.05..=3600.0),
        between_events_timeout: section.seconds("between_events_seconds", 120.0, 0.05..=3600.0),
        breaker_failures_max: section.integer("breaker_failures_max", 5, 0..=1000),
        breaker_open: section.seconds("breaker_open_seconds", 30.0, 0.05..=3600.0),
        idle_max: section.integer("idle_max", 4, 0..=64),
        idle_timeout: section.seconds("idle_seconds", 55.0, 0.05..=3600.0),
        roots: section.choice("roots", &roots),
        ca_file: ca_file.flatten(),
        receive_buffer_bytes: section
            .memory("receive_buffer_bytes", "32K", 4 * KIB..=4 * MIB)
            .max(socket_buffer_bytes),
        socket_buffer_bytes,
    };
    section.finish();
    upstream
}

fn store(
    reader: &mut Reader<'_>,
    server: &Server,
    dir: PathBuf,
    outbox_max: usize,
    warnings: &mut Vec<String>,
) -> Store {
    let database = database::read(reader, server.workers, warnings);
    let redis = redis::read(reader, warnings);
    let mut section = reader.section("store");
    let store = Store {
        database,
        redis,
        dir,
        // Known when all has been read.
        lives: Lives::default(),
        chats_max: section.integer("chats_max", 20_000, 1..=100_000_000),
        windows_max: section.integer("windows_max", 100_000, 1..=100_000_000),
        sessions_max: section.integer("sessions_max", 100_000, 1..=100_000_000),
        outbox_max,
        disk_bytes_max: section.bytes("disk_bytes_max", "1G", MIB..=1024 * GIB),
        queue_max: section.integer("queue_max", 256, 1..=65536),
        timeout: section.seconds("timeout_seconds", 2.0, 0.05..=60.0),
        request_max: section.seconds("request_seconds_max", 2.5, 0.05..=60.0),
    };
    section.finish();
    store
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EXAMPLE;

    /// The names of all keys that reading `text` asks for, and the mistakes in it.
    fn asked(text: &str) -> (Vec<String>, Vec<String>) {
        let mut reader = Reader::new("example".into(), text, &|_| None);
        read(&mut reader, &Sources::default());
        (reader.known, reader.mistakes)
    }

    /// The example with its commented settings (`#key = …`, no blank) switched on.
    fn uncommented() -> String {
        let line = |line: &'static str| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => setting,
            _ => line,
        };
        EXAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_example_holds_every_key() {
        // The file that it names is the reader's own.
        let text = uncommented().replace(
            "public-site.md",
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../LICENSE"),
        );
        let (known, mistakes) = asked(&text);
        assert_eq!(mistakes, [""; 0]);
        let example: toml::Table = text.parse().expect("the example is TOML");
        for key in known {
            let (section, key) = key.split_once('.').unwrap_or((&key, ""));
            if let Some(key) = key.strip_prefix("guide[0].") {
                assert!(example["chat"]["guide"][0].get(key).is_some(), "{key}");
                continue;
            }
            let table = match section.split_once('[') {
                None => &example[section],
                // Every provider example holds other keys; one must hold this.
                Some(_) => {
                    let mut rows = example["provider"].as_array().unwrap().iter();
                    assert!(rows.any(|row| row.get(key).is_some()), "provider.{key}");
                    continue;
                }
            };
            assert!(
                key.is_empty() || table.get(key).is_some(),
                "{section}.{key}"
            );
        }
    }
}
