//! The old service's keys in Redis: those that are shared, and those that must stay as they are.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Moving, OTHER, logged_in, reset, text};
use crate::kit::{PASSWORD, Person, Server, fails, is_weak};
use crate::old_service::{Service, password_of};
use crate::services::Services;

/// What all keys of either begin with: the shared ones, ours, and those that only the old service uses.
const KEYS: [&str; 8] = [
    "sess:",
    "pwreset:",
    "cc:",
    "user_sess:",
    "pwreset2:",
    "chat:",
    "session:",
    "rl:",
];
/// Where all requests that reach the old service come from.
const THEIR_ADDRESS: &str = "198.51.100.7";

/// What stands at all keys of such names, and when each ends.
fn kept(redis: &Services, names: &str) -> BTreeMap<String, [String; 2]> {
    let keys = redis.redis(&["--scan", "--pattern", names]);
    let look = |key: &str| {
        // Bytes, not all of them text.
        let value = redis.redis(&["--no-raw", "DUMP", key]);
        [value, redis.redis(&["PEXPIRETIME", key])]
    };
    let keys = keys.lines().filter(|key| !key.is_empty());
    keys.map(|key| (key.to_owned(), look(key))).collect()
}

/// A session of Flask-Session: its name, and what it holds.
fn flask_session(old: &mut Service) -> (String, Value) {
    let made = old.done(&json!({"do": "flask_session"}));
    assert_eq!(made["same"], true, "{made}");
    (text(&made["sid"]), made["value"].clone())
}

/// Somebody with that chat cookie.
fn browser<'a>(server: &'a Server, sid: &str) -> Person<'a> {
    let mut person = Person::new(server);
    person.cookies.insert("cc_app".into(), sid.to_owned());
    person
}

#[test]
fn a_session_of_flask_is_neither_taken_nor_touched() {
    let mut moving = Moving::start("POSTGRES");
    let (sid, value) = flask_session(&mut moving.old);
    assert_eq!(sid.len(), 43);
    let redis = &moving.redis;
    let before = kept(redis, "session:*");
    assert_eq!(before.keys().next(), Some(&format!("session:{sid}")));
    let (email, password) = ("user1@example.org", &password_of(1));
    let said = json!({"message": "Hi"});
    // Whoever shows it: it is sent along with each request.
    let mut person = browser(&moving.server, &sid);
    let mut ask = |line: &str, body: &Value, status: u16| {
        person.cookies.insert("cc_app".into(), sid.clone());
        let reply = person.send(line, Some(body.to_string().as_bytes()));
        assert_eq!(reply.status, status, "{line}: {}", reply.body);
        assert_eq!(kept(redis, "session:*"), before, "{line}");
        reply
    };
    for _ in 0..2 {
        let reply = ask("POST /deepseek_chat", &said, 200);
        let made = reply.cookie("cc_app").expect("a new chat");
        assert_ne!(made, sid, "a cookie that we do not know is not adopted");
    }
    ask("POST /reset_chat", &json!({}), 200);
    ask(
        "POST /auth/register",
        &json!({"email": "new@b.c", "password": PASSWORD}),
        201,
    );
    let wrong = json!({"identifier": email, "password": "wrong horse 1"});
    ask("POST /auth/login", &wrong, 401);
    let login = json!({"identifier": email, "password": password});
    ask("POST /auth/login", &login, 200);
    ask("POST /deepseek_chat", &said, 200);
    ask("GET /auth/me/export", &json!({}), 200);
    ask("POST /auth/logout", &json!({}), 200);
    ask(
        "POST /auth/password/forgot",
        &json!({"identifier": email}),
        200,
    );
    let token = moving.old.forgot(email);
    let reset = json!({"token": token, "password": OTHER});
    ask("POST /auth/password/reset", &reset, 200);
    let login = json!({"identifier": email, "password": OTHER});
    ask("POST /auth/login", &login, 200);
    let change = json!({"old_password": OTHER, "new_password": PASSWORD});
    ask("POST /auth/password/change", &change, 200);
    ask("POST /auth/sessions/revoke_others", &json!({}), 200);
    ask("DELETE /auth/me", &json!({"password": PASSWORD}), 200);
    let found = moving.old.done(&json!({"do": "flask_session", "sid": sid}));
    assert_eq!((&found["exists"], &found["value"]), (&json!(true), &value));
}

#[test]
fn a_cookie_of_flask_gets_a_chat_of_its_own_and_keeps_it() {
    let mut moving = Moving::start("POSTGRES");
    let (sid, _) = flask_session(&mut moving.old);
    let mut person = browser(&moving.server, &sid);
    let said = json!({"message": "Hi"});
    assert_eq!(person.post("/deepseek_chat", &said).status, 200);
    let made = person.cookies["cc_app"].clone();
    assert_ne!(made, sid);
    assert_eq!(kept(&moving.redis, "chat:*").len(), 1);
    assert_eq!(person.post("/deepseek_chat", &said).status, 200);
    assert_eq!(person.cookies["cc_app"], made, "the same chat goes on");
    assert_eq!(kept(&moving.redis, "chat:*").len(), 1);
}

#[test]
fn counters_are_each_service_s_own_and_all_keys_end() {
    let mut moving = Moving::start("POSTGRES");
    let Moving {
        server, old, redis, ..
    } = &mut moving;
    let users = [1, 2, 3].map(|n| (format!("user{n}@example.org"), password_of(n)));
    for (email, password) in &users {
        old.login(email, password);
        old.refuses_login(email, "wrong horse 1", "wrong password");
        old.forgot(email);
    }
    old.register("dora@b.c", PASSWORD);
    let theirs = kept(redis, "rl:*");
    assert!(theirs.len() > 6, "{theirs:?}");
    for (email, password) in &users {
        let mut person = Person::new(server);
        person.address = THEIR_ADDRESS.to_owned();
        assert_eq!(person.login(email, "wrong horse 1").status, 401);
        assert_eq!(person.login(email, password).status, 200);
        let chat = person.post("/deepseek_chat", &json!({"message": "Hi"}));
        assert_eq!(chat.status, 200);
        let forgot = json!({ "identifier": email });
        let forgot = person.post("/auth/password/forgot", &forgot);
        assert_eq!(forgot.status, 200);
    }
    fails(
        &Person::new(server).register("dora@b.c"),
        409,
        "Email already registered",
    );
    assert_eq!(kept(redis, "rl:*"), theirs);
    let ours = kept(redis, "cc:rl:*");
    assert!(ours.len() > 6, "{ours:?}");
    for (email, password) in &users {
        old.login(email, password);
        old.refuses_login(email, "wrong horse 1", "wrong password");
        let token = old.forgot(email);
        old.reset(&token, OTHER);
    }
    old.register("emil@b.c", PASSWORD);
    assert_eq!(kept(redis, "cc:rl:*"), ours);
    // Of both together: each key has a name that the contract knows, and an end.
    let (sid, _) = old.login(&users[0].0, OTHER);
    assert_eq!(super::with_session(server, &sid).me(), 200);
    for (key, [_, ends_ms]) in kept(redis, "*") {
        assert!(KEYS.iter().any(|name| key.starts_with(name)), "{key}");
        assert!(
            ends_ms.parse::<i64>().is_ok_and(|ms| ms > 0),
            "{key}: {ends_ms}"
        );
    }
}

#[test]
fn a_reset_token_works_once_at_either() {
    let mut moving = Moving::start("POSTGRES");
    let Moving {
        server, old, redis, ..
    } = &mut moving;
    let (email, password) = ("user9@example.org", &password_of(9));
    let mut here = logged_in(server, email, password);
    let token = old.forgot(email);
    let key = format!("pwreset:{token}");
    assert_eq!(redis.redis(&["EXISTS", &key]), "1");
    let weak = json!({"token": token, "password": "short"});
    let reply = Person::new(server).post("/auth/password/reset", &weak);
    is_weak(&reply, "Invalid token or weak password", "short");
    assert_eq!(reset(server, &token, OTHER), 1);
    assert_eq!(redis.redis(&["EXISTS", &key]), "0");
    assert_eq!(here.me(), 401);
    let again = json!({"token": token, "password": PASSWORD});
    let reply = Person::new(server).post("/auth/password/reset", &again);
    fails(&reply, 400, "Token invalid or expired");
    let used = json!({"do": "reset", "token": token, "password": PASSWORD});
    old.refuses(&used, "Token invalid or expired");
    // One that was used there.
    let token = old.forgot(email);
    old.reset(&token, PASSWORD);
    let again = json!({"token": token, "password": OTHER});
    let reply = Person::new(server).post("/auth/password/reset", &again);
    fails(&reply, 400, "Token invalid or expired");
    logged_in(server, email, PASSWORD);
}
