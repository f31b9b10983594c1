//! A chat that outgrows the model's context: it goes on with less, and remembers how much fitted.

use crate::kit::provider::Answer;
use crate::kit::server::no_rate_limit;
use crate::kit::{Browser, Provider, Server};

/// What servers answer to a prompt that is too long: llama.cpp, llama-cpp-python and OpenAI, vLLM, and
/// llama-cpp-python when it streams.
fn refusals() -> [Answer; 4] {
    let refusal = |body: &str| Answer::status(400, "Content-Type: application/json\r\n", body);
    [
        refusal(
            r#"{"error":{"code":400,"message":"request (23 tokens) exceeds the available context size (16 tokens), try increasing it","type":"exceed_context_size_error"}}"#,
        ),
        refusal(
            r#"{"error":{"message":"x","type":"invalid_request_error","code":"context_length_exceeded"}}"#,
        ),
        refusal(
            r#"{"object":"error","message":"This model's maximum context length is 16 tokens.","type":"BadRequestError","code":400}"#,
        ),
        Answer::status(200, "Content-Type: text/event-stream\r\n", ""),
    ]
}

/// A provider whose model has room for so many exchanges before the question.
fn with_room_for(exchanges: usize, refusal: usize) -> Provider {
    Provider::answering(
        move |n, received| match received.talk().len() / 2 > exchanges {
            true => refusals().into_iter().nth(refusal).expect("there are four"),
            false => Answer::texts(&[&format!("a{n}")]),
        },
    )
}

/// The exchanges of each prompt that has been received.
fn prompts(provider: &Provider) -> Vec<usize> {
    let received = provider.received();
    received.iter().map(|one| one.talk().len() / 2).collect()
}

const SETTINGS: &str = "chat.system_prompt = \"Be brief\"\nchat.history_max = 8\n";

#[test]
fn it_goes_on_with_half_of_the_exchanges_and_does_not_pay_again() {
    for refusal in 0..4 {
        let provider = with_room_for(3, refusal);
        let server = Server::start(&provider, SETTINGS);
        let mut browser = Browser::new(&server);
        for n in 0..7 {
            let reply = browser.ask(&format!("q{n}"));
            assert_eq!(reply.status, 200, "{refusal}: {}", reply.body);
        }
        // 4 do not fit: 2 are kept, the new one makes 3; the same again one turn later.
        assert_eq!(prompts(&provider), [0, 1, 2, 3, 4, 2, 3, 4, 2], "{refusal}");
        let talk = provider.last().talk();
        assert_eq!(talk.first().map(String::as_str), Some("user: q4"));
        assert_eq!(talk.last().map(String::as_str), Some("user: q6"));
    }
}

#[test]
fn then_with_the_question_alone_then_the_next_provider_then_an_error() {
    let first = with_room_for(0, 0);
    let second = Provider::answering(|n, received| match received.talk().len() {
        1..=3 => Answer::texts(&[&format!("b{n}")]),
        _ => refusals().into_iter().next().expect("there are four"),
    });
    let rows = first.row_named("first") + &second.row_named("second");
    let server = Server::with(&(no_rate_limit(SETTINGS) + &rows), &[]);
    let mut browser = Browser::new(&server);
    for n in 0..2 {
        assert_eq!(browser.ask(&format!("q{n}")).status, 200);
    }
    assert_eq!(prompts(&first), [0, 1, 0], "the question alone fits");
    assert_eq!(prompts(&second), [0; 0]);

    let refuses =
        || Provider::answering(|_, _| refusals().into_iter().next().expect("there are four"));
    let (first, second) = (refuses(), refuses());
    let rows = first.row_named("first") + &second.row_named("second");
    let server = Server::with(
        &(no_rate_limit(SETTINGS) + "upstream.breaker_failures_max = 1\n" + &rows),
        &[],
    );
    for _ in 0..6 {
        let reply = server.chat("Hi", &[]);
        assert_eq!(reply.status, 502);
        assert_eq!(
            reply.json()["error"],
            "The message is too long for the model"
        );
    }
    assert_eq!(second.received().len(), 6, "the breaker stays closed");
    let log = server.log();
    assert!(log.contains("code=exceed_context_size_error"), "{log}");
}

#[test]
fn a_guide_stays_when_old_exchanges_go() {
    let provider = with_room_for(1, 0);
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("guide.md");
    std::fs::write(&file, "Be kind").expect("it is writable");
    let settings = format!("{SETTINGS}chat.guide = [{{ mode = \"g\", file = {file:?} }}]\n");
    let server = Server::start(&provider, &settings);
    let mut browser = Browser::new(&server);
    for n in 0..3 {
        assert_eq!(browser.ask(&format!("q{n}")).status, 200);
    }
    let cookie = format!("cc_app={}", browser.cookie.clone().expect("a chat"));
    let headers = [("Content-Type", "application/json"), ("Cookie", &*cookie)];
    let body = br#"{"message":"q3","guideMode":"g"}"#;
    let reply = server.call("POST /deepseek_chat", &headers, Some(body));
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(provider.last().talk(), ["system: Be kind", "user: q3"]);
}
