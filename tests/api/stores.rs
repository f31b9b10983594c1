//! The session store does not answer: another process holds the lock of its files.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::kit::{Browser, Provider, Server, seconds, until};

/// Write locks on every SQLite file of the server, until dropped.
fn lock(server: &Server) -> Vec<Connection> {
    let files = databases(&server.data());
    assert!(
        !files.is_empty(),
        "the store has its files in the data folder"
    );
    let lock = |path: &PathBuf| {
        let connection = Connection::open(path).expect("it is a database");
        connection
            .busy_timeout(crate::kit::PATIENCE)
            .expect("it can be set");
        connection
            .execute_batch("BEGIN IMMEDIATE")
            .expect("the lock is given");
        connection
    };
    files.iter().map(lock).collect()
}

fn databases(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder)
        .expect("the data folder is there")
        .flatten();
    let is_database =
        |path: &PathBuf| fs::read(path).is_ok_and(|b| b.starts_with(b"SQLite format 3"));
    files
        .map(|entry| entry.path())
        .filter(is_database)
        .collect()
}

#[test]
fn chats_are_refused_and_come_back_by_themselves() {
    let provider = Provider::friendly();
    let server = Server::start(
        &provider,
        "chat.rate_per_minute = 100\nstore.timeout_seconds = 0.4",
    );
    let mut browser = Browser::new(&server);
    browser.ask("first");
    let lock = lock(&server);
    let took = seconds(|| {
        let reply = server.chat("Hi", &[]);
        assert_eq!(reply.status, 503, "{}", reply.body);
        assert!(reply.get("retry-after").is_some());
        assert!(reply.json()["error"].is_string());
    });
    assert!(took < 2.5, "{took} s");
    let took = seconds(|| drop(server.get("/auth/healthz")));
    assert!(took < 1.2, "{took} s");
    assert_eq!(server.get("/test").status, 200);
    assert_eq!(server.get("/nowhere").status, 404);
    assert_eq!(server.post_chat(b"{}").status, 400);
    drop(lock);
    let took = seconds(|| {
        until("the chat to work again", || {
            (server.chat("Hi", &[]).status == 200).then_some(())
        });
    });
    assert!(took < 2.0, "{took} s");
    assert_eq!(server.get("/auth/healthz").status, 200);
    browser.ask("second");
    assert_eq!(
        provider.last().talk().len(),
        3,
        "the conversation is still there"
    );
}

#[test]
fn a_running_stream_goes_on_and_says_that_it_was_not_saved() {
    let provider = Provider::played();
    let server = Server::start(&provider, "store.timeout_seconds = 0.4");
    let mut conn = server.connect();
    conn.ask("Hi", &[]);
    let mut call = provider.call();
    call.accept().text("a");
    assert_eq!(conn.head().status, 200);
    let lock = lock(&server);
    call.text("b");
    let took = seconds(|| {
        call.finish("stop");
        let (body, whole) = conn.rest();
        let lines: Vec<&str> = body.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines[..2], ["{\"text\":\"a\"}", "{\"text\":\"b\"}"]);
        let last: serde_json::Value = serde_json::from_str(lines[2]).expect("it is JSON");
        assert_eq!(last, serde_json::json!({"done": "stop", "saved": false}));
        assert!(whole);
    });
    assert!(took < 3.0, "{took} s");
    drop(lock);
}

#[test]
fn without_history_the_chat_answers_without_memory() {
    let provider = Provider::friendly();
    let settings =
        "chat.without_history = true\nchat.rate_per_minute = 100\nstore.timeout_seconds = 0.3";
    let server = Server::start(&provider, settings);
    let lock = lock(&server);
    let reply = server.chat("Hi", &[]);
    assert_eq!((reply.status, reply.text().as_str()), (200, "Hello you"));
    drop(lock);
}
