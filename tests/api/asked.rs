//! What the provider is asked, and over which connection.

use crate::kit::provider::Answer;
use crate::kit::{Provider, Server};

#[test]
fn the_request_to_the_provider() {
    let provider = Provider::friendly();
    let config = "chat.rate_per_minute = 0\n".to_owned() + &provider.row();
    let env = [
        ("TEST_KEY", "sk-test-1"),
        ("SYSTEM_PROMPT", "You are \"brief\".\n你好"),
    ];
    let server = Server::with(&config, &env);
    server.chat("What is 1+1?", &[]);
    let received = provider.last();
    let head = received.head.to_ascii_lowercase();
    assert!(
        received
            .head
            .starts_with("POST /v1/chat/completions HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(received.head.contains("Bearer sk-test-1"), "{head}");
    assert!(
        head.contains(&format!("host: 127.0.0.1:{}\r\n", provider.port)),
        "{head}"
    );
    assert!(head.contains("content-type: application/json"), "{head}");
    let expected = serde_json::json!({
        "model": "m-1",
        "messages": [
            {"role": "system", "content": "You are \"brief\".\n你好"},
            {"role": "user", "content": "What is 1+1?"},
        ],
        "stream": true,
        "temperature": 0.7,
        "max_tokens": 2000,
    });
    assert_eq!(received.body, expected);
}

#[test]
fn a_provider_row_can_change_the_request() {
    let provider = Provider::friendly();
    let row = provider.row()
        + "temperature = 0.2\nmax_tokens = 99\nextra = { thinking = { type = \"disabled\" }, top_p = 0.5 }\n";
    let server = Server::with(&row, &[]);
    server.chat("Hi", &[]);
    let received = provider.last();
    let body = &received.body;
    assert_eq!(
        (&body["temperature"], &body["max_tokens"]),
        (&0.2.into(), &99.into())
    );
    assert_eq!(body["thinking"], serde_json::json!({"type": "disabled"}));
    assert_eq!(body["top_p"], 0.5);
    assert!(
        !received.head.to_ascii_lowercase().contains("authorization"),
        "there is no key"
    );
    let prompt = "请你扮演张人大，英文名 Renda Zhang";
    assert_eq!(body["messages"][0]["content"], prompt);
}

#[test]
fn provider_connections_are_kept_warm_and_a_dead_one_is_replaced_in_silence() {
    let provider = Provider::played();
    let server = Server::start(&provider, "server.workers = 1");
    let served = |close: bool| {
        let mut conn = server.connect();
        conn.ask("Hi", &[]);
        let call = provider.call();
        let answer = Answer {
            keep: !close,
            ..Answer::texts(&["ok"])
        };
        call.answer(&answer);
        assert_eq!(conn.reply().text(), "ok");
    };
    // One connection serves several requests; the model list may have had its own.
    served(false);
    let before = provider.connections();
    served(false);
    served(true);
    assert_eq!(
        provider.connections(),
        before,
        "the connection was used again"
    );
    // It is closed now without our having said so; the next request must not notice.
    served(false);
    assert_eq!(provider.connections(), before + 1);
    // It dies after the request has been written, before any byte: one silent second try.
    let mut conn = server.connect();
    conn.ask("Hi", &[]);
    provider.call().reset();
    provider.call().answer(&Answer::texts(&["second try"]));
    assert_eq!(conn.reply().text(), "second try");
}
