//! What a client sees when the provider fails: a status before the first byte, the error line
//! and a broken transfer after it; and what is remembered.

use crate::kit::provider::{Answer, STREAM_HEAD, delta, finish, recorded, row};
use crate::kit::server::free_port;
use crate::kit::{Browser, Provider, Reply, Server, question, request};

const NO_BREAKER: &str = "upstream.breaker_failures_max = 0\n";

/// The error is text of our own: no word of the provider's, no key, no address.
fn is_clean_error(reply: &Reply, what: &str) {
    let body = reply.json();
    let members = body.as_object().expect("it is an object");
    assert_eq!(members.len(), 1, "{what}: {body}");
    let error = body["error"].as_str().expect("it is a text");
    assert!(!error.is_empty(), "{what}");
    for secret in ["127.0.0.1", "sk-test", "SECRET"] {
        assert!(!error.contains(secret), "{what}: {error}");
    }
}

#[test]
fn statuses_before_the_first_text() {
    const PROVIDER_SAYS: &str = r#"{"error":{"message":"SECRET sk-test","type":"t","code":"c"}}"#;
    let refusal =
        |status| Answer::status(status, "Content-Type: application/json\r\n", PROVIDER_SAYS);
    let after = |status, seconds: &str| {
        Answer::status(
            status,
            &format!("Retry-After: {seconds}\r\n"),
            PROVIDER_SAYS,
        )
    };
    let stream = |events: &str| Answer::events(events.as_bytes());
    let recorded = |name: &str| Answer::events(&recorded(name));
    let rows: Vec<(&str, Answer, u16, Option<&str>)> = vec![
        ("400", refusal(400), 502, None),
        ("401", refusal(401), 502, None),
        ("402", refusal(402), 502, None),
        ("403", refusal(403), 502, None),
        ("404", refusal(404), 502, None),
        ("422", refusal(422), 502, None),
        ("429", after(429, "7"), 503, Some("7")),
        ("503", after(503, "120"), 503, Some("120")),
        ("500", after(500, "3"), 503, Some("3")),
        (
            "302",
            Answer::status(302, "Location: /x\r\n", ""),
            502,
            None,
        ),
        (
            "204",
            Answer::raw(b"HTTP/1.1 204 No Content\r\n\r\n"),
            502,
            None,
        ),
        (
            "HTML",
            Answer::status(200, "Content-Type: text/html\r\n", "<h1>SECRET</h1>"),
            502,
            None,
        ),
        (
            "JSON",
            Answer::status(200, "Content-Type: application/json\r\n", PROVIDER_SAYS),
            502,
            None,
        ),
        ("no type", Answer::status(200, "", "SECRET"), 502, None),
        ("no HTTP", Answer::raw(b"SSH-2.0-SECRET\r\n\r\n"), 502, None),
        (
            "half a head",
            Answer::raw(b"HTTP/1.1 200 OK\r\nContent-Ty"),
            502,
            None,
        ),
        ("closed", Answer::raw(b""), 502, None),
        (
            "head over its limit",
            Answer::raw(&[&b"HTTP/1.1 200 OK\r\nX: "[..], &[b'x'; 20_000]].concat()),
            502,
            None,
        ),
        (
            "error object",
            stream(&format!("data: {PROVIDER_SAYS}\n\n")),
            502,
            None,
        ),
        ("recorded refusal", recorded("refused"), 502, None),
        ("event named error", recorded("event-error"), 502, None),
        ("error in the choice", stream(&finish("error")), 502, None),
        (
            "error object of vLLM",
            stream("data: {\"object\":\"error\",\"message\":\"SECRET\"}\n\ndata: [DONE]\n\n"),
            502,
            None,
        ),
        (
            "error object of DashScope",
            stream("data: {\"code\":\"Throttling\",\"message\":\"SECRET\"}\n\ndata: [DONE]\n\n"),
            502,
            None,
        ),
        ("[DONE] only", recorded("done-only"), 502, None),
        ("blank data only", stream("data:\n\n"), 502, None),
        ("not JSON", stream("data: <html>\n\n"), 502, None),
        (
            "content is a number",
            stream("data: {\"choices\":[{\"delta\":{\"content\":1}}]}\n\n"),
            502,
            None,
        ),
        (
            "raw control character",
            stream(&delta("a\u{1}b")),
            502,
            None,
        ),
        ("cut before any event", Answer::cut(": hi\n\n"), 502, None),
        ("empty stream", stream(""), 502, None),
        (
            "bad chunk size",
            Answer::raw(&[STREAM_HEAD, b"zz\r\n"].concat()),
            502,
            None,
        ),
    ];
    let answers: Vec<Answer> = rows.iter().map(|row| row.1.clone()).collect();
    // A reused connection that is closed without a byte is asked again on a fresh one.
    let served = std::sync::Mutex::new(Vec::<String>::new());
    let provider = Provider::answering(move |_, received| {
        let question = received.talk().pop().expect("there is a question");
        served
            .lock()
            .expect("no holder panics")
            .push(question.clone());
        let n: usize = question["user: ".len()..].parse().expect("it is a number");
        answers[n].clone()
    });
    let config = format!("chat.rate_per_minute = 0\n{NO_BREAKER}{}", provider.row());
    let server = Server::with(&config, &[("TEST_KEY", "sk-test")]);
    for (n, (what, _, status, retry)) in rows.iter().enumerate() {
        let reply = server.chat(&n.to_string(), &[]);
        assert_eq!(reply.status, *status, "{what}: {}", reply.body);
        is_clean_error(&reply, what);
        if retry.is_some() {
            assert_eq!(reply.get("retry-after"), *retry, "{what}");
        }
        assert_eq!(reply.get("set-cookie"), None, "{what}");
    }
}

#[test]
fn a_retired_model_is_named_as_such() {
    let rows = [
        (
            404,
            r#"{"error":{"message":"The model `m-1` does not exist","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#,
        ),
        (
            400,
            r#"{"error":{"message":"Model Not Exist","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#,
        ),
    ];
    let provider = Provider::answering(move |n, _| {
        Answer::status(rows[n].0, "Content-Type: application/json\r\n", rows[n].1)
    });
    let server = Server::start(&provider, NO_BREAKER);
    for (status, _) in rows {
        let reply = server.chat("Hi", &[]);
        assert_eq!(reply.status, 502, "{status}");
        assert_eq!(
            reply.json(),
            serde_json::json!({"error": "Model not served"}),
            "{status}"
        );
    }
}

#[test]
fn nobody_there() {
    let refused = row("gone", &format!("http://127.0.0.1:{}/v1", free_port()));
    let unknown = row("unknown", "http://does-not-exist.invalid/v1");
    let server = |row: &str| Server::with(&format!("upstream.connect_seconds = 2\n{row}"), &[]);
    for row in [refused, unknown] {
        let reply = server(&row).chat("Hi", &[]);
        assert!(matches!(reply.status, 502 | 504), "{row}: {}", reply.status);
        is_clean_error(&reply, &row);
    }
    let reply = Server::with("", &[]).chat("Hi", &[]);
    assert_eq!(reply.status, 503, "without any provider: {}", reply.body);
    is_clean_error(&reply, "no provider");
    assert!(reply.get("retry-after").is_some());
}

#[test]
fn silence_before_the_first_event_is_504_whatever_comes_that_is_no_event() {
    let provider = Provider::played();
    let server = Server::start(&provider, "upstream.first_event_seconds = 0.3\n");
    // Nothing; a head; a head and comments.
    for accepted in [false, true] {
        for comments in [false, true] {
            let mut conn = server.connect();
            let took = crate::kit::seconds(|| {
                conn.ask("Hi", &[]);
                let mut call = provider.call();
                if accepted {
                    call.accept();
                }
                if accepted && comments {
                    call.chunk(": keep-alive\n\n").chunk(": keep-alive\n\n");
                }
                let reply = conn.reply();
                assert_eq!(reply.status, 504, "{accepted} {comments}: {}", reply.body);
                is_clean_error(&reply, "silent");
                call.closed_at();
            });
            assert!((0.25..2.0).contains(&took), "{took} s");
        }
    }
    // Any event ends this limit, also one without text.
    let mut conn = server.connect();
    conn.ask("Hi", &[]);
    let mut call = provider.call();
    call.accept().chunk("data: {\"choices\":[]}\n\n");
    crate::kit::pass(0.4);
    call.text("late");
    assert_eq!(conn.head().status, 200);
    assert_eq!(conn.line().as_deref(), Some("{\"text\":\"late\"}"));
    call.finish("stop");
    assert!(conn.rest().1);
}

#[test]
fn what_is_remembered_after_a_failure() {
    let provider = Provider::answering(|n, _| match n {
        0 => Answer::texts(&["one"]),
        1 => Answer::cut(
            &(delta("par") + &delta("tial") + "data: {\"choices\":[{\"delta\":{\"content\":\"lost"),
        ),
        2 => Answer::status(503, "", "no"),
        3 => Answer::events(finish("stop").as_bytes()),
        _ => Answer::texts(&["ok"]),
    });
    let server = Server::start(&provider, NO_BREAKER);
    let mut browser = Browser::new(&server);
    for question in ["q0", "q1", "q2", "q3"] {
        browser.ask(question);
    }
    assert_eq!(browser.ask("q4").text(), "ok");
    let expected = [
        "user: q0",
        "assistant: one",
        "user: q1",
        "assistant: partial",
        "user: q4",
    ];
    assert_eq!(provider.last().talk(), expected);
}

#[test]
fn a_failed_request_creates_nothing() {
    let provider = Provider::answering(|_, _| Answer::status(401, "", "no"));
    let server = Server::start(&provider, NO_BREAKER);
    let json = ("Content-Type", "application/json");
    let cookie = format!("cc_app={}", "B".repeat(43));
    let reply = server.call(
        "POST /deepseek_chat",
        &[json, ("Cookie", &cookie)],
        Some(&question("Hi")),
    );
    assert_eq!((reply.status, reply.get("set-cookie")), (502, None));
    let mut conn = server.connect();
    conn.send(&request("POST /deepseek_chat", &[json], Some(b"{}")));
    assert_eq!(conn.reply().get("set-cookie"), None);
}
