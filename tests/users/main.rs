//! `cloudchat user` as an operator calls it, on a data folder and beside a running server.

mod support;

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cloudchat::clock::{self, Clock};
use cloudchat::model::{Email, Letter, Phone, Token, UserId};
use cloudchat::store::Backend;
use serde_json::Value;

use support::{
    PASSWORD, PATIENCE, at_terminal, create, credential, fails, folder, json, letters, log_in,
    look, matches, settings, user, user_with,
};

#[test]
fn a_user_is_created_shown_and_found_by_every_name() {
    let folder = folder();
    let data = folder.path().to_owned();
    let id = create(
        &data,
        &[
            " Alice@Example.com",
            "--phone",
            "+1 5",
            "--display-name",
            "张人大",
        ],
    );
    let shown = json(&data, &["show", "alice@example.com"], "");
    for (key, expect) in [
        ("id", Value::from(id.0)),
        ("email", "alice@example.com".into()),
        ("phone", "+1 5".into()),
        ("display_name", "张人大".into()),
        ("is_active", true.into()),
        ("sessions", 0.into()),
    ] {
        assert_eq!(shown[key], expect, "{key}");
    }
    assert_eq!(shown.as_object().expect("an object").len(), 9);
    assert_eq!(shown["created_at"], shown["password_changed_at"]);
    let uid = shown["uid"].as_str().expect("a text");
    for name in ["ALICE@example.com ", "+1 5", uid, &id.to_string()] {
        assert_eq!(json(&data, &["show", name], ""), shown, "{name}");
    }
    let (code, out, _) = user(&data, &["show", uid]);
    assert!(code == 0 && out.contains("active") && out.contains("alice@example.com"));
    assert!(!out.contains("argon2"), "{out}");

    let stored = credential(&data, "alice@example.com").expect("a credential");
    assert!(matches(&stored, PASSWORD) && !matches(&stored, "another horse 1"));
    assert_eq!(letters(&data), []);
}

#[test]
fn what_is_wrong_is_told_in_one_line() {
    let folder = folder();
    let data = folder.path();
    let missing = data.join("missing");
    let empty = tempfile::tempdir().expect("there is room");
    for words in [
        &["list"][..],
        &["show", "1"],
        &["delete", "1", "--yes"],
        &["set-password", "1"],
        &["create", "a@b.c"],
    ] {
        fails(&missing, words, "", 2, "no accounts here");
        assert!(!missing.exists());
        fails(empty.path(), words, "", 2, "no accounts here");
        let made = std::fs::read_dir(empty.path()).expect("it is there");
        assert_eq!(made.count(), 0);
    }
    // A store of which a part is missing is not completed.
    let sessions = data.join("sessions.db");
    std::fs::remove_file(&sessions).expect("it is there");
    fails(data, &["list"], "", 1, "sessions.db: is missing");
    assert!(!sessions.exists());
    look(data, async |_| ());
    for (input, part) in [
        ("", "no password on stdin"),
        ("\n", "no password on stdin"),
        ("short1\n", "weak password"),
        ("Password1\r\n", "weak password"),
        (&format!("{}1\n", "a".repeat(128)), "weak password"),
        (&format!("{}1\n", "a".repeat(100_000)), "weak password"),
    ] {
        fails(data, &["create", "a@b.c"], input, 1, part);
    }
    let line = format!("{PASSWORD}\n");
    create(data, &["a@b.c", "--phone", "2"]);
    create(data, &["b@b.c"]);
    fails(
        data,
        &["create", "A@b.c"],
        &line,
        1,
        "email address belongs",
    );
    let again = ["create", "c@b.c", "--phone", " 2 "];
    fails(data, &again, &line, 1, "phone number belongs");
    for words in [
        &["show", "x"][..],
        &["disable", "9"],
        &["enable", "x@b.c"],
        &["delete", "", "--yes"],
        &["set-password", "x\n"],
        &["end-sessions", "x"],
    ] {
        fails(data, words, &line, 1, "no such user: \"");
    }
    fails(data, &["set-password", "1"], "abcd1234\n", 1, "weak");
    // The phone number of the first is the number of the second.
    fails(data, &["show", "2"], "", 1, "\"2\" names 2 users, uid ");
    fails(data, &["delete", "a@b.c"], "yes\n", 2, "delete needs --yes");
    for words in [
        &[][..],
        &["create"],
        &["create", "no address"],
        &["create", "d@b.c", "--phone", "a@b"],
        &["create", "d@b.c", "--password", PASSWORD],
        &["show"],
    ] {
        let (code, out, err) = user_with(data, words, &line);
        assert_eq!((code, out.as_str()), (2, ""), "{words:?}: {err}");
    }
    fails(data, &["list", "--config", "/nowhere"], "", 2, "/nowhere");
}

#[test]
fn a_list_prints_every_user_in_order() {
    let folder = folder();
    let data = folder.path();
    create(data, &["first@b.c"]);
    // More than one page of 256; their passwords do not matter.
    look(data, async |stores| {
        for n in 0..300 {
            let new = cloudchat::model::NewUser {
                email: Email::parse(&format!("u{n}@b.c")).unwrap(),
                phone: Phone::parse(&format!("+{n}")),
                display_name: None,
                hash: cloudchat::model::PasswordHash::new("$x".to_owned()),
                welcome: false,
            };
            stores.accounts.register(0, new).await.unwrap();
        }
    });
    let (code, out, err) = user(data, &["list", "--json"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let users: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    assert_eq!(users.len(), 301);
    assert_eq!(users[0]["email"], "first@b.c");
    assert!(users[0]["phone"].is_null());
    assert_eq!(users[300]["email"], "u299@b.c");
    assert_eq!(users[300]["created_at"], "1970-01-01T00:00:00Z");
    let ids = users.iter().map(|user| user["id"].as_i64());
    assert!(ids.is_sorted_by(|a, b| a < b));
    create(data, &["last@b.c", "--display-name", "a\u{202e}b\u{2069}c"]);
    let (code, out, _) = user(data, &["list"]);
    assert_eq!((code, out.lines().count()), (0, 303));
    assert!(out.contains("a\\u{202e}b\\u{2069}c"), "{out}");
    let (_, out, _) = user(data, &["list", "--json"]);
    assert!(out.contains("a\\u202eb\\u2069c"), "{out}");
}

/// All commands that change a user, each seen in the store afterwards.
fn change_everything(data: &Path) {
    let id = create(data, &["a@b.c"]);
    let other = create(data, &["b@b.c"]);
    let others = log_in(data, other);
    let lives = |token: &Token| {
        look(data, async |stores| {
            let now_ms = Clock::System.wall_ms();
            let session = stores
                .sessions
                .session(now_ms, token)
                .await
                .expect("it answers")?;
            let user = stores
                .accounts
                .user(session.user)
                .await
                .expect("it answers")?;
            user.admits(session.created_ms).then_some(())
        })
        .is_some()
    };
    for (done, input) in [
        ("end-sessions", ""),
        ("set-password", "another horse 1\n"),
        ("disable", ""),
    ] {
        let before = credential(data, "a@b.c").expect("a credential");
        let tokens = log_in(data, id);
        assert!(tokens.iter().all(lives), "{done}");
        assert_eq!(json(data, &["show", "a@b.c"], "")["sessions"], 2);
        let change = json(data, &[done, "a@b.c"], input);
        assert_eq!(change["done"], done);
        assert_eq!(change["sessions_ended"], 2, "{done}");
        assert!(!tokens.iter().any(lives), "{done}");
        let after = credential(data, "a@b.c").expect("a credential");
        assert!(after.sessions_not_before_ms > before.sessions_not_before_ms);
        assert_eq!(after.is_active, done != "disable");
        assert_eq!(after.hash != before.hash, done == "set-password");
    }
    let stored = credential(data, "a@b.c").expect("a credential");
    assert!(matches(&stored, "another horse 1") && !matches(&stored, PASSWORD));
    // The user is told of the new password.
    assert_eq!(letters(data), [Letter::ResetDone]);
    assert_eq!(json(data, &["show", "a@b.c"], "")["is_active"], false);
    json(data, &["enable", "a@b.c"], "");
    assert!(credential(data, "a@b.c").expect("a credential").is_active);
    log_in(data, id);
    let change = json(data, &["delete", "a@b.c", "--yes"], "");
    assert_eq!(change["sessions_ended"], 2);
    assert_eq!(credential(data, "a@b.c"), None);
    assert!(others.iter().all(lives));
}

#[test]
fn every_change_is_in_the_store() {
    let folder = folder();
    change_everything(folder.path());
}

/// A server; it is killed when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

#[test]
fn every_change_works_beside_a_running_server() {
    let folder = folder();
    let data = folder.path().join("data");
    let free = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let address = free.local_addr().expect("it is bound");
    drop(free);
    // Its sender is not to take the mails that are looked for.
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "mail.look_seconds = 3600\n").expect("it is writable");
    let child = Command::new(env!("CARGO_BIN_EXE_cloudchat"))
        .args(["serve", "--listen", &address.to_string(), "--data-dir"])
        .arg(&data)
        .arg("--config")
        .arg(&config)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut server = Server(child.expect("the program starts"));
    let start = clock::now();
    while TcpStream::connect(address).is_err() {
        assert!(start.elapsed() < PATIENCE, "the server does not listen");
        std::thread::yield_now();
    }
    // The store this process holds open sees each change too, without opening the files anew.
    let backend = Backend::start(&settings(&data), |_, _| ()).expect("the store opens");
    change_everything(&data);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let users = runtime
        .expect("a runtime can be made")
        .block_on(backend.connect().accounts.list_users(UserId(0), 10));
    let users = users.expect("the store answers");
    let emails: Vec<&str> = users
        .iter()
        .map(|user| user.email.as_ref().map_or("", |email| email.as_str()))
        .collect();
    assert_eq!(emails, ["b@b.c"]);
    backend.stop().expect("it ends well");
    assert_eq!(server.0.try_wait().expect("it is our child"), None);
}

#[test]
fn a_terminal_is_asked_twice_and_shows_no_password() {
    let folder = folder();
    let data = folder.path();
    let typed = format!("{PASSWORD}\r");
    let twice = |second| [("New password: ", typed.as_str()), ("Once more: ", second)];
    let (code, shown) = at_terminal(data, "create a@b.c", &twice("another horse 1\r"));
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("the two passwords differ"), "{shown}");
    let (code, shown) = at_terminal(data, "create a@b.c", &twice(&typed));
    assert_eq!(code, 0, "{shown}");
    assert!(!shown.contains("horse"), "{shown}");
    let stored = credential(data, "a@b.c").expect("a credential");
    assert!(matches(&stored, PASSWORD));

    let (code, shown) = at_terminal(data, "delete a@b.c", &[("Type yes: ", "no\r")]);
    assert!(
        code == 1 && shown.contains("nothing was deleted"),
        "{shown}"
    );
    let (code, shown) = at_terminal(data, "delete a@b.c", &[("Type yes: ", "yes\r")]);
    assert_eq!(code, 0, "{shown}");
    assert_eq!(credential(data, "a@b.c"), None);
}
