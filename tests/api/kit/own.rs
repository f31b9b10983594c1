//! The instruments, held against each other: what these tests see is really on the wire.

use super::provider::{Answer, delta};
use super::{Conn, Provider};

/// Asks the provider as if it were the server.
fn ask(provider: &Provider) -> Conn {
    let mut conn = Conn::tcp(provider.port);
    conn.ask("Hi", &[]);
    conn
}

#[test]
fn whole_and_broken_bodies_are_told_apart() {
    let rows = [
        (Answer::events(b"a\n"), "a\n", true),
        (Answer::cut("a\n"), "a\n", false),
        (Answer::status(200, "", "a\n"), "a\n", true),
        (
            Answer::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na\n"),
            "a\n",
            false,
        ),
        (Answer::raw(b"HTTP/1.1 200 OK\r\n\r\na\n"), "a\n", true),
    ];
    let answers: Vec<Answer> = rows.iter().map(|row| row.0.clone()).collect();
    let provider = Provider::answering(move |n, _| answers[n].clone());
    for (answer, body, whole) in rows {
        let reply = ask(&provider).reply();
        assert_eq!(
            (reply.body.as_str(), reply.whole),
            (body, whole),
            "{answer:?}"
        );
    }
}

#[test]
fn a_played_call_shows_each_piece_and_keeps_or_closes_its_connection() {
    let provider = Provider::played();
    let mut conn = ask(&provider);
    let mut call = provider.call();
    assert_eq!(call.received.body["message"], "Hi");
    assert!(!call.is_closed() && !conn.is_readable());
    call.accept().text("a");
    assert_eq!(conn.head().status, 200);
    assert_eq!(conn.line(), Some(delta("a").trim().to_owned()));
    call.finish("stop");
    let (rest, whole) = conn.rest();
    assert!(whole && rest.ends_with("data: [DONE]\n\n"), "{rest}");
    // The same connection serves the next request; then it is closed, and one is reset.
    conn.ask("Hi", &[]);
    drop(provider.call());
    assert!(conn.closed());
    let mut conn = ask(&provider);
    provider.call().reset();
    assert!(conn.closed());
    assert_eq!(provider.connections(), 2);
    // The other side leaves, either way.
    let conn = ask(&provider);
    let call = provider.call();
    drop(conn);
    call.closed_at();
    let conn = ask(&provider);
    let call = provider.call();
    conn.reset();
    call.closed_at();
}
