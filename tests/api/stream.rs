//! The stream itself: every delta as it stands, the moment it comes, and how a stream ends.

use std::time::Duration;

use cloudchat::clock;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::kit::provider::{Answer, STREAM_HEAD, chunk, delta, finish, recorded};
use crate::kit::{Browser, Provider, Server};

/// The recorded streams and the line each must end with.
const RECORDED: [(&str, &str); 17] = [
    ("blank-data", "stop"),
    ("content-list", "stop"),
    ("crlf", "stop"),
    ("deepseek-thinking", "stop"),
    ("deepseek", "stop"),
    ("empty-choices", "stop"),
    ("error-in-stream", "error"),
    ("finish-error", "error"),
    ("length", "length"),
    ("llama-cpp-emoji", "stop"),
    ("llama-cpp-ping", "length"),
    ("llama-cpp-zh", "stop"),
    ("no-done", "stop"),
    ("no-done-ping", "stop"),
    ("openai", "stop"),
    ("qwen", "stop"),
    ("truncated", "error"),
];

/// The text lines that a stream must become: the plain reading of it, with serde.
fn expected_lines(stream: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow, default)]
        choices: Vec<Choice<'a>>,
    }
    #[derive(Deserialize)]
    struct Choice<'a> {
        #[serde(borrow)]
        delta: Delta<'a>,
    }
    #[derive(Deserialize)]
    struct Delta<'a> {
        #[serde(borrow)]
        content: Option<&'a RawValue>,
    }
    let text = std::str::from_utf8(stream).expect("the recorded streams are UTF-8");
    let data = text
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(str::trim);
    let events = data.filter_map(|data| serde_json::from_str::<Event<'_>>(data).ok());
    let contents = events.filter_map(|event| event.choices.into_iter().next()?.delta.content);
    let texts = contents
        .map(RawValue::get)
        .filter(|raw| raw.starts_with('"') && *raw != "\"\"");
    texts.map(|raw| format!("{{\"text\":{raw}}}")).collect()
}

/// One recorded stream, sent as `send` frames it.
fn check_recorded(framing: &str, frame: fn(&[u8]) -> Answer) {
    let provider =
        Provider::answering(move |n, _| frame(&recorded(RECORDED[n % RECORDED.len()].0)));
    let server = Server::start(&provider, "upstream.breaker_failures_max = 0");
    for (name, end) in RECORDED {
        let reply = server.chat("Hi", &[]);
        let mut lines = reply.lines();
        let last = lines.pop().unwrap_or_default();
        assert_eq!(lines, expected_lines(&recorded(name)), "{name}, {framing}");
        assert!(!lines.is_empty(), "{name} has text");
        let last: serde_json::Value = serde_json::from_str(last).expect("the last line is JSON");
        assert_eq!(last["done"], end, "{name}, {framing}: {last}");
        assert_eq!(
            last.get("error").is_some(),
            end == "error",
            "{name}, {framing}: {last}"
        );
        assert_eq!(reply.whole, end != "error", "{name}, {framing}");
        assert_eq!(reply.status, 200, "{name}, {framing}");
    }
}

#[test]
fn recorded_streams_in_one_chunk() {
    check_recorded("one chunk", Answer::events);
}

#[test]
fn recorded_streams_in_chunks_of_one_byte() {
    check_recorded("bytes", |stream| {
        let mut bytes = STREAM_HEAD.to_vec();
        stream.iter().for_each(|byte| bytes.extend(chunk(&[*byte])));
        bytes.extend(b"0\r\n\r\n");
        Answer { bytes, keep: true }
    });
}

#[test]
fn recorded_streams_with_a_length() {
    check_recorded("length", |stream| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: Text/Event-Stream; charset=utf-8\r\n";
        let head = format!("{head}content-length: {}\r\n\r\n", stream.len());
        Answer {
            bytes: [head.as_bytes(), stream].concat(),
            keep: true,
        }
    });
}

#[test]
fn recorded_streams_until_the_connection_closes() {
    check_recorded("close", |stream| {
        let head =
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
        Answer::raw(&[head.as_bytes(), stream].concat())
    });
}

#[test]
fn the_head_of_a_stream() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let reply = server.chat("Hi", &[]);
    let check = |name, value| assert_eq!(reply.get(name), Some(value), "{name}");
    check("content-type", "application/json");
    check("x-accel-buffering", "no");
    check("cache-control", "no-store, no-transform");
    check("transfer-encoding", "chunked");
    assert_eq!(reply.get("content-length"), None);
    assert_eq!(
        reply.lines(),
        [
            "{\"text\":\"Hello\"}",
            "{\"text\":\" you\"}",
            "{\"done\":\"stop\"}"
        ]
    );
}

#[test]
fn each_line_goes_out_the_moment_it_arrives() {
    let provider = Provider::played();
    let server = Server::start(&provider, "");
    let mut conn = server.connect();
    conn.ask("Hi", &[]);
    let mut call = provider.call();
    call.accept();
    for escaped in [
        "Hello",
        " 你好 \\ud83d\\ude0a",
        "\\\"content\\\":\\\"",
        "\\u0000\\/\\n",
        "\\ud83d",
        "\\ude0a",
    ] {
        call.text(escaped);
        if escaped == "Hello" {
            assert_eq!(conn.head().status, 200);
        }
        assert_eq!(conn.line(), Some(format!("{{\"text\":\"{escaped}\"}}")));
    }
    // An event that comes in pieces goes out when it is whole.
    let event = delta("in pieces");
    let (first, second) = event.split_at(event.len() - 5);
    call.chunk(first).chunk(second);
    assert_eq!(conn.line(), Some("{\"text\":\"in pieces\"}".to_owned()));
    call.finish("stop");
    assert_eq!(conn.rest(), ("{\"done\":\"stop\"}\n".to_owned(), true));
}

#[test]
fn the_end_is_done_or_an_end_after_a_finish_reason() {
    let text = delta("Hi");
    let reason = |reason: &str| finish(reason).replace("data: [DONE]\n\n", "");
    let with = |rest: &str| format!("{text}{rest}");
    let rows = [
        (with(&(reason("stop") + "data:[DONE]")), "stop"),
        (with(&(reason("stop") + "data: [DONE]\r\n\r\n")), "stop"),
        (with(&finish("length")), "length"),
        (with(&finish("content_filter")), "content_filter"),
        (with(&finish("tool_calls")), "tool_calls"),
        (
            with(&finish("insufficient_system_resource")),
            "insufficient_system_resource",
        ),
        (with(&reason("length")), "length"),
        (with(reason("stop").trim_end()), "stop"),
        (
            format!("\u{feff}: a comment\n\n{}{}", text, finish("stop")),
            "stop",
        ),
    ];
    let answers: Vec<String> = rows.iter().map(|(stream, _)| stream.clone()).collect();
    let provider = Provider::answering(move |n, _| Answer::events(answers[n].as_bytes()));
    let server = Server::start(&provider, "");
    for (stream, end) in rows {
        let reply = server.chat("Hi", &[]);
        let expected = format!("{{\"text\":\"Hi\"}}\n{{\"done\":\"{end}\"}}\n");
        assert_eq!((reply.body, reply.whole), (expected, true), "{stream}");
    }
}

#[test]
fn done_is_not_held_back_by_a_provider_that_keeps_its_connection_open() {
    let provider = Provider::played();
    let server = Server::start(&provider, "");
    let mut conn = server.connect();
    conn.ask("Hi", &[]);
    let mut call = provider.call();
    call.accept().text("Hi").chunk(&finish("stop"));
    let reply = conn.reply();
    assert_eq!(
        (reply.lines().pop(), reply.whole),
        (Some("{\"done\":\"stop\"}"), true)
    );
}

#[test]
fn done_without_a_finish_reason_ends_a_cut_answer_unless_the_row_says_otherwise() {
    let cut = delta("Hi") + "data: [DONE]\n\n";
    let provider = Provider::answering(move |_, _| Answer::events(cut.as_bytes()));
    let reply = Server::start(&provider, "").chat("Hi", &[]);
    assert_eq!(
        reply.lines(),
        [
            "{\"text\":\"Hi\"}",
            "{\"error\":\"The model provider broke off the answer\",\"done\":\"error\"}"
        ]
    );
    assert!(!reply.whole);
    let row = provider.row() + "done_is_complete = true\n";
    let reply = Server::with(&row, &[]).chat("Hi", &[]);
    assert_eq!(reply.lines(), ["{\"text\":\"Hi\"}", "{\"done\":\"stop\"}"]);
    assert!(reply.whole);
}

#[test]
fn heartbeats_fill_the_silence_before_and_between_texts() {
    let provider = Provider::played();
    let server = Server::start(&provider, "chat.heartbeat_seconds = 0.2");
    let mut conn = server.connect();
    let start = clock::now();
    conn.ask("Hi", &[]);
    // Not even the provider's head has come: the first heartbeat brings ours, cookie included.
    let mut call = provider.call();
    let head = conn.head();
    assert_eq!(head.status, 200);
    assert!(
        start.elapsed() >= Duration::from_millis(190),
        "{:?}",
        start.elapsed()
    );
    assert!(head.get("set-cookie").is_some());
    assert_eq!(conn.line().as_deref(), Some(""));
    assert_eq!(conn.line().as_deref(), Some(""));
    // The provider's comments are not passed on.
    call.accept().chunk(": keep-alive\n\n");
    assert_eq!(conn.line().as_deref(), Some(""));
    call.text("Hello");
    assert_eq!(conn.line().as_deref(), Some("{\"text\":\"Hello\"}"));
    let sent = clock::now();
    assert_eq!(conn.line().as_deref(), Some(""));
    let pause = sent.elapsed();
    assert!(
        (180..1000).contains(&pause.as_millis()),
        "counted from the last byte: {pause:?}"
    );
    call.finish("stop");
    assert_eq!(conn.rest(), ("{\"done\":\"stop\"}\n".to_owned(), true));
}

#[test]
fn an_answer_that_begins_after_a_heartbeat_is_remembered() {
    let provider = Provider::played();
    let server = Server::start(&provider, "chat.heartbeat_seconds = 0.1");
    let mut browser = Browser::new(&server);
    let mut conn = browser.open("first");
    let mut call = provider.call();
    browser.keep(&conn.head());
    assert_eq!(conn.line().as_deref(), Some(""));
    call.accept().text("late");
    call.finish("stop");
    let (rest, whole) = conn.rest();
    assert!(whole && rest.ends_with("{\"done\":\"stop\"}\n"), "{rest}");
    let mut conn = browser.open("second");
    let call = provider.call();
    assert_eq!(
        call.received.talk(),
        ["user: first", "assistant: late", "user: second"]
    );
    call.answer(&Answer::texts(&["ok"]));
    assert_eq!(conn.reply().text(), "ok");
}

#[test]
fn a_long_line_passes_whole_and_one_over_the_limit_ends_with_a_clear_error() {
    let long = "字".repeat(200 * 1024);
    let (to_send, too_long) = (long.clone(), "x".repeat((1 << 20) + 1));
    let provider = Provider::answering(move |n, _| match n {
        0 => Answer::texts(&["a", &to_send, "b"]),
        1 => Answer::texts(&["a", &too_long, "b"]),
        _ => Answer::texts(&[&too_long]),
    });
    let server = Server::start(&provider, "");
    let reply = server.chat("Hi", &[]);
    assert!(
        reply.text() == format!("a{long}b") && reply.whole,
        "{} bytes",
        reply.body.len()
    );

    let reply = server.chat("Hi", &[]);
    let lines = reply.lines();
    assert_eq!(
        (lines.len(), lines[0], reply.whole),
        (2, "{\"text\":\"a\"}", false)
    );
    assert!(
        lines[1].contains("\"error\":\"") && lines[1].contains("\"done\":\"error\""),
        "{}",
        lines[1]
    );

    assert_eq!(server.chat("Hi", &[]).status, 502);
}

#[test]
fn long_lines_are_counted_and_whoever_finds_none_is_told() {
    let provider = Provider::played();
    let server = Server::start(&provider, "");
    let long_lines = crate::kit::server::limit(&server, "long_lines_max");
    assert!((1..=16).contains(&long_lines), "{long_lines}");
    let half = chunk(
        delta("")
            .replace("\"}}]}\n\n", &"x".repeat(100_000))
            .as_bytes(),
    );
    let mut streams: Vec<_> = (0..=long_lines)
        .map(|_| {
            let mut conn = server.connect();
            conn.ask("Hi", &[]);
            let mut call = provider.call();
            call.accept().text("a");
            assert_eq!(conn.head().status, 200);
            assert_eq!(conn.line().as_deref(), Some("{\"text\":\"a\"}"));
            (conn, call)
        })
        .collect();
    for (_, call) in &mut streams {
        // The one that is refused may be closed before all of it has been written.
        call.try_raw(&half);
    }
    let refused = crate::kit::until("one stream to be ended", || {
        streams.iter().position(|(_, call)| call.is_closed())
    });
    let (mut conn, call) = streams.remove(refused);
    drop(call);
    let (rest, whole) = conn.rest();
    assert!(rest.contains("\"done\":\"error\"") && !whole, "{rest}");
    for (mut conn, mut call) in streams {
        call.chunk("\"}}]}\n\n");
        call.finish("stop");
        let (rest, whole) = conn.rest();
        assert!(rest.len() > 100_000 && rest.ends_with("{\"done\":\"stop\"}\n") && whole);
    }
    // The buffers have come back: a long line passes again.
    let mut conn = server.connect();
    conn.ask("Hi", &[]);
    let mut call = provider.call();
    call.accept().text(&"y".repeat(100_000));
    call.finish("stop");
    assert_eq!(conn.reply().text().len(), 100_000);
}
