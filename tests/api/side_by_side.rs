//! Two servers on one set of stores are one service: sessions, limits, histories and tokens hold
//! across them.

use std::thread;

use serde_json::json;

use crate::kit::{Browser, PASSWORD, Person, Provider, Server, fails};

const OTHER: &str = "battery staple 2";

fn two(provider: &Provider, settings: &str) -> [Server; 2] {
    let one = Server::start(provider, settings);
    let two = one.second(provider, settings);
    [one, two]
}

/// The same browser at another server.
fn moved<'a>(server: &'a Server, person: &Person<'_>) -> Person<'a> {
    let mut moved = Person::new(server);
    moved.address.clone_from(&person.address);
    moved.cookies.clone_from(&person.cookies);
    moved
}

/// Runs both at the same moment.
fn both<T: Send>(one: impl FnOnce() -> T + Send, two: impl FnOnce() -> T + Send) -> [T; 2] {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let two = two();
        [one.join().expect("it does not fail"), two]
    })
}

#[test]
fn a_login_at_one_works_at_the_other_and_ends_there_too() {
    let [here, there] = two(&Provider::friendly(), "");
    let alice = Person::logged_in(&here, "alice@b.c");
    let mut there = moved(&there, &alice);
    assert_eq!(there.me(), 200);
    let sessions = there.get("/auth/sessions").json();
    assert_eq!(sessions["sessions"].as_array().map(Vec::len), Some(1));
    assert_eq!(there.send("POST /auth/logout", None).status, 200);
    let mut alice = alice;
    assert_eq!(alice.me(), 401, "at once");
    // One that has been killed takes nothing along.
    assert_eq!(alice.login("alice@b.c", PASSWORD).status, 200);
    there.cookies.clone_from(&alice.cookies);
    here.signal(libc::SIGKILL);
    assert_eq!(there.me(), 200);
}

#[test]
fn a_chat_goes_on_at_the_other_and_a_reset_there_wins() {
    let provider = Provider::played();
    let [here, there] = two(&provider, "");
    let mut one = Browser::new(&here);
    let mut two = Browser::new(&there);
    let ask = |browser: &mut Browser<'_>, known: usize| {
        let mut conn = browser.open("Hi");
        let mut call = provider.call();
        assert_eq!(call.received.talk().len(), known);
        call.accept().text("a");
        browser.keep(&conn.head());
        call.finish("stop");
        let (body, _) = conn.rest();
        body.ends_with("{\"done\":\"stop\"}\n")
    };
    for turn in 0..3 {
        assert!(ask(&mut one, 4 * turn + 1));
        two.cookie.clone_from(&one.cookie);
        assert!(ask(&mut two, 4 * turn + 3));
        one.cookie.clone_from(&two.cookie);
    }
    // A reset at one while a stream runs at the other.
    let mut conn = one.open("Hi");
    let mut call = provider.call();
    call.accept().text("a");
    conn.head();
    assert_eq!(two.forget().status, 200);
    call.finish("stop");
    let (body, whole) = conn.rest();
    assert!(
        whole && body.ends_with("\"saved\":false}\n"),
        "it was not saved: {body}"
    );
    assert!(ask(&mut two, 1));
}

#[test]
fn failures_spread_over_both_are_counted_together() {
    let servers = two(&Provider::friendly(), "");
    Person::logged_in(&servers[0], "alice@b.c");
    for n in 0..10 {
        let reply = Person::new(&servers[n % 2]).login("alice@b.c", "wrong one 1");
        fails(&reply, 401, "Invalid credentials");
    }
    for server in &servers {
        let reply = Person::new(server).login("alice@b.c", PASSWORD);
        fails(&reply, 401, "Invalid credentials");
    }
    // As many of one address, whoever they were meant for.
    let mut guesser = Person::new(&servers[0]);
    let mut moved = moved(&servers[1], &guesser);
    Person::logged_in(&servers[0], "bob@b.c");
    for n in 0..5 {
        let name = format!("{n}@b.c");
        fails(&guesser.login(&name, PASSWORD), 401, "Invalid credentials");
        fails(&moved.login(&name, PASSWORD), 401, "Invalid credentials");
    }
    let reply = moved.login("bob@b.c", PASSWORD);
    fails(&reply, 401, "Invalid credentials");
}

#[test]
fn chats_at_both_are_counted_together() {
    let [here, there] = two(&Provider::friendly(), "chat.rate_per_minute = 2");
    assert_eq!(here.chat("one", &[]).status, 200);
    assert_eq!(there.chat("two", &[]).status, 200);
    assert_eq!(here.chat("three", &[]).status, 429);
    assert_eq!(there.chat("four", &[]).status, 429);
}

#[test]
fn a_reset_at_one_ends_the_sessions_at_the_other_at_once() {
    let settings = "auth.debug_return_reset_token = true\nserver.cookie_secure = false";
    let [here, there] = two(&Provider::friendly(), settings);
    let mut alice = Person::logged_in(&here, "alice@b.c");
    let mut elsewhere = Person::new(&there);
    assert_eq!(elsewhere.login("alice@b.c", PASSWORD).status, 200);
    let asked = alice.post("/auth/password/forgot", &json!({"identifier": "alice@b.c"}));
    let token = asked.json()["debug_token"].clone();
    let body = json!({"token": token, "password": OTHER});
    let reply = Person::new(&there).post("/auth/password/reset", &body);
    assert_eq!(
        (reply.status, reply.json()),
        (200, json!({"ok": true, "revoked_sessions": 2}))
    );
    assert_eq!((alice.me(), elsewhere.me()), (401, 401));
    let body = json!({"token": token, "password": "one more 3"});
    let reply = Person::new(&here).post("/auth/password/reset", &body);
    fails(&reply, 400, "Token invalid or expired");
    assert_eq!(alice.login("alice@b.c", OTHER).status, 200);
}

#[test]
fn what_may_happen_once_happens_once_at_both_together() {
    let settings = "auth.debug_return_reset_token = true\nserver.cookie_secure = false";
    let [here, there] = two(&Provider::friendly(), settings);
    let mut statuses = both(
        || Person::new(&here).register("alice@b.c").status,
        || Person::new(&there).register("alice@b.c").status,
    );
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409]);
    for round in 0..3 {
        let body = json!({"identifier": "alice@b.c"});
        let asked = Person::new(&here).post("/auth/password/forgot", &body);
        let token = &asked.json()["debug_token"];
        let reset = |server, n| {
            let body = json!({"token": token, "password": format!("choice {round} {n} x")});
            Person::new(server)
                .post("/auth/password/reset", &body)
                .status
        };
        let mut statuses = both(|| reset(&here, 0), || reset(&there, 1));
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 400], "one token, one new password");
    }
}
