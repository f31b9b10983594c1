//! What the server says on standard error: a line for each request, and no secrets in any of them.

use serde_json::Value;

use crate::kit::provider::{Answer, delta};
use crate::kit::{Browser, Conn, Provider, Reply, Server, request, until};

#[test]
fn one_line_for_each_request() {
    let provider = Provider::friendly();
    let server = Server::start(
        &provider,
        "log.format = \"json\"\nlog.client_address = true",
    );
    let address = ("X-Forwarded-For", "198.51.100.77");
    let rows = [
        ("GET /test", "/test", 200),
        ("HEAD /test", "/test", 200),
        ("POST /test", "/test", 405),
        ("POST /deepseek_chat", "/deepseek_chat", 415),
        ("POST /reset_chat", "/reset_chat", 200),
    ];
    let id = |reply: Reply| reply.get("x-request-id").expect("it has one").to_owned();
    let ids = rows.map(|(line, ..)| id(server.call(line, &[address], None)));
    let chat = id(server.chat("Hi", &[address]));
    let line = |id: &str| {
        let line = until("the request's line", || {
            let log = server.log();
            let lines = log.lines().map(|line| {
                serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"))
            });
            let mut mine = lines.filter(|line| line["event"] == "request" && line["id"] == id);
            let first = mine.next()?;
            assert_eq!(mine.next(), None, "one line each");
            Some(first)
        });
        assert_eq!(line["client"], "198.51.100.77", "{line}");
        line
    };
    for (id, (request, route, status)) in ids.iter().zip(rows) {
        let line = line(id);
        let method = request.split(' ').next().expect("it begins with it");
        assert_eq!(
            (&line["method"], &line["route"], &line["status"]),
            (&method.into(), &route.into(), &status.into()),
            "{line}"
        );
    }
    let chat = line(&chat);
    assert_eq!((&chat["end"], &chat["deltas"]), (&"done".into(), &2.into()));
}

#[test]
fn chats_over_http_1_0_are_warned_about_once() {
    let server = Server::start(&Provider::friendly(), "chat.rate_per_minute = 0");
    let warnings = || {
        let log = server.log();
        let lines = log.lines().filter(|line| line.contains("HTTP/1.0"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let ask = |version: &str, line: &str, body: &[u8]| {
        let mut conn = Conn::tcp(server.direct);
        let json = [("Content-Type", "application/json")];
        let request = String::from_utf8(request(line, &json, Some(body))).expect("it is UTF-8");
        conn.send(request.replacen("HTTP/1.1", version, 1).as_bytes());
        assert_eq!(conn.head().status, 200, "{version} {line}");
    };
    let question = br#"{"message":"Hi"}"#;
    ask("HTTP/1.1", "POST /deepseek_chat", question);
    ask("HTTP/1.0", "POST /reset_chat", b"{}");
    assert_eq!(warnings(), [""; 0]);
    // On every core.
    for _ in 0..20 {
        ask("HTTP/1.0", "POST /deepseek_chat", question);
    }
    let warnings = warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("proxy_http_version 1.1;"),
        "{warnings:?}"
    );
}

#[test]
fn no_secret_is_ever_logged() {
    let provider = Provider::answering(|n, _| match n {
        0 => Answer::texts(&["answer-SECRET-1"]),
        1 => Answer::status(401, "", "provider-SECRET-2"),
        2 => Answer::cut(&delta("answer-SECRET-3")),
        3 => Answer::events(b"data: {\"error\":{\"message\":\"provider-SECRET-4\"}}\n\n"),
        _ => Answer::raw(b"provider-SECRET-5"),
    });
    let config = format!(
        "chat.rate_per_minute = 4\nchat.system_prompt = \"prompt-SECRET\"\n{}",
        provider.row()
    );
    let server = Server::with(&config, &[("TEST_KEY", "key-SECRET")]);
    let mut browser = Browser::new(&server);
    let mut cookies = Vec::new();
    for _ in 0..6 {
        browser.ask("message-SECRET");
        cookies.extend(browser.cookie.clone());
    }
    let forwarded = [
        ("X-Forwarded-For", "198.51.100.77"),
        ("Authorization", "Bearer header-SECRET"),
    ];
    server.chat("message-SECRET", &forwarded);
    server.call("GET /test?token=query-SECRET", &forwarded, None);
    server.call(
        "GET /path-with\"quote?query-SECRET",
        &[("Cookie", "cc_auth=cookie-SECRET")],
        None,
    );
    server.post_chat(b"{\"message\":\"\xff body-SECRET");
    browser.forget();
    let log = server.log();
    assert!(
        log.lines().count() >= 10,
        "every request has its line: {log}"
    );
    assert!(!log.contains("SECRET"), "{log}");
    assert!(!log.contains("198.51.100.77"), "{log}");
    assert!(!cookies.is_empty());
    for cookie in cookies {
        assert!(!log.contains(&cookie), "{log}");
    }
}
