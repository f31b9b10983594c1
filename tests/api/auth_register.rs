//! Registration: what is refused, in which order, and that one email makes one account.

use std::thread;

use serde_json::{Value, json};

use crate::kit::{PASSWORD, Person, Provider, Server, fails, is_weak};

#[test]
fn rows_in_the_order_of_the_contract() {
    let server = Server::start(&Provider::friendly(), "");
    let check = |body: Value, status: u16, error: &str| {
        let reply = Person::new(&server).post("/auth/register", &body);
        if status == 201 {
            assert_eq!(
                (reply.status, reply.json()),
                (201, json!({"ok": true})),
                "{body}"
            );
        } else {
            assert_eq!(
                (reply.status, reply.json()["error"].as_str()),
                (status, Some(error)),
                "{body}"
            );
        }
        assert_eq!(reply.get("cache-control"), Some("no-store"));
        assert_eq!(reply.get("set-cookie"), None);
    };
    check(json!({}), 400, "email required");
    for falsy in [
        json!(null),
        json!(""),
        json!("   "),
        json!("\t\u{3000}\n"),
        json!(0),
        json!(false),
        json!([]),
        json!({}),
    ] {
        check(
            json!({"email": falsy, "password": "x"}),
            400,
            "email required",
        );
    }
    for email in [
        "a",
        "a@b",
        "@b.c",
        "a@b@c.d",
        "a b@c.d",
        "a@.c",
        "a@b.",
        "<a@b.c>",
        "a\n@b.c",
        "a\u{0}@b.c",
        "a,b@c.d",
        "x",
    ] {
        check(json!({"email": email, "phone": "@"}), 400, "Invalid email");
    }
    check(
        json!({"email": "x".repeat(251) + "@b.c"}),
        400,
        "Invalid email",
    );
    check(json!({"email": 7}), 400, "Invalid email");
    let with = |n: u32, phone: Value, name: Value, password: Value| {
        json!({"email": format!("u{n}@b.c"), "phone": phone, "display_name": name,
               "password": password})
    };
    let long = |n: usize| json!("x".repeat(n));
    check(
        with(1, json!("1@2"), json!(1), json!("x")),
        400,
        "Invalid phone",
    );
    check(
        with(2, json!(5), json!(1), json!("x")),
        400,
        "Invalid phone",
    );
    check(
        with(3, long(33), json!(1), json!("x")),
        400,
        "Invalid phone",
    );
    check(
        with(4, json!(" "), json!(1), json!("x")),
        400,
        "Invalid display name",
    );
    check(
        with(5, json!(null), long(81), json!("x")),
        400,
        "Invalid display name",
    );
    check(
        with(6, json!(null), json!("a\u{7}"), json!("x")),
        400,
        "Invalid display name",
    );
    for (n, (weak, reason)) in [
        (json!(null), "short"),
        (json!(12), "short"),
        (json!("short1"), "short"),
        (json!("onlyletters"), "kinds"),
        (json!("1234567890"), "kinds"),
        (json!("abcd1234"), "common"),
        (json!("P@ssw0rd"), "common"),
        (json!("a1".repeat(65)), "long"),
        (json!("correct\u{0}horse 1"), "short"),
    ]
    .into_iter()
    .enumerate()
    {
        let body = with(10 + n as u32, json!(""), json!(""), weak);
        let reply = Person::new(&server).post("/auth/register", &body);
        is_weak(&reply, "Weak password", reason);
    }
    check(
        with(30, json!(" +1 "), json!(" Alice "), json!("P@ssw0rd!")),
        201,
        "",
    );
    check(
        with(31, json!("+1"), json!(null), json!(PASSWORD)),
        409,
        "Phone already registered",
    );
    let again = json!({"email": " U30@B.C ", "password": PASSWORD, "phone": "+1"});
    check(again, 409, "Email already registered");
    check(
        with(
            32,
            json!(null),
            json!(null),
            json!("字".repeat(64) + &"a1".repeat(32)),
        ),
        201,
        "",
    );
    // Either name logs in, and what was trimmed shows.
    let mut alice = Person::new(&server);
    assert_eq!(alice.login(" +1 ", "P@ssw0rd!").status, 200);
    let user = alice.get("/auth/me").json()["user"].clone();
    assert_eq!(
        (
            &user["email"],
            &user["phone"],
            &user["display_name"],
            &user["is_active"]
        ),
        (
            &json!("u30@b.c"),
            &json!("+1"),
            &json!("Alice"),
            &json!(true)
        )
    );
    let uid = user["uid"].as_str().expect("it has one");
    assert!(
        uid.len() == 12 && uid.bytes().all(|b| b.is_ascii_hexdigit()),
        "{uid}"
    );
}

#[test]
fn one_email_at_the_same_moment_makes_one_account() {
    let server = Server::start(&Provider::friendly(), "");
    // One phone number, 20 emails; and one email, as often as its limit lets.
    let run = |bodies: Vec<Value>| -> Vec<u16> {
        thread::scope(|scope| {
            let server = &server;
            let each = |body: Value| {
                scope.spawn(move || Person::new(server).post("/auth/register", &body).status)
            };
            let running: Vec<_> = bodies.into_iter().map(each).collect();
            running
                .into_iter()
                .map(|t| t.join().expect("no panic"))
                .collect()
        })
    };
    let phones = (0..20)
        .map(|n| json!({"email": format!("r{n}@b.c"), "password": PASSWORD, "phone": "5"}))
        .collect();
    let mut statuses = run(phones);
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..]), (201, &[409; 19][..]));
    let mut statuses = run(vec![json!({"email": "same@b.c", "password": PASSWORD}); 25]);
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..20]), (201, &[409; 19][..]));
    assert_eq!(statuses[20..], [429; 5]);
}

#[test]
fn limits() {
    let server = Server::start(&Provider::friendly(), "");
    // Three tries an hour for one email from one address, whatever comes of them.
    let mut person = Person::new(&server);
    for _ in 0..3 {
        let body = json!({"email": "a@b.c", "password": "weak"});
        let reply = person.post("/auth/register", &body);
        is_weak(&reply, "Weak password", "short");
    }
    let reply = person.register("A@b.c");
    fails(&reply, 429, "Too many requests");
    let wait: u32 = reply
        .get("retry-after")
        .expect("it says when")
        .parse()
        .expect("a number");
    assert!((3590..=3600).contains(&wait), "{wait}");
    // Ten an hour from one address; what is no email does not count.
    let mut person = Person::new(&server);
    for n in 0..10 {
        fails(&person.register("no email"), 400, "Invalid email");
        let body = json!({"email": format!("l{n}@b.c"), "password": "weak"});
        let reply = person.post("/auth/register", &body);
        is_weak(&reply, "Weak password", "short");
    }
    fails(&person.register("l10@b.c"), 429, "Too many requests");
    fails(&person.register("no email"), 400, "Invalid email");
    assert_eq!(Person::new(&server).register("l10@b.c").status, 201);
}
