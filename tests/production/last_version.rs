//! What our last version has kept (tests/fixtures/last_version) in the hands of this one: nobody is logged out,
//! nothing is forgotten, and no token works twice.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::Value as Cell;
use serde_json::{Value, json};

use crate::kit::stores::{Database, Pair, Stores, migrate};
use crate::kit::{PASSWORD, Person, Provider, Reply, Server, fails, until};
use crate::moving::OURS;
use crate::services::Services;

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../fixtures/last_version/", $name))
    };
}

/// Else SQLite's default lets nobody in whose hash is the old service's.
const OLD_HASHES: &str = "auth.hash_memory_max = \"64M\"\nlimits.memory = \"128M\"";
const FAILURES_MAX: usize = 10;
const OTHER: &str = "battery staple 7";
const BACKUP: &str = "before-schema-3";

/// What the stores of that name hold.
fn expected(name: &str) -> Value {
    let all: Value = serde_json::from_str(fixture!("expected.json")).expect("it is JSON");
    all[name].clone()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("it is a text")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("it is a list")
}

/// Somebody with these cookies of the last version.
fn browser<'a>(server: &'a Server, cookies: &[(&str, &Value)]) -> Person<'a> {
    let mut person = Person::new(server);
    for (name, value) in cookies {
        person
            .cookies
            .insert((*name).to_owned(), text(value).to_owned());
    }
    person
}

fn reset(server: &Server, token: &Value) -> Reply {
    let body = json!({"token": token, "password": OTHER});
    Person::new(server).post("/auth/password/reset", &body)
}

/// What is said with these cookies, as the provider gets it.
fn talk(server: &Server, provider: &Provider, cookies: &[(&str, &Value)]) -> Vec<String> {
    let mut person = browser(server, cookies);
    let reply = person.post("/deepseek_chat", &json!({"message": "And now?"}));
    assert_eq!(reply.status, 200, "{}", reply.body);
    provider.last().talk()
}

/// Everything that its users have is theirs again.
fn all_goes_on(server: &Server, provider: &Provider, expected: &Value) {
    sessions_and_chats_go_on(server, provider, expected);
    known_browsers_are_known(server, expected);
    let users = list(&expected["users"]);
    for user in users {
        let mut person = Person::new(server);
        // By its number, if it has one: strangers have used up the address.
        let identifier = user["phone"].as_str().unwrap_or(text(&user["email"]));
        let reply = person.login(identifier, text(&user["password"]));
        let may = user["is_active"] == true;
        let is_locked = ["bob@example.org", "erin@example.org"].contains(&identifier);
        let status = if may && !is_locked { 200 } else { 401 };
        assert_eq!(reply.status, status, "{identifier}: {}", reply.body);
        if status == 200 {
            shows(&mut person, user);
        }
    }
    tokens_work_once(server, expected);
    let mut heidi = Person::new(server);
    assert_eq!(heidi.register("heidi@example.org").status, 201);
    assert_eq!(heidi.login("heidi@example.org", PASSWORD).status, 200);
    let me = heidi.get("/auth/me").json();
    assert_eq!(
        me["user"]["id"], expected["next_user_id"],
        "no number is given again"
    );
}

fn shows(person: &mut Person<'_>, user: &Value) {
    let reply = person.get("/auth/me");
    assert_eq!(reply.status, 200, "{}", reply.body);
    let me = reply.json();
    for name in ["id", "uid", "email", "phone", "display_name", "is_active"] {
        assert_eq!(me["user"][name], user[name], "{name} of {user}");
    }
}

/// The user with this number.
fn user<'a>(expected: &'a Value, id: &Value) -> &'a Value {
    let found = list(&expected["users"])
        .iter()
        .find(|user| user["id"] == *id);
    found.expect("there is one")
}

fn sessions_and_chats_go_on(server: &Server, provider: &Provider, expected: &Value) {
    let sessions = list(&expected["sessions"]);
    for session in sessions {
        let mut person = browser(server, &[("cc_auth", &session["cc_auth"])]);
        shows(&mut person, user(expected, &session["user_id"]));
    }
    for ended in list(&expected["ended_sessions"]) {
        let cookies = ["cc_auth", "cc_dev"].map(|name| (name, &ended[name]));
        let reply = browser(server, &cookies).get("/auth/me");
        fails(&reply, 401, "Unauthorized");
    }
    let [alice_s, nobody_s] = list(&expected["chats"]) else {
        panic!("there are two chats");
    };
    let (alice, hers) = (&sessions[0]["cc_auth"], &alice_s["cc_app"]);
    assert_eq!(sessions[0]["user_id"], alice_s["owner"]);
    let said = [
        "user: My name is Alice.",
        "assistant: 2 messages",
        "user: What is my name? 🙂",
        "assistant: 4 messages",
        "user: And now?",
    ];
    let both = [("cc_auth", alice), ("cc_app", hers)];
    assert_eq!(talk(server, provider, &both), said);
    let said = ["user: Who am I?", "assistant: 2 messages", "user: And now?"];
    let nobody = [("cc_app", &nobody_s["cc_app"])];
    assert_eq!(talk(server, provider, &nobody), said);
    // Not without her session.
    assert_eq!(
        talk(server, provider, &[("cc_app", hers)]),
        ["user: And now?"]
    );
}

/// After too many failures of strangers only browsers get in that have been there before.
fn known_browsers_are_known(server: &Server, expected: &Value) {
    let sessions = list(&expected["sessions"]);
    for user in list(&expected["users"]) {
        let mine = sessions
            .iter()
            .filter(|session| session["user_id"] == user["id"]);
        let mine: Vec<_> = mine
            .map(|session| [("cc_dev", &session["cc_dev"])])
            .collect();
        if mine.is_empty() {
            continue;
        }
        let (email, password) = (text(&user["email"]), text(&user["password"]));
        for _ in 0..FAILURES_MAX {
            assert_eq!(
                Person::new(server).login(email, "wrong horse 1").status,
                401
            );
        }
        assert_eq!(Person::new(server).login(email, password).status, 401);
        for known in mine {
            assert_eq!(
                browser(server, &known).login(email, password).status,
                200,
                "{email}"
            );
        }
    }
}

fn tokens_work_once(server: &Server, expected: &Value) {
    const INVALID: &str = "Token invalid or expired";
    fails(&reset(server, &expected["used_reset_token"]), 400, INVALID);
    let pending = &expected["pending_reset_token"];
    assert_eq!(reset(server, &pending["token"]).status, 200);
    fails(&reset(server, &pending["token"]), 400, INVALID);
    let whose = user(expected, &pending["user_id"]);
    let session = &list(&expected["sessions"])[0];
    assert_eq!(session["user_id"], pending["user_id"]);
    assert_eq!(
        browser(server, &[("cc_auth", &session["cc_auth"])]).me(),
        401
    );
    let phone = text(&whose["phone"]);
    assert_eq!(Person::new(server).login(phone, OTHER).status, 200);
}

/// Makes a file of the data folder of such a text.
fn load(text: &str, path: &Path) -> Connection {
    let file = Connection::open(path).expect("it can be made");
    file.execute_batch(text).expect("it is SQL");
    file
}

/// The number of a file's schema, and all rows of its tables.
type Contents = (i64, Vec<(String, Vec<Vec<Cell>>)>);

/// Of the tables that `expected.json` counts.
fn contents(file: &Connection, expected: &Value) -> Contents {
    let version = file.pragma_query_value(None, "user_version", |row| row.get(0));
    let tables = expected["rows"]["accounts"].as_object().expect("an object");
    let all = |table: &String| {
        let sql = format!("SELECT * FROM {table} ORDER BY 1");
        let mut select = file.prepare(&sql).expect("there is such a table");
        let columns = select.column_count();
        let rows = select.query_map([], |row| (0..columns).map(|n| row.get(n)).collect());
        let rows: Result<Vec<Vec<Cell>>, _> = rows.expect("it runs").collect();
        (table.clone(), rows.expect("they can be read"))
    };
    let rows = tables.keys().map(all).collect();
    (version.expect("it has a number"), rows)
}

#[test]
fn its_accounts_in_postgresql_and_sessions_in_sqlite() {
    let services = Services::start("postgres");
    let name = services.database();
    services.psql("POSTGRES", &name, fixture!("postgres.sql"));
    let direct = services.address("POSTGRES").to_owned();
    migrate(&format!("{direct}/{name}"));
    let pair = Pair {
        sessions: None,
        ..services.pair("POSTGRES", "POSTGRES")
    };
    let sql = |sql: &str| services.psql("POSTGRES", &name, sql);
    let database = Database {
        name: name.clone(),
        direct,
    };
    let stores = Stores::of(&pair, Some(database));
    load(
        fixture!("postgres-sessions.sql"),
        &stores.folder.path().join("sessions.db"),
    );
    let (provider, expected) = (Provider::friendly(), expected("postgres"));
    let server = Server::over(stores, &provider, "");
    until("its letters to be dealt with", || {
        (sql("SELECT count(*) FROM outbox") == "0").then_some(())
    });
    all_goes_on(&server, &provider, &expected);
    let hash = "SELECT secret_hash FROM credentials JOIN users ON users.id = user_id WHERE email = 'frank@example.org'";
    assert!(sql(hash).starts_with(OURS));
    let used = sql("SELECT count(*) FROM used_tokens");
    assert_eq!(used, "2", "one of the last version, one of ours");
    assert!(!server.log().contains("level=error"));
}

#[test]
fn its_data_folder() {
    let stores = Stores::of(&Pair::default(), None);
    let folder = stores.folder.path().to_owned();
    let path = folder.join("accounts.db");
    let expected = expected("sqlite");
    drop(load(fixture!("accounts.sql"), &path));
    drop(load(fixture!("sessions.sql"), &folder.join("sessions.db")));
    let provider = Provider::friendly();
    let server = Server::over(stores, &provider, OLD_HASHES);
    let backup = is_backed_up(&folder, &expected);
    all_goes_on(&server, &provider, &expected);
    let file = Connection::open(&path).expect("it is there");
    file.busy_timeout(crate::kit::PATIENCE)
        .expect("it can be set");
    let hash = "SELECT secret_hash FROM credentials JOIN users ON users.id = user_id WHERE email = 'frank@example.org'";
    let hash: String = file
        .query_row(hash, [], |row| row.get(0))
        .expect("he has one");
    assert!(hash.starts_with(OURS));
    drop(file);
    // It was done once.
    let names = || {
        let entries = fs::read_dir(&folder).expect("it is there").flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let server = server.restart(libc::SIGTERM);
    assert_eq!(
        (names(), is_backed_up(&folder, &expected)),
        (before, backup)
    );
    let frank = user(&expected, &json!(5));
    let reply = Person::new(&server).login(text(&frank["email"]), text(&frank["password"]));
    assert_eq!(reply.status, 200);
    assert!(!server.log().contains("level=error"));
}

/// Beside the new file lies the old one, as it was, for its owner only. What tells whether it was made anew.
fn is_backed_up(folder: &Path, expected: &Value) -> (u64, i64, i64) {
    let path = folder.join(BACKUP);
    let mode = |path: &Path| {
        fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(&path), 0o700);
    let entries = fs::read_dir(&path).expect("it is a folder").flatten();
    let names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["accounts.db"]);
    let path = path.join("accounts.db");
    assert_eq!(mode(&path), 0o600);
    let read_only = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let copy = Connection::open_with_flags(&path, read_only).expect("it is there");
    let original = load(fixture!("accounts.sql"), Path::new(":memory:"));
    let kept = contents(&copy, expected);
    assert_eq!(kept.0, 2);
    assert_eq!(kept, contents(&original, expected));
    for (table, rows) in &kept.1 {
        assert_eq!(expected["rows"]["accounts"][table], rows.len(), "{table}");
    }
    let facts = fs::metadata(&path).expect("it is there");
    (facts.ino(), facts.mtime(), facts.mtime_nsec())
}
