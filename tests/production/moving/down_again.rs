//! The way back: CloudChat has been at work on the tables, and the old service goes on alone.

use std::path::PathBuf;

use serde_json::json;

use super::{Moving, OTHER, logged_in, on_every_way, refused, reset};
use crate::kit::server::run;
use crate::kit::{PASSWORD, Person, Server};
use crate::old_service::{Service, password_of};

on_every_way!(the_old_service_goes_on_where_ours_has_ended);

fn user(n: usize) -> String {
    format!("user{n}@example.org")
}

/// Everything that ours can do to an account.
fn work(moving: &mut Moving) {
    let (server, old) = (&moving.server, &mut moving.old);
    let form =
        json!({"email": "new@b.c", "password": PASSWORD, "phone": "+1 5", "display_name": "New"});
    assert_eq!(
        Person::new(server).post("/auth/register", &form).status,
        201
    );
    let mut one = logged_in(server, &user(1), &password_of(1));
    let change = json!({"old_password": password_of(1), "new_password": OTHER});
    assert_eq!(one.post("/auth/password/change", &change).status, 200);
    let profile = json!({"display_name": "One", "phone": "+1 6"}).to_string();
    let changed = one.send("PATCH /auth/me", Some(profile.as_bytes()));
    assert_eq!(changed.status, 200, "{}", changed.body);
    for email in [&user(2), "oauth-three@example.org"] {
        let token = old.forgot(email);
        reset(server, &token, OTHER);
    }
    logged_in(server, &user(3), &password_of(3));
    logged_in(server, &user(4), &password_of(4));
    let path = |path: PathBuf| path.to_str().expect("it is text").to_owned();
    let (config, data) = (path(server.config()), path(server.data()));
    for n in [4, 5] {
        let email = user(n);
        let words = [
            "user",
            "disable",
            &email,
            "--config",
            &config,
            "--data-dir",
            &data,
        ];
        let (code, _, errors) = run(&words, &[]);
        assert_eq!(code, 0, "{errors}");
    }
    assert_eq!(
        server
            .stores
            .execute("UPDATE users SET is_active = FALSE WHERE email = 'user6@example.org'"),
        1
    );
    let mut seven = logged_in(server, &user(7), &password_of(7));
    let body = json!({"password": password_of(7)}).to_string();
    assert_eq!(
        seven.send("DELETE /auth/me", Some(body.as_bytes())).status,
        200
    );
    // As a sign-in without an address would make it.
    let bare = "INSERT INTO users (uid, email) VALUES ('b0b5d8f178f1', NULL)";
    assert_eq!(server.stores.execute(bare), 1);
}

fn the_old_service_goes_on_where_ours_has_ended(mut moving: Moving) {
    let kept = logged_in(&moving.server, &user(9), &password_of(9)).cookies["cc_auth"].clone();
    work(&mut moving);
    moving.server.signal(libc::SIGTERM);
    assert!(moving.server.wait().success());
    let Moving {
        server,
        old,
        tables,
        redis,
    } = moving;
    drop(old);
    let mut old = Service::start(&tables.url, redis.address("REDIS"), &["serve"]);
    for (email, password, is_ours) in [
        ("new@b.c", PASSWORD, true),
        (&user(1), OTHER, true),
        (&user(2), OTHER, true),
        ("oauth-three@example.org", OTHER, true),
        (&user(3), &password_of(3), true),
        (&user(8), &password_of(8), false),
    ] {
        let (sid, rehashed) = old.login(email, password);
        assert_eq!((&old.me(&sid)["email"], rehashed), (&json!(email), is_ours));
        let (_, rehashed) = old.login(email, password);
        assert!(!rehashed, "{email}: it is its own again");
    }
    assert_eq!(old.me(&kept)["email"], user(9), "nobody is logged out");
    for n in [1, 2] {
        old.refuses_login(&user(n), &password_of(n), "wrong password");
    }
    let profile = json!({"phone": "+1 6", "display_name": "One"});
    let (sid, _) = old.login("+1 6", OTHER);
    let shown = old.me(&sid);
    assert_eq!(
        json!({"phone": shown["phone"], "display_name": shown["display_name"]}),
        profile
    );
    for n in [4, 5, 6] {
        old.refuses_login(&user(n), &password_of(n), "inactive");
    }
    old.refuses_login(&user(7), &password_of(7), "no such user");
    for (email, phone, error) in [
        ("new@b.c", None, "Email already registered"),
        ("user3@example.org", None, "Email already registered"),
        ("x@b.c", Some("+1 5"), "Phone already registered"),
        ("x@b.c", Some("+1 6"), "Phone already registered"),
    ] {
        let taken = json!({"do": "register", "email": email, "password": OTHER, "phone": phone});
        old.refuses(&taken, error);
    }
    for email in ["last@b.c", &user(7)] {
        old.register(email, OTHER);
        old.login(email, OTHER);
    }
    for email in ["new@b.c", &user(3), "no-credentials@example.org"] {
        let token = old.forgot(email);
        old.reset(&token, "one more 3");
        old.login(email, "one more 3");
    }
    back_again(server, &mut old);
}

/// Ours again, on what the old service has made of it meanwhile.
fn back_again(server: Server, old: &mut Service) {
    let server = server.restart_ended();
    for (email, password) in [
        ("new@b.c", "one more 3"),
        (&user(3), "one more 3"),
        ("no-credentials@example.org", "one more 3"),
        (&user(7), OTHER),
        ("last@b.c", OTHER),
        (&user(1), OTHER),
        (&user(8), &password_of(8)),
    ] {
        logged_in(&server, email, password);
        assert!(old.login(email, password).1, "{email}");
    }
    refused(&server, &user(3), &password_of(3));
    refused(&server, &user(4), &password_of(4));
}
