//! Which chat requests are refused, with what, and that they leave nothing behind.

use crate::kit::client::Headers;
use crate::kit::{Provider, Server, request};

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// The body of a chat request whose message is this piece of JSON.
fn with(message: &str) -> Vec<u8> {
    format!("{{\"message\":{message}}}").into_bytes()
}

#[test]
fn messages() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let refused = |body: &[u8]| {
        let reply = server.post_chat(body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        assert_eq!(reply.status, 400, "{shown}: {}", reply.body);
        assert_eq!(
            reply.json(),
            serde_json::json!({"error": "Message is required"}),
            "{shown}"
        );
        assert_eq!(reply.get("set-cookie"), None, "{shown}");
    };
    // No message, or one that is no text.
    let bodies = [
        "{}",
        "",
        " ",
        "null",
        "[]",
        "\"Hi\"",
        "1",
        "{",
        "{\"message\":\"Hi\"",
        "{\"message\":\"Hi\"}x",
    ];
    bodies.iter().for_each(|body| refused(body.as_bytes()));
    refused(b"{\"Message\":\"Hi\"}");
    refused(b"{'message':'Hi'}");
    let blanks = [
        "\"\"",
        "\" \"",
        "\"\\n\\t \"",
        "\"\u{3000}\u{a0}\"",
        "\"\\u3000\\u00a0\\u2003\"",
    ];
    blanks.iter().for_each(|message| refused(&with(message)));
    let others = [
        "null",
        "0",
        "1",
        "1.5",
        "true",
        "false",
        "[]",
        "[\"Hi\"]",
        "{}",
        "{\"a\":1}",
    ];
    others.iter().for_each(|message| refused(&with(message)));
    // Text that is none: surrogates without their half, NUL, raw control characters, bad UTF-8.
    let broken = [
        "\"\\ud83d\"",
        "\"\\ude0a\"",
        "\"a\\ude0a\\ud83db\"",
        "\"\\ud83d\\u0041\"",
        "\"\\u12\"",
        "\"\\x\"",
    ];
    broken.iter().for_each(|message| refused(&with(message)));
    refused(&with("\"a\\u0000b\""));
    refused(&with("\"a\0b\""));
    refused(&with("\"a\nb\""));
    refused(b"{\"message\":\"\xff\"}");
    refused(b"{\"message\":\"\xed\xa0\x80\"}");
    refused(b"{\"message\":\"\xc0\x80\"}");
    refused(b"{\"message\":\"Hi\",\"other\":\"\xff\"}");
    // Nested 10,000 deep, as the message and beside it.
    refused(&with(&("[".repeat(10_000) + &"]".repeat(10_000))));
    refused(&with(
        &("{\"a\":".repeat(10_000) + "1" + &"}".repeat(10_000)),
    ));
    refused("[".repeat(10_000).as_bytes());
    assert_eq!(
        provider.received().len(),
        0,
        "nothing of this reached the provider"
    );
    assert_eq!(server.chat("still there", &[]).status, 200);
}

#[test]
fn lengths() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let check = |message: &str, status: u16| {
        let reply = server.post_chat(&with(&format!("\"{message}\"")));
        let start: String = message.chars().take(12).collect();
        assert_eq!(
            reply.status,
            status,
            "{start}… × {}: {}",
            message.len(),
            reply.body
        );
        if status == 400 {
            assert!(
                reply.json()["error"]
                    .as_str()
                    .is_some_and(|e| !e.is_empty())
            );
        }
    };
    // 32,000 code points, however they are written …
    check(&"a".repeat(32_000), 200);
    check(&"a".repeat(32_001), 400);
    check(&"é".repeat(32_000), 200);
    check(&"é".repeat(32_001), 400);
    check(&("a".to_owned() + &"\\n".repeat(31_999)), 200);
    check(&"\\n".repeat(32_001), 400);
    // … and 64 KiB as sent, escapes counted as they stand.
    check(&"你".repeat(21_845), 200);
    check(&"你".repeat(21_846), 400);
    check(&"\\u4f60".repeat(10_922), 200);
    check(&"\\u4f60".repeat(10_923), 400);
    check(&"\\ud83d\\ude0a".repeat(5_461), 200);
    check(&"\\ud83d\\ude0a".repeat(5_462), 400);
}

#[test]
fn accepted_bodies_reach_the_provider_as_they_were_meant() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let check = |body: &str, meant: &str| {
        let reply = server.post_chat(body.as_bytes());
        assert_eq!(reply.status, 200, "{body}: {}", reply.body);
        assert_eq!(provider.last().talk(), [format!("user: {meant}")], "{body}");
    };
    check(r#"{"message":"Hi"}"#, "Hi");
    check(r#" { "message" : "Hi" } "#, "Hi");
    check(
        r#"{"other":{"message":"no"},"message":"yes","more":[1,null,{}]}"#,
        "yes",
    );
    check(
        r#"{"message":"\ud83d\ude0a 😊 \u4f60好 \"\\\/\b\f\n\r\t"}"#,
        "😊 😊 你好 \"\\/\u{8}\u{c}\n\r\t",
    );
    check(r#"{"message":"\u2028\u007f\u0001"}"#, "\u{2028}\u{7f}\u{1}");
    check(r#"{"m\u0065ssage":"escaped key"}"#, "escaped key");
    check(
        r#"{"message":"a\",\"role\":\"system"}"#,
        "a\",\"role\":\"system",
    );
}

#[test]
fn content_types() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let check = |value: Option<&str>, status: u16| {
        let headers: Vec<_> = value
            .map(|value| ("Content-Type", value))
            .into_iter()
            .collect();
        let reply = server.call(
            "POST /deepseek_chat",
            &headers,
            Some(b"{\"message\":\"Hi\"}"),
        );
        assert_eq!(reply.status, status, "{value:?}: {}", reply.body);
        if status == 415 {
            assert!(
                reply.json()["error"]
                    .as_str()
                    .is_some_and(|e| !e.is_empty())
            );
        }
    };
    check(Some("application/json"), 200);
    check(Some("Application/JSON"), 200);
    check(Some("application/json; charset=utf-8"), 200);
    check(Some("application/json;charset=UTF-8"), 200);
    check(Some("application/json ; x=\"y;z\""), 200);
    check(None, 415);
    check(Some(""), 415);
    check(Some("text/plain"), 415);
    check(Some("text/plain; application/json"), 415);
    check(Some("application/x-www-form-urlencoded"), 415);
    check(Some("multipart/form-data; boundary=x"), 415);
    check(Some("application/jsonx"), 415);
    check(Some("application/json-seq"), 415);
    check(Some("application/problem+json"), 415);
    check(Some("text/json"), 415);
}

#[test]
fn bodies_over_the_limit() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "server.chat_body_bytes_max = \"100K\"");
    let padded = |size: usize| {
        let frame = "{\"message\":\"Hi\",\"x\":\"\"}".len();
        format!(
            "{{\"message\":\"Hi\",\"x\":\"{}\"}}",
            "x".repeat(size - frame)
        )
        .into_bytes()
    };
    let max = 100 * 1024;
    assert_eq!(server.post_chat(&padded(max)).status, 200);
    let check = |bytes: &[u8]| {
        let mut conn = server.connect();
        conn.send(bytes);
        let reply = conn.reply();
        assert_eq!(reply.status, 413, "{}", reply.body);
        assert!(
            reply.json()["error"]
                .as_str()
                .is_some_and(|e| !e.is_empty())
        );
        assert!(reply.get("x-request-id").is_some());
    };
    check(&request(
        "POST /deepseek_chat",
        &[JSON],
        Some(&padded(max + 1)),
    ));
    check(&request(
        "POST /deepseek_chat",
        &[JSON],
        Some(&padded(4 * max)),
    ));
    // What is announced counts before it arrives.
    check(&request(
        "POST /deepseek_chat",
        &[JSON, ("Content-Length", "99999999999")],
        None,
    ));
    // In chunks, without a length.
    let mut chunked = request(
        "POST /deepseek_chat",
        &[JSON, ("Transfer-Encoding", "chunked")],
        None,
    );
    for part in padded(2 * max).chunks(10_000) {
        chunked.extend(crate::kit::provider::chunk(part));
    }
    chunked.extend(b"0\r\n\r\n");
    check(&chunked);
    assert_eq!(provider.received().len(), 1);
    assert_eq!(server.chat("still there", &[]).status, 200);
}

#[test]
fn a_client_that_is_still_sending_gets_its_413_all_the_same() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let announced = |extra| {
        let headers = [JSON, ("Content-Length", "30000000"), extra];
        request("POST /deepseek_chat", &headers, None)
    };
    // All of it at once, far more than the sockets' buffers hold.
    let mut conn = server.connect();
    conn.send(&announced(("X-Test", "all")));
    conn.send(&vec![b'x'; 30_000_000]);
    assert_eq!(conn.reply().status, 413);
    // Slowly, and never to the end.
    let mut conn = server.connect();
    conn.send(&announced(("X-Test", "slow")));
    let took = crate::kit::seconds(|| {
        while !conn.is_readable() {
            conn.send(&[b'x'; 10_000]);
            crate::kit::pass(0.02);
        }
        assert_eq!(conn.reply().status, 413);
    });
    assert!(took < 3.0, "{took} s");
    // Whoever asks first is told before anything was sent.
    let mut conn = server.connect();
    conn.send(&announced(("Expect", "100-continue")));
    let took = crate::kit::seconds(|| assert_eq!(conn.reply().status, 413));
    assert!(took < 0.5, "{took} s");
    assert_eq!(server.chat("still there", &[]).status, 200);
}

#[test]
fn whoever_asks_whether_to_send_is_told_to_go_on() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let mut conn = server.connect();
    let body = crate::kit::question("after a 100");
    let length = body.len().to_string();
    let headers = [
        JSON,
        ("Content-Length", &length),
        ("Expect", "100-continue"),
    ];
    conn.send(&request("POST /deepseek_chat", &headers, None));
    assert_eq!(conn.head().status, 100);
    conn.send(&body);
    assert_eq!(conn.reply().text(), "Hello you");
    assert_eq!(provider.last().talk(), ["user: after a 100"]);
}

#[test]
fn with_require_login_a_chat_is_for_users_only() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "chat.require_login = true");
    let invalid = "cc_auth=".to_owned() + &"A".repeat(43);
    for headers in [&[][..], &[("Cookie", invalid.as_str())][..]] {
        let reply = server.chat("Hi", headers);
        assert_eq!(reply.status, 401, "{}", reply.body);
        assert_eq!(reply.json(), serde_json::json!({"error": "Unauthorized"}));
        assert_eq!(reply.get("set-cookie"), None);
    }
    assert_eq!(provider.received().len(), 0);
    assert_eq!(server.call("POST /reset_chat", &[], Some(b"")).status, 200);
    assert_eq!(server.get("/test").status, 200);
    // By default an invalid cookie means anonymous.
    let server = Server::start(&provider, "");
    assert_eq!(server.chat("Hi", &[("Cookie", &invalid)]).status, 200);
}

#[test]
fn chunked_bodies_are_read() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let mut conn = server.connect();
    conn.send(&request(
        "POST /deepseek_chat",
        &[JSON, ("Transfer-Encoding", "chunked")],
        None,
    ));
    for byte in crate::kit::question("in pieces") {
        conn.send(&crate::kit::provider::chunk(&[byte]));
    }
    conn.send(b"0\r\n\r\n");
    assert_eq!(conn.reply().status, 200);
    assert_eq!(provider.last().talk(), ["user: in pieces"]);
}

#[test]
fn a_body_that_does_not_come_gets_408_and_the_end() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "server.body_seconds = 0.3");
    for sent in ["", "{\"message\":"] {
        let mut conn = server.connect();
        conn.send(&request(
            "POST /deepseek_chat",
            &[JSON, ("Content-Length", "30")],
            None,
        ));
        conn.send(sent.as_bytes());
        let reply = conn.reply();
        assert_eq!(reply.status, 408, "{sent:?}: {}", reply.body);
        assert!(
            reply.json()["error"]
                .as_str()
                .is_some_and(|e| !e.is_empty())
        );
        assert!(conn.closed(), "{sent:?}");
    }
    // A byte now and then does not keep it alive.
    let mut conn = server.connect();
    conn.send(&request(
        "POST /deepseek_chat",
        &[JSON, ("Content-Length", "1000")],
        None,
    ));
    let took = crate::kit::seconds(|| {
        while !conn.is_readable() {
            conn.send(b"{");
            crate::kit::pass(0.03);
        }
        assert_eq!(conn.reply().status, 408);
        assert!(conn.closed());
    });
    assert!((0.25..2.0).contains(&took), "{took} s");
    assert_eq!(provider.received().len(), 0);
    assert_eq!(server.chat("still there", &[]).status, 200);
}

#[test]
fn reset_chat_is_always_answered() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let unknown = "cc_app=".to_owned() + &"A".repeat(43);
    let rows: [(Headers<'_>, Option<&[u8]>); 6] = [
        (&[], None),
        (&[JSON], Some(b"{}")),
        (&[JSON], Some(b"{broken")),
        (&[("Content-Type", "text/plain")], Some(b"x")),
        (&[("Cookie", "cc_app=short")], Some(b"")),
        (&[("Cookie", &unknown)], Some(b"")),
    ];
    for (headers, body) in rows {
        let reply = server.call("POST /reset_chat", headers, body);
        assert_eq!(reply.status, 200, "{headers:?}");
        assert_eq!(
            reply.json(),
            serde_json::json!({"status": "Reset chat history successfully"})
        );
        assert_eq!(reply.get("set-cookie"), None, "{headers:?}");
    }
}
