//! What holds for every response: paths, methods, error bodies, request ids, headers.

use crate::kit::client::Headers;
use crate::kit::{Conn, Provider, Reply, Server, request, until};

const NAMES: [(&str, &str); 3] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "SAMEORIGIN"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
];

/// The body is an error in the shape of its part of the site.
fn is_error(reply: &Reply, path: &str) {
    let body = reply.json();
    assert!(
        body["error"].as_str().is_some_and(|e| !e.is_empty()),
        "{path}: {}",
        reply.body
    );
    let ok = path.contains("/auth").then_some(false);
    assert_eq!(
        body.get("ok").and_then(|ok| ok.as_bool()),
        ok,
        "{path}: {}",
        reply.body
    );
}

#[test]
fn paths_and_methods() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let check = |line: &str, status: u16, allow: &str| {
        let reply = server.call(line, &[], None);
        assert_eq!(reply.status, status, "{line}: {}", reply.body);
        let mut allowed: Vec<&str> = reply.get("allow").unwrap_or("").split(", ").collect();
        allowed.sort_unstable();
        assert_eq!(allowed.join(", "), allow, "{line}");
        if status >= 400 && !line.starts_with("HEAD") {
            is_error(&reply, line.split(' ').nth(1).expect("there is a path"));
        }
    };
    check("GET /test", 200, "");
    check("GET /test?x=1&y=%00", 200, "");
    check("HEAD /test", 200, "");
    check("GET /auth/healthz", 200, "");
    check("HEAD /auth/healthz", 200, "");
    // 405 says what is allowed.
    check("POST /test", 405, "GET, HEAD, OPTIONS");
    check("DELETE /test", 405, "GET, HEAD, OPTIONS");
    check("PUT /auth/healthz", 405, "GET, HEAD, OPTIONS");
    check("GET /deepseek_chat", 405, "OPTIONS, POST");
    check("HEAD /deepseek_chat", 405, "OPTIONS, POST");
    check("GET /reset_chat", 405, "OPTIONS, POST");
    check("PATCH /reset_chat", 405, "OPTIONS, POST");
    check("BREW /test", 405, "GET, HEAD, OPTIONS");
    // 404
    for path in ["/", "/nowhere", "/test/", "/TEST"] {
        check(&format!("GET {path}"), 404, "");
        check(&format!("HEAD {path}"), 404, "");
        check(&format!("POST {path}"), 404, "");
    }
    for path in ["/auth", "/auth/", "/auth/nowhere", "/auth/healthz/"] {
        let reply = server.get(path);
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.json()["error"].is_string(), "{path}: {}", reply.body);
    }
    check("OPTIONS /nowhere", 404, "");
}

#[test]
fn paths_are_compared_as_raw_bytes() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    for path in [
        "//test",
        "/%74est",
        "/./test",
        "/x/../test",
        "/auth/../test",
    ] {
        for method in ["GET", "POST"] {
            let reply = server.call(&format!("{method} {path}"), &[], None);
            assert_eq!(reply.status, 404, "{method} {path}");
            assert!(reply.json()["error"].is_string(), "{path}: {}", reply.body);
        }
    }
}

#[test]
fn each_request_has_one_host_but_none_is_needed_in_http_1_0() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let (none, one, two) = ("", "Host: a\r\n", "Host: a\r\nhost: a\r\n");
    for (line, ok) in [
        ("GET /test", 200),
        ("GET /auth/healthz", 200),
        ("GET /nowhere", 404),
        ("POST /auth/logout", 200),
        ("POST /reset_chat", 200),
        ("OPTIONS /test", 204),
    ] {
        for (version, hosts, status) in [
            ("1.1", none, 400),
            ("1.1", one, ok),
            ("1.1", "Host:\r\n", ok),
            ("1.1", two, 400),
            ("1.0", none, ok),
            ("1.0", one, ok),
            ("1.0", two, 400),
        ] {
            let mut conn = Conn::tcp(server.direct);
            let head = format!("{line} HTTP/{version}\r\n{hosts}Content-Length: 0\r\n\r\n");
            let reply = conn.send(head.as_bytes()).reply();
            assert_eq!(reply.status, status, "{version} {hosts:?} {line}");
            assert_eq!(reply.head.all("x-request-id").len(), 1, "{line}");
            if status == 400 {
                let json = reply.json();
                assert_eq!(json["error"], "Exactly one Host header is needed", "{line}");
                assert_eq!(json["ok"].is_boolean(), line.contains("/auth/"), "{line}");
            }
        }
    }
    // Its body does not stand in the way of the next request.
    let mut conn = Conn::tcp(server.direct);
    conn.send(b"POST /deepseek_chat HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd");
    conn.send(&request("GET /test", &[], None));
    assert_eq!((conn.reply().status, conn.reply().status), (400, 200));
}

#[test]
fn options_answers_with_allow() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let check = |path: &str, allow: &str| {
        let reply = server.call(
            &format!("OPTIONS {path}"),
            &[("Origin", "https://evil.test")],
            None,
        );
        assert!(
            matches!(reply.status, 200 | 204),
            "{path}: {}",
            reply.status
        );
        let mut allowed: Vec<&str> = reply.get("allow").unwrap_or("").split(", ").collect();
        allowed.sort_unstable();
        assert_eq!(allowed.join(", "), allow, "{path}");
        assert_eq!(reply.body, "", "{path}");
    };
    check("/test", "GET, HEAD, OPTIONS");
    check("/auth/healthz", "GET, HEAD, OPTIONS");
    check("/deepseek_chat", "OPTIONS, POST");
    check("/reset_chat", "OPTIONS, POST");
}

#[test]
fn head_is_get_without_a_body_and_the_connection_goes_on() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let mut conn = server.connect();
    for path in ["/test", "/auth/healthz", "/nowhere"] {
        conn.send(&request(&format!("HEAD {path}"), &[], None));
        let head = conn.reply_without_body();
        conn.send(&request(&format!("GET {path}"), &[], None));
        let get = conn.reply();
        assert_eq!(head.status, get.status, "{path}");
        assert_eq!(head.get("content-type"), get.get("content-type"), "{path}");
    }
}

#[test]
fn everything_under_auth_has_its_headers_and_nothing_else_is_marked() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let rows = [
        ("GET /auth/healthz", true),
        ("POST /auth/healthz", true),
        ("OPTIONS /auth/healthz", true),
        ("GET /auth/nowhere", true),
        ("GET /test", false),
        ("GET /nowhere", false),
    ];
    for (line, expected) in rows {
        let reply = server.call(line, &[], None);
        for (name, value) in NAMES {
            assert_eq!(reply.get(name), expected.then_some(value), "{line}: {name}");
        }
        let cached = reply.get("cache-control");
        assert_eq!(cached, expected.then_some("no-store"), "{line}");
    }
    let refused = server.call(
        "POST /auth/login",
        &[("Origin", "https://evil.test")],
        Some(b"{}"),
    );
    assert_eq!(refused.status, 403);
    assert_eq!(refused.get("cache-control"), Some("no-store"));
    is_error(&refused, "/auth/login");
}

#[test]
fn test_and_healthz_answer_as_the_old_service_did() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let reply = server.get("/test");
    let body = reply.json();
    let wall = cloudchat::clock::since_epoch().as_secs_f64();
    let timestamp = body["timestamp"].as_f64().expect("it is a number");
    assert!((timestamp - wall).abs() < 5.0, "{timestamp} against {wall}");
    let id = body["request_id"].as_str().expect("it is a text");
    let id = uuid::Uuid::parse_str(id).expect("it is a UUID");
    assert_eq!(id.get_version_num(), 4);
    assert_eq!(reply.get("content-type"), Some("application/json"));
    assert_eq!(
        (reply.get("cache-control"), reply.get("set-cookie")),
        (None, None)
    );

    let reply = server.get("/auth/healthz");
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.json(),
        serde_json::json!({"ok": true, "redis": true, "db": true})
    );
}

/// `/test` answers in the memory of the headers that it was asked with.
#[test]
fn an_answer_has_nothing_of_what_it_was_asked_with() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let mut conn = server.connect();
    let secret = "only-mine-4711";
    let mut sent = vec![
        ("Set-Cookie", secret),
        ("Content-Type", secret),
        ("X-Twice", secret),
    ];
    sent.extend([("X-Twice", secret); 20]);
    for path in ["/test", "/auth/healthz", "/nowhere", "/test"] {
        // A few, of which one comes twice, and more than memory is kept for.
        for headers in [&sent[..4], &sent[..], &[]] {
            conn.send(&request(&format!("GET {path}"), headers, None));
            let reply = conn.reply();
            let head = format!("{:?}", reply.head);
            assert!(!head.contains(secret), "{path}: {head}");
            assert_eq!(reply.head.all("content-type"), ["application/json"]);
            assert_eq!(reply.head.all("x-request-id").len(), 1);
        }
    }
}

/// A core asks the clocks once for what comes in together, and again when it has slept.
#[test]
fn each_request_has_the_time_at_which_it_came() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let mut conn = server.connect();
    let mut told = || {
        conn.send(&request("GET /test", &[], None));
        let body = conn.reply().json();
        body["timestamp"].as_f64().expect("it is a number")
    };
    let now = || cloudchat::clock::since_epoch().as_secs_f64();
    let first = told();
    until("the clock goes on", || (now() > first + 0.3).then_some(()));
    let sent = now();
    let second = told();
    assert!(second > sent - 0.1, "{second} for what was sent at {sent}");
}

#[test]
fn request_ids() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let longest = "x".repeat(64);
    let check = |sent: &str, kept: bool| {
        let reply = server.call("GET /test", &[("X-Request-Id", sent)], None);
        let id = reply.get("x-request-id").expect("every response has one");
        assert_eq!(id == sent, kept, "{sent:?} → {id:?}");
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        assert!(
            (8..=64).contains(&id.len()) && id.bytes().all(allowed),
            "{id:?}"
        );
    };
    check("abcdefgh", true);
    check("A-z_0-9-", true);
    check(&longest, true);
    check("short-7", false);
    check("", false);
    check(&format!("{longest}x"), false);
    check("with a blank", false);
    check("dots.are.not", false);
    check("quote\"quote\"", false);
    check("line=forged;x", false);

    let mut seen = std::collections::HashSet::new();
    let json = [("Content-Type", "application/json")];
    let foreign = [("Sec-Fetch-Site", "cross-site")];
    let rows: [(&str, Headers<'_>, Option<&[u8]>); 7] = [
        ("GET /test", &[], None),
        ("GET /nowhere", &[], None),
        ("PUT /test", &[], None),
        ("POST /auth/nowhere", &[], None),
        ("POST /deepseek_chat", &json, Some(b"{}")),
        ("POST /deepseek_chat", &json, Some(b"{\"message\":\"Hi\"}")),
        ("POST /deepseek_chat", &foreign, Some(b"{}")),
    ];
    for (line, headers, body) in rows {
        let reply = server.call(line, headers, body);
        let id = reply
            .get("x-request-id")
            .expect("every response has one")
            .to_owned();
        assert!(seen.insert(id), "{line}: an id was used twice");
    }
}

#[test]
fn the_prefix_is_stripped_and_nothing_is_found_without_it() {
    let provider = Provider::friendly();
    let server = Server::with_ready_path(
        &provider,
        "server.prefix = \"/cloudchat\"",
        "/cloudchat/test",
    );
    let check = |line: &str, status: u16| {
        assert_eq!(server.call(line, &[], Some(b"")).status, status, "{line}");
    };
    check("GET /cloudchat/test", 200);
    check("GET /cloudchat/test?x", 200);
    check("GET /cloudchat/auth/healthz", 200);
    check("POST /cloudchat/reset_chat", 200);
    check("PUT /cloudchat/test", 405);
    check("GET /test", 404);
    check("POST /reset_chat", 404);
    check("GET /cloudchat", 404);
    check("GET /cloudchat/", 404);
    check("GET /cloudchattest", 404);
    check("GET /cloudchatx/test", 404);
    check("GET /cloudchat/cloudchat/test", 404);
    let reply = server.get("/cloudchat/auth/nowhere");
    is_error(&reply, "/auth/nowhere");
    assert_eq!(reply.get("cache-control"), Some("no-store"));
    let mut conn = server.connect();
    let body = crate::kit::question("Hi");
    conn.send(&request(
        "POST /cloudchat/deepseek_chat",
        &[("Content-Type", "application/json")],
        Some(&body),
    ));
    let reply = conn.reply();
    assert_eq!((reply.status, reply.text().as_str()), (200, "Hello you"));
    let cookie = reply.get("set-cookie").expect("a chat sets its cookie");
    assert!(
        cookie.contains("Path=/;") || cookie.ends_with("Path=/"),
        "{cookie}"
    );
}

#[test]
fn connections_are_kept_and_pipelined_requests_answered_in_order() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let mut conn = server.connect();
    let mut bytes = request("GET /test", &[("X-Request-Id", "number-one")], None);
    bytes.extend(request(
        "GET /nowhere",
        &[("X-Request-Id", "number-two")],
        None,
    ));
    bytes.extend(request(
        "GET /test",
        &[("X-Request-Id", "number-three")],
        None,
    ));
    conn.send(&bytes);
    for (id, status) in [
        ("number-one", 200),
        ("number-two", 404),
        ("number-three", 200),
    ] {
        let reply = conn.reply();
        assert_eq!(
            (reply.get("x-request-id"), reply.status),
            (Some(id), status)
        );
    }
    conn.ask("Hi", &[]);
    assert_eq!(conn.reply().text(), "Hello you");
    conn.send(&request("GET /test", &[("Connection", "close")], None));
    assert_eq!(conn.reply().status, 200);
    assert!(conn.closed());
}
