//! Addresses and passwords that one person types in more than one way, and others may abuse.

use cloudchat::hasher::{Password, hash_once};
use cloudchat::model::PasswordHash;
use serde_json::{Value, json};

use crate::kit::{Beside, PASSWORD, Person, Provider, Server, fails, is_weak};

const UNICODE: &str = "info@bücher.example";
const ASCII: &str = "info@xn--bcher-kva.example";
const DEBUG: &str = "auth.debug_return_reset_token = true\nserver.cookie_secure = false";
const DENIED: &str = "Invalid credentials";
/// The same password with composed and with decomposed characters.
const COMPOSED: &str = "caf\u{e9} cr\u{e8}me 1";
const DECOMPOSED: &str = "cafe\u{301} cre\u{300}me 1";

#[test]
fn addresses_that_failed() {
    let server = Server::start(&Provider::friendly(), "");
    let mut person = Person::new(&server);
    for line in include_str!("../fixtures/emails.txt").lines() {
        let (expected, email) = line.split_once(' ').expect("yes or no, and an address");
        let email: String = serde_json::from_str(email).expect("a JSON string");
        let reply = person.register(&email);
        match expected {
            "yes" => assert_eq!(reply.status, 201, "{line}: {}", reply.body),
            _ => fails(&reply, 400, "Invalid email"),
        }
        let again = Person::new(&server).register(&email);
        match expected {
            "yes" => fails(&again, 409, "Email already registered"),
            _ => fails(&again, 400, "Invalid email"),
        }
    }
}

#[test]
fn one_mailbox_has_one_account() {
    for [typed, other] in [[UNICODE, ASCII], [ASCII, UNICODE]] {
        let server = Server::start(&Provider::friendly(), DEBUG);
        let mut person = Person::logged_in(&server, &typed.to_uppercase());
        assert_eq!(person.get("/auth/me").json()["user"]["email"], typed);
        for form in [typed, other, "Info@bu\u{308}cher.Example"] {
            let taken = Person::new(&server).register(form);
            fails(&taken, 409, "Email already registered");
            assert_eq!(
                Person::new(&server).login(form, PASSWORD).status,
                200,
                "{form}"
            );
            let body = json!({ "identifier": form });
            let asked = Person::new(&server).post("/auth/password/forgot", &body);
            assert!(
                asked.json()["debug_token"].is_string(),
                "{form}: {}",
                asked.body
            );
        }
        // Its failures are counted together.
        for n in 0..10 {
            let form = [typed, other][n % 2];
            fails(
                &Person::new(&server).login(form, "wrong horse 1"),
                401,
                DENIED,
            );
        }
        for form in [typed, other] {
            fails(&Person::new(&server).login(form, PASSWORD), 401, DENIED);
        }
        // So are tries to register it.
        let mut stranger = Person::new(&server);
        for form in [typed, other, typed] {
            fails(&stranger.register(form), 409, "Email already registered");
        }
        fails(&stranger.register(other), 429, "Too many requests");
    }
}

#[test]
fn what_the_old_service_took_in_logs_in_as_typed() {
    let server = Server::start(&Provider::friendly(), "");
    let beside = Beside::new(&server);
    let hash = |password: &str| {
        PasswordHash::new(hash_once(&Password::new(password.to_owned())).expect("there is memory"))
    };
    let stored = [
        "\u{200b}alice@example.com",
        "bob@example.com\u{feff}",
        "carol@exam\u{ad}ple.com",
        "dave@exa\u{202e}mple.com",
        "eve@example..com",
        "fay@-x.com",
        "gra\u{308}fin@example.com",
        "gr\u{e4}fin@example.com",
        "info@bu\u{308}cher.example",
        UNICODE,
        ASCII,
        "a@ｅxample.com",
        "info@b\u{fc}cher.xn--p1ai",
    ];
    for (n, email) in stored.into_iter().enumerate() {
        beside.add(&format!("u{n}@b.c"), &hash(&format!("{PASSWORD}{n}")));
        let sql = format!("UPDATE users SET email = '{email}' WHERE email = 'u{n}@b.c'");
        assert_eq!(server.stores.execute(&sql), 1);
    }
    // Each its own, also where another one is the same mailbox by now.
    for (n, email) in stored.into_iter().enumerate() {
        for typed in [email.to_owned(), format!(" {} ", email.to_uppercase())] {
            let mut person = Person::new(&server);
            let reply = person.login(&typed, &format!("{PASSWORD}{n}"));
            assert_eq!(reply.status, 200, "{email:?}: {}", reply.body);
            assert_eq!(person.get("/auth/me").json()["user"]["email"], email);
        }
    }
}

/// Replaces the password by the mailed token.
fn reset(server: &Server, email: &str, password: &str) -> u16 {
    let mut person = Person::new(server);
    let asked = person.post("/auth/password/forgot", &json!({ "identifier": email }));
    let token = asked.json()["debug_token"].clone();
    person
        .post(
            "/auth/password/reset",
            &json!({"token": token, "password": password}),
        )
        .status
}

fn change(person: &mut Person<'_>, old: &str, new: &str) -> u16 {
    let body = json!({"old_password": old, "new_password": new});
    person.post("/auth/password/change", &body).status
}

#[test]
fn a_password_is_the_same_however_it_is_typed() {
    let server = Server::start(&Provider::friendly(), DEBUG);
    let log_in = |password: &str| {
        let mut person = Person::new(&server);
        let status = person.login("a@b.c", password).status;
        (person, status)
    };
    for chosen in [COMPOSED, DECOMPOSED] {
        let body = json!({"email": "a@b.c", "password": chosen});
        assert_eq!(
            Person::new(&server).post("/auth/register", &body).status,
            201
        );
        for _ in 0..2 {
            for typed in [COMPOSED, DECOMPOSED] {
                assert_eq!(log_in(typed).1, 200, "{typed:?}");
            }
            assert_eq!(log_in("cafe creme 1").1, 401);
            assert_eq!(reset(&server, "a@b.c", chosen), 200);
        }
        let (mut person, _) = log_in(DECOMPOSED);
        assert_eq!(change(&mut person, "cafe creme 1", PASSWORD), 401);
        assert_eq!(change(&mut person, DECOMPOSED, COMPOSED), 200);
        assert_eq!(change(&mut person, COMPOSED, DECOMPOSED), 200);
        assert_eq!(log_in(COMPOSED).1, 200);
        let delete = json!({ "password": DECOMPOSED }).to_string();
        assert_eq!(
            person
                .send("DELETE /auth/me", Some(delete.as_bytes()))
                .status,
            200
        );
    }
    // The bounds are those of the composed one: 8 to 128 characters.
    let register = |email: &str, password: &str| {
        let body: Value = json!({"email": email, "password": password});
        Person::new(&server).post("/auth/register", &body)
    };
    is_weak(
        &register("b@b.c", "cafe\u{301} 12"),
        "Weak password",
        "short",
    );
    let longest = format!("1{}", "e\u{301}".repeat(127));
    assert_eq!(register("b@b.c", &longest).status, 201);
    assert_eq!(Person::new(&server).login("b@b.c", &longest).status, 200);
    let longer = format!("1{}", "e\u{301}".repeat(128));
    is_weak(&register("c@b.c", &longer), "Weak password", "long");
    fails(&Person::new(&server).login("b@b.c", &longer), 401, DENIED);
}

#[test]
fn an_older_password_is_what_was_typed() {
    let server = Server::start(&Provider::friendly(), DEBUG);
    let beside = Beside::new(&server);
    let hash = |password: &str| {
        PasswordHash::new(hash_once(&Password::new(password.to_owned())).expect("there is memory"))
    };
    let status = |email: &str, password: &str| Person::new(&server).login(email, password).status;
    let users = [("old@b.c", DECOMPOSED), ("older@b.c", COMPOSED)];
    for (email, password) in users {
        beside.add(email, &hash(password));
        let others = [COMPOSED, DECOMPOSED].map(|typed| (typed, typed == password));
        for (typed, is_right) in others {
            assert_eq!(status(email, typed) == 200, is_right, "{email}: {typed:?}");
        }
    }
    // A new one is composed, also the same.
    assert_eq!(reset(&server, "old@b.c", DECOMPOSED), 200);
    assert_eq!(
        (status("old@b.c", COMPOSED), status("old@b.c", DECOMPOSED)),
        (200, 200)
    );
    // Whoever writes another hash into the row, and does not say of what, writes that of a password as typed.
    let typed = hash(DECOMPOSED);
    let sql = format!(
        "UPDATE credentials SET secret_hash = '{}' WHERE user_id = (SELECT id FROM users WHERE email = 'old@b.c')",
        typed.as_str()
    );
    assert_eq!(server.stores.execute(&sql), 1);
    assert_eq!(
        (status("old@b.c", COMPOSED), status("old@b.c", DECOMPOSED)),
        (401, 200)
    );
}
