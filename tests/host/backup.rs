//! `cloudchat backup` and `restore`, beside a running server and after it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rusqlite::Connection;

use crate::kit::server::run;
use crate::kit::{PASSWORD, Person, Provider, Server};

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary names are UTF-8")
}

/// Runs a command on the server's data: exit code, and what it printed.
fn on(server: &Server, args: &[&str]) -> (i32, String) {
    let data = server.data();
    let (code, out, errors) = run(&[args, &["--data-dir", text(&data)]].concat(), &[]);
    (code, out + &errors)
}

fn count(file: &Path, table: &str) -> i64 {
    let file = Connection::open(file).expect("it is a database");
    let sql = format!("SELECT count(*) FROM {table}");
    file.query_row(&sql, [], |row| row.get(0))
        .expect("the table is there")
}

#[test]
fn a_backup_of_a_running_server_is_restored() {
    let folder = tempfile::tempdir().expect("there is room");
    let provider = Provider::friendly();
    let mut server = Server::start(&provider, "");
    let alice = Person::logged_in(&server, "alice@b.c");
    let session = alice.cookies["cc_auth"].clone();
    let to = folder.path().join("backup");
    let (code, said) = on(&server, &["backup", text(&to)]);
    assert_eq!(code, 0, "{said}");
    let mode = |path: &Path| {
        let found = fs::metadata(path).expect("it was made");
        found.permissions().mode() & 0o777
    };
    assert_eq!(mode(&to), 0o700);
    let mut names: Vec<_> = fs::read_dir(&to)
        .expect("it was made")
        .map(|entry| entry.expect("it can be read").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["accounts.db", "sessions.db"], "whole, without logs");
    for name in &names {
        assert_eq!(mode(&to.join(name)), 0o600);
    }
    // What comes later is not in it.
    Person::logged_in(&server, "bob@b.c");
    let (code, said) = on(&server, &["restore", text(&to)]);
    assert_eq!(code, 1);
    assert!(said.contains("a server uses it; stop it first"), "{said}");
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    let (code, said) = on(&server, &["restore", text(&to)]);
    assert_eq!(code, 0, "{said}");
    let data = server.data();
    assert_eq!(count(&data.join("accounts.db"), "users"), 1);
    let aside = fs::read_dir(&data)
        .expect("it is there")
        .map(|entry| entry.expect("it can be read").path())
        .find(|path| text(path).contains("before-restore-"))
        .expect("what was there before is kept");
    assert!(said.contains(text(&aside)), "{said}");
    assert_eq!(count(&aside.join("accounts.db"), "users"), 2);

    let server = server.restart_ended();
    let cookie = format!("cc_auth={session}");
    let me = server.call("GET /auth/me", &[("Cookie", &cookie)], None);
    assert_eq!(me.status, 200, "sessions are restored, too");
    assert_eq!(
        Person::new(&server).login("alice@b.c", PASSWORD).status,
        200
    );
    assert_eq!(Person::new(&server).login("bob@b.c", PASSWORD).status, 401);
}

#[test]
fn a_backup_under_load_is_consistent_and_disturbs_nobody() {
    let folder = tempfile::tempdir().expect("there is room");
    let provider = Provider::friendly();
    let server = Server::start(&provider, "");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(server.chat("Hi", &[]).text(), "Hello you");
                }
            });
        }
        let names = (0..5).map(|n| folder.path().join(n.to_string()));
        let made: Vec<_> = names
            .map(|to| (on(&server, &["backup", text(&to)]), to))
            .collect();
        // First, for a failed assertion would wait for the chats.
        stop.store(true, Ordering::SeqCst);
        let mut rows = 0;
        for ((code, said), to) in made {
            assert_eq!(code, 0, "{said}");
            let found = count(&to.join("sessions.db"), "chats");
            assert!(found >= rows, "chats are only added");
            rows = found;
        }
        assert!(rows > 0);
    });
    assert!(!server.log().contains("level=error"));
}

#[test]
fn nothing_is_overwritten_without_saying_so() {
    let folder = tempfile::tempdir().expect("there is room");
    let server = Server::start(&Provider::friendly(), "");
    let to = folder.path().join("backup");
    let name = text(&to);
    assert_eq!(on(&server, &["backup", name]).0, 0);
    let (code, said) = on(&server, &["backup", name]);
    assert_eq!(code, 1);
    assert!(said.contains("is there already"), "{said}");
    assert_eq!(count(&to.join("accounts.db"), "users"), 0);
    Person::logged_in(&server, "alice@b.c");
    let (code, said) = on(&server, &["backup", "--replace", name]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(count(&to.join("accounts.db"), "users"), 1);
    // Something that is no backup stays, whatever is asked.
    fs::write(to.join("letter.txt"), "dear").expect("it is ours");
    let (code, said) = on(&server, &["backup", "--replace", name]);
    assert_eq!(code, 1);
    assert!(said.contains("is no backup"), "{said}");
    assert!(to.join("letter.txt").exists());
    // Nothing half done is left behind.
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 1);
}

/// The names in a folder, and what they hold.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).expect("it is there").flatten();
    let mut found: Vec<_> = entries
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            // A folder has no bytes of its own.
            (name, fs::read(entry.path()).unwrap_or_default())
        })
        .collect();
    found.sort();
    found
}

#[test]
fn what_cloudchat_does_not_make_is_not_restored() {
    let folder = tempfile::tempdir().expect("there is room");
    let mut server = Server::start(&Provider::friendly(), "");
    Person::logged_in(&server, "alice@b.c");
    let to = folder.path().join("backup");
    assert_eq!(on(&server, &["backup", text(&to)]).0, 0);
    let data = server.data();
    server.signal(libc::SIGTERM);
    server.wait();
    let before = contents(&data);
    let refused = |expect: &str| {
        let (code, said) = on(&server, &["restore", text(&to)]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(expect), "{expect}: {said}");
        assert!(contents(&data) == before, "something was left behind");
    };
    for (name, sql, expect) in [
        (
            "accounts.db",
            "CREATE TRIGGER evil AFTER UPDATE ON users BEGIN DELETE FROM users; END",
            "trigger \"evil\" is none of cloudchat's",
        ),
        (
            "sessions.db",
            "CREATE TRIGGER evil AFTER INSERT ON chats BEGIN DELETE FROM sessions; END",
            "trigger \"evil\" is none of cloudchat's",
        ),
        (
            "accounts.db",
            "CREATE VIEW v\u{202e} AS SELECT 1",
            "view \"v\\u{202e}\" is none",
        ),
        (
            "accounts.db",
            "CREATE TABLE more (a)",
            "table \"more\" is none",
        ),
        (
            "accounts.db",
            "CREATE INDEX more ON users (created_at)",
            "index \"more\" is none",
        ),
        (
            "accounts.db",
            "ALTER TABLE users ADD COLUMN more TEXT",
            "table \"users\" is none",
        ),
        (
            "accounts.db",
            "DROP TRIGGER credential_gone",
            "trigger \"credential_gone\" is missing",
        ),
        (
            "sessions.db",
            "DROP INDEX chats_by_owner",
            "index \"chats_by_owner\" is missing",
        ),
        (
            "sessions.db",
            "DROP TRIGGER chat_gone; CREATE TRIGGER chat_gone AFTER DELETE ON chats BEGIN UPDATE totals SET chats = 0; END",
            "trigger \"chat_gone\" is none",
        ),
        ("accounts.db", "PRAGMA user_version = 2", "is none of"),
    ] {
        let file = to.join(name);
        let whole = fs::read(&file).expect("it was made");
        let changed = Connection::open(&file).expect("it is a database");
        changed.execute_batch(sql).expect("it can be changed");
        changed.close().expect("nothing is under way");
        refused(expect);
        fs::write(&file, whole).expect("it is ours");
    }
    let file = to.join("accounts.db");
    let other = folder.path().join("other.db");
    fs::rename(&file, &other).expect("it is ours");
    std::os::unix::fs::symlink(&other, &file).expect("it is ours");
    refused("accounts.db: ");
    fs::remove_file(&file).expect("it is ours");
    fs::create_dir(&file).expect("it is ours");
    refused("this is no file");
    fs::remove_dir(&file).expect("it is empty");
    fs::rename(&other, &file).expect("it is ours");
    // A file that was copied by hand from a running server, without what its log still holds.
    let log = to.join("sessions.db-wal");
    fs::write(&log, "a part").expect("it is ours");
    refused("belongs to a file in use");
    fs::remove_file(&log).expect("it is ours");

    // SQLite's own statistics do no harm, nor does a log that was switched on.
    let changed = Connection::open(&file).expect("it is a database");
    let sql = "ANALYZE; PRAGMA journal_mode = wal";
    changed.execute_batch(sql).expect("it can be changed");
    changed.close().expect("nothing is under way");
    fs::remove_file(to.join("sessions.db")).expect("it is ours");
    let (code, said) = on(&server, &["restore", text(&to)]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("the backup has no sessions.db"), "{said}");
    let names = contents(&data).into_iter().map(|(name, _)| name);
    let names: Vec<_> = names.collect();
    assert!(names.len() == 2 && names[0] == "accounts.db", "{names:?}");
    assert!(names[1].starts_with("before-restore-"), "{names:?}");
    let server = server.restart_ended();
    assert_eq!(
        Person::new(&server).login("alice@b.c", PASSWORD).status,
        200
    );
}

#[test]
fn what_would_not_be_restored_is_no_backup() {
    let folder = tempfile::tempdir().expect("there is room");
    let server = Server::start(&Provider::friendly(), "");
    let file = Connection::open(server.data().join("accounts.db")).expect("it is a database");
    file.execute_batch("CREATE TABLE more (a)")
        .expect("it can be changed");
    let (code, said) = on(&server, &["backup", text(&folder.path().join("backup"))]);
    assert_eq!(code, 1);
    assert!(said.contains("table \"more\" is none"), "{said}");
    assert_eq!(contents(folder.path()), []);
}

#[test]
fn only_the_newest_are_kept() {
    let folder = tempfile::tempdir().expect("there is room");
    let server = Server::start(&Provider::friendly(), "");
    for name in [
        "cloudchat-2024-01-01T000000Z",
        "cloudchat-2024-01-02T000000Z",
        "other",
    ] {
        let to = folder.path().join(name);
        assert_eq!(on(&server, &["backup", text(&to)]).0, 0);
    }
    fs::create_dir(folder.path().join("cloudchat-notes")).expect("it is ours");
    let (code, said) = on(&server, &["backup", "--keep", "2", text(folder.path())]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("1 older removed"), "{said}");
    let entries = fs::read_dir(folder.path()).expect("it is there");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("it can be read").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!(names[0], "cloudchat-2024-01-02T000000Z");
    assert_eq!(names[2..], ["cloudchat-notes", "other"]);
}

#[test]
fn what_is_damaged_newer_or_no_backup_is_not_restored() {
    let folder = tempfile::tempdir().expect("there is room");
    let mut server = Server::start(&Provider::friendly(), "");
    Person::logged_in(&server, "alice@b.c");
    let to = folder.path().join("backup");
    assert_eq!(on(&server, &["backup", text(&to)]).0, 0);
    server.signal(libc::SIGTERM);
    server.wait();
    let file = to.join("accounts.db");
    let whole = fs::read(&file).expect("it was made");
    let broken = |bytes: &[u8], expect: &str| {
        fs::write(&file, bytes).expect("it is ours");
        let (code, said) = on(&server, &["restore", text(&to)]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(expect), "{said}");
    };
    broken(
        b"no database at all, but long enough to look like one",
        "damaged",
    );
    broken(&whole[..whole.len() / 2], "damaged");
    broken(b"", "no data of cloudchat");
    let mut newer = whole.clone();
    // The user version, big-endian (SQLite's file format, 1.3).
    newer[60..64].copy_from_slice(&99_u32.to_be_bytes());
    broken(&newer, "newer cloudchat");
    fs::remove_file(&file).expect("it is ours");
    let (code, said) = on(&server, &["restore", text(&to)]);
    assert_eq!(code, 1);
    assert!(said.contains("is no backup"), "{said}");
    assert_eq!(
        count(&server.data().join("accounts.db"), "users"),
        1,
        "untouched"
    );
    // A damaged file in the data folder is what restores are for.
    fs::write(&file, whole).expect("it is ours");
    fs::write(server.data().join("accounts.db"), "damaged").expect("it is ours");
    let (code, said) = on(&server, &["restore", text(&to)]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(count(&server.data().join("accounts.db"), "users"), 1);
}

#[test]
fn other_stores_have_tools_of_their_own() {
    let folder = tempfile::tempdir().expect("there is room");
    let to = folder.path().join("backup");
    let env = [("DATABASE_URL", "postgresql://a@127.0.0.1:1/b")];
    for args in [["backup", text(&to)], ["restore", text(folder.path())]] {
        let (code, _, errors) = run(&args, &env);
        assert_eq!(code, 1);
        assert!(errors.contains("pg_dump"), "{errors}");
    }
    // A folder without data gets none, and is no data folder.
    let data = folder.path().join("data");
    let args = ["backup", text(&to), "--data-dir", text(&data)];
    let (code, _, errors) = run(&args, &[]);
    assert_eq!(code, 2);
    assert!(errors.contains("no accounts here"), "{errors}");
    assert!(!to.exists() && !data.exists());
}
