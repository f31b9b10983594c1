//! After the first byte a failure is the error line, and the transfer is broken behind it.

use crate::kit::provider::{Answer, STREAM_HEAD, chunk, delta, finish};
use crate::kit::{Provider, Reply, Server};

/// Nor a wait behind the error line: `lingering.rs` looks at that.
const NO_BREAKER: &str = "upstream.breaker_failures_max = 0\nchat.break_seconds = 0\n";

/// The last line is the error line, it arrived, and the transfer is broken behind it.
fn is_broken_off(reply: &Reply, texts: &[&str], what: &str) {
    let mut lines = reply.lines();
    let last: serde_json::Value =
        serde_json::from_str(lines.pop().unwrap_or_default()).unwrap_or_default();
    assert_eq!(reply.status, 200, "{what}: {}", reply.body);
    assert_eq!(lines, texts, "{what}");
    assert_eq!(last["done"], "error", "{what}: {last}");
    assert!(
        last["error"].as_str().is_some_and(|e| !e.is_empty()),
        "{what}: {last}"
    );
    assert!(!reply.whole, "{what}: the final chunk must not come");
}

#[test]
fn after_a_heartbeat_a_failure_is_the_error_line() {
    let provider = Provider::played();
    let settings = "chat.heartbeat_seconds = 0.1\nupstream.first_event_seconds = 0.6\n";
    let server = Server::start(&provider, &(settings.to_owned() + NO_BREAKER));
    let answers = [
        ("refused", Some(Answer::status(401, "", "no"))),
        (
            "overloaded",
            Some(Answer::status(503, "Retry-After: 9\r\n", "no")),
        ),
        (
            "HTML",
            Some(Answer::status(200, "Content-Type: text/html\r\n", "no")),
        ),
        ("cut", Some(Answer::cut(": hi\n\n"))),
        ("silent", None),
    ];
    for (what, answer) in answers {
        let mut conn = server.connect();
        conn.ask("Hi", &[]);
        let call = provider.call();
        let head = conn.head();
        assert_eq!(
            (head.status, conn.line().as_deref()),
            (200, Some("")),
            "{what}"
        );
        match answer {
            Some(answer) => call.answer(&answer),
            None => drop(call.closed_at()),
        }
        let (body, whole) = conn.rest();
        is_broken_off(
            &Reply {
                status: 200,
                head,
                body,
                whole,
            },
            &[],
            what,
        );
    }
}

#[test]
fn after_the_first_text_a_failure_is_the_error_line_and_a_broken_transfer() {
    let text = delta("Hi");
    let rows = [
        ("cut", Answer::cut(&text)),
        (
            "cut within an event",
            Answer::cut(&format!("{text}data: {{\"choices\"")),
        ),
        (
            "final chunk without [DONE]",
            Answer::events(text.as_bytes()),
        ),
        (
            "error object",
            Answer::cut(&format!(
                "{text}data: {{\"error\":{{\"message\":\"SECRET\"}}}}\n\n"
            )),
        ),
        (
            "event named error",
            Answer::events(
                format!("{text}event: error\ndata: SECRET\n\ndata: [DONE]\n\n").as_bytes(),
            ),
        ),
        (
            "error in the choice",
            Answer::events(format!("{text}{}", finish("error")).as_bytes()),
        ),
        ("bad event", Answer::cut(&format!("{text}data: {{\n\n"))),
        (
            "content is an object",
            Answer::cut(&format!(
                "{text}data: {{\"choices\":[{{\"delta\":{{\"content\":{{}}}}}}]}}\n\n"
            )),
        ),
        (
            "raw line feed in the text",
            Answer::cut(&format!("{text}{}", delta("a\u{b}b"))),
        ),
        (
            "bad chunk size",
            Answer::raw(&[STREAM_HEAD, &chunk(text.as_bytes()), b"nonsense\r\n"].concat()),
        ),
    ];
    let answers: Vec<Answer> = rows.iter().map(|row| row.1.clone()).collect();
    let provider = Provider::answering(move |n, _| answers[n].clone());
    let server = Server::start(&provider, NO_BREAKER);
    for (what, _) in rows {
        let reply = server.chat("Hi", &[]);
        is_broken_off(&reply, &["{\"text\":\"Hi\"}"], what);
        assert!(!reply.body.contains("SECRET"), "{what}: {}", reply.body);
    }
    // Bytes that are no UTF-8 never reach the client.
    let provider = Provider::answering(|_, _| {
        Answer::events(
            &delta("Hi")
                .bytes()
                .chain(delta("#").bytes().map(|b| if b == b'#' { 0xff } else { b }))
                .collect::<Vec<u8>>(),
        )
    });
    let server = Server::start(&provider, NO_BREAKER);
    is_broken_off(&server.chat("Hi", &[]), &["{\"text\":\"Hi\"}"], "not UTF-8");
}

#[test]
fn a_reset_and_a_stall_mid_stream() {
    let provider = Provider::played();
    let server = Server::start(&provider, "upstream.between_events_seconds = 0.4\n");
    for stall in [false, true] {
        let mut conn = server.connect();
        conn.ask("Hi", &[]);
        let mut call = provider.call();
        call.accept().text("Hi");
        let head = conn.head();
        let mut body = conn.line().expect("the text arrives") + "\n";
        if stall {
            // A comment is a sign of life: the limit starts again.
            crate::kit::pass(0.25);
            call.chunk(": still here\n\n");
            crate::kit::pass(0.25);
            call.text("more");
            body += &(conn.line().expect("the stream still lives") + "\n");
            let silent_since = cloudchat::clock::now();
            let closed = call.closed_at();
            let silent = closed.duration_since(silent_since).as_secs_f64();
            assert!((0.3..1.5).contains(&silent), "{silent} s");
        } else {
            call.reset();
        }
        let (rest, whole) = conn.rest();
        body += &rest;
        let texts = ["{\"text\":\"Hi\"}", "{\"text\":\"more\"}"];
        let seen = if stall { &texts[..] } else { &texts[..1] };
        is_broken_off(
            &Reply {
                status: head.status,
                head,
                body,
                whole,
            },
            seen,
            "stall or reset",
        );
    }
}

#[test]
fn nothing_runs_longer_than_the_longest_stream() {
    let provider = Provider::played();
    let server = Server::start(&provider, "chat.stream_seconds_max = 0.5\n");
    let mut conn = server.connect();
    conn.ask("Hi", &[]);
    let mut call = provider.call();
    call.accept().text("Hi");
    let reply = conn.reply();
    is_broken_off(&reply, &["{\"text\":\"Hi\"}"], "too long");
    call.closed_at();
}

#[test]
fn the_connection_is_closed_after_a_broken_transfer_and_goes_on_after_a_status() {
    let provider = Provider::answering(|n, _| match n {
        0 => Answer::status(400, "", "no"),
        1 => Answer::texts(&["fine"]),
        _ => Answer::cut(&delta("Hi")),
    });
    let server = Server::start(&provider, NO_BREAKER);
    let mut conn = server.connect();
    assert_eq!(conn.ask("Hi", &[]).reply().status, 502);
    assert_eq!(conn.ask("Hi", &[]).reply().text(), "fine");
    is_broken_off(
        &conn.ask("Hi", &[]).reply(),
        &["{\"text\":\"Hi\"}"],
        "third",
    );
    assert!(conn.closed());
}
