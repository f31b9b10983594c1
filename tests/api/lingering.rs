//! Behind an error line the connection waits before it breaks, and nothing else does.

use std::time::Duration;

use cloudchat::clock;

use crate::kit::provider::{Answer, delta};
use crate::kit::server::{least_memory, limit};
use crate::kit::{Call, Conn, Provider, Server, pass, seconds, until};

const CUT: &str = "{\"error\":\"The model provider broke off its answer\",\"done\":\"error\"}";

/// A stream that has shown its text.
fn begun(server: &Server, provider: &Provider) -> (Conn, Call) {
    let mut conn = server.connect();
    conn.ask("Hi", &[]);
    let mut call = provider.call();
    call.accept().text("Hi");
    assert_eq!(conn.head().status, 200);
    assert_eq!(conn.line().as_deref(), Some("{\"text\":\"Hi\"}"));
    (conn, call)
}

/// A stream that has failed, and shown its error line.
fn failed(server: &Server, provider: &Provider) -> Conn {
    let (mut conn, call) = begun(server, provider);
    drop(call);
    assert_eq!(conn.line().as_deref(), Some(CUT));
    conn
}

#[test]
fn slow_readers_see_the_error_line_and_a_second_later_the_break() {
    let texts: Vec<String> = (0..5).map(|n| n.to_string()).collect();
    let provider = {
        let events = texts.iter().map(|text| delta(text)).collect::<String>();
        Provider::answering(move |_, _| Answer::cut(&events))
    };
    let server = Server::start(&provider, "upstream.breaker_failures_max = 0");
    for pause in [0.0, 0.03, 0.1, 0.3] {
        let mut conn = server.connect();
        conn.ask("Hi", &[]);
        let since = clock::now();
        assert_eq!(conn.head().status, 200);
        let mut lines = Vec::new();
        loop {
            // As little as a page that takes its time.
            pass(pause);
            match conn.line() {
                Some(line) => lines.push(line),
                None => break,
            }
        }
        let took = since.elapsed().as_secs_f64();
        let expected = texts.iter().map(|text| format!("{{\"text\":\"{text}\"}}"));
        assert!(
            lines
                .iter()
                .eq(expected.chain([CUT.to_owned()]).collect::<Vec<_>>().iter()),
            "{lines:?}"
        );
        assert!(!conn.rest().1, "the final chunk must not come");
        assert!((0.9..3.5).contains(&took), "pauses of {pause} s: {took} s");
    }
}

#[test]
fn while_the_connection_waits_its_client_may_ask_again() {
    let provider = Provider::played();
    let settings =
        "chat.streams_per_client_max = 1\nchat.break_seconds = 10\nlog.format = \"json\"";
    let server = Server::start(&provider, settings);
    let mut waiting = Vec::new();
    for n in 0..5 {
        // The one before still waits.
        let took = seconds(|| waiting.push(failed(&server, &provider)));
        assert!(took < 1.0, "question {n}: {took} s");
    }
    // Their lines are written, and do not count the wait.
    let lines = until("five lines in the log", || {
        let log = server.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("\"end\":\"error\""));
        let lines: Vec<serde_json::Value> = lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        (lines.len() == 5).then_some(lines)
    });
    for line in lines {
        assert!(line["ms"].as_f64().is_some_and(|ms| ms < 1000.0), "{line}");
    }
    assert!(
        waiting.iter().all(|conn| !conn.is_readable()),
        "none is broken yet"
    );
}

#[test]
fn while_connections_wait_their_slots_are_free() {
    let provider = Provider::played();
    let memory = least_memory();
    let settings = format!(
        "limits.memory = {memory:?}\nserver.workers = 2\nchat.break_seconds = 10\n\
         chat.streams_per_client_max = 1000\nupstream.breaker_failures_max = 0"
    );
    let server = Server::start(&provider, &settings);
    let streams = limit(&server, "streams_max");
    let connections = limit(&server, "connections_max");
    // As many as there are slots, and again as far as there are connections.
    let waiting: Vec<Conn> = (0..connections - streams)
        .map(|_| failed(&server, &provider))
        .collect();
    let running: Vec<_> = (0..streams).map(|_| begun(&server, &provider)).collect();
    assert!(waiting.len() > streams, "{connections} connections");
    assert!(waiting.iter().all(|conn| !conn.is_readable()));
    drop(running);
}

#[test]
fn a_client_that_leaves_ends_the_wait() {
    let provider = Provider::played();
    let settings = "chat.break_seconds = 10\nserver.drain_seconds = 9";
    let mut server = Server::start(&provider, settings);
    let conns: Vec<Conn> = (0..2).map(|_| failed(&server, &provider)).collect();
    server.signal(libc::SIGTERM);
    pass(0.2);
    assert!(server.runs(), "the drain waits for them");
    let took = seconds(|| {
        for (n, conn) in conns.into_iter().enumerate() {
            if n == 0 { conn.reset() } else { drop(conn) }
        }
        assert_eq!(server.wait().code(), Some(0));
    });
    assert!(took < 1.0, "{took} s");
}

#[test]
fn whoever_asks_for_lines_of_json_gets_a_clean_end_at_once() {
    let provider = Provider::played();
    let server = Server::start(&provider, "chat.break_seconds = 10");
    for (accept, clean) in [
        ("application/x-ndjson", true),
        ("text/html, Application/X-NDJSON;q=0.9,*/*", true),
    ] {
        let mut conn = server.connect();
        conn.ask("Hi", &[("Accept", accept)]);
        let mut call = provider.call();
        call.accept().text("Hi");
        let head = conn.head();
        assert_eq!(head.get("content-type"), Some("application/json"));
        drop(call);
        let took = seconds(|| {
            let lines = format!("{{\"text\":\"Hi\"}}\n{CUT}\n");
            assert_eq!(conn.rest(), (lines, clean), "{accept}");
        });
        assert!(took < 1.0, "{accept}: {took} s");
        // It is an ordinary connection still.
        conn.ask("again", &[]);
        provider.call().answer(&Answer::texts(&["ok"]));
        assert_eq!(conn.reply().text(), "ok");
    }
    for accept in ["*/*", "application/json", "application/x-ndjson-seq"] {
        let mut conn = server.connect();
        conn.ask("Hi", &[("Accept", accept)]);
        let mut call = provider.call();
        call.accept().text("Hi");
        assert_eq!(conn.head().status, 200);
        conn.line();
        drop(call);
        assert_eq!(conn.line().as_deref(), Some(CUT));
        pass(0.2);
        assert!(!conn.is_readable(), "{accept}");
    }
}

#[test]
fn the_end_of_the_process_waits_for_a_moment_only() {
    let provider = Provider::played();
    let settings = "chat.break_seconds = 10\nserver.drain_seconds = 0.3\nserver.workers = 2";
    let mut server = Server::start(&provider, settings);
    let (conn, _call) = begun(&server, &provider);
    let mut conns = [failed(&server, &provider), conn];
    let since = clock::now();
    server.signal(libc::SIGTERM);
    let line = conns[1].line().expect("it is told");
    assert_eq!(line, "{\"error\":\"Server restarting\",\"done\":\"error\"}");
    let told = since.elapsed();
    for conn in &mut conns {
        assert_eq!(conn.rest(), (String::new(), false));
    }
    let broken = since.elapsed() - told;
    assert_eq!(server.wait().code(), Some(0));
    assert!(
        broken > Duration::from_millis(500),
        "the line has time: {broken:?}"
    );
    assert!(
        since.elapsed() < Duration::from_secs(3),
        "{:?}",
        since.elapsed()
    );
    assert!(
        !server.log().contains("connections cut"),
        "{}",
        server.log()
    );
}
