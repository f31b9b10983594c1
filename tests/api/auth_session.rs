//! Sessions and the own account: who is logged in, where else, and what outlives what.

use serde_json::json;

use crate::kit::{PASSWORD, Person, Provider, Server, fails};

#[test]
fn without_a_session_nobody_is_logged_in() {
    let server = Server::start(&Provider::friendly(), "");
    for line in [
        "GET /auth/me",
        "PATCH /auth/me",
        "DELETE /auth/me",
        "GET /auth/me/export",
        "GET /auth/sessions",
        "DELETE /auth/sessions/0123456789abcdef",
        "POST /auth/sessions/revoke_others",
        "POST /auth/password/change",
    ] {
        for cookie in [
            None,
            Some("x".repeat(43)),
            Some("short".to_owned()),
            Some(String::new()),
        ] {
            let mut person = Person::new(&server);
            if let Some(cookie) = cookie {
                person.cookies.insert("cc_auth".into(), cookie);
            }
            fails(&person.send(line, Some(b"{}")), 401, "Unauthorized");
        }
    }
    let reply = Person::new(&server).send("POST /auth/logout", None);
    assert_eq!((reply.status, reply.json()), (200, json!({"ok": true})));
}

#[test]
fn logout_ends_session_and_chat_and_leaves_the_browser_known() {
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    alice.post("/deepseek_chat", &json!({"message": "mine"}));
    let before = alice.cookies.clone();
    assert!(before.contains_key("cc_app"));
    let reply = alice.send("POST /auth/logout", None);
    assert_eq!(reply.status, 200);
    for name in ["cc_auth", "cc_app"] {
        let line = format!("{name}=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax; Secure");
        assert!(
            reply.head.all("set-cookie").contains(&line.as_str()),
            "{name}"
        );
    }
    assert_eq!(alice.cookies.keys().collect::<Vec<_>>(), ["cc_dev"]);
    // Whoever kept the cookies has nothing.
    alice.cookies = before;
    assert_eq!(alice.me(), 401);
    alice.post("/deepseek_chat", &json!({"message": "again"}));
    assert_eq!(provider.last().talk(), ["user: again"]);
}

#[test]
fn accounts_and_sessions_outlive_the_process() {
    let server = Server::start(&Provider::friendly(), "");
    let cookies = Person::logged_in(&server, "alice@b.c").cookies;
    let server = server.restart(libc::SIGTERM);
    let mut alice = Person::new(&server);
    alice.cookies = cookies;
    assert_eq!(alice.me(), 200);
    assert_eq!(Person::new(&server).register("bob@b.c").status, 201);
    let cookies = alice.cookies;
    let server = server.restart(libc::SIGKILL);
    let mut alice = Person::new(&server);
    alice.cookies = cookies;
    assert_eq!(alice.me(), 200);
    assert_eq!(Person::new(&server).login("bob@b.c", PASSWORD).status, 200);
}

#[test]
fn an_account_that_was_switched_off_has_no_sessions() {
    let server = Server::start(&Provider::friendly(), "");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let set = |sql: &str| assert_eq!(server.stores.execute(sql), 1);
    set("UPDATE users SET is_active = FALSE");
    fails(&alice.get("/auth/me"), 401, "Unauthorized");
    set("UPDATE users SET is_active = TRUE");
    assert_eq!(alice.me(), 401, "the session has ended");
}

#[test]
fn sessions_are_listed_and_ended_by_their_user_only() {
    let server = Server::start(&Provider::friendly(), "");
    let mut here = Person::logged_in(&server, "alice@b.c");
    let (mut there, mut third) = (Person::new(&server), Person::new(&server));
    assert_eq!(there.login("alice@b.c", PASSWORD).status, 200);
    assert_eq!(third.login("alice@b.c", PASSWORD).status, 200);
    let mut bob = Person::logged_in(&server, "bob@b.c");
    let list = here.get("/auth/sessions").json();
    let sessions = list["sessions"].as_array().expect("a list").clone();
    assert_eq!((sessions.len(), &list["ok"]), (3, &json!(true)));
    let of = |address: &str| {
        let found = sessions
            .iter()
            .find(|session| session["address"] == address);
        found.expect("each has its address").clone()
    };
    assert_eq!(of(&here.address)["current"], true);
    assert_eq!(of(&there.address)["current"], false);
    assert_eq!(of(&there.address)["user_agent"], "tests/1");
    let id = of(&there.address)["id"]
        .as_str()
        .expect("a text")
        .to_owned();
    assert!(!list.to_string().contains(&there.cookies["cc_auth"]));
    // Not Bob's to end, and no cookie.
    let line = format!("DELETE /auth/sessions/{id}");
    fails(&bob.send(&line, None), 404, "Not found");
    fails(
        &here.send("DELETE /auth/sessions/nothing", None),
        404,
        "Not found",
    );
    there
        .cookies
        .insert("cc_auth".into(), there.cookies["cc_auth"].clone());
    assert_eq!(there.me(), 200);
    let reply = here.send(&line, None);
    assert_eq!((reply.status, reply.get("set-cookie")), (200, None));
    assert_eq!((there.me(), third.me(), here.me()), (401, 200, 200));
    let reply = here.send("POST /auth/sessions/revoke_others", None);
    assert_eq!(reply.json(), json!({"ok": true, "revoked_sessions": 1}));
    assert_eq!((third.me(), here.me(), bob.me()), (401, 200, 200));
    // One's own ends too, and takes its cookie along.
    let own = here.get("/auth/sessions").json()["sessions"][0]["id"].clone();
    let reply = here.send(
        &format!("DELETE /auth/sessions/{}", own.as_str().expect("a text")),
        None,
    );
    assert_eq!(reply.status, 200);
    assert!(!here.cookies.contains_key("cc_auth"));
}

#[test]
fn a_profile_is_changed_exported_and_deleted() {
    let server = Server::start(&Provider::friendly(), "");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let mut bob = Person::logged_in(&server, "bob@b.c");
    let patch = |person: &mut Person<'_>, body: serde_json::Value| {
        person.send("PATCH /auth/me", Some(body.to_string().as_bytes()))
    };
    let reply = patch(
        &mut alice,
        json!({"display_name": " Alice ", "phone": "+1"}),
    );
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.json(), alice.get("/auth/me").json());
    let reply = patch(&mut alice, json!({"display_name": null}));
    assert_eq!(
        (
            &reply.json()["user"]["display_name"],
            &reply.json()["user"]["phone"]
        ),
        (&json!(null), &json!("+1"))
    );
    fails(
        &patch(&mut bob, json!({"phone": "+1"})),
        409,
        "Phone already registered",
    );
    fails(
        &patch(&mut bob, json!({"phone": "@"})),
        400,
        "Invalid phone",
    );
    fails(
        &patch(&mut bob, json!({"display_name": 1})),
        400,
        "Invalid display name",
    );
    for _ in 0..9 {
        assert_eq!(patch(&mut bob, json!({})).status, 200);
    }
    fails(&patch(&mut bob, json!({})), 429, "Too many requests");
    let export = alice.get("/auth/me/export").json();
    assert_eq!(export["user"]["email"], "alice@b.c");
    assert_eq!(export["sessions"][0]["user_agent"], "tests/1");
    assert_eq!(export["chats"], json!([]));
    // Deleted by whoever knows the password, with everything.
    let delete = |person: &mut Person<'_>, password: &str| {
        let body = json!({"password": password}).to_string();
        person.send("DELETE /auth/me", Some(body.as_bytes()))
    };
    fails(&delete(&mut alice, "wrong"), 401, "Invalid credentials");
    assert_eq!(alice.me(), 200);
    let cookies = alice.cookies.clone();
    assert_eq!(delete(&mut alice, PASSWORD).status, 200);
    assert!(alice.cookies.is_empty());
    alice.cookies = cookies;
    assert_eq!((alice.me(), bob.me()), (401, 200));
    fails(
        &alice.login("alice@b.c", PASSWORD),
        401,
        "Invalid credentials",
    );
    assert_eq!(alice.register("alice@b.c").status, 201);
}

#[test]
fn an_export_holds_all_own_chats_and_no_others() {
    let server = Server::start(&Provider::friendly(), "");
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let mut bob = Person::logged_in(&server, "bob@b.c");
    let ask = |person: &mut Person<'_>, message: &str| {
        let reply = person.post("/deepseek_chat", &json!({"message": message}));
        assert_eq!(reply.status, 200, "{}", reply.body);
    };
    ask(&mut bob, "not hers");
    // Longer than a piece on the wire, and with what JSON escapes.
    let long = "\"\n字".repeat(4000);
    let mut expect = Vec::new();
    for n in 0..5 {
        alice.cookies.remove("cc_app");
        let messages = [format!("{n} {long}"), format!("more {n}")];
        messages.iter().for_each(|message| ask(&mut alice, message));
        let said = messages.iter().flat_map(|message| {
            [
                json!({"role": "user", "content": message}),
                json!({"role": "assistant", "content": "Hello you"}),
            ]
        });
        expect.push(said.collect::<Vec<_>>());
    }
    let reply = alice.get("/auth/me/export");
    assert!(reply.whole && reply.get("cache-control") == Some("no-store"));
    let export = reply.json();
    let chats = export["chats"].as_array().expect("a list");
    let messages: Vec<_> = chats.iter().map(|chat| &chat["messages"]).collect();
    assert_eq!(json!(messages), json!(expect));
    assert!(chats.iter().all(|chat| chat["expires"].is_u64()));
    assert_eq!(alice.send("HEAD /auth/me/export", None).status, 200);
    let other = bob.get("/auth/me/export").json();
    assert_eq!(other["chats"][0]["messages"][0]["content"], "not hers");
    assert_eq!(other["chats"].as_array().map(Vec::len), Some(1));
    // It is one of the user's streams, given back at its end.
    assert_eq!(alice.get("/auth/me/export").status, 200);
}
