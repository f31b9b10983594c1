//! What the model is told of what was said before.

use crate::kit::provider::{Answer, delta, finish};
use crate::kit::{Browser, Provider, Server, until};

/// Answers `n`-th requests with `a0`, `a1`, …
fn counting() -> Provider {
    Provider::answering(|n, _| Answer::texts(&[&format!("a{n}")]))
}

#[test]
fn the_second_question_carries_the_first_and_its_answer() {
    let provider = Provider::answering(|n, _| match n {
        0 => Answer::texts(&["你好 \\ud83d", "\\ude0a", " \\\"x\\\"\\n"]),
        _ => Answer::texts(&["second"]),
    });
    let server = Server::start(&provider, "chat.system_prompt = \"Be brief\"");
    let mut browser = Browser::new(&server);
    browser.ask("first \"quoted\" 😊\n");
    browser.ask("second?");
    let expected = serde_json::json!([
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "first \"quoted\" 😊\n"},
        {"role": "assistant", "content": "你好 😊 \"x\"\n"},
        {"role": "user", "content": "second?"},
    ]);
    assert_eq!(provider.last().body["messages"], expected);
    browser.ask("third?");
    assert_eq!(provider.last().talk().len(), 5);
    // Another browser has a conversation of its own.
    Browser::new(&server).ask("who am I?");
    assert_eq!(provider.last().talk(), ["user: who am I?"]);
}

#[test]
fn whoever_saw_the_last_line_can_count_on_the_memory() {
    let provider = counting();
    let server = Server::start(&provider, "server.workers = 2\nchat.history_max = 100");
    let mut browser = Browser::new(&server);
    for n in 0..30 {
        let mut conn = browser.open(&format!("q{n}"));
        browser.keep(&conn.head());
        while conn.next_line().expect("the last line comes") != "{\"done\":\"stop\"}" {}
        // The next request goes out at once, on another connection.
        assert_eq!(provider.last().talk().len(), 2 * n + 1);
    }
}

#[test]
fn at_one_and_a_half_times_the_maximum_it_is_cut_back() {
    let provider = counting();
    let server = Server::start(&provider, "chat.history_max = 4");
    let mut browser = Browser::new(&server);
    let mut seen = Vec::new();
    for n in 0..10 {
        browser.ask(&format!("q{n}"));
        let talk = provider.last().talk();
        let exchanges = talk.len() / 2;
        seen.push(exchanges);
        // Always the newest ones, whole and in order.
        let expected: Vec<String> = (n - exchanges..n)
            .flat_map(|k| [format!("user: q{k}"), format!("assistant: a{k}")])
            .chain([format!("user: q{n}")])
            .collect();
        assert_eq!(talk, expected);
    }
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 4, 5, 4, 5]);
}

#[test]
fn max_history_comes_from_the_environment_too() {
    let provider = counting();
    let server = Server::with(&provider.row(), &[("MAX_HISTORY", "2")]);
    let mut browser = Browser::new(&server);
    let seen: Vec<usize> = (0..6)
        .map(|_| {
            browser.ask("q");
            provider.last().talk().len() / 2
        })
        .collect();
    assert_eq!(seen, [0, 1, 2, 2, 2, 2]);
}

#[test]
fn over_the_bytes_the_oldest_exchanges_go_first_and_whole() {
    let provider =
        Provider::answering(|n, _| Answer::texts(&[&format!("a{n}-{}", "字".repeat(600))]));
    let settings =
        "chat.history_max = 100\nchat.answer_bytes_max = \"4K\"\nchat.history_bytes_max = \"8K\"";
    let server = Server::start(&provider, settings);
    let mut browser = Browser::new(&server);
    for n in 0..8 {
        browser.ask(&format!("q{n}-{}", "x".repeat(500)));
        let talk = provider.last().talk();
        let (before, question) = talk.split_at(talk.len() - 1);
        assert!(question[0].starts_with(&format!("user: q{n}-")));
        let bytes: usize = before.iter().map(String::len).sum();
        assert!(bytes <= 8192, "{bytes} bytes");
        // Some 2,390 bytes each with their framing: three fit, always the newest, whole, in order.
        assert_eq!(before.len() / 2, n.min(3));
        for (k, exchange) in (n - n.min(3)..n).zip(before.chunks(2)) {
            assert!(exchange[0].starts_with(&format!("user: q{k}-")));
            assert!(exchange[1].starts_with(&format!("assistant: a{k}-")));
        }
    }
}

#[test]
fn an_answer_longer_than_its_buffer_flows_on_and_is_remembered_up_to_a_whole_delta() {
    let provider = Provider::answering(|n, _| match n {
        0 => Answer::texts(&["0123456789"; 2000]),
        _ => Answer::texts(&["ok"]),
    });
    let server = Server::start(&provider, "chat.answer_bytes_max = \"4K\"");
    let mut browser = Browser::new(&server);
    let reply = browser.ask("first");
    assert_eq!((reply.text().len(), reply.whole), (20_000, true));
    browser.ask("second");
    let talk = provider.last().talk();
    let answer = talk[1]
        .strip_prefix("assistant: ")
        .expect("the answer is remembered");
    assert_eq!(answer.len(), 4090, "cut at a whole delta");
}

#[test]
fn unpaired_surrogates_are_remembered_as_replacement_characters() {
    let rows: [(&[&str], &str); 5] = [
        (&["a\\ud83d", "\\ude0ab"], "a😊b"),
        (&["a\\ud83d", "b"], "a\u{fffd}b"),
        (&["a\\ude0ab"], "a\u{fffd}b"),
        (&["\\uD83D\\uD83D\\uDE0A"], "\u{fffd}😊"),
        (&["a\\\\ud83d"], "a\\ud83d"),
    ];
    for (texts, remembered) in rows {
        let answer = Answer::texts(texts);
        let provider = Provider::answering(move |_, _| answer.clone());
        let server = Server::start(&provider, "");
        let mut browser = Browser::new(&server);
        let reply = browser.ask("first");
        let lines: Vec<String> = texts
            .iter()
            .map(|t| format!("{{\"text\":\"{t}\"}}"))
            .collect();
        assert_eq!(
            reply.lines()[..texts.len()],
            lines,
            "forwarded as they stand"
        );
        browser.ask("second");
        assert_eq!(
            provider.last().talk()[1],
            format!("assistant: {remembered}"),
            "{texts:?}"
        );
    }
}

#[test]
fn a_turn_without_text_leaves_nothing_behind() {
    let provider = Provider::answering(|n, _| match n {
        0 => Answer::events(finish("stop").as_bytes()),
        1 => Answer::texts(&["", ""]),
        _ => Answer::texts(&["ok"]),
    });
    let server = Server::start(&provider, "");
    let mut browser = Browser::new(&server);
    for question in ["nothing", "empty"] {
        let reply = browser.ask(question);
        assert_eq!(
            (reply.status, reply.body.as_str()),
            (200, "{\"done\":\"stop\"}\n")
        );
    }
    browser.ask("third");
    assert_eq!(provider.last().talk(), ["user: third"]);
}

#[test]
fn thinking_is_not_part_of_the_answer() {
    let think =
        "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hmm\",\"content\":null}}]}\n\n";
    let provider = Provider::answering(move |_, _| {
        Answer::events(format!("{think}{}{}", delta("said"), finish("stop")).as_bytes())
    });
    let server = Server::start(&provider, "");
    let mut browser = Browser::new(&server);
    assert_eq!(
        browser.ask("first").body,
        "{\"text\":\"said\"}\n{\"done\":\"stop\"}\n"
    );
    browser.ask("second");
    assert_eq!(
        provider.last().talk(),
        ["user: first", "assistant: said", "user: second"]
    );
}

#[test]
fn a_partial_answer_is_kept_when_the_client_leaves() {
    let provider = Provider::played();
    let server = Server::start(&provider, "");
    let mut browser = Browser::new(&server);
    let mut conn = browser.open("first");
    let mut call = provider.call();
    call.accept().text("part").text("ial");
    browser.keep(&conn.head());
    assert_eq!(conn.line().as_deref(), Some("{\"text\":\"part\"}"));
    assert_eq!(conn.line().as_deref(), Some("{\"text\":\"ial\"}"));
    drop(conn);
    call.closed_at();
    // Questions that are refused by the provider leave nothing, so asking again changes nothing.
    until("the partial answer to be stored", || {
        let mut conn = browser.open("second");
        let call = provider.call();
        let talk = call.received.talk();
        call.answer(&Answer::status(400, "", "no"));
        conn.reply();
        (talk == ["user: first", "assistant: partial", "user: second"]).then_some(())
    });
}

#[test]
fn reset_forgets_and_keeps_the_cookie() {
    let provider = counting();
    let server = Server::start(&provider, "");
    let mut browser = Browser::new(&server);
    browser.ask("first");
    let cookie = browser.cookie.clone();
    // Somebody else's reset changes nothing.
    Browser::new(&server).forget();
    browser.ask("second");
    assert_eq!(provider.last().talk().len(), 3);
    let reply = browser.forget();
    assert_eq!(
        reply.json(),
        serde_json::json!({"status": "Reset chat history successfully"})
    );
    browser.ask("third");
    assert_eq!(provider.last().talk(), ["user: third"]);
    assert_eq!(browser.cookie, cookie, "the cookie stays");
    browser.ask("fourth");
    assert_eq!(provider.last().talk().len(), 3);
}

#[test]
fn a_reset_during_a_running_stream_wins() {
    let provider = Provider::played();
    let server = Server::start(&provider, "");
    let mut browser = Browser::new(&server);
    let ask = |browser: &mut Browser<'_>, question: &str| {
        let mut conn = browser.open(question);
        let call = provider.call();
        let talk = call.received.talk();
        call.answer(&Answer::texts(&["ok"]));
        browser.keep(&conn.reply().head);
        talk
    };
    ask(&mut browser, "first");
    let mut conn = browser.open("second");
    let mut call = provider.call();
    call.accept().text("running");
    assert_eq!(conn.head().status, 200);
    assert_eq!(browser.forget().status, 200);
    call.text(" on");
    call.finish("stop");
    let (rest, whole) = conn.rest();
    assert!(
        whole && rest.contains("\"done\":\"stop\""),
        "the stream itself goes on: {rest}"
    );
    assert_eq!(ask(&mut browser, "third"), ["user: third"]);
    assert_eq!(
        ask(&mut browser, "fourth"),
        ["user: third", "assistant: ok", "user: fourth"]
    );
}

#[test]
fn turns_that_run_at_the_same_time_are_stored_whole_in_order_of_completion() {
    let provider = Provider::played();
    let server = Server::start(&provider, "server.workers = 2");
    let mut browser = Browser::new(&server);
    let mut conn = browser.open("zero");
    provider.call().answer(&Answer::texts(&["0"]));
    browser.keep(&conn.reply().head);
    let open = |question: &str| {
        let mut conn = browser.open(question);
        let mut call = provider.call();
        call.accept().text(&format!("to {question}, "));
        assert_eq!(conn.head().status, 200);
        (conn, call)
    };
    let (mut slow, mut slow_call) = open("slow");
    let (mut fast, mut fast_call) = open("fast");
    slow_call.text("a");
    fast_call.text("b");
    fast_call.finish("stop");
    assert!(fast.rest().1);
    slow_call.finish("stop");
    assert!(slow.rest().1);
    let mut conn = browser.open("last");
    let call = provider.call();
    let expected = [
        "user: zero",
        "assistant: 0",
        "user: fast",
        "assistant: to fast, b",
        "user: slow",
        "assistant: to slow, a",
        "user: last",
    ];
    assert_eq!(call.received.talk(), expected);
    call.answer(&Answer::texts(&["ok"]));
    conn.reply();
}
