//! `cloudchat doctor --url` behind proxies that do to browsers what it must find, each with the line that fits
//! the proxy that answers.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::kit::nginx::Nginx;
use crate::kit::{Doctor, Provider, Server, pass, seconds};

/// What the doctor finds at this site, while the provider answers at the pace of a model.
fn look(server: &Server, provider: &Provider, url: &str) -> Vec<(String, String)> {
    let config = fs::read_to_string(server.config()).expect("it is there");
    let doctor = Doctor {
        config: &config,
        env: &[],
        url: Some(url),
    };
    without_stores(doctor.look_beside(provider).findings)
}

/// Without what other tests are about: this run's PgBouncer may keep no statements.
fn without_stores(mut found: Vec<(String, String)>) -> Vec<(String, String)> {
    found.retain(|(what, _)| !what.starts_with("pgbouncer: "));
    found
}

/// A server whose visitors on `::1` are strangers, behind an Nginx that differs from the shipped one.
fn behind_nginx(
    provider: &Provider,
    settings: &str,
    replacements: &[(&str, &str)],
) -> (Server, Nginx, String) {
    let settings = format!("server.trusted_proxies = [\"127.0.0.1\"]\n{settings}");
    let server = Server::start(provider, &settings);
    let nginx = Nginx::with(server.direct, replacements);
    let url = format!("http://[::1]:{}/cloudchat", nginx.port);
    (server, nginx, url)
}

#[test]
fn a_proxy_that_compresses_for_browsers() {
    let provider = Provider::played();
    let (server, _nginx, url) = behind_nginx(&provider, "", &[("        gzip off;\n", "")]);
    let found = look(&server, &provider, &url);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0]
            .0
            .starts_with("stream: answers are compressed (gzip)"),
        "{found:?}"
    );
    assert!(found[0].1.starts_with("gzip off;"), "{found:?}");
}

#[test]
fn a_proxy_that_rewrites_the_host() {
    let provider = Provider::played();
    let rewrites = [("Host $http_host;", "Host cloudchat.internal;")];
    let (server, _nginx, url) = behind_nginx(&provider, "", &rewrites);
    let found = look(&server, &provider, &url);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0]
            .0
            .starts_with("browsers: browsers that send no Sec-Fetch-Site get 403"),
        "{found:?}"
    );
    assert_eq!(found[0].1, "proxy_set_header Host $http_host;");
}

#[test]
fn a_proxy_that_rewrites_the_host_and_takes_the_browsers_word_away() {
    let provider = Provider::friendly();
    let rewrites = [(
        "Host $http_host;",
        "Host cloudchat.internal;\n    proxy_set_header Sec-Fetch-Site \"\";",
    )];
    let (server, _nginx, url) = behind_nginx(&provider, "", &rewrites);
    let config = fs::read_to_string(server.config()).expect("it is there");
    let doctor = Doctor {
        config: &config,
        env: &[],
        url: Some(&url),
    };
    let found = without_stores(doctor.look().findings);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].0.starts_with("browsers: every browser gets 403"),
        "{found:?}"
    );
    let received = provider.received().len();
    assert_eq!(
        received, 1,
        "the row's own question, and none through the site"
    );
}

/// A proxy without a configuration: it passes everything on, says this of itself in the head of each answer,
/// and ends a chat after so many seconds. Gives its port on `::1`, and the heads of the chats that it passed on.
fn proxy(server: u16, says: &'static str, chat_seconds: f64) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("[::1]:0").expect("a loopback port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let chats: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&chats);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let seen = Arc::clone(&seen);
            // A peer that has gone away ends it.
            thread::spawn(move || pass_on(client, server, says, chat_seconds, &seen));
        }
    });
    (port, chats)
}

fn pass_on(
    mut client: TcpStream,
    server: u16,
    says: &str,
    chat_seconds: f64,
    chats: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut upstream = TcpStream::connect(("127.0.0.1", server))?;
    let mut piece = [0; 16384];
    let n = client.read(&mut piece)?;
    upstream.write_all(&piece[..n])?;
    let head = String::from_utf8_lossy(&piece[..n]).into_owned();
    if head.starts_with("POST /deepseek_chat ") {
        chats.lock().expect("no holder panics").push(head);
        let (client, upstream) = (client.try_clone()?, upstream.try_clone()?);
        thread::spawn(move || {
            pass(chat_seconds);
            // It may have ended by itself.
            let _ = client.shutdown(Shutdown::Both);
            let _ = upstream.shutdown(Shutdown::Both);
        });
    }
    let (mut rest, mut to) = (client.try_clone()?, upstream.try_clone()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut rest, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let n = upstream.read(&mut piece)?;
    let answer = String::from_utf8_lossy(&piece[..n]).into_owned();
    client.write_all(
        answer
            .replacen("\r\n", &format!("\r\n{says}\r\n"), 1)
            .as_bytes(),
    )?;
    std::io::copy(&mut upstream, &mut client)?;
    Ok(())
}

#[test]
fn a_proxy_that_ends_answers_and_hides_addresses() {
    let provider = Provider::played();
    let server = Server::start(&provider, "server.trusted_proxies = [\"127.0.0.1\"]");
    let (port, chats) = proxy(server.direct, "server: envoy", 0.25);
    let config = fs::read_to_string(server.config()).expect("it is there");
    let url = format!("http://[::1]:{port}");
    let doctor = Doctor {
        config: &config,
        env: &[],
        url: Some(&url),
    };
    let found = doctor.look_while(&provider, |mut call| {
        call.accept();
        for n in 0.. {
            if !call.try_raw(&crate::kit::provider::chunk(
                crate::kit::provider::delta(&n.to_string()).as_bytes(),
            )) {
                break;
            }
            pass(0.03);
        }
    });
    let found = without_stores(found.findings);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].0.starts_with("client address: a client can forge"),
        "{found:?}"
    );
    assert!(found[0].1.starts_with("use_remote_address: true"));
    assert!(
        found[1]
            .0
            .starts_with("stream: answers are cut: one ended after 0."),
        "{found:?}"
    );
    assert!(found[1].1.starts_with("timeout: 0s"), "{found:?}");
    // The question was asked as a browser asks it.
    let chats = chats.lock().expect("no holder panics");
    let head = chats[0].to_ascii_lowercase();
    for line in [
        format!("\r\norigin: http://[::1]:{port}\r\n"),
        "\r\nsec-fetch-site: same-origin\r\n".to_owned(),
        "\r\naccept-encoding: gzip, br\r\n".to_owned(),
    ] {
        assert!(head.contains(&line), "{head}");
    }
}

#[test]
fn an_answer_that_goes_on_is_watched_for_twenty_seconds() {
    let provider = Provider::played();
    let (server, _nginx, url) = behind_nginx(&provider, "", &[]);
    let config = fs::read_to_string(server.config()).expect("it is there");
    let doctor = Doctor {
        config: &config,
        env: &[],
        url: Some(&url),
    };
    let mut watched = 0.0;
    let found = doctor.look_while(&provider, |mut call| {
        call.accept();
        watched = seconds(|| {
            while !call.is_closed() {
                call.try_raw(&crate::kit::provider::chunk(
                    crate::kit::provider::delta("x").as_bytes(),
                ));
                pass(0.2);
            }
        });
    });
    assert_eq!(without_stores(found.findings), []);
    assert!((19.0..25.0).contains(&watched), "{watched} s");
}
