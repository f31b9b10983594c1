//! Whom the shipped site of Nginx limits, by what, and what runs under the server's own limits all the same.

use std::process::Command;

use crate::behind_nginx::call;
use crate::kit::nginx::Nginx;
use crate::kit::{Conn, Provider, Server, pass, request, seconds, until};

#[test]
fn one_address_cannot_flood_and_the_host_itself_is_not_counted() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let nginx = Nginx::before(server.direct);
    let statuses = |address: &str| {
        let mut conn = Conn::from(address.parse().expect("an address"), nginx.port);
        (0..160)
            .map(|_| {
                conn.send(&request("GET /auth/me", &[], None));
                conn.reply()
            })
            .collect::<Vec<_>>()
    };
    assert!(
        statuses("127.0.0.1")
            .iter()
            .all(|reply| reply.status == 401)
    );
    let replies = statuses("127.0.0.2");
    // A class of a school may ask in the same instant.
    assert!(replies[..100].iter().all(|reply| reply.status == 401));
    let refused: Vec<_> = replies.iter().filter(|reply| reply.status == 429).collect();
    assert!((20..=60).contains(&refused.len()), "{}", refused.len());
    for reply in refused {
        assert_eq!(reply.body, "{\"ok\":false,\"error\":\"Too many requests\"}");
        assert_eq!(reply.get("retry-after"), Some("1"));
    }
}

/// Lets a request claim its address, so that one machine can be many clients, and tells what it is counted by.
const CLAIMED: (&str, &str) = (
    "    limit_req_status 429;\n",
    "    limit_req_status 429;\n    set_real_ip_from 127.0.0.1;\n    real_ip_header X-Claim;\n    \
     location = /cloudchat/counted-by { return 200 $cloudchat_client; }\n",
);

#[test]
fn an_ipv6_client_is_counted_by_its_network() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let nginx = Nginx::with(server.direct, &[CLAIMED]);
    let get = |path: &str, address: &str| {
        let mut conn = Conn::tcp(nginx.port);
        conn.send(
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Claim: {address}\r\n\r\n").as_bytes(),
        );
        conn.reply()
    };
    // The bytes of these addresses are texts.
    for (address, counted_by) in [
        ("65.66.67.68", "ABCD"),
        ("::ffff:65.66.67.68", "ABCD"),
        ("64:ff9b::65.66.67.68", "ABCD"),
        ("10.10.10.10", "\n\n\n\n"),
        ("4142:4344:4546:4748::", "ABCDEFGH"),
        ("4142:4344:4546:4748::1", "ABCDEFGH"),
        ("4142:4344:4546:4748:ffff:ffff:ffff:ff0a", "ABCDEFGH"),
        ("4142:4344:4546:4749::1", "ABCDEFGI"),
        ("4100:0:0a:4748::1", "A\0\0\0\0\nGH"),
        ("0:0a0d:0:41::", "\0\0\n\r\0\0\0A"),
        ("127.0.0.1", ""),
        ("::1", ""),
    ] {
        assert_eq!(get("/counted-by", address).body, counted_by, "{address}");
    }
    // And so are the limits: each of a network's addresses takes from what all of them have.
    let statuses = (0..160).map(|n| get("/auth/me", &format!("4142:0:0:1::{n:x}")).status);
    let refused = statuses.filter(|status| *status == 429).count();
    assert!((20..=60).contains(&refused), "{refused}");
    assert_eq!(get("/auth/me", "4142:0:0:2::1").status, 401);
}

#[test]
fn one_address_has_no_more_than_a_hundred_requests_at_once() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let nginx = Nginx::with(
        server.direct,
        &[("limit_req zone=cloudchat_requests burst=100 nodelay;", "")],
    );
    let from = |address: &str| Conn::from(address.parse().expect("an address"), nginx.port);
    let json = [
        ("Content-Type", "application/json"),
        ("Content-Length", "9"),
    ];
    // Some more, for one of the questions below may have a place when the last of these comes.
    let unfinished: Vec<Conn> = (0..110)
        .map(|_| {
            let mut conn = from("127.0.0.2");
            conn.send(&request("POST /auth/login", &json, None));
            conn
        })
        .collect();
    let me = |address: &str| {
        let mut conn = from(address);
        conn.send(&request("GET /auth/me", &[], None));
        conn.reply().status
    };
    until("the hundred to be counted", || {
        (me("127.0.0.2") == 429).then_some(())
    });
    assert_eq!(me("127.0.0.3"), 401);
    drop(unfinished);
    until("them to be gone", || (me("127.0.0.2") == 401).then_some(()));
}

#[test]
fn a_head_that_does_not_come_has_five_seconds() {
    let nginx = Nginx::before(crate::kit::server::free_port());
    let mut conn = Conn::tcp(nginx.port);
    conn.send(b"GET /test HTTP/1.1\r\nHost: ");
    let took = seconds(|| assert!(conn.closed()));
    assert!((4.5..8.0).contains(&took), "{took} s");
}

#[test]
fn a_body_runs_under_the_servers_own_clock_and_limit() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "server.body_seconds = 0.3");
    let nginx = Nginx::before(server.direct);
    let json = ("Content-Type", "application/json");
    for line in ["POST /deepseek_chat", "POST /auth/login"] {
        let mut conn = Conn::tcp(nginx.port);
        conn.send(&request(line, &[json, ("Content-Length", "1000")], None));
        let took = seconds(|| {
            while !conn.is_readable() {
                conn.send(b"{");
                pass(0.03);
            }
            let reply = conn.reply();
            assert_eq!(reply.status, 408, "{line}: {}", reply.body);
            assert!(reply.json()["error"].is_string(), "{line}");
        });
        assert!((0.25..2.0).contains(&took), "{line}: {took} s");
    }
    // Over our limit, over Nginx's, and when neither knows beforehand.
    for (bytes, framing) in [
        (300 << 10, "Content-Length"),
        (900 << 10, "Content-Length"),
        (2 << 20, "Content-Length"),
        (300 << 10, "chunked"),
        (900 << 10, "chunked"),
        (2 << 20, "chunked"),
    ] {
        for line in ["POST /deepseek_chat", "POST /auth/login"] {
            let body = vec![b'x'; bytes];
            let what = format!("{line}: {bytes} bytes, {framing}");
            let reply = match framing {
                "chunked" => {
                    let mut conn = Conn::tcp(nginx.port);
                    let chunked = [json, ("Transfer-Encoding", "chunked")];
                    conn.send(&request(line, &chunked, None));
                    for piece in body.chunks(10_000) {
                        let size = format!("{:x}\r\n", piece.len());
                        conn.send(&[size.as_bytes(), piece, b"\r\n"].concat());
                    }
                    conn.send(b"0\r\n\r\n").reply()
                }
                _ => call(nginx.port, line, &[json], Some(&body)),
            };
            assert_eq!(reply.status, 413, "{what}");
            assert_eq!(reply.json()["error"], "Request body too large", "{what}");
        }
    }
}

#[test]
fn a_long_body_gets_its_413_over_http_2() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let nginx = Nginx::before(server.direct);
    for bytes in [300 << 10, 900 << 10, 2 << 20] {
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let file = folder.path().join("body");
        std::fs::write(&file, vec![b'x'; bytes]).expect("it is writable");
        for path in ["deepseek_chat", "auth/login"] {
            let curl = Command::new("curl")
                .args(["--silent", "--insecure", "--http2", "--max-time", "10"])
                .args(["-H", "Content-Type: application/json"])
                .args(["-H", "Expect:"])
                .args(["-w", "\n%{http_version} %{http_code}"])
                .arg("--data-binary")
                .arg(format!("@{}", file.display()))
                .arg(format!("https://[::1]:{}/cloudchat/{path}", nginx.tls))
                .output()
                .expect("curl is installed: run tests/run, or apt-get install curl");
            let said = String::from_utf8_lossy(&curl.stdout);
            assert!(
                said.contains("Request body too large") && said.ends_with("\n2 413"),
                "{path}, {bytes} bytes: {said} ({})",
                curl.status
            );
        }
    }
}
