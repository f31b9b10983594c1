//! The schema: made from nothing, or from what the service that CloudChat replaces has left.

use std::thread;

use cloudchat::model::{Identifier, UserId};
use cloudchat::store::{Backend, migrate};

use super::support::{quiet, settings};

const ALL: [&str; 2] = ["0001_users", "0002_accounts"];
const OLD_HASH: &str = "$argon2id$v=19$m=65536,t=3,p=4$Rtkqnclci330YnLCH27jNg$gEuR8x5mzBp2xzngE4wXOZro+TaYathyGZ7U5wGK1vQ";

/// Kindred types that the old service's tables may have, and nothing of ours.
const OLD_TABLES: &str = "
    CREATE TABLE users (
        id SERIAL PRIMARY KEY, uid CHAR(12) NOT NULL UNIQUE, email VARCHAR(255) NOT NULL UNIQUE,
        phone VARCHAR(50) UNIQUE, display_name VARCHAR(100), is_active BOOLEAN DEFAULT TRUE,
        created_at TIMESTAMP DEFAULT now(), updated_at TIMESTAMP DEFAULT now());
    CREATE TABLE credentials (
        user_id INTEGER PRIMARY KEY REFERENCES users (id),
        password_hash VARCHAR(255) NOT NULL);
    CREATE TABLE sessions (sid TEXT PRIMARY KEY, user_id INTEGER);";

fn url(server: &str, database: &str) -> String {
    format!("{}/{database}", super::support::shared().address(server))
}

fn run(url: &str, is_trial: bool) -> Result<Vec<&'static str>, String> {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder, url, "auto");
    migrate(settings.database.as_ref().unwrap(), is_trial, quiet)
}

/// Why a server on this database does not start.
fn refusal(url: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let started = Backend::start(&settings(&folder, url, "auto"), quiet);
    started.map(|_| ()).unwrap_err()
}

#[test]
fn an_empty_database_gets_it_once_even_from_two_at_a_time() {
    let services = super::support::shared();
    let database = services.database();
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    // The pooler hands out server connections by the transaction; the lock holds all the same.
    let url = url("PGBOUNCER_OLD", &database);
    let missing = refusal(&url);
    assert!(
        missing.ends_with("its schema is 0, this cloudchat needs 2: run `cloudchat migrate`"),
        "{missing}"
    );
    assert_eq!(run(&url, true), Ok(ALL.to_vec()));
    assert_eq!(services.psql("POSTGRES", &database, tables), "0");
    let both: Vec<_> = thread::scope(|scope| {
        let both: Vec<_> = (0..2).map(|_| scope.spawn(|| run(&url, false))).collect();
        both.into_iter()
            .map(|one| one.join().unwrap().unwrap())
            .collect()
    });
    let mut applied = both.concat();
    applied.sort_unstable();
    assert_eq!(applied, ALL);
    assert_eq!(run(&url, true), Ok(vec![]));
    assert_eq!(run(&url, false), Ok(vec![]));
    let newer = "INSERT INTO schema_migrations (number, name) VALUES (3, 'x')";
    services.psql("POSTGRES", &database, newer);
    for refused in [refusal(&url), run(&url, false).unwrap_err()] {
        assert!(
            refused.contains("made by a newer cloudchat (schema 3, this one knows 2)"),
            "{refused}"
        );
        assert_eq!(refused.lines().count(), 1);
        assert!(!refused.contains("cloudchat:"), "no password: {refused}");
    }
}

#[tokio::test]
async fn the_old_service_s_tables_are_taken_over_and_go_on_being_written() {
    let services = super::support::shared();
    let database = services.database();
    let sql = |sql: &str| services.psql("POSTGRES", &database, sql);
    sql(OLD_TABLES);
    sql(&format!(
        "INSERT INTO users (uid, email, phone, display_name, is_active, created_at) VALUES
             ('b0b5d8f178f1', 'alice@b.c', '+1', 'Alice', TRUE, '2025-01-02 03:04:05.678'),
             ('b0b5d8f178f2', 'off@b.c', NULL, NULL, NULL, NULL);
         INSERT INTO credentials SELECT id, '{OLD_HASH}' FROM users"
    ));
    let url = url("POSTGRES", &database);
    assert_eq!(run(&url, false), Ok(ALL.to_vec()));
    let folder = tempfile::tempdir().unwrap();
    let backend = Backend::start(&settings(&folder, &url, "named"), quiet).unwrap();
    let store = backend.connect().accounts;
    let alice = store.user(UserId(1)).await.unwrap().unwrap();
    assert_eq!(
        (alice.uid.as_str(), alice.email.as_str(), alice.created_ms),
        ("b0b5d8f178f1", "alice@b.c", 1_735_787_045_678)
    );
    assert!(alice.is_active && alice.admits(0));
    let off = store.user(UserId(2)).await.unwrap().unwrap();
    assert!(!off.is_active && off.created_ms == 0);
    assert_eq!(
        store.find_users("b0b5d8f178f1").await,
        Ok(vec![alice.clone()])
    );
    let credential = async || {
        let identifier = Identifier::parse("+1").unwrap();
        store.credential(&identifier).await.unwrap().unwrap()
    };
    let before = credential().await;
    assert_eq!(before.hash.as_ref().unwrap().as_str(), OLD_HASH);
    let old = "$argon2id$v=19$m=65536,t=3,p=4".to_owned();
    assert_eq!(store.hash_mix().await, Ok(vec![(old.clone(), 2)]));
    // It registers somebody, replaces a password, and gives up another.
    sql(&format!(
        "INSERT INTO users (uid, email) VALUES ('b0b5d8f178f3', 'bob@b.c');
         INSERT INTO credentials SELECT id, '{OLD_HASH}' FROM users WHERE email = 'bob@b.c';
         UPDATE credentials SET password_hash = '$argon2i$x$y' WHERE user_id = 1;
         DELETE FROM credentials WHERE user_id = 2"
    ));
    let mut mix = store.hash_mix().await.unwrap();
    mix.sort();
    assert_eq!(mix, [("$argon2i".to_owned(), 1), (old.clone(), 1)]);
    let after = credential().await;
    assert!(
        after.password_changed_ms > before.password_changed_ms,
        "a new password"
    );
    // What is ours to write counts once, and a hash of the same password is no change.
    let (was, now) = (after.hash.clone().unwrap(), before.hash.clone().unwrap());
    assert_eq!(store.rehash(0, UserId(1), &was, now).await, Ok(true));
    assert_eq!(
        credential().await.password_changed_ms,
        after.password_changed_ms
    );
    assert_eq!(store.hash_mix().await, Ok(vec![(old, 2)]));
    assert_eq!(store.delete_user(UserId(1)).await, Ok(true));
    backend.stop().unwrap();
}

#[test]
fn tables_that_are_not_as_expected_stay_as_they_are() {
    let services = super::support::shared();
    for (change, expected) in [
        (
            "ALTER TABLE users DROP CONSTRAINT users_email_key",
            "0002_accounts: there is no unique or exclusion constraint matching",
        ),
        (
            "ALTER TABLE users DROP COLUMN display_name",
            "0002_accounts: column \"display_name\" of relation \"users\" does not exist",
        ),
        (
            "CREATE TABLE outbox (x INTEGER)",
            "0002_accounts: relation \"outbox\" already exists",
        ),
    ] {
        let database = services.database();
        services.psql("POSTGRES", &database, &format!("{OLD_TABLES} {change}"));
        let url = url("POSTGRES", &database);
        for is_trial in [true, false] {
            let refused = run(&url, is_trial).unwrap_err();
            assert!(refused.contains(expected), "{refused}");
        }
        let columns = "SELECT count(*) FROM information_schema.columns
            WHERE column_name IN ('sessions_not_before', 'changed_ms')";
        assert_eq!(services.psql("POSTGRES", &database, columns), "0");
        let refused = refusal(&url);
        assert!(
            refused.contains("its schema is 1, this cloudchat needs 2"),
            "{refused}"
        );
    }
}

#[test]
fn a_server_that_cannot_be_had_is_named_without_its_password() {
    let nobody = "postgres://me:hidden@127.0.0.1:1/chat";
    let wrong = url("POSTGRES", "postgres")
        .replacen(':', ":x", 2)
        .replacen(":x", ":", 1);
    for (url, part) in [
        (
            nobody,
            "PostgreSQL at 127.0.0.1:1, database chat: error connecting to server: Connection refused",
        ),
        (
            &wrong,
            "password authentication failed for user \"cloudchat\" (SQLSTATE 28P01)",
        ),
        (
            &url("POSTGRES", "nowhere"),
            "database \"nowhere\" does not exist (SQLSTATE 3D000)",
        ),
    ] {
        for line in [refusal(url), run(url, false).unwrap_err()] {
            assert!(line.contains(part) && line.lines().count() == 1, "{line}");
            assert!(!line.contains("hidden"), "{line}");
        }
    }
}
