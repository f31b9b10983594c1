//! Beside the service that CloudChat replaces, on the same stores: what one of them has made works in the
//! other. The other's part is played by writing what it writes.

use serde_json::json;

use crate::kit::stores::{Database, Stores, connect, migrate, runtime};
use crate::kit::{PASSWORD, Person, Provider, Server, fails};
use crate::services::Services;

/// What argon2-cffi 25.1 makes of [`PASSWORD`] with the old service's parameters.
pub const OLD_HASH: &str = "$argon2id$v=19$m=65536,t=3,p=4$Rtkqnclci330YnLCH27jNg$gEuR8x5mzBp2xzngE4wXOZro+TaYathyGZ7U5wGK1vQ";
/// 32 random bytes as the old service writes them: `secrets.token_urlsafe(32)`.
const SID: &str = "Zk3J0sQ8pR5tV7wX9yB1cD2eF4gH6iJ8kL0mN2oP4qR";
const RESET: &str = "aK3J0sQ8pR5tV7wX9yB1cD2eF4gH6iJ8kL0mN2oP4qR";
const OTHER: &str = "battery staple 2";
const WEEK: i64 = 604_800;

/// Alice and her password, as the old service makes them; her number.
fn old_alice(server: &Server) -> String {
    let user = "INSERT INTO users (uid, email, phone, display_name, is_active)
        VALUES ('b0b5d8f178f1', 'alice@b.c', NULL, 'Alice', TRUE)";
    let credential = format!(
        "INSERT INTO credentials (user_id, password_hash)
         SELECT id, '{OLD_HASH}' FROM users WHERE email = 'alice@b.c'"
    );
    assert_eq!(server.stores.execute(user), 1);
    assert_eq!(server.stores.execute(&credential), 1);
    let mut alice = Person::new(server);
    assert_eq!(alice.login("alice@b.c", PASSWORD).status, 200);
    alice.get("/auth/me").json()["user"]["id"].to_string()
}

/// A session as the old service makes it.
fn old_session<'a>(services: &Services, server: &'a Server, user: &str) -> Person<'a> {
    let set = ["SET", &format!("sess:{SID}"), user, "EX", "604800"];
    assert_eq!(services.redis(&set), "OK");
    let mut person = Person::new(server);
    person.cookies.insert("cc_auth".into(), SID.into());
    person
}

#[test]
fn sessions_of_each_work_in_the_other() {
    let services = Services::start("postgres,redis");
    let pair = services.pair("POSTGRES", "REDIS");
    let server = Server::on(&pair, &Provider::friendly(), "");
    let user = old_alice(&server);
    let mut there = old_session(&services, &server, &user);
    let me = there.get("/auth/me");
    assert_eq!(me.status, 200, "{}", me.body);
    assert_eq!(me.json()["user"]["uid"], "b0b5d8f178f1");
    let mut here = Person::new(&server);
    assert_eq!(here.login("alice@b.c", PASSWORD).status, 200);
    // It is known among her sessions, which our login has found written down.
    let listed = here.get("/auth/sessions").json();
    assert_eq!(
        listed["sessions"].as_array().map(Vec::len),
        Some(3),
        "{listed}"
    );
    // What the old service looks up: the number behind the cookie, for a week.
    let key = format!("sess:{}", here.cookies["cc_auth"]);
    assert_eq!(services.redis(&["GET", &key]), user);
    let ttl: i64 = services.redis(&["TTL", &key]).parse().expect("seconds");
    assert!((WEEK - 60..=WEEK).contains(&ttl), "{ttl}");
    // A logout at either ends the session at both.
    assert_eq!(here.send("POST /auth/logout", None).status, 200);
    assert_eq!(services.redis(&["EXISTS", &key]), "0");
    services.redis(&["DEL", &format!("sess:{SID}")]);
    assert_eq!(there.me(), 401);
}

#[test]
fn a_password_change_ends_sessions_of_the_old_service() {
    let services = Services::start("postgres,redis");
    let pair = services.pair("POSTGRES", "REDIS");
    let server = Server::on(&pair, &Provider::friendly(), "");
    let user = old_alice(&server);
    let mut there = old_session(&services, &server, &user);
    assert_eq!(there.me(), 200);
    let mut here = Person::new(&server);
    assert_eq!(here.login("alice@b.c", PASSWORD).status, 200);
    let body = json!({"old_password": PASSWORD, "new_password": OTHER});
    assert_eq!(here.post("/auth/password/change", &body).status, 200);
    assert_eq!(there.me(), 401);
    let key = format!("sess:{SID}");
    assert_eq!(
        services.redis(&["EXISTS", &key]),
        "0",
        "gone for the old service too"
    );
}

#[test]
fn reset_tokens_of_the_old_service_work_once() {
    let services = Services::start("postgres,redis");
    let pair = services.pair("POSTGRES", "REDIS");
    let server = Server::on(&pair, &Provider::friendly(), "");
    let user = old_alice(&server);
    let mut there = old_session(&services, &server, &user);
    let key = format!("pwreset:{RESET}");
    assert_eq!(services.redis(&["SET", &key, &user, "EX", "900"]), "OK");
    let body = json!({"token": RESET, "password": OTHER});
    let reply = Person::new(&server).post("/auth/password/reset", &body);
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(services.redis(&["EXISTS", &key]), "0");
    assert_eq!(there.me(), 401);
    // Not even if the key comes back.
    services.redis(&["SET", &key, &user, "EX", "900"]);
    let reply = Person::new(&server).post("/auth/password/reset", &body);
    fails(&reply, 400, "Token invalid or expired");
    // What is no token of the old service is no key either.
    services.redis(&["SET", "pwreset:short", &user, "EX", "900"]);
    let body = json!({"token": "short", "password": OTHER});
    let reply = Person::new(&server).post("/auth/password/reset", &body);
    fails(&reply, 400, "Token invalid or expired");
    assert_eq!(Person::new(&server).login("alice@b.c", OTHER).status, 200);
}

#[test]
fn a_database_of_the_old_service_is_taken_over_with_its_data() {
    let services = Services::start("postgres,redis");
    let direct = services.address("POSTGRES");
    let admin = connect(&format!("{direct}/postgres"));
    let run = |client: &tokio_postgres::Client, sql: &str| {
        let done = runtime().block_on(client.batch_execute(sql));
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    };
    run(&admin, "CREATE DATABASE old");
    let old = connect(&format!("{direct}/old"));
    run(&old, include_str!("../../sql/postgres/0001_users.sql"));
    run(
        &old,
        &format!(
            "INSERT INTO users (uid, email, is_active) VALUES
                 ('b0b5d8f178f1', 'alice@b.c', TRUE), ('b0b5d8f178f2', 'off@b.c', NULL);
             INSERT INTO credentials (user_id, password_hash) SELECT id, '{OLD_HASH}' FROM users"
        ),
    );
    migrate(&format!("{direct}/old"));
    let taken = Database {
        name: "old".to_owned(),
        direct: direct.to_owned(),
    };
    let pair = services.pair("POSTGRES", "REDIS");
    let server = Server::over(Stores::of(&pair, Some(taken)), &Provider::friendly(), "");
    let mut alice = Person::new(&server);
    assert_eq!(alice.login("alice@b.c", PASSWORD).status, 200);
    let reply = Person::new(&server).login("off@b.c", PASSWORD);
    fails(&reply, 401, "Invalid credentials");
    // The old service goes on writing: it registers, and it replaces a password.
    run(
        &old,
        "INSERT INTO users (uid, email) VALUES ('b0b5d8f178f3', 'bob@b.c')",
    );
    run(
        &old,
        &format!(
            "INSERT INTO credentials (user_id, password_hash)
             SELECT id, '{OLD_HASH}' FROM users WHERE email = 'bob@b.c'"
        ),
    );
    assert_eq!(Person::new(&server).login("bob@b.c", PASSWORD).status, 200);
    assert_eq!(Person::new(&server).register("carol@b.c").status, 201);
}
