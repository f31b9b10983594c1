//! `cloudchat doctor` finds what is wrong, each thing set up for real, and says nothing of a good host.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::OnceLock;
use std::thread;

use cloudchat::config::environment;

use crate::kit::nginx::Nginx;
use crate::kit::server::run;
use crate::kit::stores::{Accounts, Pair, Stores};
use crate::kit::{Doctor, Provider, Server};

#[path = "../services/services.rs"]
pub mod services;

use services::Services;

/// PostgreSQL and every kind of PgBouncer, with the shipped configurations but for one line.
fn shared() -> &'static Services {
    static SHARED: OnceLock<Services> = OnceLock::new();
    SHARED.get_or_init(|| {
        Services::start(
            "postgres,pgbouncer,pgbouncer-old,pgbouncer-zero,pgbouncer-session,pgbouncer-statement",
        )
    })
}

/// What was found: `check: what`, and the line that fixes it; and the exit code.
fn doctor(config: &str) -> (i32, Vec<(String, String)>) {
    let found = with(config, None).look();
    assert!(found.checks >= 3, "{found:?}");
    (found.code, found.findings)
}

fn with<'a>(config: &'a str, url: Option<&'a str>) -> Doctor<'a> {
    let env = &[];
    Doctor { config, env, url }
}

/// The only finding.
#[track_caller]
fn one(config: &str, what: &str, fix: &str) {
    with(config, None).finds(what, fix);
}

/// Runs the doctor against a site, and answers the question that it asks at the pace of a model.
fn look(server: &Server, provider: &Provider, url: &str) -> (i32, Vec<(String, String)>) {
    look_with("", server, provider, url)
}

/// As `look`, with more settings.
fn look_with(
    more: &str,
    server: &Server,
    provider: &Provider,
    url: &str,
) -> (i32, Vec<(String, String)>) {
    let config = fs::read_to_string(server.config()).expect("it is there");
    let config = more.to_owned() + &config;
    let found = with(&config, Some(url)).look_beside(provider);
    let (code, mut found) = (found.code, found.findings);
    let stores = environment("CLOUDCHAT_TEST_STORES").unwrap_or_default();
    if !["pgbouncer-old", "pgbouncer-zero"]
        .iter()
        .any(|kind| stores.starts_with(kind))
    {
        return (code, found);
    }
    // This run's PgBouncer keeps no statements, which is rightly found whatever the site is like.
    let all = found.len();
    found.retain(|(what, _)| !what.starts_with("pgbouncer: "));
    assert_eq!((code, found.len() + 1), (1, all), "{found:?}");
    (i32::from(!found.is_empty()), found)
}

/// A server whose visitors on `::1` are strangers.
fn site(provider: &Provider, replacements: &[(&str, &str)]) -> (Server, Nginx, String) {
    let server = Server::start(provider, "server.trusted_proxies = [\"127.0.0.1\"]");
    let nginx = Nginx::with(server.direct, replacements);
    let url = format!("http://[::1]:{}/cloudchat", nginx.port);
    (server, nginx, url)
}

#[test]
fn a_good_site_is_silent() {
    let provider = Provider::played();
    let (server, _nginx, url) = site(&provider, &[]);
    assert_eq!(look(&server, &provider, &url), (0, Vec::new()));
}

#[test]
fn a_proxy_that_buffers() {
    let provider = Provider::played();
    // What Nginx does if it is told nothing; the server's own X-Accel-Buffering would undo it.
    let holds_back = "proxy_buffering on;\n        proxy_ignore_headers X-Accel-Buffering;\n";
    let (server, _nginx, url) = site(
        &provider,
        &[
            ("proxy_buffering off;\n", holds_back),
            ("proxy_http_version 1.1;", "proxy_http_version 1.0;"),
        ],
    );
    let (code, found) = look(&server, &provider, &url);
    assert_eq!((code, found.len()), (1, 1), "{found:?}");
    assert!(
        found[0].0.starts_with("stream: answers are held back"),
        "{found:?}"
    );
    assert!(found[0].1.contains("proxy_buffering off;"));
}

#[test]
fn a_proxy_that_believes_the_client() {
    let provider = Provider::played();
    let (server, _nginx, url) = site(
        &provider,
        &[("$proxy_add_x_forwarded_for", "$http_x_forwarded_for")],
    );
    let (code, found) = look(&server, &provider, &url);
    assert_eq!((code, found.len()), (1, 1), "{found:?}");
    assert!(
        found[0].0.starts_with("client address: a client can forge"),
        "{found:?}"
    );
    assert!(found[0].1.contains("$proxy_add_x_forwarded_for"));
}

#[test]
fn a_proxy_that_caches_and_changes_cookies() {
    let provider = Provider::played();
    let (server, _nginx, url) = site(
        &provider,
        &[
            (
                "proxy_cache_valid 200 0s;",
                "proxy_cache_valid 200 1h; proxy_cookie_flags ~ nohttponly;",
            ),
            (
                "    limit_req_status 429;",
                "    proxy_hide_header Cache-Control;\n    limit_req_status 429;",
            ),
        ],
    );
    let (code, found) = look(&server, &provider, &url);
    let checks: Vec<&str> = found
        .iter()
        .map(|(what, _)| what.split(':').next().unwrap_or_default())
        .collect();
    assert_eq!(
        (code, checks),
        (1, vec!["cache", "cache", "cookies"]),
        "{found:?}"
    );
    assert!(found[2].0.contains("lacks httponly"), "{found:?}");
}

#[test]
fn a_site_over_tls_whose_cookies_go_out_without_it() {
    let provider = Provider::played();
    let settings = "server.trusted_proxies = [\"127.0.0.1\"]\nserver.cookie_secure = false";
    let server = Server::start(&provider, settings);
    let nginx = Nginx::before(server.direct);
    let file = server.data().join("site.pem");
    fs::write(&file, nginx.certificate()).expect("it is writable");
    let more = format!("upstream.ca_file = {file:?}\n");
    let url = format!("https://[::1]:{}/cloudchat", nginx.tls);
    let (code, found) = look_with(&more, &server, &provider, &url);
    assert_eq!((code, found.len()), (1, 1), "{found:?}");
    assert_eq!(
        (found[0].0.as_str(), found[0].1.as_str()),
        ("cookies: a cookie lacks secure", "COOKIE_SECURE=1")
    );
}

#[test]
fn a_site_that_is_not_there_and_a_url_that_is_none() {
    let provider = Provider::friendly();
    let url = format!(
        "http://127.0.0.1:{}/cloudchat",
        crate::kit::server::free_port()
    );
    with(&provider.row(), Some(&url)).finds("cannot be reached", "systemctl status nginx");
    let (code, _, errors) = run(&["doctor", "--url", "example.com"], &[]);
    assert_eq!(code, 2);
    assert!(
        errors.contains("is no URL such as https://example.com/cloudchat"),
        "{errors}"
    );
}

/// A database behind this server, with the newest schema.
pub fn database(server: &str) -> Stores {
    let services = shared();
    let accounts = Accounts::new(services.address(server), services.address("POSTGRES"));
    Stores::fresh(&Pair {
        accounts: Some(accounts),
        ..Pair::default()
    })
}

#[test]
fn the_database_and_pgbouncer() {
    let provider = Provider::friendly();
    for server in ["PGBOUNCER", "POSTGRES"] {
        let stores = database(server);
        let config = stores.settings.clone() + &provider.row();
        assert_eq!(doctor(&config), (0, Vec::new()), "{server}");
        stores.execute("DELETE FROM schema_migrations");
        one(
            &config,
            "its schema is 0, this cloudchat needs",
            "cloudchat migrate",
        );
    }
    for server in ["PGBOUNCER_ZERO", "PGBOUNCER_OLD"] {
        let stores = database(server);
        let config = stores.settings.clone() + &provider.row();
        one(
            &config,
            "does not keep prepared statements",
            "max_prepared_statements = 200",
        );
        let unnamed = format!("database.statements = \"unnamed\"\n{config}");
        assert_eq!(doctor(&unnamed), (0, Vec::new()), "it was meant so");
    }
    let stores = database("POSTGRES");
    stores.execute(
        "DO $$ BEGIN
             EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database());
         END $$",
    );
    let config = stores.settings.clone() + &provider.row();
    one(&config, "PostgreSQL takes no writes", "name the primary");
    let port = crate::kit::server::free_port();
    let nobody = format!(
        "database.url = \"postgres://u:p@127.0.0.1:{port}/d\"\n{}",
        provider.row()
    );
    one(&nobody, "database: PostgreSQL at", "DATABASE_URL");
}

#[test]
fn pgbouncer_with_a_wrong_pool_mode() {
    let provider = Provider::friendly();
    for (server, what) in [
        (
            "PGBOUNCER_SESSION",
            "keeps a server connection for each of ours (pool_mode = session)",
        ),
        (
            "PGBOUNCER_STATEMENT",
            "refuses transactions (pool_mode = statement)",
        ),
    ] {
        let stores = database(server);
        let config = stores.settings.clone() + &provider.row();
        one(&config, what, "pool_mode = transaction");
    }
}

/// Sends commands; the last answer.
pub fn redis(url: &str, commands: &[&str]) -> String {
    let (user, address) = url
        .trim_start_matches("redis://:")
        .split_once('@')
        .expect("there is a password");
    let socket = TcpStream::connect(address).expect("Redis listens");
    let mut answers = BufReader::new(socket.try_clone().expect("it can be cloned"));
    let mut last = String::new();
    for command in [&[format!("AUTH {user}").as_str()], commands].concat() {
        let mut line = String::new();
        write!(line, "{command}\r\n").expect("a String takes every text");
        (&socket).write_all(line.as_bytes()).expect("Redis reads");
        last.clear();
        answers.read_line(&mut last).expect("Redis answers");
    }
    last
}

#[test]
fn redis_and_what_it_evicts() {
    let provider = Provider::friendly();
    let mut services = Services::start("redis");
    let url = &services.address("REDIS").to_owned();
    let config = format!("redis.url = {url:?}\n{}", provider.row());
    assert_eq!(
        doctor(&config),
        (0, Vec::new()),
        "the shipped configuration"
    );
    redis(url, &["CONFIG SET maxmemory-policy noeviction"]);
    one(
        &config,
        "when it is full, logins and chats get 503",
        "volatile-ttl",
    );
    redis(url, &["CONFIG SET maxmemory 600000"]);
    assert!(redis(url, &["SET a b"]).contains("OOM"), "it is full");
    one(
        &config,
        "is full and evicts nothing (noeviction)",
        "volatile-ttl",
    );
    redis(
        url,
        &[
            "CONFIG SET maxmemory 64mb",
            "CONFIG SET maxmemory-policy allkeys-lru",
        ],
    );
    one(&config, "evicts by allkeys-lru", "volatile-ttl");
    redis(
        url,
        &[
            "CONFIG SET maxmemory-policy volatile-ttl",
            "CONFIG SET appendonly no",
        ],
    );
    one(&config, "a restart logs everybody out", "appendonly yes");
    redis(
        url,
        &["CONFIG SET appendonly yes", "CONFIG SET maxmemory 0"],
    );
    one(&config, "has no maxmemory", "maxmemory 64mb");
    redis(url, &["CONFIG SET maxmemory 64mb", "REPLICAOF 127.0.0.1 1"]);
    one(
        &config,
        "is a replica, which takes no writes",
        "REPLICAOF NO ONE",
    );
    redis(url, &["REPLICAOF NO ONE"]);
    services.tell("kill", "redis");
    one(&config, "redis: Redis at", "REDIS_PASSWORD");
}

#[test]
fn the_mail_server() {
    let provider = Provider::friendly();
    let mail = |port: u16| {
        format!(
            "mail.smtp_host = \"127.0.0.1\"\nmail.smtp_port = {port}\nmail.from = \"a@b.example\"\nserver.frontend_base_url = \"https://b.example\"\n{}",
            provider.row()
        )
    };
    one(
        &mail(crate::kit::server::free_port()),
        "mail: 127.0.0.1",
        "SMTP_HOST=",
    );
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let _ = socket.write_all(b"220 b.example ESMTP\r\n");
            let lines = BufReader::new(socket.try_clone().expect("it can be cloned")).lines();
            for _ in lines.map_while(Result::ok) {
                let _ = socket.write_all(b"250-b.example\r\n250 8BITMIME\r\n");
            }
        }
    });
    one(&mail(port), "STARTTLS is not offered", "SMTP_PORT=465");
}

#[test]
fn for_people_each_finding_has_the_line_that_fixes_it() {
    let folder = tempfile::tempdir().expect("there is room");
    let data = folder.path().display().to_string();
    let (code, out, _) = run(&["doctor", "--data-dir", &data], &[]);
    assert_eq!(code, 1);
    let line = format!("data folder: {data} holds no accounts: ");
    assert!(out.contains(&line), "{out}");
    std::fs::write(folder.path().join("accounts.db"), "").expect("it is ours");
    let (code, out, errors) = run(&["doctor", "--data-dir", &data], &[]);
    assert_eq!(code, 1);
    assert_eq!(errors, format!("cloudchat: store: {data}\n"));
    assert!(
        out.contains(
            "provider: no model provider is configured: chats get 503\n    fix: DEEPSEEK_API_KEY=…"
        ),
        "{out}"
    );
    assert!(out.contains("1 finding in "), "{out}");
}
