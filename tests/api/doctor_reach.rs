//! What `cloudchat doctor` says of servers that are reached by another way than is usual, at the wrong place, or
//! not through TLS.

use std::fs;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::thread;

use rcgen::{CertifiedKey, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;

use crate::doctor::services::Services;
use crate::doctor::{database, redis};
use crate::kit::nginx::Nginx;
use crate::kit::provider::{Answer, row};
use crate::kit::server::free_port;
use crate::kit::{Doctor, Provider, Server};

fn doctor(config: &str) -> Doctor<'_> {
    let (env, url) = (&[], None);
    Doctor { config, env, url }
}

#[track_caller]
fn nothing(config: &str) {
    let found = doctor(config).look();
    assert_eq!((found.code, found.findings), (0, Vec::new()));
}

/// A port that leads to another one, as a container's or a tunnel's.
fn mapped(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let ours = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else {
                continue;
            };
            let both = || Some((near.try_clone().ok()?, far.try_clone().ok()?));
            let (Some((a, b)), Some((c, d))) = (both(), both()) else {
                continue;
            };
            for (mut from, mut to) in [(a, b), (d, c)] {
                thread::spawn(move || {
                    // An end of one side, whatever it is, is one of the other.
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    ours
}

#[test]
fn a_mapped_port_is_no_pooler() {
    let provider = Provider::friendly();
    for (server, what) in [
        ("POSTGRES", None),
        ("PGBOUNCER", None),
        ("PGBOUNCER_SESSION", Some("(pool_mode = session)")),
    ] {
        let stores = database(server);
        let port = stores.settings.rsplit_once(':').expect("it has a port").1;
        let port: String = port.chars().take_while(char::is_ascii_digit).collect();
        let number = port.parse().expect("it is a number");
        let ours = format!(":{}/", mapped(number));
        let settings = stores.settings.replace(&format!(":{port}/"), &ours);
        assert_ne!(settings, stores.settings);
        let config = settings + &provider.row();
        match what {
            None => nothing(&config),
            Some(what) => doctor(&config).finds(what, "pool_mode = transaction"),
        }
    }
}

#[test]
fn a_redis_that_is_full_of_what_stays() {
    let provider = Provider::friendly();
    let services = Services::start("redis");
    let url = services.address("REDIS");
    let config = format!("redis.url = {url:?}\n{}", provider.row());
    redis(url, &["SET ours x EX 1000", "SELECT 3", "SET theirs x"]);
    nothing(&config);
    // Less than it takes when it is empty.
    redis(url, &["CONFIG SET maxmemory 600000"]);
    let what = "Redis is full, and 1 of its keys never expire";
    doctor(&config).finds(what, "a Redis of CloudChat's own");
    redis(url, &["SELECT 3", "DEL theirs"]);
    let what = "Redis is full: limits and chats go before their time";
    doctor(&config).finds(what, "a larger maxmemory");
}

#[test]
fn a_base_url_that_leads_nowhere() {
    let nothing = Provider::answering(|_, _| Answer::status(404, "", "Not Found"));
    let page = "Content-Type: text/html\r\n";
    let pages = Provider::answering(move |_, _| Answer::status(200, page, "<h1>Hi</h1>"));
    for provider in [&nothing, &pages] {
        provider.lists(Value::Null);
    }
    let (port, pages) = (nothing.port, pages.port);
    for (port, path, meant) in [
        (port, "", "/v1"),
        (port, "/api", "/api/v1"),
        (port, "/v1/chat/completions", "/v1"),
        (pages, "", "/v1"),
    ] {
        let base = format!("http://127.0.0.1:{port}");
        let config = row("scripted", &format!("{base}{path}"));
        let fix = format!("base_url = \"{base}{meant}\" in the row");
        doctor(&config).finds(&format!("at {base}{path}"), &fix);
    }
    let config = row("scripted", &format!("http://127.0.0.1:{port}/v1"));
    doctor(&config).finds("(status 404)", "curl -v");
}

/// A certificate that vouches for itself, and what serves with it.
fn certificate(name: &str) -> (CertifiedKey<KeyPair>, Arc<rustls::ServerConfig>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("it can be made");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("it is PKCS #8");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows them")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("key and certificate fit");
    (made, Arc::new(tls))
}

#[test]
fn a_provider_whose_handshake_fails() {
    let (_, tls) = certificate("localhost");
    let unknown = Provider::encrypted(tls, |_, _| Answer::texts(&["Hello"]));
    doctor(&unknown.row()).finds(
        "scripted: the TLS handshake failed: invalid peer certificate",
        "upstream.ca_file",
    );
    let (made, tls) = certificate("other.example.org");
    let other = Provider::encrypted(tls, |_, _| Answer::texts(&["Hello"]));
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("ca.pem");
    fs::write(&file, made.cert.pem()).expect("it is writable");
    let config = format!("upstream.ca_file = {file:?}\n{}", other.row());
    doctor(&config).finds(
        "scripted: the TLS handshake failed: invalid peer certificate",
        "base_url with the name in its certificate",
    );
    let nginx = Nginx::before(free_port());
    let config = row("scripted", &format!("https://127.0.0.1:{}/v1", nginx.plain));
    doctor(&config).finds("scripted: the TLS handshake failed", "http://");
    // Its name is not one that the server has.
    let config = row("scripted", &format!("https://localhost:{}/v1", nginx.named));
    let show = format!("openssl s_client -connect localhost:{}", nginx.named);
    doctor(&config).finds("scripted: the TLS handshake failed", &show);
    let config = row("scripted", &format!("https://127.0.0.1:{}/v1", free_port()));
    doctor(&config).finds("scripted cannot be reached", "curl -v");
}

#[test]
fn a_site_whose_handshake_fails() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let nginx = Nginx::before(server.direct);
    let config = provider.row();
    for (host, port, fix) in [
        ("[::1]", nginx.tls, "a valid certificate for ::1"),
        ("127.0.0.1", nginx.plain, "listen 443 ssl;"),
        ("localhost", nginx.named, "server_name localhost;"),
    ] {
        let url = format!("https://{host}:{port}/cloudchat");
        let doctor = Doctor {
            url: Some(&url),
            ..doctor(&config)
        };
        doctor.finds(&format!("site: {url}: the TLS handshake failed"), fix);
    }
}

#[test]
fn stores_whose_handshake_fails() {
    let provider = Provider::friendly();
    let stores = database("POSTGRES");
    let plain = stores.settings.replacen("\"\n", "?sslmode=require\"\n", 1);
    let config = plain + &provider.row();
    doctor(&config).finds("server does not support TLS", "sslmode=disable");
    let services = Services::start("redis");
    let url = services.address("REDIS");
    let folder = tempfile::tempdir().expect("there is room");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (made, _) = certificate("localhost");
    // The server runs as another user; the key protects a port of this test only.
    let all = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), all).expect("it is ours");
    fs::write(path("server.pem"), made.cert.pem()).expect("it is writable");
    fs::write(path("server.key"), made.signing_key.serialize_pem()).expect("it is writable");
    let port = free_port();
    for setting in [
        "tls-auth-clients no".to_owned(),
        format!("tls-cert-file {}", path("server.pem")),
        format!("tls-key-file {}", path("server.key")),
        format!("tls-ca-cert-file {}", path("server.pem")),
        format!("tls-port {port}"),
    ] {
        let set = redis(url, &[&format!("CONFIG SET {setting}")]);
        assert!(set.starts_with("+OK"), "{setting}: {set}");
    }
    let (user, plain) = url.split_once('@').expect("there is a password");
    let user = user.replace("redis://", "rediss://");
    let ca_file = path("server.pem");
    for (address, ca_file, is_well) in [
        (format!("localhost:{port}"), ca_file.as_str(), true),
        (format!("localhost:{port}"), "", false),
        (format!("127.0.0.1:{port}"), &ca_file, false),
        (plain.to_owned(), &ca_file, false),
    ] {
        let config = format!(
            "redis.url = \"{user}@{address}\"\nredis.ca_file = {ca_file:?}\n{}",
            provider.row()
        );
        match is_well {
            true => nothing(&config),
            false => doctor(&config).finds("redis: Redis at", "tls-port"),
        }
    }
    let config = format!(
        "redis.url = \"redis://:x@127.0.0.1:{}\"\n{}",
        free_port(),
        provider.row()
    );
    doctor(&config).finds("redis: Redis at", "REDIS_HOST=");
}
