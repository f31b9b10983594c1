//! Files of earlier versions open, keep what they hold, and take what is new.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use cloudchat::model::{Token, UserId};
use cloudchat::store::{Backend, Registered, Upkeep};
use rusqlite::{Connection, params};
use serde_json::Value;
use tempfile::TempDir;

use super::ME;
use super::accounts::{new_user, registered};
use super::logins::login;
use super::support::{self, HOUR, Open, T0, found, key, settings};

#[tokio::test]
async fn files_of_the_version_before_are_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let old = |name: &str, schema: &str| {
        let file = Connection::open(folder.path().join(name)).unwrap();
        file.pragma_update(None, "journal_mode", "wal").unwrap();
        file.execute_batch(schema).unwrap();
        file.pragma_update(None, "user_version", 1).unwrap();
        file
    };
    let accounts = old(
        "accounts.db",
        include_str!("../../sql/sqlite/accounts/0001_secrets.sql"),
    );
    accounts
        .execute("INSERT INTO secrets VALUES ('hmac', ?1)", [[5u8; 32]])
        .unwrap();
    let sessions = old(
        "sessions.db",
        include_str!("../../sql/sqlite/sessions/0001_chats_and_windows.sql"),
    );
    // The key of the cookie `cookie 1`: its SHA-256.
    let digest = ring::digest::digest(&ring::digest::SHA256, b"cookie 1");
    sessions
        .execute(
            "INSERT INTO chats VALUES (?1, 7, ?2, ?3, x'')",
            params![digest.as_ref(), [1u8; 16], T0 + HOUR],
        )
        .unwrap();
    drop((accounts, sessions));

    let open = Open::at(folder, |_| {});
    let (store, accounts) = (&open.stores.sessions, &open.stores.accounts);
    assert_eq!(*accounts.hmac_key(), [5; 32]);
    let keys = [
        *accounts.device_key(),
        *accounts.mix_key(),
        [5; 32],
        [0; 32],
    ];
    for (n, a) in keys.iter().enumerate() {
        assert!(!keys[..n].contains(a));
    }
    assert!(found(store, key(1), ME).await.is_some());
    let id = registered(accounts, "a@b.c").await;
    let (token, new) = login(id, T0);
    store.create_session(new).await.unwrap();
    let open = open.again(|_| {});
    let accounts = &open.stores.accounts;
    assert_eq!([*accounts.device_key(), *accounts.mix_key()], keys[..2]);
    assert!(accounts.user(id).await.unwrap().is_some());
    let session = open.stores.sessions.session(T0, &token).await;
    assert_eq!(session.unwrap().map(|session| session.user), Some(id));
    let other = open.stores.sessions.session(T0, &Token::new()).await;
    assert_eq!(other, Ok(None));
    // Neither cookie nor token can be read from the files.
    let bytes = std::fs::read(open.stop().path().join("sessions.db")).unwrap();
    let secret = token.as_str().as_bytes();
    assert!(!bytes.windows(secret.len()).any(|part| part == secret));
}

/// A data folder as the last version leaves it, and what is in it.
fn last_version() -> (TempDir, Value) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        (
            "accounts.db",
            include_str!("../fixtures/last_version/accounts.sql"),
        ),
        (
            "sessions.db",
            include_str!("../fixtures/last_version/sessions.sql"),
        ),
    ] {
        let file = Connection::open(folder.path().join(name)).unwrap();
        file.execute_batch(text).unwrap();
    }
    let expected = include_str!("../fixtures/last_version/expected.json");
    let expected: Value = serde_json::from_str(expected).unwrap();
    (folder, expected["sqlite"].clone())
}

fn number(path: &Path, sql: &str) -> i64 {
    let file = Connection::open(path).unwrap();
    file.query_row(sql, [], |row| row.get(0)).unwrap()
}

const VERSION: &str = "SELECT user_version FROM pragma_user_version";

#[tokio::test]
async fn the_last_version_s_accounts_come_through() {
    let (folder, expected) = last_version();
    let path = folder.path().join("accounts.db");
    let count = |path: &Path, table: &str| number(path, &format!("SELECT count(*) FROM {table}"));
    let before = ["users", "credentials", "outbox", "used_tokens", "secrets"]
        .map(|table| (table, count(&path, table)));
    let open = Open::at(folder, |_| {});
    let store = &open.stores.accounts;
    for user in expected["users"].as_array().unwrap() {
        let id = UserId(user["id"].as_i64().unwrap());
        let found = store.user(id).await.unwrap().unwrap();
        let shown = serde_json::json!(found.shown());
        for field in ["uid", "email", "phone", "display_name", "is_active"] {
            assert_eq!(shown[field], user[field], "{field} of {id}");
        }
        assert_eq!(found.created_ms, user["created_ms"].as_i64());
        let not_before = user["sessions_not_before"].as_i64();
        assert_eq!(Some(found.sessions_not_before_ms), not_before);
        let credential = store.credential_of(id).await.unwrap().unwrap();
        let hash = credential.hash.as_ref().map(|hash| hash.as_str());
        assert_eq!(hash, user["hash"].as_str());
        let changed_ms = Some(credential.password_changed_ms);
        assert_eq!(changed_ms, user["changed_ms"].as_i64());
    }
    for (table, rows) in before {
        assert_eq!(count(&path, table), rows, "{table}");
    }
    assert_eq!(number(&path, VERSION), 4);
    let mix = store.hash_mix().await.unwrap();
    let counts: Vec<u32> = mix.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts, [4, 1]);
    // The triggers count on, and the numbers of users go on where they were.
    let Ok(Registered::Done(id)) = store.register(T0, new_user("next@b.c")).await else {
        panic!("it is the first of its name")
    };
    assert_eq!(Some(id.0), expected["next_user_id"].as_i64());
    assert_eq!(store.delete_user(UserId(1)).await, Ok(true));
    assert_eq!(
        store
            .hash_mix()
            .await
            .unwrap()
            .iter()
            .map(|m| m.1)
            .sum::<u32>(),
        5
    );
    let orphans = "SELECT count(*) FROM credentials WHERE user_id NOT IN (SELECT id FROM users)";
    assert_eq!(number(&path, orphans), 0);
    // The copy is a backup that the last version can restore.
    let copy = open.folder.path().join("before-schema-3");
    let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(number(&copy.join("accounts.db"), VERSION), 2);
    let hashes = "SELECT count(password_hash) FROM credentials";
    assert_eq!(number(&copy.join("accounts.db"), hashes), before[1].1);
    let open = open.again(|_| {});
    assert!(open.stores.accounts.user(id).await.unwrap().is_some());
    open.stop();
}

#[tokio::test]
async fn a_file_that_the_last_version_uses_is_left_alone_until_the_last_moment() {
    let (folder, _) = last_version();
    let path = folder.path().join("accounts.db");
    let hashes = "SELECT count(password_hash) FROM credentials";
    let settings = settings(folder.path());
    let refused = Backend::start_with(&settings, Upkeep::Never, |_, _| ()).unwrap_err();
    assert!(
        refused.contains("accounts.db: its schema is 2, this cloudchat needs 4: the server"),
        "{refused}"
    );
    let old = Connection::open(&path).unwrap();
    let reads = || old.query_row(hashes, [], |row| row.get::<_, i64>(0));
    let backend = Backend::start_with(&settings, Upkeep::Later, |_, _| ()).unwrap();
    assert_eq!(number(&path, VERSION), 2);
    assert_eq!(reads(), Ok(5));
    backend.bring_up_to_date().await.unwrap();
    assert_eq!(number(&path, VERSION), 4);
    assert!(reads().is_err(), "the gap that the README names");
    backend.bring_up_to_date().await.unwrap();
    let accounts = backend.connect().accounts;
    assert!(accounts.credential_of(UserId(1)).await.unwrap().is_some());
    backend.stop().unwrap();
    // A folder without files is nobody's.
    let empty = tempfile::tempdir().unwrap();
    let settings = support::settings(empty.path());
    let refused = Backend::start_with(&settings, Upkeep::Never, |_, _| ()).unwrap_err();
    assert!(refused.contains("accounts.db: is missing"), "{refused}");
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
    std::fs::write(empty.path().join("accounts.db"), "").unwrap();
    let refused = Backend::start_with(&settings, Upkeep::Never, |_, _| ()).unwrap_err();
    assert!(refused.contains("it holds nothing yet"), "{refused}");
    let backend = Backend::start_with(&settings, Upkeep::Later, |_, _| ()).unwrap();
    backend.bring_up_to_date().await.unwrap();
    backend.stop().unwrap();
}

#[tokio::test]
async fn a_migration_that_would_lose_something_changes_nothing() {
    let (folder, _) = last_version();
    let path = folder.path().join("accounts.db");
    let file = Connection::open(&path).unwrap();
    file.execute_batch(
        "PRAGMA foreign_keys = OFF; INSERT INTO credentials VALUES (99, '$a$b$c', '$a', 1, 1)",
    )
    .unwrap();
    let settings = settings(folder.path());
    let expect =
        "accounts.db: 1 rows belong to nothing (PRAGMA foreign_key_check); nothing was changed";
    let backend = Backend::start_with(&settings, Upkeep::Later, |_, _| ()).unwrap();
    let refused = backend.bring_up_to_date().await.unwrap_err();
    assert!(refused.ends_with(expect), "{refused}");
    backend.stop().unwrap();
    let refused = Backend::start(&settings, |_, _| ()).unwrap_err();
    assert!(refused.ends_with(expect), "{refused}");
    assert_eq!(number(&path, VERSION), 2);
    assert_eq!(
        number(&path, "SELECT count(password_hash) FROM credentials"),
        6
    );
}
