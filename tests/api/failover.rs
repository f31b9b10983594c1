//! Several providers: who is asked, and which status counts in the end.

use crate::kit::provider::{Answer, delta, finish, recorded, row};
use crate::kit::server::{free_port, no_rate_limit};
use crate::kit::{Provider, Server};

const NO_BREAKER: &str = "upstream.breaker_failures_max = 0\n";

fn server(first: &str, second: &Provider, settings: &str) -> Server {
    let rows = first.to_owned() + &second.row_named("second");
    Server::with(
        &(no_rate_limit(&(settings.to_owned() + NO_BREAKER)) + &rows),
        &[],
    )
}

#[test]
fn which_failures_lead_to_the_next_provider() {
    let rows = [
        (400, false),
        (401, true),
        (402, true),
        (403, true),
        (404, true),
        (422, false),
        (429, true),
        (500, true),
        (502, true),
        (503, true),
        (529, true),
    ];
    let first = Provider::answering(move |n, _| Answer::status(rows[n].0, "", "no"));
    let second = Provider::friendly();
    let server = server(&first.row_named("first"), &second, "");
    let mut asked = 0;
    for (status, fails_over) in rows {
        let reply = server.chat("Hi", &[]);
        asked += usize::from(fails_over);
        assert_eq!(second.received().len(), asked, "{status}");
        assert_eq!(reply.status, if fails_over { 200 } else { 502 }, "{status}");
        assert!(reply.whole, "{status}");
    }
    assert_eq!(
        first.received().len(),
        rows.len(),
        "the first is always asked first"
    );
    assert_eq!(
        second.last().body["messages"],
        first.last().body["messages"]
    );
}

#[test]
fn a_failure_inside_a_stream_leads_to_the_next_provider_before_the_first_text_only() {
    let streams = [
        recorded("refused"),
        recorded("event-error"),
        recorded("done-only"),
        finish("error").into_bytes(),
        b"data:\n\n".to_vec(),
    ];
    let count = streams.len();
    let first = Provider::answering(move |n, _| match streams.get(n) {
        Some(stream) => Answer::events(stream),
        None => Answer::events(&recorded("finish-error")),
    });
    let second = Provider::friendly();
    let server = server(&first.row_named("first"), &second, "");
    for n in 0..count {
        assert_eq!(server.chat("Hi", &[]).text(), "Hello you", "stream {n}");
    }
    let reply = server.chat("Hi", &[]);
    assert!(!reply.whole && reply.text() == "Hel", "{}", reply.body);
    assert_eq!(second.received().len(), count);
}

#[test]
fn an_unreachable_or_hanging_provider_is_passed_over() {
    let second = Provider::friendly();
    let gone = row("gone", &format!("http://127.0.0.1:{}", free_port()));
    assert_eq!(
        server(&gone, &second, "").chat("Hi", &[]).text(),
        "Hello you"
    );
    // TCP accepts, TLS never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = silent.local_addr().expect("it is bound").port();
    let silent_row = row("silent", &format!("https://127.0.0.1:{port}"));
    let server = server(&silent_row, &second, "upstream.connect_seconds = 0.3\n");
    assert_eq!(server.chat("Hi", &[]).text(), "Hello you");
}

#[test]
fn the_last_status_counts() {
    let statuses = [
        (500, 401, 502),
        (401, 500, 503),
        (429, 402, 502),
        (503, 400, 502),
        (403, 429, 503),
    ];
    let first =
        Provider::answering(move |n, _| Answer::status(statuses[n].0, "Retry-After: 1\r\n", ""));
    let second =
        Provider::answering(move |n, _| Answer::status(statuses[n].1, "Retry-After: 2\r\n", ""));
    let server = server(&first.row_named("first"), &second, "");
    for (one, two, expected) in statuses {
        let reply = server.chat("Hi", &[]);
        assert_eq!(reply.status, expected, "{one}, then {two}: {}", reply.body);
        if expected == 503 {
            assert_eq!(reply.get("retry-after"), Some("2"), "{one}, then {two}");
        }
    }
}

#[test]
fn the_next_provider_may_be_asked_after_a_heartbeat_but_never_after_a_text() {
    let first = Provider::played();
    let second = Provider::friendly();
    let server = server(
        &first.row_named("first"),
        &second,
        "chat.heartbeat_seconds = 0.15\n",
    );
    let mut conn = server.connect();
    conn.ask("Hi", &[]);
    let call = first.call();
    assert_eq!(conn.head().status, 200);
    assert_eq!(conn.line().as_deref(), Some(""));
    call.answer(&Answer::status(503, "", "no"));
    assert_eq!(conn.next_line().as_deref(), Some("{\"text\":\"Hello\"}"));
    assert_eq!(conn.next_line().as_deref(), Some("{\"text\":\" you\"}"));
    assert_eq!(conn.rest(), ("{\"done\":\"stop\"}\n".to_owned(), true));

    let mut conn = server.connect();
    conn.ask("Hi", &[]);
    first.call().answer(&Answer::cut(&delta("mine")));
    let reply = conn.reply();
    assert!(!reply.whole && reply.text() == "mine", "{}", reply.body);
    assert_eq!(second.received().len(), 1);
}

#[test]
fn the_first_event_limit_covers_all_providers_together() {
    let (first, second) = (Provider::played(), Provider::played());
    let server = server(
        &first.row_named("first"),
        &second,
        "upstream.first_event_seconds = 0.5\n",
    );
    let mut conn = server.connect();
    let took = crate::kit::seconds(|| {
        conn.ask("Hi", &[]);
        let _call = first.call();
        let reply = conn.reply();
        assert_eq!(reply.status, 504, "{}", reply.body);
    });
    assert!((0.4..1.0).contains(&took), "{took} s");
}
