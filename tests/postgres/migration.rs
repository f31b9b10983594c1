//! The schema: made from nothing, from the tables of the service that CloudChat replaces, or from those of our
//! own last version.

use std::thread;

use cloudchat::model::UserId;
use cloudchat::store::{Accounts, Backend, MigrationStep, inspect_postgres, migrate};
use serde_json::Value;

use super::support::{locked, quiet, settings, shared};
use crate::old_service;

pub const OLD_PARAMETERS: &str = "$argon2id$v=19$m=65536,t=3,p=4";

/// What an SQL client sees of the tables that both services use: columns, constraints, indexes, triggers.
const SHAPE: &str = "
    SELECT format('%s.%s %s %s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull,
                  pg_get_expr(adbin, adrelid))
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = ANY (ARRAY['users', 'credentials', 'sessions', 'secrets', 'used_tokens', 'outbox']::regclass[])
        AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    ORDER BY 1";

pub fn url(server: &str, database: &str) -> String {
    format!("{}/{database}", shared().address(server))
}

pub fn sql(database: &str, sql: &str) -> String {
    shared().psql("POSTGRES", database, sql)
}

pub fn admin(database: &str, sql: &str) -> String {
    shared().psql("POSTGRES_ADMIN", database, sql)
}

pub fn run(url: &str, is_trial: bool) -> Result<Vec<MigrationStep>, String> {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder, url, "auto");
    migrate(settings.database.as_ref().unwrap(), is_trial, quiet)
}

fn names(steps: &[MigrationStep]) -> Vec<&str> {
    steps.iter().map(|step| step.name).collect()
}

/// Why a server on this database does not start.
pub fn refusal(url: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let started = Backend::start(&settings(&folder, url, "auto"), quiet);
    started.map(|_| ()).unwrap_err()
}

/// A database as the old service has it, with so many ordinary users.
pub fn old_database(users: usize) -> String {
    let database = shared().database();
    let psql = shared().address("PSQL");
    old_service::populate(psql, &url("POSTGRES", &database), users);
    database
}

/// A database as our last version has it.
fn last_database() -> (String, Value) {
    let database = shared().database();
    sql(
        &database,
        include_str!("../fixtures/last_version/postgres.sql"),
    );
    let expected = include_str!("../fixtures/last_version/expected.json");
    let expected: Value = serde_json::from_str(expected).unwrap();
    (database, expected["postgres"].clone())
}

/// A database as schema 3 has it.
fn schema_3() -> String {
    let database = shared().database();
    for text in [
        "CREATE TABLE schema_migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL,
             applied_at TIMESTAMPTZ NOT NULL DEFAULT now());
         INSERT INTO schema_migrations (number, name) VALUES (3, '0003_accounts')",
        include_str!("../../sql/postgres/0001_old_service.sql"),
        concat!(
            "BEGIN; ",
            include_str!("../../sql/postgres/0003_accounts.sql"),
            "; COMMIT"
        ),
        include_str!("../../sql/postgres/0003_triggers.sql"),
    ] {
        sql(&database, text);
    }
    database
}

pub struct Open {
    pub backend: Backend,
    pub store: Accounts,
    _folder: tempfile::TempDir,
}

pub fn open(database: &str) -> Open {
    let folder = tempfile::tempdir().unwrap();
    let url = url("POSTGRES", database);
    let backend = Backend::start(&settings(&folder, &url, "named"), quiet).unwrap();
    Open {
        store: backend.connect().accounts,
        backend,
        _folder: folder,
    }
}

#[test]
fn an_empty_database_gets_it_once_even_from_two_at_a_time() {
    let database = shared().database();
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    // The pooler hands out server connections by the transaction; the lock holds all the same.
    let url = url("PGBOUNCER_OLD", &database);
    let missing = refusal(&url);
    assert!(
        missing.ends_with("its schema is 0, this cloudchat needs 4: run `cloudchat migrate`"),
        "{missing}"
    );
    let tried = run(&url, true).unwrap();
    assert_eq!(names(&tried), ["0003_accounts", "0004_nfc", "indexes"]);
    assert_eq!(sql(&database, tables), "0");
    let both: Vec<_> = thread::scope(|scope| {
        let both: Vec<_> = (0..2).map(|_| scope.spawn(|| run(&url, false))).collect();
        both.into_iter()
            .map(|one| one.join().unwrap().unwrap())
            .collect()
    });
    let applied = both.concat();
    assert_eq!(applied, tried, "as foreseen, and once");
    assert_eq!(run(&url, true), Ok(vec![]));
    assert_eq!(run(&url, false), Ok(vec![]));
    let newer = "INSERT INTO schema_migrations (number, name) VALUES (5, 'x')";
    sql(&database, newer);
    for refused in [refusal(&url), run(&url, false).unwrap_err()] {
        assert!(
            refused.contains("made by a newer cloudchat (schema 5, this one knows 4)"),
            "{refused}"
        );
        assert_eq!(refused.lines().count(), 1);
        assert!(!refused.contains("cloudchat:"), "no password: {refused}");
    }
}

#[test]
fn all_ways_lead_to_one_schema() {
    let empty = shared().database();
    let (last, _) = last_database();
    let failed = old_database(1);
    // What the last version leaves behind, which fails on these tables.
    sql(
        &failed,
        "CREATE TABLE schema_migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL,
             applied_at TIMESTAMPTZ NOT NULL DEFAULT now());
         INSERT INTO schema_migrations (number, name) VALUES (1, '0001_users');
         CREATE INDEX sessions_user_id_idx ON sessions (user_id)",
    );
    let shapes: Vec<_> = [empty, old_database(1), failed, last, schema_3()]
        .iter()
        .map(|database| {
            let way = format!("{database}: {:?}", sql(database, "SELECT 1"));
            let done = run(&url("POSTGRES", database), false);
            assert!(done.is_ok(), "{way}: {done:?}");
            let newest = "SELECT number, name FROM schema_migrations ORDER BY number DESC LIMIT 1";
            assert_eq!(sql(database, newest), "4|0004_nfc");
            sql(database, SHAPE)
        })
        .collect();
    for shape in &shapes[1..] {
        let missing: Vec<_> = shapes[0].lines().filter(|l| !shape.contains(l)).collect();
        let more: Vec<_> = shape.lines().filter(|l| !shapes[0].contains(l)).collect();
        assert_eq!((missing, more), (vec![], vec![]));
    }
}

#[tokio::test]
async fn every_user_of_the_old_service_can_be_read() {
    let database = old_database(500);
    let before = sql(
        &database,
        "SELECT count(*), md5(string_agg(u::text, ',' ORDER BY id)) FROM users u",
    );
    let hashes = "SELECT count(*), md5(string_agg(concat_ws(',', id, user_id, type, secret_hash, provider, provider_uid,
        created_at), ';' ORDER BY id)) FROM credentials";
    let hashes_before = sql(&database, hashes);
    run(&url("POSTGRES", &database), false).unwrap();
    let same = "SELECT count(*), md5(string_agg(u::text, ',' ORDER BY id))
        FROM (SELECT id, uid, email, phone, display_name, is_active, created_at FROM users) u";
    assert_eq!(sql(&database, same), before);
    assert_eq!(sql(&database, hashes), hashes_before);
    let open = open(&database);
    let store = &open.store;
    let mut after = UserId(0);
    let mut seen = 0;
    loop {
        let page = store.list_users(after, 100).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.id;
        seen += page.len();
        for user in page {
            let credential = store.credential_of(user.id).await.unwrap();
            assert_eq!(
                credential.unwrap().user,
                user.id,
                "with or without a password"
            );
        }
    }
    let users: usize = before.split('|').next().unwrap().parse().unwrap();
    assert_eq!(seen, users);
    let find = async |what: &str| -> Vec<(bool, bool, Option<i64>)> {
        let mut found = Vec::new();
        for user in store.list_users(UserId(0), 10_000).await.unwrap() {
            if user
                .email
                .as_ref()
                .is_some_and(|email| email.as_str().starts_with(what))
            {
                let credential = store.credential_of(user.id).await.unwrap().unwrap();
                found.push((user.is_active, credential.hash.is_some(), user.created_ms));
            }
        }
        found
    };
    assert!(matches!(
        find("inactive-null@").await[..],
        [(false, true, Some(_))]
    ));
    assert!(matches!(
        find("inactive-false@").await[..],
        [(false, true, Some(_))]
    ));
    assert!(matches!(
        find("created-null@").await[..],
        [(true, true, None)]
    ));
    let mix = store.hash_mix().await.unwrap();
    let (parameters, count) = &mix[0];
    assert_eq!(parameters, OLD_PARAMETERS);
    assert!((500..seen as u32).contains(count), "{mix:?}");
    assert!(mix.len() > 3, "{mix:?}");
    open.backend.stop().unwrap();
}

#[tokio::test]
async fn the_last_version_s_accounts_come_through() {
    let (database, expected) = last_database();
    let before = sql(&database, "SELECT count(*) FROM outbox");
    let done = run(&url("POSTGRES", &database), false).unwrap();
    assert_eq!(names(&done)[..2], ["0003_accounts_from_0002", "0004_nfc"]);
    let open = open(&database);
    let store = &open.store;
    for user in expected["users"].as_array().unwrap() {
        let id = UserId(user["id"].as_i64().unwrap());
        let found = store.user(id).await.unwrap().unwrap();
        let shown = serde_json::json!(found.shown());
        for field in ["uid", "email", "phone", "display_name"] {
            assert_eq!(shown[field], user[field], "{field} of {id}");
        }
        assert_eq!(
            shown["is_active"],
            user["is_active"].as_bool().unwrap_or_default()
        );
        assert_eq!(found.created_ms, user["created_ms"].as_i64());
        assert_eq!(
            Some(found.sessions_not_before_ms),
            user["sessions_not_before"].as_i64()
        );
        let credential = store.credential_of(id).await.unwrap().unwrap();
        assert_eq!(
            credential.hash.as_ref().map(|hash| hash.as_str()),
            user["hash"].as_str()
        );
        assert_eq!(
            Some(credential.password_changed_ms),
            user["changed_ms"].as_i64()
        );
    }
    let users = expected["users"].as_array().unwrap().len().to_string();
    assert_eq!(sql(&database, "SELECT count(*) FROM users"), users);
    assert_eq!(sql(&database, "SELECT count(*) FROM outbox"), before);
    let used = "SELECT count(*) FROM used_tokens";
    assert_eq!(sql(&database, used), expected["used_tokens"].to_string());
    let new = super::support::new_user("next@b.c");
    let made = store.register(super::support::T0, new).await;
    let next = UserId(expected["next_user_id"].as_i64().unwrap());
    assert_eq!(made, Ok(cloudchat::store::Registered::Done(next)));
    open.backend.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn telling_what_would_be_done_locks_nothing() {
    let database = old_database(1);
    let url = url("POSTGRES", &database);
    let before = sql(&database, "SELECT count(*) FROM pg_class");
    let locker = locked(shared(), &database, "users, credentials, sessions").await;
    let tried = tokio::task::spawn_blocking(move || run(&url, true))
        .await
        .unwrap()
        .unwrap();
    drop(locker);
    assert_eq!(names(&tried), ["0003_accounts", "0004_nfc", "indexes"]);
    let lines: Vec<_> = tried.iter().flat_map(|step| &step.changes).collect();
    for part in [
        "users: email may be NULL",
        "credentials: new columns changed_ms",
        "credentials: new column nfc_of TEXT",
        "cloudchat_credentials_by_user",
    ] {
        assert!(lines.iter().any(|line| line.contains(part)), "{lines:?}");
    }
    assert_eq!(sql(&database, "SELECT count(*) FROM pg_class"), before);
}

#[test]
fn an_index_whose_build_was_cut_short_is_built_anew() {
    let database = old_database(1);
    let url = url("POSTGRES", &database);
    run(&url, false).unwrap();
    let valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'cloudchat_credentials_by_user'::regclass";
    admin(
        &database,
        "UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = 'cloudchat_credentials_by_user'::regclass",
    );
    let tried = run(&url, true).unwrap();
    assert_eq!(names(&tried), ["indexes"]);
    assert_eq!(sql(&database, valid), "f");
    assert_eq!(run(&url, false).unwrap(), tried);
    assert_eq!(sql(&database, valid), "t");
    assert_eq!(run(&url, false).unwrap(), []);
}

#[test]
fn a_database_that_lacks_characters_is_refused() {
    for (encoding, is_taken) in [
        ("LATIN1", false),
        ("EUC_CN", false),
        ("SQL_ASCII", true),
        ("UTF8", true),
    ] {
        let database = format!("encoded_in_{}", encoding.to_lowercase());
        let made = format!(
            "CREATE DATABASE {database} OWNER cloudchat ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        );
        admin("postgres", &made);
        let url = url("POSTGRES", &database);
        for is_trial in [true, false] {
            match run(&url, is_trial) {
                Ok(_) => assert!(is_taken, "{encoding}"),
                Err(line) => {
                    let what = format!(
                        "the database is encoded in {encoding}, which lacks most characters"
                    );
                    assert!(!is_taken && line.contains(&what), "{line}");
                    assert!(line.contains("createdb -E UTF8"), "{line}");
                }
            }
        }
        let tables = "SELECT count(*) > 0 FROM pg_tables WHERE schemaname = 'public'";
        assert_eq!(sql(&database, tables), if is_taken { "t" } else { "f" });
        if is_taken {
            continue;
        }
        // What an earlier version has made there shows, too.
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder, &url, "auto");
        let facts = inspect_postgres(settings.database.as_ref().unwrap()).unwrap();
        assert_eq!(facts.narrow_encoding.as_deref(), Some(encoding));
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
