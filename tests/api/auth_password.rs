//! Another password: by way of a mailed token, and by whoever knows the old one.

use std::thread;

use serde_json::json;

use crate::kit::{PASSWORD, Person, Provider, Server, fails, is_weak};

const OTHER: &str = "battery staple 2";
const DEBUG: &str = "auth.debug_return_reset_token = true\nserver.cookie_secure = false";

fn token(server: &Server, identifier: &str) -> Option<String> {
    let body = json!({"identifier": identifier});
    let reply = Person::new(server).post("/auth/password/forgot", &body);
    assert_eq!((reply.status, &reply.json()["ok"]), (200, &json!(true)));
    let token = reply.json().get("debug_token")?.as_str()?.to_owned();
    assert_eq!(reply.json()["debug_ttl"], 900);
    Some(token)
}

#[test]
fn forgot_says_the_same_to_everybody() {
    let server = Server::start(&Provider::friendly(), "");
    Person::logged_in(&server, "alice@b.c");
    for body in [
        json!({"identifier": "alice@b.c"}),
        json!({"identifier": "nobody@b.c"}),
        json!({"identifier": "+1"}),
        json!({"identifier": "x".repeat(50_000)}),
        json!({"identifier": 1}),
        json!({"identifier": ""}),
        json!({}),
    ] {
        // Over the limit too.
        for _ in 0..7 {
            let reply = Person::new(&server).post("/auth/password/forgot", &body);
            assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"ok":true}"#));
        }
    }
}

#[test]
fn a_token_works_once() {
    let server = Server::start(&Provider::friendly(), DEBUG);
    assert!(
        server.log().contains("debug_return_reset_token"),
        "the server warns"
    );
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let mut second = Person::new(&server);
    assert_eq!(second.login("alice@b.c", PASSWORD).status, 200);
    assert_eq!(token(&server, "nobody@b.c"), None);
    let old = token(&server, "alice@b.c").expect("she is there");
    let token = token(&server, "ALICE@b.c").expect("she is there");
    let reset = |token: &str, password: &str| {
        let body = json!({"token": token, "password": password});
        Person::new(&server).post("/auth/password/reset", &body)
    };
    const WEAK: &str = "Invalid token or weak password";
    const INVALID: &str = "Token invalid or expired";
    fails(&reset("", OTHER), 400, WEAK);
    fails(&reset("", "weak"), 400, WEAK);
    is_weak(&reset(&token, "weak"), WEAK, "short");
    is_weak(&reset("x", "abcd1234"), WEAK, "common");
    fails(&reset(&old, OTHER), 400, INVALID);
    fails(&reset("x", OTHER), 400, INVALID);
    fails(&reset(&"x".repeat(43), OTHER), 400, INVALID);
    let replies: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| reset(&token, OTHER)))
            .collect();
        running
            .into_iter()
            .map(|t| t.join().expect("no panic"))
            .collect()
    });
    let (good, bad): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert_eq!(good.len(), 1);
    assert_eq!(good[0].json(), json!({"ok": true, "revoked_sessions": 2}));
    bad.iter().for_each(|reply| fails(reply, 400, INVALID));
    assert_eq!((alice.me(), second.me()), (401, 401));
    fails(
        &Person::new(&server).login("alice@b.c", PASSWORD),
        401,
        "Invalid credentials",
    );
    assert_eq!(Person::new(&server).login("alice@b.c", OTHER).status, 200);
    // What only she was known by is void: a stranger's failures hold for this browser again.
    for _ in 0..10 {
        Person::new(&server).login("alice@b.c", "wrong");
    }
    fails(&alice.login("alice@b.c", OTHER), 401, "Invalid credentials");
}

#[test]
fn a_reset_may_leave_sessions_alone() {
    let server = Server::start(
        &Provider::friendly(),
        &format!("{DEBUG}\nauth.reset_revokes_sessions = false"),
    );
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let token = token(&server, "alice@b.c").expect("she is there");
    let body = json!({"token": token, "password": OTHER});
    let reply = Person::new(&server).post("/auth/password/reset", &body);
    assert_eq!(reply.json(), json!({"ok": true, "revoked_sessions": 0}));
    assert_eq!(alice.me(), 200);
}

#[test]
fn a_change_needs_the_old_password_and_ends_other_sessions() {
    let server = Server::start(&Provider::friendly(), "");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let mut other = Person::new(&server);
    assert_eq!(other.login("alice@b.c", PASSWORD).status, 200);
    let mut change = |old: &str, new: &str| {
        let body = json!({"old_password": old, "new_password": new});
        let reply = alice.post("/auth/password/change", &body);
        (reply, alice.cookies.clone())
    };
    is_weak(&change(PASSWORD, "onlyletters").0, "Weak password", "kinds");
    fails(&change("wrong", OTHER).0, 401, "Invalid credentials");
    let (_, before) = change("wrong", OTHER);
    let (reply, after) = change(PASSWORD, OTHER);
    assert_eq!(reply.json(), json!({"ok": true, "revoked_sessions": 1}));
    assert_ne!(before["cc_auth"], after["cc_auth"]);
    assert_ne!(before["cc_dev"], after["cc_dev"]);
    assert_eq!((alice.me(), other.me()), (200, 401));
    let mut ghost = Person::new(&server);
    ghost.cookies = before;
    assert_eq!(ghost.me(), 401);
    fails(
        &other.login("alice@b.c", PASSWORD),
        401,
        "Invalid credentials",
    );
    assert_eq!(other.login("alice@b.c", OTHER).status, 200);
    // Wrong ones count as failed logins of this browser: none is left after ten.
    for _ in 0..10 {
        let body = json!({"old_password": "wrong", "new_password": PASSWORD});
        alice.post("/auth/password/change", &body);
    }
    let body = json!({"old_password": OTHER, "new_password": PASSWORD});
    fails(
        &alice.post("/auth/password/change", &body),
        401,
        "Invalid credentials",
    );
}
