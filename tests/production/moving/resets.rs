//! Passwords that are replaced by way of a mailed token, at one of the two.

use serde_json::json;

use super::{
    Moving, OTHER, OURS, THEIRS, logged_in, on_every_way, refused, reset, text, with_session,
};
use crate::kit::server::run;
use crate::kit::{Person, Provider, fails, pass, until};
use crate::old_service::password_of;

on_every_way!(resets_there, resets_here);

fn resets_there(mut moving: Moving) {
    for n in [2, 3] {
        let (email, password) = (&format!("user{n}@example.org"), &password_of(n));
        let mut here = logged_in(&moving.server, email, password);
        let mut known = Person::new(&moving.server);
        known
            .cookies
            .insert("cc_dev".into(), here.cookies["cc_dev"].clone());
        let (sid, ended) = match n {
            2 => (moving.old.login(email, password).0, 2),
            // Then the hash is still ours.
            _ => ("A".repeat(43), 1),
        };
        let before = moving.tables.password(email);
        let token = moving.old.forgot(email);
        assert_eq!(moving.old.reset(&token, OTHER), ended);
        refused(&moving.server, email, password);
        assert_eq!(here.me(), 401);
        assert_eq!(with_session(&moving.server, &sid).me(), 401);
        let after = moving.tables.password(email);
        assert!(after.id == before.id && after.hash.starts_with(THEIRS));
        logged_in(&moving.server, email, OTHER);
        if n == 2 {
            assert!(after.changed_ms > before.changed_ms, "{after:?}");
            // Nine more and the one from above: only known browsers are let in, of which it is none any more.
            for _ in 0..9 {
                refused(&moving.server, email, "wrong horse 1");
            }
            let reply = known.login(email, OTHER);
            fails(&reply, 401, "Invalid credentials");
        } else {
            // It cannot be told from the hash of the same password.
            assert!(before.hash.starts_with(OURS));
            assert_eq!(after.changed_ms, before.changed_ms);
        }
        moving.old.login(email, OTHER);
    }
}

fn resets_here(moving: Moving) {
    let Moving {
        server,
        mut old,
        tables,
        redis,
    } = moving;
    let debug = "auth.debug_return_reset_token = true\nserver.cookie_secure = false";
    let mailed = server.second(&Provider::friendly(), debug);
    let (email, password) = ("user4@example.org", &password_of(4));
    let (sid, _) = old.login(email, password);
    assert_eq!(with_session(&server, &sid).me(), 200);
    let mut here = logged_in(&server, email, password);
    let before = tables.password(email);
    let asked = Person::new(&mailed).post("/auth/password/forgot", &json!({"identifier": email}));
    let token = text(&asked.json()["debug_token"]);
    let operation = json!({"do": "reset", "token": token, "password": OTHER});
    old.refuses(&operation, "Token invalid or expired");
    assert_eq!(reset(&server, &token, OTHER), 2);
    old.refuses_login(email, password, "wrong password");
    for sid in [&sid, &here.cookies["cc_auth"]] {
        old.refuses_session(sid);
    }
    assert_eq!((here.me(), with_session(&server, &sid).me()), (401, 401));
    let after = tables.password(email);
    assert!(after.id == before.id && after.changed_ms > before.changed_ms);
    let (sid, rehashed) = old.login(email, OTHER);
    assert!(rehashed);
    assert_eq!(with_session(&server, &sid).me(), 200);
    logged_in(&server, email, OTHER);
    // A session of its, of which we have heard nothing before, is dead too.
    let (email, password) = ("user6@example.org", &password_of(6));
    let (sid, _) = old.login(email, password);
    let token = old.forgot(email);
    reset(&server, &token, OTHER);
    assert_eq!(with_session(&server, &sid).me(), 401);
    old.login(email, OTHER);
    // One that we are never shown ends there as well, and nobody else's, nor one that begins now.
    let (email, password) = ("user10@example.org", &password_of(10));
    let (sid, _) = old.login(email, password);
    let (other, _) = old.login("user11@example.org", &password_of(11));
    let ends = |sid: &str| {
        let key = format!("sess:{sid}");
        until("its session to end", || {
            (redis.redis(&["EXISTS", &key]) == "0").then_some(())
        });
    };
    let token = old.forgot(email);
    // It looks no more than once in ten seconds.
    pass(10.0);
    reset(&server, &token, OTHER);
    let (new, _) = old.login(email, OTHER);
    ends(&sid);
    old.refuses_session(&sid);
    // Nor does the administrator's command end before that.
    let config = server.config();
    let config = config.to_str().expect("it is text");
    let told = |arguments: &[&str]| {
        let (code, _, errors) = run(&[arguments, &["--config", config]].concat(), &[]);
        assert_eq!(code, 0, "{errors}");
    };
    assert_eq!(old.me(&new)["email"], email);
    told(&["user", "end-sessions", email]);
    old.refuses_session(&new);
    assert_eq!(old.me(&other)["email"], "user11@example.org");
    // Nor does a session of ours go on that its list does not name any more.
    let here = logged_in(&server, "user12@example.org", &password_of(12));
    let sid = &here.cookies["cc_auth"];
    let id = redis.redis(&["GET", &format!("sess:{sid}")]);
    assert_eq!(redis.redis(&["DEL", &format!("user_sess:{id}")]), "1");
    told(&["user", "disable", "user12@example.org"]);
    old.refuses_session(sid);
}
