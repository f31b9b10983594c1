//! The circuit breaker: a provider that keeps failing is left alone for a while, then probed once.

use crate::kit::provider::{Answer, STREAM_HEAD};
use crate::kit::{Call, Conn, Provider, Server, until};

const SETTINGS: &str = "upstream.breaker_failures_max = 2\nupstream.breaker_open_seconds = 0.4\n";

/// Asks and lets the provider answer with this status; what the client got.
fn fail(server: &Server, provider: &Provider, status: u16) -> u16 {
    let mut conn = server.connect();
    conn.ask("Hi", &[]);
    provider.call().answer(&Answer::status(status, "", "no"));
    conn.reply().status
}

/// Asks again until a request is let through to the provider.
fn probe(server: &Server, provider: &Provider) -> (Conn, Call) {
    until("the breaker to half-open", || {
        let mut conn = server.connect();
        conn.ask("Hi", &[]);
        let call = until("a call or a refusal", || match provider.try_call() {
            Some(call) => Some(Some(call)),
            None => conn.is_readable().then_some(None),
        })?;
        Some((conn, call))
    })
}

fn is_open(server: &Server, provider: &Provider) {
    let reply = server.chat("Hi", &[]);
    assert_eq!(reply.status, 503, "{}", reply.body);
    assert_eq!(reply.get("retry-after"), Some("1"));
    assert!(
        provider.try_call().is_none(),
        "nobody is asked while it is open"
    );
}

#[test]
fn it_opens_after_failures_in_a_row_and_one_good_probe_closes_it() {
    let provider = Provider::played();
    let server = Server::start(&provider, SETTINGS);
    // A success between failures starts the count again.
    assert_eq!(fail(&server, &provider, 500), 503);
    let (mut conn, call) = probe(&server, &provider);
    call.answer(&Answer::texts(&["ok"]));
    assert_eq!(conn.reply().text(), "ok");
    assert_eq!(fail(&server, &provider, 500), 503);
    assert_eq!(fail(&server, &provider, 503), 503);
    is_open(&server, &provider);
    // Half-open: one request goes through, the others are refused while it runs; it fails.
    let (mut conn, call) = probe(&server, &provider);
    is_open(&server, &provider);
    call.answer(&Answer::status(500, "", "no"));
    assert_eq!(conn.reply().status, 503);
    is_open(&server, &provider);
    // The next probe is left by its client: that is no verdict, another may try.
    let (conn, call) = probe(&server, &provider);
    drop(conn);
    call.closed_at();
    // And one that goes well.
    let (mut conn, call) = probe(&server, &provider);
    call.answer(&Answer::texts(&["back"]));
    assert_eq!(conn.reply().text(), "back");
    assert_eq!(fail(&server, &provider, 500), 503);
    let (mut conn, call) = probe(&server, &provider);
    call.answer(&Answer::texts(&["closed"]));
    assert_eq!(conn.reply().text(), "closed");
}

#[test]
fn only_trouble_of_the_provider_counts() {
    let provider = Provider::played();
    let server = Server::start(&provider, SETTINGS);
    for status in [400, 401, 402, 403, 404, 422, 429] {
        for _ in 0..3 {
            let expected = if status == 429 { 503 } else { 502 };
            assert_eq!(fail(&server, &provider, status), expected, "{status}");
        }
    }
    let (mut conn, call) = probe(&server, &provider);
    call.answer(&Answer::texts(&["still closed"]));
    assert_eq!(conn.reply().text(), "still closed");
}

/// Asks from that address and lets the provider answer so; the status that the client got.
fn asked_from(server: &Server, provider: &Provider, address: &str, answer: &Answer) -> u16 {
    let mut conn = server.connect();
    conn.ask("Hi", &[("X-Forwarded-For", address)]);
    provider.call().answer(answer);
    conn.reply().status
}

#[test]
fn one_visitor_does_not_open_it_for_others() {
    let provider = Provider::played();
    let server = Server::start(&provider, SETTINGS);
    let refused = Answer {
        bytes: [
            STREAM_HEAD,
            b"data: {\"error\":{\"message\":\"Content Exists Risk\",\"type\":\"invalid_request_error\"}}\n\n",
        ]
        .concat(),
        keep: false,
    };
    let busy = Answer::status(500, "", "no");
    let good = Answer::texts(&["ok"]);
    // What a provider says of one question, and its failures as one visitor meets them.
    for (answer, expected) in [(&refused, 502), (&busy, 503)] {
        for n in 0..8 {
            let status = asked_from(&server, &provider, "203.0.113.9", answer);
            assert_eq!(status, expected, "{n}");
        }
        let other = asked_from(&server, &provider, "198.51.100.1", &good);
        assert_eq!(other, 200);
    }
    // Two visitors, of whom one is nearly enough by itself.
    for _ in 0..8 {
        asked_from(&server, &provider, "203.0.113.9", &busy);
    }
    asked_from(&server, &provider, "198.51.100.1", &busy);
    is_open(&server, &provider);
}

#[test]
fn zero_means_never() {
    let provider = Provider::played();
    let server = Server::start(&provider, "upstream.breaker_failures_max = 0\n");
    for _ in 0..8 {
        assert_eq!(fail(&server, &provider, 500), 503);
    }
}
