//! One visitor must not change what others get: whatever one address holds of the process's memory, connections
//! and answers, others find room, and an honest crowd behind one address is not refused on a quiet server.

use std::net::IpAddr;

use serde_json::json;

use crate::kit::provider::Answer;
use crate::kit::server::limit;
use crate::kit::{
    Conn, PASSWORD, Person, Provider, Reply, Server, fails, is_weak, request, seconds,
};

const ATTACKER: &str = "203.0.113.9";

/// A chat of that address, whole.
fn chat(server: &Server, address: &str, message: &str) -> Reply {
    server.chat(message, &[("X-Forwarded-For", address)])
}

/// A chat of that address that has been sent.
fn ask(server: &Server, address: &str, message: &str) -> Conn {
    let mut conn = server.connect();
    conn.ask(message, &[("X-Forwarded-For", address)]);
    conn
}

/// The first bytes of a body that never ends.
fn half_a_body(server: &Server, address: &str, bytes: usize) -> Conn {
    let mut conn = server.connect();
    let head = request(
        "POST /deepseek_chat",
        &[
            ("X-Forwarded-For", address),
            ("Content-Type", "application/json"),
            ("Content-Length", "250000"),
        ],
        None,
    );
    conn.send(&head);
    conn.send(&vec![b' '; bytes]);
    conn
}

#[test]
fn bodies_of_one_address_leave_room_for_those_of_others() {
    let server = Server::start(&Provider::friendly(), "server.body_seconds = 60");
    assert_eq!(Person::new(&server).register("alice@b.c").status, 201);
    let held: Vec<Conn> = (0..40)
        .map(|_| half_a_body(&server, ATTACKER, 60_000))
        .collect();
    // What has been refused says so; the others wait.
    let long = "x".repeat(30_000);
    for n in 0..20 {
        let address = format!("198.51.100.{n}");
        let reply = chat(&server, &address, &long);
        assert_eq!(reply.status, 200, "{n}: {}", reply.body);
    }
    assert_eq!(
        Person::new(&server).login("alice@b.c", PASSWORD).status,
        200
    );
    // From the same address what is small gets in, too.
    assert_eq!(chat(&server, ATTACKER, "Hi").status, 200);
    drop(held);
}

#[test]
fn a_body_that_stands_still_is_not_waited_for() {
    let server = Server::start(&Provider::friendly(), "server.body_seconds = 60");
    let took = seconds(|| {
        let mut conn = half_a_body(&server, ATTACKER, 30_000);
        assert_eq!(conn.reply().status, 408);
    });
    assert!((3.0..10.0).contains(&took), "{took} s");
}

#[test]
fn prompts_of_one_address_leave_room_for_those_of_others() {
    let provider = Provider::played();
    let server = Server::start(&provider, "chat.streams_per_client_max = 100");
    let long = "x".repeat(31_000);
    let mut waiting = Vec::new();
    let mut refused = 0;
    for _ in 0..60 {
        let mut conn = ask(&server, ATTACKER, &long);
        match crate::kit::until("a call or a refusal", || match provider.try_call() {
            Some(call) => Some(Some(call)),
            None => conn.is_readable().then_some(None),
        }) {
            Some(call) => waiting.push((conn, call)),
            None => {
                assert_eq!(conn.reply().status, 503);
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && waiting.len() > 8, "{refused} of 60 refused");
    // None of these has had its first text yet; others still ask, long questions too.
    for n in 0..16 {
        let message = if n % 2 == 0 { &long } else { "Hi" };
        let address = format!("198.51.100.{n}");
        let mut conn = ask(&server, &address, message);
        provider.call().answer(&Answer::texts(&["ok"]));
        assert_eq!(conn.reply().text(), "ok", "{n}");
    }
}

#[test]
fn connections_of_one_address_leave_room_for_those_of_others() {
    let memory = crate::kit::server::least_memory();
    let trusting = "server.trusted_proxies = [\"127.0.0.1\"]\nserver.workers = 2\n";
    // With a share, and with none: then those go that wait longest.
    for share in [0, 100_000] {
        let settings = format!(
            "{trusting}server.connections_per_client_max = {share}\nlimits.memory = {memory:?}\n"
        );
        let server = Server::start(&Provider::friendly(), &settings);
        let (all, port) = (limit(&server, "connections_max"), server.port);
        let from = |last: u8| Conn::from(IpAddr::from([127, 0, 0, last]), port);
        let held: Vec<Conn> = (0..all + 40)
            .map(|n| {
                let mut conn = from(2);
                // Some say nothing, some half a head, some have been served and wait.
                match n % 3 {
                    0 => {}
                    1 => drop(conn.send(b"GET /test HTTP/1.1\r\nHost: x")),
                    _ => drop(conn.send(&request("GET /test", &[], None))),
                }
                conn
            })
            .collect();
        for n in 0..60 {
            let mut conn = from(3 + (n % 200) as u8);
            conn.send(&request("GET /test", &[], None));
            let head = conn.try_head();
            assert_eq!(
                head.map(|head| head.status),
                Some(200),
                "share {share}, {n}"
            );
        }
        drop(held);
    }
}

#[test]
fn accounts_of_one_address_count_together() {
    let provider = Provider::played();
    let server = Server::start(&provider, "chat.streams_per_client_max = 1");
    let login = |n: u32| {
        let mut person = Person::new(&server);
        person.address = ATTACKER.to_owned();
        // Registered from elsewhere: there is a limit for that, too.
        let email = format!("a{n}@b.c");
        assert_eq!(Person::new(&server).register(&email).status, 201);
        assert_eq!(person.login(&email, PASSWORD).status, 200);
        person
    };
    let people: Vec<Person<'_>> = (0..10).map(login).collect();
    let ask = |person: &Person<'_>| {
        let mut conn = server.connect();
        let cookie = format!("cc_auth={}", person.cookies["cc_auth"]);
        conn.ask(
            "Hi",
            &[
                ("X-Forwarded-For", person.address.as_str()),
                ("Cookie", &cookie),
            ],
        );
        conn
    };
    // Each has its one answer, and all at that address eight times as many as one.
    let running: Vec<_> = people[..8]
        .iter()
        .map(|p| (ask(p), provider.call()))
        .collect();
    for person in &people[8..] {
        let reply = ask(person).reply();
        fails_plainly(&reply, 429);
    }
    // Who is elsewhere, logged in or not, is not concerned; nor is who is not logged in at that address.
    let mut elsewhere = Person::new(&server);
    elsewhere.cookies = people[9].cookies.clone();
    let _elsewhere = (ask(&elsewhere), provider.call());
    drop(running);
}

fn fails_plainly(reply: &Reply, status: u16) {
    assert_eq!(reply.status, status, "{}", reply.body);
    assert_eq!(reply.json(), json!({"error": "Too many requests"}));
    assert!(reply.get("retry-after").is_some());
}

#[test]
fn chats_are_counted_for_the_user_and_for_the_address() {
    let server = Server::start(&Provider::friendly(), "chat.rate_per_minute = 1");
    for n in 0..12 {
        let mut person = Person::logged_in(&server, &format!("a{n}@b.c"));
        person.address = ATTACKER.to_owned();
        let first = person.post("/deepseek_chat", &json!({"message": "Hi"}));
        match n < 10 {
            true => assert_eq!(first.status, 200, "{n}: {}", first.body),
            false => fails_plainly(&first, 429),
        }
        // A user is one wherever they are.
        if n == 0 {
            person.address = "198.51.100.1".to_owned();
            let second = person.post("/deepseek_chat", &json!({"message": "Hi"}));
            fails_plainly(&second, 429);
        }
    }
    assert_eq!(
        chat(&server, ATTACKER, "Hi").status,
        200,
        "anonymous ones count apart"
    );
}

#[test]
fn a_crowd_behind_one_address_is_not_refused_on_a_quiet_server() {
    const PEOPLE: usize = 60;
    let provider = Provider::played();
    let server = Server::start(&provider, "");
    let people: Vec<Person<'_>> = (0..PEOPLE)
        .map(|n| {
            let mut person = Person::logged_in(&server, &format!("a{n}@b.c"));
            person.address = ATTACKER.to_owned();
            person
        })
        .collect();
    let mut running = Vec::new();
    for person in &people {
        let mut conn = server.connect();
        let cookie = format!("cc_auth={}", person.cookies["cc_auth"]);
        let headers = [("X-Forwarded-For", ATTACKER), ("Cookie", &*cookie)];
        conn.ask(&"x".repeat(2_000), &headers);
        running.push((conn, provider.call()));
    }
    for (mut conn, call) in running {
        call.answer(&Answer::texts(&["ok"]));
        assert_eq!(conn.reply().text(), "ok");
    }
}

#[test]
fn a_network_has_sixteen_times_what_an_address_has() {
    let provider = Provider::played();
    let settings = "chat.streams_per_client_max = 1\nchat.rate_per_minute = 0";
    let server = Server::start(&provider, settings);
    let of = |network: u16, n: u16| format!("2001:db8:{network:x}:{n:x}::1");
    let running: Vec<_> = (0..16)
        .map(|n| (ask(&server, &of(1, n), "Hi"), provider.call()))
        .collect();
    fails_plainly(&ask(&server, &of(1, 16), "Hi").reply(), 429);
    let _elsewhere = (ask(&server, &of(2, 0), "Hi"), provider.call());
    drop(running);
    let server = Server::start(&Provider::friendly(), "chat.rate_per_minute = 1");
    for n in 0..16 {
        assert_eq!(chat(&server, &of(1, n), "Hi").status, 200, "{n}");
    }
    fails_plainly(&chat(&server, &of(1, 16), "Hi"), 429);
    assert_eq!(chat(&server, &of(2, 16), "Hi").status, 200);
    // 6to4 counts like the IPv4 address inside.
    assert_eq!(chat(&server, "2002:c633:6401::1", "Hi").status, 200);
    fails_plainly(&chat(&server, "198.51.100.1", "Hi"), 429);
}

#[test]
fn failed_logins_of_a_network_add_up() {
    let server = Server::start(&Provider::friendly(), "");
    let fail = |network: u16, n: u16| {
        let mut person = Person::new(&server);
        person.address = format!("2001:db8:{network:x}:{n:x}::1");
        seconds(|| {
            let reply = person.login(&format!("nobody{network}-{n}@b.c"), "wrong one 1");
            fails(&reply, 401, "Invalid credentials");
        })
    };
    let least = |network, from, to| {
        (from..to)
            .map(|n| fail(network, n))
            .fold(f64::MAX, f64::min)
    };
    let hashed = least(1, 0, 160);
    let refused = least(1, 200, 210);
    assert!(
        refused < hashed / 4.0,
        "{refused} s at once, {hashed} s hashed"
    );
    let elsewhere = least(2, 0, 3);
    assert!(elsewhere > hashed / 2.0, "{elsewhere} s");
}

#[test]
fn somebody_else_s_tries_leave_an_email_to_its_owner() {
    let server = Server::start(&Provider::friendly(), "");
    let mut stranger = Person::new(&server);
    let weak = json!({"email": "alice@b.c", "password": "x"});
    for _ in 0..3 {
        let reply = stranger.post("/auth/register", &weak);
        is_weak(&reply, "Weak password", "short");
    }
    assert_eq!(stranger.post("/auth/register", &weak).status, 429);
    assert_eq!(Person::new(&server).register("alice@b.c").status, 201);
    for n in 0..16 {
        let reply = Person::new(&server).post("/auth/register", &weak);
        is_weak(&reply, "Weak password", "short");
        assert!(n < 16);
    }
    let reply = Person::new(&server).post("/auth/register", &weak);
    assert_eq!(reply.status, 429, "twenty in an hour, wherever from");
}

#[test]
fn a_password_is_changed_five_times_an_hour() {
    let server = Server::start(&Provider::friendly(), "");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let mut old = PASSWORD.to_owned();
    for n in 0..6 {
        let new = format!("battery staple {n}");
        let body = json!({"old_password": old, "new_password": new});
        let reply = alice.post("/auth/password/change", &body);
        match n < 5 {
            true => assert_eq!(reply.status, 200, "{}", reply.body),
            false => {
                assert_eq!(reply.status, 429, "{}", reply.body);
                assert!(reply.get("retry-after").is_some());
                break;
            }
        }
        old = new;
    }
    assert_eq!(alice.login("alice@b.c", &old).status, 200);
}

#[test]
fn a_site_says_what_it_is_ready_to_pay_for() {
    let settings = "chat.per_day_max = 2\nchat.rate_per_minute = 0";
    let server = Server::start(&Provider::friendly(), settings);
    for _ in 0..2 {
        assert_eq!(chat(&server, ATTACKER, "Hi").status, 200);
    }
    let reply = chat(&server, ATTACKER, "Hi");
    fails_plainly(&reply, 429);
    let wait: u32 = reply
        .get("retry-after")
        .expect("it says when")
        .parse()
        .expect("a number");
    assert!((80_000..=86_400).contains(&wait), "{wait}");
    assert_eq!(chat(&server, "198.51.100.1", "Hi").status, 200);
    let settings = "chat.site_per_hour_max = 3\nchat.rate_per_minute = 0";
    let server = Server::start(&Provider::friendly(), settings);
    let statuses: Vec<u16> = (0..5)
        .map(|n| chat(&server, &format!("198.51.100.{n}"), "Hi").status)
        .collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    let settings = "chat.anonymous_rate_per_minute = 1\nchat.rate_per_minute = 3";
    let server = Server::start(&Provider::friendly(), settings);
    let statuses: Vec<u16> = (0..2)
        .map(|_| chat(&server, ATTACKER, "Hi").status)
        .collect();
    assert_eq!(statuses, [200, 429]);
    let mut alice = Person::logged_in(&server, "alice@b.c");
    for n in 0..4 {
        let reply = alice.post("/deepseek_chat", &json!({"message": "Hi"}));
        assert_eq!(reply.status, if n < 3 { 200 } else { 429 });
    }
}

#[test]
fn a_proxy_that_names_nobody_is_told_of_once() {
    let server = Server::start(&Provider::friendly(), "");
    for _ in 0..3 {
        assert_eq!(server.chat("Hi", &[]).status, 200);
    }
    let log = server.log();
    assert_eq!(log.matches("event=\"clients unknown\"").count(), 1, "{log}");
}
