//! What the shipped site of Nginx adds, and what it must not do to an answer. `tests/run --through
//! nginx` runs the rest of these tests through it.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use cloudchat::clock;

use crate::kit::client::Headers;
use crate::kit::nginx::Nginx;
use crate::kit::{Conn, PASSWORD, Person, Provider, Reply, Server, pass, request};

/// How often a measurement is repeated that another process of this machine has spoilt.
const TRIES: usize = 5;

pub fn call(port: u16, line: &str, headers: Headers<'_>, body: Option<&[u8]>) -> Reply {
    let mut conn = Conn::tcp(port);
    conn.send(&request(line, headers, body));
    conn.reply()
}

/// Milliseconds by which the time between two texts at the client differs from that at the provider.
fn worst_spacing(server: &Server, nginx: &Nginx, provider: &Provider, headers: Headers<'_>) -> f64 {
    let mut conn = Conn::tcp(nginx.port);
    conn.ask("Hi", headers);
    let mut call = provider.call();
    call.accept();
    let mut times = Vec::new();
    for n in 0..30 {
        let text = format!("text {n}");
        let sent = clock::now();
        call.text(&text);
        if n == 0 {
            let head = conn.head();
            assert_eq!((head.status, head.get("content-encoding")), (200, None));
            assert_eq!(head.get("transfer-encoding"), Some("chunked"));
            let cached = head.get("cache-control");
            assert_eq!(cached, Some("no-store, no-transform"));
        }
        // The next text is sent when this one is there: one that waits for more would wait for ever.
        assert_eq!(conn.line(), Some(format!("{{\"text\":\"{text}\"}}")));
        times.push((sent, clock::now()));
        pass(0.002 * f64::from(n % 5));
    }
    call.finish("stop");
    assert_eq!(conn.rest(), ("{\"done\":\"stop\"}\n".to_owned(), true));
    assert!(server.pid() > 0);
    let between = |two: &[_]| {
        let [(sent, seen), (sent_next, seen_next)]: [(tokio::time::Instant, tokio::time::Instant);
            2] = [two[0], two[1]];
        let (at_provider, at_client) = (sent_next - sent, seen_next - seen);
        (at_client.as_secs_f64() - at_provider.as_secs_f64()).abs() * 1e3
    };
    times.windows(2).map(between).fold(0.0, f64::max)
}

#[test]
fn each_text_arrives_unbuffered_whatever_the_client_accepts() {
    let provider = Provider::played();
    let server = Server::start(&provider, "");
    let nginx = Nginx::before(server.direct);
    for headers in [&[][..], &[("Accept-Encoding", "gzip, deflate, br")]] {
        let mut worst = f64::MAX;
        for _ in 0..TRIES {
            worst = worst.min(worst_spacing(&server, &nginx, &provider, headers));
            if worst <= 5.0 {
                break;
            }
        }
        assert!(worst <= 5.0, "{headers:?}: {worst:.2} ms");
    }
}

#[test]
fn a_site_that_buffers_would_be_noticed() {
    let provider = Provider::played();
    let server = Server::start(&provider, "");
    // The server's own `X-Accel-Buffering: no` must go, too, for an answer to be held back.
    let nginx = Nginx::with(
        server.direct,
        &[(
            "        proxy_buffering off;\n",
            "        proxy_buffering on;\n        proxy_ignore_headers X-Accel-Buffering;\n",
        )],
    );
    let mut conn = Conn::tcp(nginx.port);
    conn.ask("Hi", &[]);
    let mut call = provider.call();
    call.accept().text("a");
    assert_eq!(conn.head().status, 200);
    pass(0.3);
    assert!(!conn.is_readable(), "it is held back");
    call.finish("stop");
    assert!(conn.rest().0.starts_with("{\"text\":\"a\"}\n"));
}

/// An upstream that answers `GET /x?N` with the Nth of these headers, and counts what it was asked.
fn upstream(answers: Vec<String>) -> (u16, Arc<Mutex<BTreeMap<String, usize>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let asked: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let counts = Arc::clone(&asked);
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut head = Vec::new();
            while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                let mut piece = [0; 4096];
                match socket.read(&mut piece) {
                    Ok(n) if n > 0 => head.extend(&piece[..n]),
                    _ => break,
                }
            }
            let head = String::from_utf8_lossy(&head);
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let row = path.rsplit('?').next().and_then(|n| n.parse().ok());
            let more = row
                .and_then(|n: usize| answers.get(n))
                .map_or("", String::as_str);
            *counts
                .lock()
                .expect("no holder panics")
                .entry(path)
                .or_default() += 1;
            let reply = format!(
                "HTTP/1.1 200 OK\r\n{more}Content-Length: 2\r\nConnection: close\r\n\r\nhi"
            );
            // A peer that has gone away needs no answer.
            let _ = socket.write_all(reply.as_bytes());
        }
    });
    (port, asked)
}

#[test]
fn only_what_says_so_and_belongs_to_nobody_is_kept() {
    const KEEP: &str = "Cache-Control: max-age=60\r\n";
    let rows: [(&str, String, Headers<'_>, bool); 11] = [
        ("says so", KEEP.to_owned(), &[], true),
        ("says nothing", String::new(), &[], false),
        (
            "no-store",
            "Cache-Control: no-store\r\n".to_owned(),
            &[],
            false,
        ),
        (
            "private",
            "Cache-Control: private, max-age=60\r\n".to_owned(),
            &[],
            false,
        ),
        (
            "no-cache",
            "Cache-Control: no-cache\r\n".to_owned(),
            &[],
            false,
        ),
        (
            "Set-Cookie",
            format!("{KEEP}Set-Cookie: cc_app=x\r\n"),
            &[],
            false,
        ),
        (
            "X-Accel-Expires",
            "X-Accel-Expires: 60\r\n".to_owned(),
            &[],
            false,
        ),
        ("cookie", KEEP.to_owned(), &[("Cookie", "cc_auth=x")], false),
        (
            "another cookie",
            KEEP.to_owned(),
            &[("Cookie", "theirs=1")],
            false,
        ),
        (
            "login",
            KEEP.to_owned(),
            &[("Authorization", "Bearer x")],
            false,
        ),
        ("Vary: *", format!("{KEEP}Vary: *\r\n"), &[], false),
    ];
    let (port, asked) = upstream(rows.iter().map(|row| row.1.clone()).collect());
    let nginx = Nginx::before(port);
    for (n, (what, _, headers, kept)) in rows.iter().enumerate() {
        let path = format!("/x?{n}");
        let replies: Vec<_> = (0..3)
            .map(|_| call(nginx.port, &format!("GET {path}"), headers, None))
            .collect();
        let asked = asked.lock().expect("no holder panics")[&path];
        assert_eq!(asked, if *kept { 1 } else { 3 }, "{what}");
        let hit = |reply: &Reply| reply.get("x-cache-status") == Some("HIT");
        assert_eq!(
            replies.iter().filter(|reply| hit(reply)).count(),
            if *kept { 2 } else { 0 },
            "{what}"
        );
        let ids: Vec<_> = replies
            .iter()
            .map(|reply| reply.get("x-request-id"))
            .collect();
        assert!(
            ids[0] != ids[1] && ids[0].is_some(),
            "{what}: each has its own id: {ids:?}"
        );
    }
    // One who has a cookie does not get what was kept for those who have none.
    let reply = call(nginx.port, "GET /x?0", &[("Cookie", "cc_auth=x")], None);
    assert_eq!(reply.get("x-cache-status"), Some("BYPASS"));
    assert_eq!(asked.lock().expect("no holder panics")["/x?0"], 2);
}

#[test]
fn an_authenticated_answer_is_never_a_hit() {
    let provider = Provider::friendly();
    let mut server = Server::start(&provider, "");
    let nginx = Nginx::before(server.direct);
    server.port = nginx.port;
    let mut people =
        ["ada@example.org", "bob@example.org"].map(|email| Person::logged_in(&server, email));
    for _ in 0..3 {
        for (person, email) in people
            .iter_mut()
            .zip(["ada@example.org", "bob@example.org"])
        {
            for path in ["/auth/me", "/auth/sessions", "/auth/me/export"] {
                let reply = person.get(path);
                assert_eq!(reply.status, 200, "{path}");
                assert_ne!(reply.get("x-cache-status"), Some("HIT"), "{path}");
                if path == "/auth/me" {
                    assert_eq!(reply.json()["user"]["email"], email);
                }
            }
        }
    }
    let [ada, bob] = &mut people;
    assert_eq!(ada.send("POST /auth/logout", None).status, 200);
    assert_eq!((ada.me(), bob.me()), (401, 200));
    assert_eq!(Person::new(&server).me(), 401);
    assert_eq!(bob.login("bob@example.org", PASSWORD).status, 200);
    // The one thing that is kept is the same for everybody.
    assert_eq!(server.get("/openapi.yaml").status, 200);
    assert_eq!(
        server.get("/openapi.yaml").get("x-cache-status"),
        Some("HIT")
    );
}

#[test]
fn each_answer_has_each_header_once() {
    let provider = Provider::friendly();
    let mut server = Server::start(&provider, "");
    let nginx = Nginx::before(server.direct);
    server.port = nginx.port;
    let large = vec![b'x'; 2 << 20];
    let json = [("Content-Type", "application/json")];
    let rows: [(&str, Headers<'_>, Option<&[u8]>, u16); 6] = [
        ("GET /test", &[], None, 200),
        ("GET /auth/healthz", &[], None, 200),
        ("GET /nowhere", &[], None, 404),
        (
            "POST /deepseek_chat",
            &json,
            Some(b"{\"message\":\"Hi\"}"),
            200,
        ),
        ("POST /auth/login", &json, Some(&large), 413),
        ("POST /deepseek_chat", &json, Some(&large), 413),
    ];
    for (line, headers, body, status) in rows {
        let reply = server.call(line, headers, body);
        assert_eq!(reply.status, status, "{line}: {}", reply.body);
        for (name, value) in [
            ("strict-transport-security", "max-age=31536000"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "SAMEORIGIN"),
            ("referrer-policy", "strict-origin-when-cross-origin"),
        ] {
            assert_eq!(reply.head.all(name), [value], "{line}: {name}");
        }
        assert_eq!(reply.head.all("x-request-id").len(), 1, "{line}");
        if status == 413 {
            assert_eq!(reply.json()["error"], "Request body too large", "{line}");
            assert_eq!(
                reply.json()["ok"].is_boolean(),
                line.contains("/auth/"),
                "{line}"
            );
        }
    }
}

#[test]
fn while_the_server_is_away_the_answer_is_an_ordinary_503() {
    let nginx = Nginx::before(crate::kit::server::free_port());
    for (line, body) in [
        (
            "GET /auth/me",
            "{\"ok\":false,\"error\":\"Service unavailable\"}",
        ),
        ("POST /deepseek_chat", "{\"error\":\"Service unavailable\"}"),
    ] {
        let reply = call(nginx.port, line, &[], None);
        assert_eq!((reply.status, reply.body.as_str()), (503, body), "{line}");
        assert_eq!(reply.get("retry-after"), Some("5"), "{line}");
        assert_eq!(
            reply.get("content-type"),
            Some("application/json"),
            "{line}"
        );
    }
}

#[test]
fn the_client_is_who_it_is_and_the_host_has_its_port() {
    let provider = Provider::friendly();
    let settings = "chat.rate_per_minute = 3\nserver.trusted_proxies = [\"127.0.0.1\"]";
    let server = Server::start(&provider, settings);
    let nginx = Nginx::before(server.direct);
    let from = |address: &str, claim: &str| {
        let mut conn = Conn::from(address.parse().expect("an address"), nginx.port);
        conn.ask("Hi", &[("X-Forwarded-For", claim)]).reply().status
    };
    let claims = (1..=4).map(|n| from("127.0.0.2", &format!("9.9.9.{n}")));
    assert_eq!(
        claims.collect::<Vec<_>>(),
        [200, 200, 200, 429],
        "a claim changes nothing"
    );
    assert_eq!(from("127.0.0.3", "127.0.0.2"), 200);
    for (origin, status) in [("https://chat.test:8443", 200), ("https://chat.test", 403)] {
        let headers = [("Host", "chat.test:8443"), ("Origin", origin)];
        let reply = call(nginx.port, "POST /reset_chat", &headers, Some(b""));
        assert_eq!(reply.status, status, "{origin}");
    }
}

#[test]
fn a_proxy_that_rewrites_the_host_locks_no_browser_out() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let nginx = Nginx::with(
        server.direct,
        &[("Host $http_host;", "Host cloudchat.internal;")],
    );
    for (site, status) in [
        ("same-origin", 200),
        ("same-site", 403),
        ("cross-site", 403),
    ] {
        let headers = [
            ("Host", "chat.test"),
            ("Origin", "https://chat.test"),
            ("Sec-Fetch-Site", site),
        ];
        let reply = call(nginx.port, "POST /reset_chat", &headers, Some(b""));
        assert_eq!(reply.status, status, "{site}");
    }
}
