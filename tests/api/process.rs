//! The process: where it listens, how its threads share the work, how it starts and refuses to,
//! what it says on standard error.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;

use crate::kit::provider::Answer;
use crate::kit::server::run;
use crate::kit::{Conn, Provider, Server, request, until};

#[test]
fn the_unix_socket() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let mode = fs::metadata(server.socket())
        .expect("the socket is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    let mut conn = Conn::unix(&server.socket());
    conn.send(&request("GET /test", &[], None));
    assert_eq!(conn.reply().status, 200);
    assert_eq!(conn.ask("Hi", &[]).reply().text(), "Hello you");
    // A socket left behind by a killed process is replaced.
    let server = server.restart(libc::SIGKILL);
    assert_eq!(
        Conn::unix(&server.socket()).ask("Hi", &[]).reply().text(),
        "Hello you"
    );
}

#[test]
fn every_worker_serves_some_of_many_connections() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "server.workers = 3");
    // A thread gets its name when it first runs.
    until("one thread per worker", || {
        (server.switches("worker-").len() == 3).then_some(())
    });
    for unix in [false, true] {
        let before = server.switches("worker-");
        let mut conns: Vec<Conn> = (0..96)
            .map(|_| {
                if unix {
                    Conn::unix(&server.socket())
                } else {
                    server.connect()
                }
            })
            .collect();
        for conn in &mut conns {
            conn.send(&request("GET /test", &[], None));
            assert_eq!(conn.reply().status, 200);
        }
        let after = server.switches("worker-");
        for (before, after) in before.iter().zip(&after) {
            assert!(
                after - before >= 5,
                "unix: {unix}: {before} → {after} switches"
            );
        }
    }
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let data = tempfile::tempdir().expect("there is room");
    let data = data.path().to_str().expect("its name is UTF-8");
    let address = format!("127.0.0.1:{}", server.port);
    let (code, _, errors) = run(&["serve", "--listen", &address, "--data-dir", data], &[]);
    assert_eq!(code, 1, "{errors}");
    let lines: Vec<&str> = errors
        .lines()
        .filter(|line| line.contains(&address))
        .collect();
    assert_eq!(lines.len(), 1, "{errors}");
    assert!(lines[0].contains("in use"), "{errors}");
    assert_eq!(
        server.get("/test").status,
        200,
        "the first one is not disturbed"
    );
}

#[test]
fn wrong_configurations_are_refused_with_a_line_each() {
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("wrong.toml");
    let path = file.to_str().expect("its name is UTF-8");
    // The file, and what the line must name.
    let check = |text: &str, names: &[&str]| {
        fs::write(&file, text).expect("it is writable");
        for command in ["serve", "check"] {
            let (code, _, errors) = run(&[command, "--config", path], &[]);
            assert_eq!(code, 2, "{command} {text}: {errors}");
            for name in names {
                let lines = errors.lines().filter(|line| line.contains(name)).count();
                assert_eq!(lines, 1, "{command} {text}: {name} in {errors}");
            }
        }
    };
    check("nonsense.key = 1", &["nonsense"]);
    check("chat.heartbeat = 1", &["heartbeat"]);
    check("chat.heartbeat_seconds = \"soon\"", &["heartbeat_seconds"]);
    check("chat.heartbeat_seconds = -1", &["chat.heartbeat_seconds"]);
    check("limits.memory = \"1K\"", &["limits.memory"]);
    check("server.listen = [\"nowhere\"]", &["server.listen"]);
    check(
        "server.trusted_proxies = [\"x\"]\nchat.history_max = -1",
        &["trusted_proxies"],
    );
    check(
        "[[provider]]\nname = \"x\"\nmodel = \"y\"\nbase_url = \"ftp://x\"",
        &["base_url"],
    );
    check("this is no TOML", &["wrong.toml"]);
    let (code, _, errors) = run(&["serve", "--config", "/does/not/exist.toml"], &[]);
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("/does/not/exist.toml"), "{errors}");
    let (code, _, errors) = run(&["check"], &[("MAX_HISTORY", "many")]);
    assert!(code == 2 && errors.contains("MAX_HISTORY"), "{errors}");
    let (code, _, _) = run(&["no-such-command"], &[]);
    assert_eq!(code, 2);
}

#[test]
fn the_commands_that_only_print() {
    let (code, out, _) = run(&["--version"], &[]);
    assert_eq!(
        (code, out.trim()),
        (0, concat!("cloudchat ", env!("CARGO_PKG_VERSION")))
    );
    let (code, out, _) = run(&["--help"], &[]);
    assert_eq!(code, 0);
    for command in ["serve", "check", "example-config", "demo"] {
        assert!(out.contains(command), "{command}: {out}");
    }
    let (code, example, _) = run(&["example-config"], &[]);
    assert_eq!(code, 0);
    assert_eq!(example, include_str!("../../config.toml.example"));
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("config.toml");
    fs::write(&file, example).expect("it is writable");
    let data = folder.path().join("data");
    let path = |path: &std::path::Path| path.to_str().expect("its name is UTF-8").to_owned();
    let (code, out, errors) = run(
        &[
            "check",
            "--config",
            &path(&file),
            "--data-dir",
            &path(&data),
        ],
        &[],
    );
    assert_eq!(code, 0, "{errors}");
    for limit in ["streams_max", "connections_max", "long_lines_max"] {
        assert!(out.contains(limit), "{limit}: {out}");
    }
}

#[test]
fn a_provider_over_tls_with_a_root_of_its_own() {
    let made =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("it can be made");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("it is PKCS #8");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows them")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("key and certificate fit");
    let provider = Provider::encrypted(Arc::new(tls), |_, _| Answer::texts(&["over", " TLS"]));
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("ca.pem");
    fs::write(&file, made.cert.pem()).expect("it is writable");
    let server = Server::start(
        &provider,
        &format!("upstream.ca_file = {file:?}\nserver.workers = 1"),
    );
    assert_eq!(server.chat("Hi", &[]).text(), "over TLS");
    let connections = provider.connections();
    assert_eq!(server.chat("Hi", &[]).text(), "over TLS");
    assert_eq!(provider.connections(), connections, "kept warm");
    // Without that root nothing is sent.
    let asked = provider.received().len();
    let server = Server::start(&provider, "");
    assert_eq!(server.chat("Hi", &[]).status, 502);
    assert_eq!(provider.received().len(), asked);
}
