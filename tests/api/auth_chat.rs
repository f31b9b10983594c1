//! A login in the chat: whose history it is, and by what it is counted.

use serde_json::json;

use crate::kit::{Person, Provider, Server};

#[test]
fn a_chat_belongs_to_its_user() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let ask = |person: &mut Person<'_>, message: &str| {
        let reply = person.post("/deepseek_chat", &json!({"message": message}));
        assert_eq!(reply.status, 200, "{}", reply.body);
        provider.last().talk().len()
    };
    assert_eq!(ask(&mut alice, "one"), 1);
    assert_eq!(ask(&mut alice, "two"), 3);
    // The chat's cookie alone is of no use, nor with an invalid login or another user's.
    let mut thief = Person::new(&server);
    for login in [None, Some("x".repeat(43))] {
        thief.cookies.clone_from(&alice.cookies);
        thief.cookies.remove("cc_auth");
        login.map(|value| thief.cookies.insert("cc_auth".into(), value));
        assert_eq!(thief.send("POST /reset_chat", None).status, 200);
        assert_eq!(ask(&mut thief, "three"), 1);
        assert_ne!(thief.cookies["cc_app"], alice.cookies["cc_app"]);
    }
    let mut bob = Person::logged_in(&server, "bob@b.c");
    bob.cookies
        .insert("cc_app".into(), alice.cookies["cc_app"].clone());
    assert_eq!(bob.send("POST /reset_chat", None).status, 200);
    assert_eq!(ask(&mut bob, "four"), 1);
    assert_eq!(ask(&mut alice, "five"), 5);
    assert_eq!(alice.send("POST /reset_chat", None).status, 200);
    assert_eq!(ask(&mut alice, "six"), 1);
}

#[test]
fn users_are_counted_wherever_they_are() {
    let server = Server::start(&Provider::friendly(), "chat.rate_per_minute = 2");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let body = json!({"message": "Hi"});
    let statuses: Vec<u16> = (0..3)
        .map(|n| {
            alice.address = format!("192.0.2.{n}");
            alice.post("/deepseek_chat", &body).status
        })
        .collect();
    assert_eq!(statuses, [200, 200, 429]);
    // Others at the same address have their own.
    let mut anonymous = Person::new(&server);
    anonymous.address.clone_from(&alice.address);
    assert_eq!(anonymous.post("/deepseek_chat", &body).status, 200);
}

#[test]
fn a_login_may_be_required() {
    let server = Server::start(&Provider::friendly(), "chat.require_login = true");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let body = json!({"message": "Hi"});
    let reply = Person::new(&server).post("/deepseek_chat", &body);
    assert_eq!(
        (reply.status, reply.json()),
        (401, json!({"error": "Unauthorized"}))
    );
    assert_eq!(alice.post("/deepseek_chat", &body).status, 200);
    assert_eq!(
        Person::new(&server)
            .post("/deepseek_chat", &json!({}))
            .status,
        400
    );
    alice.send("POST /auth/logout", None);
    assert_eq!(alice.post("/deepseek_chat", &body).status, 401);
}
