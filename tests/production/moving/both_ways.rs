//! Registrations, logins and sessions of each in the other.

use serde_json::json;

use super::{
    Moving, OTHER, OURS, PasswordRow, THEIRS, logged_in, me, on_every_way, refused, with_session,
};
use crate::kit::{PASSWORD, Person, fails};
use crate::old_service::{Service, password_of};

/// Failures of one identifier after which nobody is let in who is not known.
const FAILURES_MAX: usize = 10;
const WEEK: i64 = 604_800;

on_every_way!(logins, registrations, sessions);

/// Back and forth, whoever made the account: each login rehashes, and that is no new password.
fn logins(mut moving: Moving) {
    moving.old.register("dora@b.c", PASSWORD);
    let users = [
        ("dora@b.c", PASSWORD.to_owned()),
        ("user7@example.org", password_of(7)),
    ];
    for (email, password) in &users {
        let made = moving.tables.password(email);
        assert!(made.hash.starts_with(THEIRS), "{made:?}");
        let mut owner = logged_in(&moving.server, email, password);
        moving.tables.password(email).is_rehashed(&made, OURS);
        let (_, rehashed) = moving.old.login(email, password);
        assert!(rehashed, "{email}");
        moving.tables.password(email).is_rehashed(&made, THEIRS);
        let (_, rehashed) = moving.old.login(email, password);
        assert!(!rehashed, "{email}");
        assert_eq!(owner.me(), 200, "{email}: the session goes on");
        logged_in(&moving.server, email, password);
        moving.tables.password(email).is_rehashed(&made, OURS);
        // Strangers keep out those who come for the first time; the owner's browser is known as before.
        for _ in 0..FAILURES_MAX {
            refused(&moving.server, email, "wrong horse 1");
        }
        refused(&moving.server, email, password);
        assert_eq!(owner.login(email, password).status, 200, "{email}: known");
        let (_, rehashed) = moving.old.login(email, password);
        assert!(rehashed, "{email}");
        let wrong = "wrong password";
        moving.old.refuses_login(email, "wrong horse 1", wrong);
    }
    hashes_can_be_left_alone(&mut moving);
}

/// With a setting of ours, and with one of its.
fn hashes_can_be_left_alone(moving: &mut Moving) {
    let (email, password) = ("user8@example.org", &password_of(8));
    let theirs = moving.tables.password(email);
    let provider = crate::kit::Provider::friendly();
    let leaves = moving.server.second(&provider, "auth.rehash = false");
    logged_in(&leaves, email, password);
    assert_eq!(moving.tables.password(email), theirs);
    assert_eq!(Person::new(&leaves).register("new@b.c").status, 201);
    let ours = moving.tables.password("new@b.c");
    let redis = moving.redis.address("REDIS");
    let leaves = ["serve", "--no-rehash"];
    let mut leaves = Service::start(&moving.tables.url, redis, &leaves);
    assert!(!leaves.login("new@b.c", PASSWORD).1);
    assert_eq!(moving.tables.password("new@b.c"), ours);
    assert!(ours.hash.starts_with(OURS), "{ours:?}");
}

/// Who has an account at one of them has it at both, and nobody gets a second one.
fn registrations(moving: Moving) {
    let Moving {
        server,
        mut old,
        tables,
        ..
    } = moving;
    let form = |email: &str, phone: &str| json!({"email": email, "password": PASSWORD, "phone": phone, "display_name": "张人大"});
    let here = |form| Person::new(&server).post("/auth/register", &form);
    let there = |form: &serde_json::Value| {
        let mut form = form.clone();
        form["do"] = "register".into();
        form
    };
    let (emil, dora) = (form("emil@b.c", "+1 555 1"), form("dora@b.c", "+1 555 2"));
    assert_eq!(here(emil.clone()).status, 201);
    old.done(&there(&dora));
    fails(&here(dora), 409, "Email already registered");
    old.refuses(&there(&emil), "Email already registered");
    let phone_taken = "Phone already registered";
    fails(&here(form("x@b.c", "+1 555 2")), 409, phone_taken);
    old.refuses(&there(&form("x@b.c", "+1 555 1")), phone_taken);
    // Those who were there before either.
    fails(
        &here(form("user3@example.org", "")),
        409,
        "Email already registered",
    );
    fails(&here(form("x@b.c", "13800000003")), 409, phone_taken);
    for (email, phone) in [("emil@b.c", "+1 555 1"), ("dora@b.c", "+1 555 2")] {
        let made = tables.password(email);
        let (sid, rehashed) = old.login(phone, PASSWORD);
        assert_eq!(rehashed, made.hash.starts_with(OURS));
        let shown = me(&mut logged_in(&server, phone, PASSWORD));
        assert_eq!(shown, old.me(&sid));
        assert_eq!(
            (&shown["email"], &shown["phone"]),
            (&json!(email), &json!(phone))
        );
        let PasswordRow { changed_ms, .. } = tables.password(email);
        assert!(made.changed_ms > 0 && changed_ms == made.changed_ms);
    }
}

/// A session of one is one of the other, and its end is its end.
fn sessions(moving: Moving) {
    let Moving {
        server,
        mut old,
        tables,
        redis,
    } = moving;
    let (email, password) = ("user5@example.org", &password_of(5));
    let (sid, _) = old.login(email, password);
    let mut there = with_session(&server, &sid);
    let mut here = logged_in(&server, email, password);
    let cookie = here.cookies["cc_auth"].clone();
    let shown = me(&mut there);
    assert_eq!(shown["email"], email);
    assert_eq!(me(&mut here), shown);
    assert_eq!(
        (old.me(&sid), old.me(&cookie)),
        (shown.clone(), shown.clone())
    );
    let key = format!("sess:{cookie}");
    assert_eq!(redis.redis(&["GET", &key]), shown["id"].to_string());
    let ttl: i64 = redis.redis(&["TTL", &key]).parse().expect("seconds");
    assert!((WEEK - 60..=WEEK).contains(&ttl), "{ttl}");
    let listed = here.get("/auth/sessions").json();
    let listed = listed["sessions"].as_array().expect("a list").len();
    assert_eq!(listed, 2, "its session is known among hers");
    // A logout here ends it there, whose ever it was.
    assert_eq!(here.send("POST /auth/logout", None).status, 200);
    old.refuses_session(&cookie);
    assert_eq!(there.send("POST /auth/logout", None).status, 200);
    old.refuses_session(&sid);
    // And the other way round.
    let mut here = logged_in(&server, email, password);
    let key = format!("sess:{}", here.cookies["cc_auth"]);
    assert_eq!(redis.redis(&["DEL", &key]), "1");
    assert_eq!(here.me(), 401);
    // A login here with its session takes that one's place.
    let (sid, _) = old.login(email, password);
    assert_eq!(
        with_session(&server, &sid).login(email, password).status,
        200
    );
    old.refuses_session(&sid);
    // Who changes a password ends all others, who is switched off has none, and who leaves is gone.
    let (sid, _) = old.login(email, password);
    assert_eq!(with_session(&server, &sid).me(), 200);
    let mut here = logged_in(&server, email, password);
    let body = json!({"old_password": password, "new_password": OTHER});
    assert_eq!(here.post("/auth/password/change", &body).status, 200);
    old.refuses_session(&sid);
    old.me(&here.cookies["cc_auth"]);
    old.refuses_login(email, password, "wrong password");
    let (sid, _) = old.login(email, OTHER);
    let set = |active: &str| {
        let sql = format!("UPDATE users SET is_active = {active} WHERE email = '{email}'");
        tables.sql(&sql);
    };
    set("NULL");
    assert_eq!((with_session(&server, &sid).me(), here.me()), (401, 401));
    old.refuses_session(&sid);
    set("true");
    let mut here = logged_in(&server, email, OTHER);
    let body = json!({ "password": OTHER }).to_string();
    let left = here.send("DELETE /auth/me", Some(body.as_bytes()));
    assert_eq!(left.status, 200, "{}", left.body);
    old.refuses_login(email, OTHER, "no such user");
}
