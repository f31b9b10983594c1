//! Users of the old service that CloudChat would not have made: what each gets is an answer of the contract.

use serde_json::{Value, json};

use super::{Moving, OTHER, OURS, logged_in, me, on_every_way, refused, reset, with_session};
use crate::kit::server::run;
use crate::kit::{Person, Server, fails, until};

/// Everybody's who has one.
const PASSWORD: &str = "odd password 1";
const DENIED: &str = "Invalid credentials";

/// Who logs in, and by what.
const LET_IN: [(&str, &[&str]); 14] = [
    ("created-null@example.org", &[]),
    ("\"quoted\"@example.org", &[]),
    ("o'hara@example.org", &[]),
    ("info@bücher.example", &["INFO@BÜCHER.example"]),
    ("<angle>@example.org", &[]),
    ("phone-long@example.org", &[]),
    ("phone-at@example.org", &[]),
    ("phone-chinese@example.org", &["电话一二三四五"]),
    ("phone-punctuated@example.org", &["+49 (0)30/123"]),
    ("phone-zeros@example.org", &["000049301234567"]),
    ("argon2-small@example.org", &[]),
    ("argon2i@example.org", &[]),
    ("password-totp-oauth@example.org", &[]),
    ("user1@example.org", &[]),
];
/// Phone numbers that nobody can type here: one is too long, one is taken for an address.
const NO_NUMBERS: [&str; 2] = ["0123456789012345678901234567890123456789", "030@123456"];
/// Accounts without a password that can be verified.
const NO_PASSWORD: [&str; 7] = [
    "no-credentials@example.org",
    "oauth-three@example.org",
    "webauthn-only@example.org",
    "hash-null@example.org",
    "hash-empty@example.org",
    "hash-bcrypt@example.org",
    "argon2-256m@example.org",
];
const INACTIVE: [&str; 2] = ["inactive-null@example.org", "inactive-false@example.org"];

on_every_way!(logins_of_odd_users, resets_of_odd_users);

/// The address of 271 characters.
fn overlong() -> String {
    format!("long-{}@example.org", "x".repeat(254))
}

fn logins_of_odd_users(mut moving: Moving) {
    for (email, others) in LET_IN {
        let password = match email {
            "user1@example.org" => &crate::old_service::password_of(1),
            _ => PASSWORD,
        };
        let before = moving.tables.password(email);
        for identifier in others.iter().chain([&email]) {
            let mut person = logged_in(&moving.server, identifier, password);
            // The same as the old service shows, to the letter.
            let shown = me(&mut person);
            assert_eq!(shown, moving.old.me(&person.cookies["cc_auth"]));
            assert_eq!(shown["email"], email);
        }
        refused(&moving.server, email, "wrong horse 1");
        moving.tables.password(email).is_rehashed(&before, OURS);
    }
    for email in NO_PASSWORD.iter().chain(&INACTIVE) {
        refused(&moving.server, email, PASSWORD);
    }
    for identifier in NO_NUMBERS {
        refused(&moving.server, identifier, PASSWORD);
    }
    refused(&moving.server, &overlong(), PASSWORD);
    // Once for each of those whose hash is of no use, however often they try.
    for email in NO_PASSWORD {
        refused(&moving.server, email, PASSWORD);
    }
    let log = moving.server.log();
    let unusable = log
        .lines()
        .filter(|line| line.contains("stored password hash cannot be verified"));
    let unusable: Vec<_> = unusable.collect();
    assert_eq!(unusable.len(), 3, "{unusable:?}");
    let large = unusable.iter().filter(|line| line.contains("m=262144"));
    assert_eq!(large.count(), 1, "{unusable:?}");
    sessions(&mut moving);
    everybody_is_listed(&moving);
}

/// A session shows its user, whatever could be typed at a login.
fn sessions(moving: &mut Moving) {
    let overlong = overlong();
    let long = &overlong;
    let (sid, _) = moving.old.login(long, PASSWORD);
    let theirs = moving.old.me(&sid);
    let server = &moving.server;
    let mut person = with_session(server, &sid);
    assert_eq!(me(&mut person), theirs);
    assert_eq!(theirs["email"], *long);
    assert_eq!(person.get("/auth/me/export").status, 200);
    let wrong = json!({"old_password": OTHER, "new_password": "one more 3"});
    fails(&person.post("/auth/password/change", &wrong), 401, DENIED);
    let change = json!({"old_password": PASSWORD, "new_password": OTHER});
    let changed = person.post("/auth/password/change", &change);
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_eq!(me(&mut person), theirs);
    let (sid, _) = moving.old.login(long, OTHER);
    let body = json!({ "password": OTHER }).to_string();
    let deleted = with_session(server, &sid).send("DELETE /auth/me", Some(body.as_bytes()));
    assert_eq!(deleted.status, 200, "{}", deleted.body);
    // What nobody gets by a password: those without one keep their sessions, those switched off lose them.
    for (email, status) in [
        ("oauth-three@example.org", 200),
        ("no-credentials@example.org", 200),
        ("webauthn-only@example.org", 200),
        ("hash-bcrypt@example.org", 200),
        ("inactive-null@example.org", 401),
        ("inactive-false@example.org", 401),
    ] {
        let user = moving
            .tables
            .sql(&format!("SELECT id FROM users WHERE email = '{email}'"));
        let sid = format!("{user:A>43}");
        let set = ["SET", &format!("sess:{sid}"), &user, "EX", "604800"];
        assert_eq!(moving.redis.redis(&set), "OK");
        let mut person = with_session(server, &sid);
        assert_eq!(person.me(), status, "{email}");
        if status == 200 {
            assert_eq!(me(&mut person)["email"], email);
            let change = json!({"old_password": PASSWORD, "new_password": OTHER});
            fails(&person.post("/auth/password/change", &change), 401, DENIED);
            let delete = json!({ "password": PASSWORD }).to_string();
            fails(
                &person.send("DELETE /auth/me", Some(delete.as_bytes())),
                401,
                DENIED,
            );
        } else {
            let left = ["EXISTS", &format!("sess:{sid}")];
            assert_eq!(moving.redis.redis(&left), "0", "{email}");
        }
    }
}

/// `cloudchat user` on the server's own stores.
fn user(server: &Server, words: &[&str]) -> String {
    let path = |path: std::path::PathBuf| path.to_str().expect("it is text").to_owned();
    let (config, data) = (path(server.config()), path(server.data()));
    let more = ["--json", "--config", &config, "--data-dir", &data];
    let (code, out, errors) = run(&[&["user"], words, &more].concat(), &[]);
    // It says where it works, and nothing else.
    let store = "cloudchat: store: accounts in PostgreSQL at ";
    let is_store = errors.starts_with(store) && errors.lines().count() == 1;
    assert!(code == 0 && is_store, "{words:?}: {code}, {errors}");
    out
}

fn everybody_is_listed(moving: &Moving) {
    let listed = user(&moving.server, &["list"]);
    let listed: Vec<Value> = listed
        .lines()
        .map(|line| serde_json::from_str(line).expect("it is JSON"))
        .collect();
    let everybody = "SELECT id, uid, email, coalesce(phone, ''), coalesce(display_name, ''), coalesce(is_active, false),
        created_at IS NULL FROM users ORDER BY id";
    let everybody = moving.tables.sql(everybody);
    let or_empty = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let bit = |is: bool| if is { "t" } else { "f" };
    let listed: Vec<String> = listed
        .iter()
        .map(|user| {
            let texts = ["uid", "email", "phone", "display_name"].map(|name| or_empty(&user[name]));
            let active = bit(user["is_active"] == true);
            let no_time = bit(user["created_at"].is_null());
            format!("{}|{}|{active}|{no_time}", user["id"], texts.join("|"))
        })
        .collect();
    assert_eq!(listed, everybody.lines().collect::<Vec<_>>());
    for email in [
        "created-null@example.org",
        "<angle>@example.org",
        "inactive-null@example.org",
    ] {
        let shown: Value =
            serde_json::from_str(&user(&moving.server, &["show", email])).expect("it is JSON");
        assert_eq!(shown["email"], email);
    }
}

/// Everybody may ask for a link, and a token gives a first password to those who have none.
fn resets_of_odd_users(mut moving: Moving) {
    let identifiers = moving.tables.sql(
        "SELECT email FROM users WHERE email NOT LIKE 'user%' UNION ALL
         SELECT phone FROM users WHERE email LIKE 'phone-%'",
    );
    let identifiers: Vec<&str> = identifiers.lines().collect();
    assert!(identifiers.len() > 25, "{identifiers:?}");
    for identifier in &identifiers {
        let asked = json!({ "identifier": identifier });
        let reply = Person::new(&moving.server).post("/auth/password/forgot", &asked);
        let answer = (reply.status, reply.body.as_str());
        assert_eq!(answer, (200, r#"{"ok":true}"#), "{identifier}");
    }
    // None of them keeps the others waiting.
    until("all letters to be dealt with", || {
        (moving.tables.sql("SELECT count(*) FROM outbox") == "0").then_some(())
    });
    let everybody = [
        &NO_PASSWORD[..],
        &["<angle>@example.org", "phone-at@example.org"],
    ]
    .concat();
    for email in everybody {
        let others = format!(
            "SELECT count(*) FROM credentials JOIN users ON users.id = user_id
             WHERE email = '{email}' AND type <> 'password'"
        );
        let before = moving.tables.sql(&others);
        let token = moving.old.forgot(email);
        reset(&moving.server, &token, OTHER);
        logged_in(&moving.server, email, OTHER);
        assert!(moving.tables.password(email).hash.starts_with(OURS));
        assert_eq!(
            moving.tables.sql(&others),
            before,
            "{email}: other logins stay"
        );
        assert!(moving.old.login(email, OTHER).1, "{email}");
        logged_in(&moving.server, email, OTHER);
    }
    // Those who are switched off get none.
    for email in INACTIVE {
        let token = moving.old.forgot(email);
        let body = json!({"token": token, "password": OTHER});
        let reply = Person::new(&moving.server).post("/auth/password/reset", &body);
        fails(&reply, 400, "Token invalid or expired");
    }
    let log = moving.server.log();
    assert!(!log.contains("level=error"), "{log}");
}
