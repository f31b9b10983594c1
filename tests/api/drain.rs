//! The end of the process: running streams get their time, nothing new begins, nothing is lost.

use std::net::TcpStream;

use crate::kit::provider::Answer;
use crate::kit::{Browser, Call, Conn, Provider, Server, seconds, until};

/// A stream that has shown its first text.
fn running(server: &Server, provider: &Provider, browser: &mut Browser<'_>) -> (Conn, Call) {
    let mut conn = browser.open("first");
    let mut call = provider.call();
    call.accept().text("running");
    browser.keep(&conn.head());
    assert_eq!(conn.line().as_deref(), Some("{\"text\":\"running\"}"));
    assert!(server.port > 0);
    (conn, call)
}

fn refused(server: &Server) {
    until("new connections to be refused", || {
        TcpStream::connect(("127.0.0.1", server.direct))
            .is_err()
            .then_some(())
    });
}

#[test]
fn a_signal_right_after_the_start_is_heard() {
    let provider = Provider::friendly();
    for _ in 0..10 {
        let mut server = Server::start(&provider, "");
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn without_streams_it_ends_at_once_with_code_0() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let provider = Provider::friendly();
        let mut server = Server::start(&provider, "");
        let mut idle = server.connect();
        server.chat("Hi", &[]);
        let took = seconds(|| {
            server.signal(signal);
            assert_eq!(server.wait().code(), Some(0));
        });
        assert!(took < 2.0, "{took} s");
        assert!(idle.closed());
    }
}

#[test]
fn a_running_stream_finishes_within_the_drain() {
    let provider = Provider::played();
    let mut server = Server::start(&provider, "server.drain_seconds = 20");
    let mut browser = Browser::new(&server);
    let (mut conn, mut call) = running(&server, &provider, &mut browser);
    let cookie = browser.cookie.clone();
    server.signal(libc::SIGTERM);
    refused(&server);
    call.text(" on");
    call.finish("stop");
    let expected = "{\"text\":\" on\"}\n{\"done\":\"stop\"}\n".to_owned();
    assert_eq!(conn.rest(), (expected, true));
    let took = seconds(|| assert_eq!(server.wait().code(), Some(0)));
    assert!(took < 2.0, "nothing is left to wait for: {took} s");

    let server = server.restart_ended();
    let mut browser = Browser::new(&server);
    browser.cookie = cookie;
    let mut conn = browser.open("second");
    let call = provider.call();
    let expected = ["user: first", "assistant: running on", "user: second"];
    assert_eq!(call.received.talk(), expected);
    call.answer(&Answer::texts(&["ok"]));
    conn.reply();
}

#[test]
fn at_the_end_of_the_drain_the_stream_is_told_and_the_partial_answer_kept() {
    let provider = Provider::played();
    let mut server = Server::start(&provider, "server.drain_seconds = 0.4");
    let mut browser = Browser::new(&server);
    let (mut conn, call) = running(&server, &provider, &mut browser);
    let cookie = browser.cookie.clone();
    let took = seconds(|| {
        server.signal(libc::SIGTERM);
        let (rest, whole) = conn.rest();
        let last: serde_json::Value = serde_json::from_str(rest.trim()).expect("it is one line");
        assert_eq!(
            last,
            serde_json::json!({"error": "Server restarting", "done": "error"})
        );
        assert!(!whole);
        assert_eq!(server.wait().code(), Some(0));
    });
    assert!((0.3..3.0).contains(&took), "{took} s");
    call.closed_at();

    let server = server.restart_ended();
    let mut browser = Browser::new(&server);
    browser.cookie = cookie;
    let mut conn = browser.open("second");
    let call = provider.call();
    let expected = ["user: first", "assistant: running", "user: second"];
    assert_eq!(call.received.talk(), expected);
    call.answer(&Answer::texts(&["ok"]));
    conn.reply();
}

#[test]
fn a_stream_without_a_byte_yet_gets_its_answer_too() {
    let provider = Provider::played();
    let mut server = Server::start(&provider, "server.drain_seconds = 0.3");
    let mut conn = server.connect();
    conn.ask("Hi", &[]);
    let call = provider.call();
    server.signal(libc::SIGTERM);
    let reply = conn.reply();
    assert_eq!(reply.status, 503, "{}", reply.body);
    assert_eq!(
        reply.json(),
        serde_json::json!({"error": "Server restarting"})
    );
    call.closed_at();
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let provider = Provider::played();
    let mut server = Server::start(&provider, "server.drain_seconds = 30");
    let mut browser = Browser::new(&server);
    let (mut conn, call) = running(&server, &provider, &mut browser);
    server.signal(libc::SIGTERM);
    refused(&server);
    assert!(server.runs());
    let took = seconds(|| {
        server.signal(libc::SIGTERM);
        server.wait();
    });
    assert!(took < 1.0, "{took} s");
    assert!(!conn.rest().1);
    call.closed_at();
}

#[test]
fn no_worker_ends_while_another_still_serves() {
    // The workers hear of the drain in any order; a stream must not depend on which.
    for _ in 0..12 {
        let provider = Provider::played();
        let settings = "server.drain_seconds = 20\nserver.workers = 3";
        let mut server = Server::start(&provider, settings);
        let streams: Vec<_> = (0..6)
            .map(|n| {
                let mut conn = match n % 2 {
                    0 => server.connect(),
                    _ => Conn::unix(&server.socket()),
                };
                conn.ask("Hi", &[]);
                let mut call = provider.call();
                call.accept().text("a");
                assert_eq!(conn.head().status, 200);
                assert_eq!(conn.line().as_deref(), Some("{\"text\":\"a\"}"));
                (conn, call)
            })
            .collect();
        server.signal(libc::SIGTERM);
        refused(&server);
        for (mut conn, mut call) in streams {
            call.text("b");
            assert_eq!(conn.line().as_deref(), Some("{\"text\":\"b\"}"));
            call.finish("stop");
            assert_eq!(conn.rest(), ("{\"done\":\"stop\"}\n".to_owned(), true));
        }
        assert_eq!(server.wait().code(), Some(0));
    }
}
