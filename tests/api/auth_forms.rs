//! Addresses that one person types in more than one way, and others may abuse.

use cloudchat::hasher::{Password, hash_once};
use cloudchat::model::PasswordHash;
use serde_json::json;

use crate::kit::{Beside, PASSWORD, Person, Provider, Server, fails};

const UNICODE: &str = "info@bücher.example";
const ASCII: &str = "info@xn--bcher-kva.example";
const DEBUG: &str = "auth.debug_return_reset_token = true\nserver.cookie_secure = false";
const DENIED: &str = "Invalid credentials";

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
