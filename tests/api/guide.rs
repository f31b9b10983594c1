//! Texts that a question may ask for by its `guideMode`: who gets them, and that nobody remembers them.

use serde_json::json;

use crate::kit::{Browser, Provider, Server};

/// A server with these guides, each a mode and a text; its history keeps two exchanges.
fn guided(provider: &Provider, guides: &[(&str, &str)]) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("there is room");
    let rows = guides.iter().map(|(mode, text)| {
        let file = folder.path().join(mode);
        std::fs::write(&file, text).expect("it is writable");
        format!("{{ mode = {mode:?}, file = {file:?} }}")
    });
    let rows: Vec<String> = rows.collect();
    let settings = format!(
        "chat.system_prompt = \"Be brief\"\nchat.history_max = 2\nchat.guide = [{}]\n",
        rows.join(", ")
    );
    (Server::start(provider, &settings), folder)
}

#[test]
fn a_guide_stands_directly_before_the_question_and_is_not_remembered() {
    let provider = Provider::friendly();
    let text = "Only what is \"public\":\n你好\t\u{1}\n";
    let (server, _folder) = guided(&provider, &[("other", "no"), ("public_site", text)]);
    let mut browser = Browser::new(&server);
    let mut ask = |body: serde_json::Value| {
        let cookie = browser
            .cookie
            .clone()
            .map(|value| format!("cc_app={value}"));
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(cookie.as_deref().map(|cookie| ("Cookie", cookie)));
        let body = body.to_string();
        let reply = server.call("POST /deepseek_chat", &headers, Some(body.as_bytes()));
        assert_eq!(reply.status, 200, "{body}: {}", reply.body);
        assert_eq!(reply.lines().last().copied(), Some(r#"{"done":"stop"}"#));
        browser.keep(&reply.head);
        provider.last().body["messages"].clone()
    };
    let system = json!({"role": "system", "content": "Be brief"});
    let guide = json!({"role": "system", "content": text});
    let user = |text: &str| json!({"role": "user", "content": text});
    let said = json!({"role": "assistant", "content": "Hello you"});
    let public = json!("public_site");
    let body = |message: &str, mode: &serde_json::Value| json!({"message": message, "guideMode": mode, "presetId": "p1", "locale": "en"});
    assert_eq!(
        ask(body("q1", &public)),
        json!([system, guide, user("q1")]),
        "the first thing on an empty page"
    );
    assert_eq!(
        ask(json!({"message": "q2"})),
        json!([system, user("q1"), said, user("q2")]),
        "what is remembered is what could be seen"
    );
    assert_eq!(
        ask(body("q3", &public)),
        json!([
            system,
            user("q1"),
            said,
            user("q2"),
            said,
            guide,
            user("q3")
        ])
    );
    // Whatever else it is.
    for mode in [
        json!("unknown"),
        json!("PUBLIC_SITE"),
        json!(""),
        json!(null),
        json!(1),
        json!(["public_site"]),
        json!({"public_site": true}),
        json!("public_site\u{0}"),
    ] {
        let messages = ask(body("q", &mode));
        let system = |message: &&serde_json::Value| message["role"] == "system";
        let messages = messages.as_array().expect("a list");
        assert_eq!(messages.iter().filter(system).count(), 1, "{mode}");
    }
    // Escaped, it is the same name.
    let raw = br#"{"guideMode":"public\u005fsite","message":"q"}"#;
    assert_eq!(server.post_chat(raw).status, 200);
    assert_eq!(
        provider.last().body["messages"],
        json!([system, guide, user("q")])
    );
    // Named twice, it is none.
    let raw = br#"{"guideMode":"public_site","message":"q","guideMode":"other"}"#;
    assert_eq!(server.post_chat(raw).status, 200);
    assert_eq!(provider.last().body["messages"], json!([system, user("q")]));
}

#[test]
fn a_guide_is_read_when_the_server_starts() {
    let provider = Provider::friendly();
    let (server, folder) = guided(&provider, &[("public_site", "old")]);
    let given = |server: &Server| {
        let reply = server.post_chat(br#"{"guideMode":"public_site","message":"q"}"#);
        assert_eq!(reply.status, 200);
        provider.last().body["messages"][1]["content"].clone()
    };
    assert_eq!(given(&server), "old");
    std::fs::write(folder.path().join("public_site"), "new").expect("it is writable");
    assert_eq!(given(&server), "old");
    let server = server.restart(libc::SIGTERM);
    assert_eq!(given(&server), "new");
}
