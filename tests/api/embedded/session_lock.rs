//! The session store hangs: another process holds the lock of its file. What each kind of request
//! gets then is a table of the contract, and all of it comes back by itself.

use rusqlite::Connection;
use serde_json::json;

use crate::kit::client::Headers;
use crate::kit::provider::Answer;
use crate::kit::{Browser, Provider, Reply, Server, seconds, until};

/// Holds the session file's lock until dropped.
fn hang(server: &Server) -> Connection {
    super::hang(server, "sessions.db")
}

/// What the contract says of a request that needs the store.
fn is_unavailable(reply: &Reply) {
    assert_eq!(reply.status, 503, "{}", reply.body);
    assert_eq!(reply.json(), json!({"error": "Service unavailable"}));
    let wait = reply.get("retry-after").expect("it says when");
    assert!(wait.parse::<u32>().is_ok_and(|wait| wait > 0), "{wait}");
    assert_eq!(reply.get("set-cookie"), None);
}

/// Everything works again within 2 s of the lock's end.
fn recovers(server: &Server, lock: Connection) {
    drop(lock);
    let took = seconds(|| {
        until("the chat to work again", || {
            let reply = server.chat("Hi", &[]);
            (reply.status == 200 && reply.body.ends_with("{\"done\":\"stop\"}\n")).then_some(())
        });
        assert_eq!(server.get("/auth/healthz").status, 200);
    });
    assert!(took < 2.0, "{took} s");
}

#[test]
fn who_needs_the_store_gets_503_and_everybody_else_is_served() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "chat.rate_per_minute = 100");
    let mut browser = Browser::new(&server);
    browser.ask("first");
    let mut forgetful = Browser::new(&server);
    forgetful.ask("mine");
    let lock = hang(&server);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let took = seconds(|| is_unavailable(&browser.open("Hi").reply()));
            assert!(took < 2.5, "chat: {took} s");
        });
        scope.spawn(|| {
            let took = seconds(|| is_unavailable(&forgetful.forget()));
            assert!(took < 2.5, "reset_chat: {took} s");
        });
        scope.spawn(|| {
            for _ in 0..2 {
                let took = seconds(|| {
                    let reply = server.get("/auth/healthz");
                    assert_eq!(reply.status, 503, "{}", reply.body);
                    assert_eq!(reply.json()["ok"], false);
                    assert_eq!(reply.json()["redis"], false);
                });
                assert!(took <= 1.0, "healthz: {took} s");
            }
        });
        let json = [("Content-Type", "application/json")];
        let rows: [(&str, Headers<'_>, u16); 6] = [
            ("GET /test", &[], 200),
            ("GET /nowhere", &[], 404),
            ("PUT /test", &[], 405),
            ("POST /deepseek_chat", &json, 400),
            ("POST /deepseek_chat", &[], 415),
            ("POST /reset_chat", &[], 200),
        ];
        for (line, headers, status) in rows {
            let took = seconds(|| {
                assert_eq!(server.call(line, headers, Some(b"{}")).status, status);
            });
            assert!(took < 0.5, "{line}: {took} s");
        }
    });
    assert_eq!(
        provider.received().len(),
        2,
        "nothing was asked of the model"
    );
    recovers(&server, lock);
    browser.ask("second");
    assert_eq!(provider.last().talk().len(), 3, "nothing was lost");
}

#[test]
fn healthz_sees_a_hanging_store_that_nobody_else_asks() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let lock = hang(&server);
    let took = seconds(|| {
        let reply = server.get("/auth/healthz");
        assert_eq!((reply.status, &reply.json()["redis"]), (503, &false.into()));
    });
    assert!(took <= 1.0, "{took} s");
    recovers(&server, lock);
}

#[test]
fn running_streams_go_on_and_say_that_they_were_not_saved() {
    let provider = Provider::played();
    let server = Server::start(&provider, "chat.streams_per_client_max = 20");
    let mut streams: Vec<_> = (0..10)
        .map(|_| {
            let mut conn = server.connect();
            conn.ask("Hi", &[]);
            let mut call = provider.call();
            call.accept().text("a");
            assert_eq!(conn.head().status, 200);
            assert_eq!(conn.line().as_deref(), Some("{\"text\":\"a\"}"));
            (conn, call)
        })
        .collect();
    let lock = hang(&server);
    for (conn, call) in &mut streams {
        call.text("b");
        assert_eq!(conn.line().as_deref(), Some("{\"text\":\"b\"}"));
    }
    let took = seconds(|| {
        let conns: Vec<_> = streams
            .into_iter()
            .map(|(conn, call)| {
                call.finish("stop");
                conn
            })
            .collect();
        for mut conn in conns {
            let (body, whole) = conn.rest();
            let last: serde_json::Value = serde_json::from_str(body.trim()).expect("one line");
            assert_eq!(
                (last, whole),
                (json!({"done": "stop", "saved": false}), true)
            );
        }
    });
    assert!((1.0..3.0).contains(&took), "{took} s");
    drop(lock);
    // What is asked now is stored again, within 2 s.
    let mut browser = Browser::new(&server);
    let took = seconds(|| {
        let mut conn = browser.open("first");
        provider.call().answer(&Answer::texts(&["ok"]));
        let reply = conn.reply();
        assert!(reply.body.ends_with("{\"done\":\"stop\"}\n"));
        browser.keep(&reply.head);
    });
    assert!(took < 2.0, "{took} s");
    let mut conn = browser.open("second");
    let call = provider.call();
    assert_eq!(call.received.talk().len(), 3);
    call.answer(&Answer::texts(&["ok"]));
    conn.reply();
}

#[test]
fn a_store_that_fails_before_the_head_means_503_without_history_an_answer_without_memory() {
    for without_history in [false, true] {
        for heartbeat in [false, true] {
            let provider = Provider::played();
            let settings = format!(
                "chat.without_history = {without_history}\nstore.timeout_seconds = 0.3\n{}",
                if heartbeat {
                    "chat.heartbeat_seconds = 0.1"
                } else {
                    ""
                }
            );
            let server = Server::start(&provider, &settings);
            let mut conn = server.connect();
            conn.ask("Hi", &[]);
            let mut call = provider.call();
            // The history has been looked for; the cookie is still to be written.
            let lock = hang(&server);
            if !heartbeat {
                call.accept().text("Hi");
            }
            if !without_history {
                is_unavailable(&conn.reply());
                call.closed_at();
                // It is the store's failure, not the provider's.
                let log = server.log();
                assert!(!log.contains("provider failed"), "{log}");
                assert!(heartbeat || log.contains("event=\"chat failed\""), "{log}");
            } else {
                if heartbeat {
                    let head = conn.head();
                    assert_eq!(conn.line().as_deref(), Some(""));
                    assert_eq!((head.status, head.get("set-cookie")), (200, None));
                    call.accept().text("Hi");
                    call.finish("stop");
                    assert_eq!(conn.next_line().as_deref(), Some("{\"text\":\"Hi\"}"));
                } else {
                    call.finish("stop");
                    let head = conn.head();
                    assert_eq!((head.status, head.get("set-cookie")), (200, None));
                    assert_eq!(conn.line().as_deref(), Some("{\"text\":\"Hi\"}"));
                }
                let last = "{\"done\":\"stop\",\"saved\":false}";
                assert_eq!(conn.next_line().as_deref(), Some(last));
            }
            drop(lock);
        }
    }
}

#[test]
fn without_history_the_chat_answers_without_memory_and_counts_in_the_process() {
    let provider = Provider::friendly();
    let settings =
        "chat.without_history = true\nchat.rate_per_minute = 2\nstore.timeout_seconds = 0.3";
    let server = Server::start(&provider, settings);
    let mut browser = Browser::new(&server);
    browser.ask("first");
    let cookie = browser.cookie.clone();
    let lock = hang(&server);
    for n in 0..4 {
        let took = seconds(|| {
            let reply = browser.ask("Hi");
            if n < 2 {
                assert_eq!((reply.status, reply.text().as_str()), (200, "Hello you"));
                assert_eq!(
                    reply.get("set-cookie"),
                    None,
                    "there is nothing to continue"
                );
                assert_eq!(provider.last().talk(), ["user: Hi"]);
            } else {
                assert_eq!(reply.status, 429, "{}", reply.body);
                assert!(reply.get("retry-after").is_some());
            }
        });
        assert!(took < 1.0, "{took} s");
    }
    let other = [("X-Forwarded-For", "1.2.3.4")];
    assert_eq!(server.chat("Hi", &other).status, 200, "each for themselves");
    assert!(provider.received().len() == 4 && browser.cookie == cookie);
    drop(lock);
    // The memory comes back, and with it the count.
    let known = format!("cc_app={}", cookie.expect("the first chat set it"));
    let took = seconds(|| {
        until("the history to be back", || {
            let headers = [("Cookie", known.as_str()), ("X-Forwarded-For", "1.2.3.5")];
            assert_eq!(server.chat("back", &headers[..]).status, 200);
            (provider.last().talk().len() == 3).then_some(())
        });
    });
    assert!(took < 2.0, "{took} s");
}
