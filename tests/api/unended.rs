//! Gateways that send a finish reason and then neither `[DONE]` nor the end of the body: the answer
//! is complete a second later, whatever else they send.

use cloudchat::clock;

use crate::kit::provider::{STREAM_HEAD, chunk, delta, finish, recorded};
use crate::kit::{Call, Conn, Provider, Server, pass};

const DONE: &str = "{\"done\":\"stop\"}\n";

/// The last event of a stream, without `[DONE]`.
fn reason() -> String {
    finish("stop").replace("data: [DONE]\n\n", "")
}

/// Asks, and takes the provider's side.
fn ask(server: &Server, provider: &Provider) -> (Conn, Call) {
    let mut conn = server.connect();
    conn.ask("Hi", &[]);
    (conn, provider.call())
}

/// What comes of it, and after how many seconds.
fn rest(conn: &mut Conn) -> (String, bool, f64) {
    let since = clock::now();
    let (rest, whole) = conn.rest();
    (
        rest.trim_start().to_owned(),
        whole,
        since.elapsed().as_secs_f64(),
    )
}

#[test]
fn a_finish_reason_completes_the_answer_a_second_later() {
    let provider = Provider::played();
    // The limits on silence are shorter in the second round: they do not spoil a complete answer.
    for settings in [
        "",
        "upstream.between_events_seconds = 0.3\nchat.heartbeat_seconds = 0.2\n",
    ] {
        let server = Server::start(&provider, settings);
        for pings in [false, true] {
            let (mut conn, mut call) = ask(&server, &provider);
            call.accept()
                .chunk(std::str::from_utf8(&recorded("no-done-ping")).expect("it is text"));
            assert_eq!(conn.head().status, 200);
            assert_eq!(conn.next_line().as_deref(), Some("{\"text\":\"Hel\"}"));
            assert_eq!(conn.next_line().as_deref(), Some("{\"text\":\"lo\"}"));
            let pinging = std::thread::spawn(move || {
                let ping = chunk(b": ping\n\ndata:\n\ndata: {\"choices\":[],\"usage\":{}}\n\n");
                while pings && call.try_raw(&ping) {
                    pass(0.02);
                }
                call
            });
            let (rest, whole, took) = rest(&mut conn);
            assert_eq!((rest.as_str(), whole), (DONE, true), "{settings} {pings}");
            let least = if settings.is_empty() { 0.8 } else { 0.2 };
            assert!((least..2.0).contains(&took), "{settings} {pings}: {took} s");
            pinging
                .join()
                .expect("the provider does not fail")
                .closed_at();
        }
    }
}

#[test]
fn the_answer_may_come_in_one_piece_with_its_head_or_have_no_text() {
    let provider = Provider::played();
    let server = Server::start(&provider, "chat.heartbeat_seconds = 0.3");
    let whole_message =
        "data: {\"choices\":[{\"message\":{\"content\":\"Hi\"},\"finish_reason\":\"stop\"}]}\n\n";
    for (events, text) in [
        (delta("Hi") + &reason(), "{\"text\":\"Hi\"}\n"),
        (whole_message.to_owned(), "{\"text\":\"Hi\"}\n"),
        // Nothing but this is known before the first heartbeat, nor behind it.
        (reason(), ""),
    ] {
        let (mut conn, mut call) = ask(&server, &provider);
        call.raw(&[STREAM_HEAD, &chunk(events.as_bytes())].concat());
        assert_eq!(conn.head().status, 200);
        let (rest, whole, took) = rest(&mut conn);
        let lines: Vec<&str> = rest
            .split_inclusive('\n')
            .filter(|line| *line != "\n")
            .collect();
        assert_eq!(
            (lines.concat(), whole),
            (format!("{text}{DONE}"), true),
            "{events}"
        );
        assert!(took < 2.0, "{events}: {took} s");
    }
    // Without a heartbeat in between the head waits for the end.
    let server = Server::start(&provider, "");
    let (mut conn, mut call) = ask(&server, &provider);
    call.accept().chunk(&reason());
    assert_eq!(conn.reply().body, DONE);
}

#[test]
fn what_comes_behind_a_finish_reason_still_counts() {
    let provider = Provider::played();
    let server = Server::start(&provider, "");
    let begin = || {
        let (mut conn, mut call) = ask(&server, &provider);
        call.accept().text("Hi").chunk(&reason());
        assert_eq!(conn.head().status, 200);
        assert_eq!(conn.line().as_deref(), Some("{\"text\":\"Hi\"}"));
        (conn, call)
    };
    // [DONE] is not waited for any longer than it takes.
    let (mut conn, mut call) = begin();
    call.chunk("data: [DONE]\n\n");
    let (done, whole, took) = rest(&mut conn);
    assert!(done == DONE && whole && took < 0.7, "{done} {took} s");
    // A text puts the end off.
    let (mut conn, mut call) = begin();
    pass(0.6);
    call.text(" you");
    let (done, whole, took) = rest(&mut conn);
    assert_eq!(
        (done, whole),
        (format!("{{\"text\":\" you\"}}\n{DONE}"), true)
    );
    assert!((0.8..2.0).contains(&took), "{took} s");
    // One that lacks its blank line is not lost.
    let (mut conn, mut call) = begin();
    call.chunk(delta(" you").trim_end());
    call.chunk("\n");
    let (done, whole, _) = rest(&mut conn);
    assert_eq!(
        (done, whole),
        (format!("{{\"text\":\" you\"}}\n{DONE}"), true)
    );
    // An error is a failure.
    let (mut conn, mut call) = begin();
    call.chunk("event: error\ndata: {\"code\":\"late\"}\n\n");
    let (error, whole, _) = rest(&mut conn);
    assert!(error.contains("\"done\":\"error\"") && !whole, "{error}");
}

#[test]
fn the_end_of_the_drain_does_not_spoil_a_complete_answer() {
    let provider = Provider::played();
    let mut server = Server::start(&provider, "server.drain_seconds = 0.1");
    let (mut conn, mut call) = ask(&server, &provider);
    call.accept().text("Hi").chunk(&reason());
    assert_eq!(conn.head().status, 200);
    assert_eq!(conn.line().as_deref(), Some("{\"text\":\"Hi\"}"));
    server.signal(libc::SIGTERM);
    assert_eq!(conn.rest(), (DONE.to_owned(), true));
    assert_eq!(server.wait().code(), Some(0));
}
