//! Logging in: cookies, failures that are all alike, and limits that keep guessers out but not the
//! owner.

use std::thread;

use cloudchat::clock::Clock;
use cloudchat::store::{Reserved, Window};
use serde_json::json;

use crate::kit::{Beside, PASSWORD, Person, Provider, Reply, Server, fails, seconds};

const DENIED: &str = "Invalid credentials";

fn denied(reply: &Reply) {
    fails(reply, 401, DENIED);
    assert_eq!(reply.get("set-cookie"), None);
    assert_eq!(reply.get("retry-after"), None);
}

#[test]
fn a_login_sets_two_cookies_and_rotates() {
    let server = Server::start(&Provider::friendly(), "");
    let mut alice = Person::new(&server);
    alice.register("alice@b.c");
    let reply = alice.login(" Alice@B.C ", PASSWORD);
    assert_eq!((reply.status, reply.json()), (200, json!({"ok": true})));
    let set = reply.head.all("set-cookie");
    let attributes = |name: &str| {
        let line = set.iter().find(|line| line.starts_with(name)).expect(name);
        line.split_once("; ")
            .expect("it has attributes")
            .1
            .to_owned()
    };
    let rest = "Path=/; HttpOnly; SameSite=Lax; Secure";
    assert_eq!(attributes("cc_auth="), format!("Max-Age=604800; {rest}"));
    assert_eq!(attributes("cc_dev="), format!("Max-Age=15552000; {rest}"));
    assert_eq!(set.len(), 2);
    assert_eq!(alice.cookies["cc_auth"].len(), 43);
    assert_eq!(alice.me(), 200);
    // The session that was sent with a login is over, whoever's it is.
    let old = alice.cookies.clone();
    assert_eq!(alice.login("alice@b.c", PASSWORD).status, 200);
    assert_eq!(alice.me(), 200);
    alice.cookies = old;
    assert_eq!(alice.me(), 401);
}

#[test]
fn failures_are_all_alike() {
    let server = Server::start(&Provider::friendly(), "");
    Person::logged_in(&server, "alice@b.c");
    Person::logged_in(&server, "off@b.c");
    Beside::new(&server).disable("off@b.c");
    let mut bodies = std::collections::HashSet::new();
    let long = "a1".repeat(65);
    for (identifier, password) in [
        ("alice@b.c", "wrong"),
        ("alice@b.c", long.as_str()),
        ("nobody@b.c", PASSWORD),
        ("+12345", PASSWORD),
        ("off@b.c", PASSWORD),
        ("off@b.c", "wrong"),
        (" ", PASSWORD),
        ("alice@b.c", ""),
    ] {
        let reply = Person::new(&server).login(identifier, password);
        denied(&reply);
        bodies.insert(reply.body);
    }
    assert_eq!(bodies.len(), 1);
    // Not counted: what is no attempt.
    let mut person = Person::new(&server);
    for _ in 0..12 {
        denied(&person.post("/auth/login", &json!({"identifier": "alice@b.c"})));
        denied(&person.post(
            "/auth/login",
            &json!({"identifier": "alice@b.c", "password": 1}),
        ));
        denied(&person.post("/auth/login", &json!({"password": PASSWORD})));
    }
    assert_eq!(person.login("alice@b.c", PASSWORD).status, 200);
}

#[test]
fn strangers_cannot_lock_the_owner_out_of_a_known_browser() {
    let server = Server::start(&Provider::friendly(), "");
    let mut owner = Person::logged_in(&server, "alice@b.c");
    let mut guest = Person::logged_in(&server, "guest@b.c");
    owner.cookies.remove("cc_auth");
    // A thousand failures from a hundred addresses.
    for n in 0..100 {
        let mut stranger = Person::new(&server);
        // One that brings another user's cookie is a stranger too.
        if n % 3 == 0 {
            stranger
                .cookies
                .insert("cc_dev".into(), guest.cookies["cc_dev"].clone());
        }
        for guess in 0..10 {
            denied(&stranger.login("alice@b.c", &format!("guess {n} {guess}")));
        }
    }
    // A new browser is kept out, at once and without hashing; the known one is not.
    let mut fresh = Person::new(&server);
    let took = seconds(|| denied(&fresh.login("alice@b.c", PASSWORD)));
    assert!(took < 0.5, "{took} s");
    assert_eq!(owner.login("alice@b.c", PASSWORD).status, 200);
    // The known browser has ten failures of its own.
    owner.cookies.remove("cc_auth");
    for n in 0..10 {
        owner.address = format!("192.0.2.{n}");
        denied(&owner.login("alice@b.c", "wrong"));
    }
    denied(&owner.login("alice@b.c", PASSWORD));
    assert_eq!(
        guest.login("guest@b.c", PASSWORD).status,
        200,
        "nobody else is concerned"
    );
}

#[test]
fn one_address_has_ten_failures_and_unknown_names_count_like_known_ones() {
    let server = Server::start(&Provider::friendly(), "");
    Person::logged_in(&server, "alice@b.c");
    let mut guesser = Person::new(&server);
    for n in 0..10 {
        denied(&guesser.login(&format!("{n}@b.c"), PASSWORD));
    }
    denied(&guesser.login("alice@b.c", PASSWORD));
    // An unknown identifier that has failed ten times is locked as well, and so is a huge one.
    for name in ["later@b.c".to_owned(), "9".repeat(50_000)] {
        for _ in 0..10 {
            denied(&Person::new(&server).login(&name, PASSWORD));
        }
        denied(&Person::new(&server).login(&name, PASSWORD));
    }
    assert_eq!(Person::new(&server).register("later@b.c").status, 201);
    denied(&Person::new(&server).login("later@b.c", PASSWORD));
}

#[test]
fn parallel_guesses_get_no_more_than_the_limit() {
    let server = Server::start(&Provider::friendly(), "");
    Person::logged_in(&server, "alice@b.c");
    let replies: Vec<Reply> = thread::scope(|scope| {
        let server = &server;
        let guess =
            |n| scope.spawn(move || Person::new(server).login("alice@b.c", &format!("g{n}")));
        let running: Vec<_> = (0..50).map(guess).collect();
        running
            .into_iter()
            .map(|t| t.join().expect("no panic"))
            .collect()
    });
    for reply in &replies {
        match reply.status {
            401 => denied(reply),
            _ => {
                fails(reply, 503, "Busy, try again");
                assert!(reply.get("retry-after").is_some());
            }
        }
    }
    // Every guess that was hashed is counted; what was refused as busy is not, so tries may be left,
    // but never more than ten in all.
    let beside = Beside::new(&server);
    let window = [Window::new(b"failed-i:alice@b.c", 10, 600_000)];
    let mut left = Vec::new();
    while let Reserved::Done(hit) = {
        let reserve = beside
            .stores
            .sessions
            .reserve(Clock::System.wall_ms(), &window);
        beside.wait(reserve)
    } {
        left.push(hit);
    }
    let counted = 10 - left.len();
    for hit in left {
        beside.wait(beside.stores.sessions.release(hit));
    }
    assert!((1..=10).contains(&counted), "{counted}");
    for _ in counted..10 {
        denied(&Person::new(&server).login("alice@b.c", "wrong"));
    }
    denied(&Person::new(&server).login("alice@b.c", PASSWORD));
}

#[test]
fn thirty_successes_in_ten_minutes() {
    let server = Server::start(&Provider::friendly(), "");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    for _ in 1..30 {
        assert_eq!(alice.login("alice@b.c", PASSWORD).status, 200);
    }
    let reply = alice.login("alice@b.c", PASSWORD);
    fails(&reply, 429, "Too many requests");
    assert!(reply.get("retry-after").is_some());
    denied(&Person::new(&server).login("alice@b.c", "wrong"));
    assert_eq!(alice.me(), 200, "the session stays");
}
