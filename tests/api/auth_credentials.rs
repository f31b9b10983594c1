//! Accounts as other logins, other services and earlier years have left them: without a password, an address or a
//! date, with texts that nobody could register today, and with hashes of other parameters.

use std::thread;

use serde_json::json;

use crate::kit::{Beside, PASSWORD, Person, Provider, Server, fails};

const DEBUG: &str = "auth.debug_return_reset_token = true\nserver.cookie_secure = false";
/// What argon2-cffi 25.1 makes of `odd password 1` with 8 MiB and one pass.
const SMALL_HASH: &str = "$argon2id$v=19$m=8192,t=1,p=1$7hWxSK2HwKpxewc/8NXzGQ$4c7iCe6/mQAQWHsUSSg1IZkTkpm/XsHrNJVUvlfo97o";
const SMALL_PASSWORD: &str = "odd password 1";
const DENIED: &str = "Invalid credentials";

/// Changes the one user of that address by SQL.
fn set(server: &Server, email: &str, table: &str, change: &str) {
    let key = if table == "users" { "id" } else { "user_id" };
    let sql = format!(
        "UPDATE {table} SET {change} WHERE {key} = (SELECT id FROM users WHERE email = '{email}')"
    );
    assert_eq!(server.stores.execute(&sql), 1, "{sql}");
}

fn forget_password(server: &Server, email: &str) {
    let sql = format!(
        "DELETE FROM credentials WHERE user_id = (SELECT id FROM users WHERE email = '{email}')"
    );
    assert_eq!(server.stores.execute(&sql), 1);
}

#[test]
fn a_user_without_a_password_is_an_ordinary_user() {
    let server = Server::start(&Provider::friendly(), DEBUG);
    for (email, is_row_left) in [("bare@b.c", false), ("null@b.c", true)] {
        let mut person = Person::logged_in(&server, email);
        match is_row_left {
            true => set(&server, email, "credentials", "secret_hash = NULL"),
            false => forget_password(&server, email),
        }
        // The session is none of the password's, and shows the user; what wants the password is refused.
        assert_eq!(person.get("/auth/me").json()["user"]["email"], email);
        let change = json!({"old_password": PASSWORD, "new_password": "battery staple 2"});
        fails(&person.post("/auth/password/change", &change), 401, DENIED);
        let delete = json!({ "password": PASSWORD }).to_string();
        let reply = person.send("DELETE /auth/me", Some(delete.as_bytes()));
        fails(&reply, 401, DENIED);
        fails(&Person::new(&server).login(email, PASSWORD), 401, DENIED);
        assert_eq!(person.get("/auth/me/export").status, 200);
        // A reset gives a first one.
        let mut person = Person::new(&server);
        let asked = person.post("/auth/password/forgot", &json!({"identifier": email}));
        let token = asked.json()["debug_token"].clone();
        let reset = json!({"token": token, "password": "battery staple 2"});
        assert_eq!(person.post("/auth/password/reset", &reset).status, 200);
        assert_eq!(person.login(email, "battery staple 2").status, 200);
        assert_eq!(person.login(email, PASSWORD).status, 401);
    }
}

#[test]
fn other_credentials_are_no_passwords() {
    let server = Server::start(&Provider::friendly(), "");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    for (kind, more) in [
        ("totp", "'JBSWY3DPEHPK3PXP', NULL, NULL"),
        ("webauthn", "'key', NULL, NULL"),
        ("oauth", "NULL, 'google', '1'"),
        ("oauth", "NULL, 'wechat', '1'"),
        ("oauth", "NULL, 'github', '1'"),
    ] {
        let sql = format!(
            "INSERT INTO credentials (user_id, type, secret_hash, provider, provider_uid)
             SELECT id, '{kind}', {more} FROM users WHERE email = 'alice@b.c'"
        );
        assert_eq!(server.stores.execute(&sql), 1);
    }
    assert_eq!(alice.login("alice@b.c", PASSWORD).status, 200);
    let change = json!({"old_password": PASSWORD, "new_password": "battery staple 2"});
    assert_eq!(alice.post("/auth/password/change", &change).status, 200);
    let of_kind = |kind: &str| {
        server.stores.execute(&format!(
            "UPDATE credentials SET type = type WHERE type = '{kind}'"
        ))
    };
    assert_eq!((of_kind("oauth"), of_kind("password")), (3, 1));
    forget_password_only(&server);
    fails(&alice.login("alice@b.c", "battery staple 2"), 401, DENIED);
    // They go with their user.
    let delete = "DELETE FROM users WHERE email = 'alice@b.c'";
    let beside = Beside::new(&server);
    let user = beside.credential("alice@b.c").user;
    assert!(beside.wait(beside.stores.accounts.delete_user(user)));
    assert_eq!(of_kind("oauth") + of_kind("totp"), 0);
    assert_eq!(server.stores.execute(delete), 0);
}

fn forget_password_only(server: &Server) {
    let sql = "DELETE FROM credentials WHERE type = 'password'";
    assert_eq!(server.stores.execute(sql), 1);
}

#[test]
fn what_is_missing_is_null_and_what_is_odd_is_shown() {
    let server = Server::start(&Provider::friendly(), "");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    set(&server, "alice@b.c", "users", "created_at = NULL");
    assert_eq!(
        alice.get("/auth/me/export").json()["user"]["created"],
        json!(null)
    );
    let (phone, name) = ("9".repeat(40), "n".repeat(100));
    let odd = format!("phone = '{phone}', display_name = '{name}'");
    set(&server, "alice@b.c", "users", &odd);
    let long = format!("{}@b.c", "a".repeat(300));
    set(&server, "alice@b.c", "users", &format!("email = '{long}'"));
    let user = alice.get("/auth/me").json()["user"].clone();
    assert_eq!(
        (&user["email"], &user["phone"]),
        (&json!(long), &json!(phone))
    );
    assert_eq!(user["display_name"], json!(name));
    fails(&Person::new(&server).login(&long, PASSWORD), 401, DENIED);
    fails(&Person::new(&server).login(&phone, PASSWORD), 401, DENIED);
    let change = json!({"old_password": PASSWORD, "new_password": "battery staple 2"});
    assert_eq!(alice.post("/auth/password/change", &change).status, 200);
    set(&server, &long, "users", "email = NULL, phone = NULL");
    let user = alice.get("/auth/me").json()["user"].clone();
    assert_eq!(
        (&user["email"], &user["phone"]),
        (&json!(null), &json!(null))
    );
    let back = json!({"old_password": "battery staple 2", "new_password": PASSWORD});
    assert_eq!(alice.post("/auth/password/change", &back).status, 200);
    let delete = json!({ "password": PASSWORD }).to_string();
    let reply = alice.send("DELETE /auth/me", Some(delete.as_bytes()));
    assert_eq!(reply.status, 200);
}

#[test]
fn a_user_who_is_neither_active_nor_inactive_is_inactive() {
    let server = Server::start(&Provider::friendly(), DEBUG);
    let mut alice = Person::logged_in(&server, "alice@b.c");
    set(&server, "alice@b.c", "users", "is_active = NULL");
    fails(
        &Person::new(&server).login("alice@b.c", PASSWORD),
        401,
        DENIED,
    );
    let asked = json!({"identifier": "alice@b.c"});
    let reply = alice.post("/auth/password/forgot", &asked);
    assert_eq!(reply.json(), json!({"ok": true}), "no token for her");
    fails(&alice.get("/auth/me"), 401, "Unauthorized");
}

#[test]
fn a_hash_of_other_parameters_is_replaced_unless_that_is_switched_off() {
    for (rehash, settings) in [(true, ""), (false, "auth.rehash = false")] {
        let server = Server::start(&Provider::friendly(), settings);
        let mut alice = Person::logged_in(&server, "alice@b.c");
        let hash = format!("secret_hash = '{SMALL_HASH}'");
        set(&server, "alice@b.c", "credentials", &hash);
        assert_eq!(alice.login("alice@b.c", SMALL_PASSWORD).status, 200);
        let stored = Beside::new(&server).credential("alice@b.c").hash;
        let is_new = stored.expect("she has one").as_str() != SMALL_HASH;
        assert_eq!(is_new, rehash);
    }
}

/// Of several logins at one moment one replaces the hash; the others have not met another password.
#[test]
fn logins_at_one_moment_do_not_stand_in_each_other_s_way() {
    const ROUNDS: usize = 6;
    let server = Server::start(&Provider::friendly(), "chat.rate_per_minute = 0");
    assert_eq!(Person::new(&server).register("alice@b.c").status, 201);
    // Each from a browser that is known, or they would wait for each other.
    let mut browsers: Vec<Person<'_>> = (0..4).map(|_| Person::new(&server)).collect();
    for browser in &mut browsers {
        assert_eq!(browser.login("alice@b.c", PASSWORD).status, 200);
    }
    let hash = format!("secret_hash = '{SMALL_HASH}'");
    for round in 0..ROUNDS {
        set(&server, "alice@b.c", "credentials", &hash);
        let statuses: Vec<u16> = thread::scope(|scope| {
            let logins: Vec<_> = browsers
                .iter_mut()
                .map(|browser| scope.spawn(|| browser.login("alice@b.c", SMALL_PASSWORD).status))
                .collect();
            let ended = logins.into_iter().map(|login| login.join());
            ended.map(|status| status.expect("it has ended")).collect()
        });
        assert_eq!(statuses, [200; 4], "round {round}");
    }
}
