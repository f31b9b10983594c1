//! A store hangs, because another process holds the lock of its file: what accounts answer then.

use serde_json::json;

use super::hang;
use crate::kit::{PASSWORD, Person, Provider, Reply, Server, fails, seconds, until};

fn unavailable(reply: &Reply) {
    fails(reply, 503, "Service unavailable");
    assert!(reply.get("retry-after").is_some());
    assert_eq!(reply.get("set-cookie"), None);
}

#[test]
fn while_the_session_store_hangs() {
    let server = Server::start(&Provider::friendly(), "store.timeout_seconds = 0.2");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let mut bob = Person::logged_in(&server, "bob@b.c");
    let lock = hang(&server, "sessions.db");
    unavailable(&Person::new(&server).register("new@b.c"));
    unavailable(&Person::new(&server).login("alice@b.c", PASSWORD));
    let body = json!({"identifier": "alice@b.c"});
    unavailable(&Person::new(&server).post("/auth/password/forgot", &body));
    let body = json!({"token": "x".repeat(43), "password": PASSWORD});
    unavailable(&Person::new(&server).post("/auth/password/reset", &body));
    unavailable(&alice.get("/auth/me"));
    unavailable(&bob.send("POST /auth/logout", None));
    assert!(bob.cookies.contains_key("cc_auth"));
    // What needs no store is as always.
    let mut nobody = Person::new(&server);
    fails(&nobody.get("/auth/me"), 401, "Unauthorized");
    assert_eq!(nobody.send("POST /auth/logout", None).status, 200);
    fails(&nobody.register("no email"), 400, "Invalid email");
    drop(lock);
    until("the session to be known again", || {
        (alice.me() == 200).then_some(())
    });
}

#[test]
fn a_reset_token_survives_while_the_account_store_hangs() {
    let settings = "store.timeout_seconds = 1\nserver.cookie_secure = false\n\
                    auth.debug_return_reset_token = true";
    let server = Server::start(&Provider::friendly(), settings);
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let body = json!({"identifier": "alice@b.c"});
    let token = alice.post("/auth/password/forgot", &body).json()["debug_token"].clone();
    let body = json!({"token": token, "password": "another one 3"});
    let lock = hang(&server, "accounts.db");
    unavailable(&Person::new(&server).post("/auth/password/reset", &body));
    unavailable(&alice.get("/auth/me"));
    // Reading works beside the lock, as soon as the store has given up writing.
    until("the write to be given up", || {
        (alice.me() == 200).then_some(())
    });
    drop(lock);
    let reply = Person::new(&server).post("/auth/password/reset", &body);
    assert_eq!(reply.status, 200, "{}", reply.body);
    // Logging out asks the session store only.
    assert_eq!(alice.me(), 401);
    assert_eq!(alice.login("alice@b.c", "another one 3").status, 200);
    let _lock = hang(&server, "accounts.db");
    assert_eq!(alice.send("POST /auth/logout", None).status, 200);
}

#[test]
fn all_store_work_of_one_request_has_one_limit() {
    let settings = "store.timeout_seconds = 5\nstore.request_seconds_max = 0.4";
    let server = Server::start(&Provider::friendly(), settings);
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let lock = hang(&server, "sessions.db");
    let forgot = json!({"identifier": "alice@b.c"});
    let rows: [&dyn Fn() -> Reply; 4] = [
        &|| Person::new(&server).login("alice@b.c", PASSWORD),
        &|| Person::new(&server).register("new@b.c"),
        &|| Person::new(&server).post("/auth/password/forgot", &forgot),
        &|| Person::new(&server).post("/deepseek_chat", &json!({"message": "Hi"})),
    ];
    for (n, row) in rows.iter().enumerate() {
        let took = seconds(|| {
            let reply = row();
            assert_eq!(reply.status, 503, "{n}: {}", reply.body);
            assert!(reply.get("retry-after").is_some());
        });
        assert!((0.3..1.5).contains(&took), "{n}: {took} s");
    }
    drop(lock);
    until("the session to be known again", || {
        (alice.me() == 200).then_some(())
    });
}
