//! The tables of the service that CloudChat replaces while that service uses them: what it writes, how long it
//! waits, who may what, and tables that are not as expected.

use std::time::Duration;

use cloudchat::clock;
use cloudchat::model::{Credential, Email, Identifier, PasswordHash, User};
use cloudchat::store::{Backend, Registered};

use super::migration::{OLD_PARAMETERS, admin, old_database, open, refusal, run, sql, url};
use super::support::{T0, new_user, quiet, settings, shared};
use crate::old_service;

#[tokio::test]
async fn the_old_service_goes_on_writing() {
    let database = old_database(2);
    run(&url("POSTGRES", &database), false).unwrap();
    let open = open(&database);
    let store = &open.store;
    let find = async |email: &str| -> (User, Credential) {
        let identifier = Identifier::from(&Email::parse(email).unwrap());
        let credential = store.credential(&identifier).await.unwrap().unwrap();
        let user = store.user(credential.user).await.unwrap().unwrap();
        (user, credential)
    };
    // Its own statements say nothing of our columns.
    sql(
        &database,
        "INSERT INTO users (uid, email, is_active, created_at) VALUES ('b0b5d8f178f3', 'bob@b.c', TRUE, now());
         INSERT INTO credentials (user_id, type, secret_hash, created_at)
             SELECT id, 'password', '$argon2id$v=19$m=65536,t=3,p=4$salt$one', now() FROM users WHERE email = 'bob@b.c';
         INSERT INTO credentials (user_id, type, provider, provider_uid)
             SELECT id, 'oauth', 'google', '1' FROM users WHERE email = 'bob@b.c'",
    );
    let (bob, made) = find("bob@b.c").await;
    assert!(bob.is_active && bob.admits(0) && made.password_changed_ms > 0);
    let write = |hash: &str| {
        let update = format!(
            "UPDATE credentials SET secret_hash = {hash} WHERE type = 'password'
             AND user_id = (SELECT id FROM users WHERE email = 'bob@b.c')"
        );
        sql(&database, &update);
    };
    // With the same parameters: it hashes anew only what has others, so this is another password.
    write("'$argon2id$v=19$m=65536,t=3,p=4$salt$two'");
    let (_, reset) = find("bob@b.c").await;
    assert!(reset.password_changed_ms > made.password_changed_ms);
    // With others: may be the same password; nothing ends.
    write("'$argon2id$v=19$m=1024,t=1,p=1$salt$two'");
    let (after, rehashed) = find("bob@b.c").await;
    assert_eq!(rehashed.password_changed_ms, reset.password_changed_ms);
    assert_eq!(after.sessions_not_before_ms, 0);
    // From none to one: chosen now.
    write("NULL");
    write("'$argon2id$v=19$m=1024,t=1,p=1$salt$three'");
    let (_, first) = find("bob@b.c").await;
    assert!(first.password_changed_ms > reset.password_changed_ms);
    // Ours: a hash of the same password is no change, another password is one.
    let old = first.hash.clone().unwrap();
    let new = PasswordHash::new(format!("{OLD_PARAMETERS}$salt$three"));
    assert_eq!(store.rehash(bob.id, &old, new.clone()).await, Ok(true));
    let (_, ours) = find("bob@b.c").await;
    assert_eq!(ours.password_changed_ms, first.password_changed_ms);
    assert_eq!(ours.hash, Some(new.clone()));
    // A hash of a password in NFC is known for one until somebody writes another who does not say so: that service,
    // or a process of ours that runs since before the migration, which counts its writes as we do.
    let nfc = PasswordHash::of_nfc(format!("{OLD_PARAMETERS}$salt$of a password in NFC"));
    for other in ["", ", writes = writes + 1"] {
        let now = find("bob@b.c").await.1.hash.unwrap();
        assert_eq!(store.rehash(bob.id, &now, nfc.clone()).await, Ok(true));
        assert_eq!(find("bob@b.c").await.1.hash, Some(nfc.clone()));
        write(&format!(
            "'{OLD_PARAMETERS}$salt$of one as it was typed'{other}"
        ));
        let found = find("bob@b.c").await.1.hash.unwrap();
        assert!(!found.is_nfc() && found != nfc);
    }
    assert_eq!(store.delete_user(bob.id).await, Ok(true));
    let left = "SELECT count(*) FROM credentials WHERE provider_uid = '1'";
    assert_eq!(sql(&database, left), "0");
    open.backend.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_long_for_a_migration_that_waits() {
    const HELD: Duration = Duration::from_secs(6);
    const WAIT_MAX: Duration = Duration::from_secs(2);
    let database = old_database(50);
    let url_ = url("POSTGRES", &database);
    let reader = async || {
        let connect = tokio_postgres::connect(&url_, tokio_postgres::NoTls).await;
        let (client, driver) = connect.unwrap();
        tokio::spawn(driver);
        client
    };
    let held = reader().await;
    held.batch_execute("BEGIN; SELECT count(*) FROM users; SELECT count(*) FROM credentials")
        .await
        .unwrap();
    let others = reader().await;
    let begun = clock::now();
    let migrating = url("PGBOUNCER_OLD", &database);
    let migrating = tokio::task::spawn_blocking(move || run(&migrating, false));
    let mut longest = Duration::ZERO;
    let mut ended = None;
    while !migrating.is_finished() {
        let begin = clock::now();
        others
            .batch_execute(
                "BEGIN; SELECT id FROM users WHERE email = 'user1@example.org';
                 SELECT secret_hash FROM credentials WHERE user_id = 1 AND type = 'password';
                 UPDATE users SET display_name = 'x' WHERE id = 1; COMMIT",
            )
            .await
            .unwrap();
        longest = longest.max(begin.elapsed());
        if ended.is_none() && begun.elapsed() > HELD {
            held.batch_execute("COMMIT").await.unwrap();
            ended = Some(clock::now());
        }
    }
    migrating.await.unwrap().unwrap();
    assert!(ended.is_some(), "it has waited for the other's end");
    assert!(longest < WAIT_MAX, "{longest:?}");
}

#[test]
fn tables_that_differ_are_named_with_all_that_differs_and_stay_as_they_are() {
    let cases: [(&str, &[&str]); 9] = [
        (
            "ALTER TABLE users DROP CONSTRAINT users_email_key; ALTER TABLE users DROP COLUMN display_name;
             ALTER TABLE users ALTER COLUMN phone TYPE VARCHAR(20)",
            &[
                "users: there is no unique index on users(email)",
                "users: column display_name is missing",
                "users: column phone is character varying(20), not text",
            ],
        ),
        (
            "DROP INDEX idx_credentials_user_type_one",
            &["credentials: there is no unique index on credentials(user_id, type)"],
        ),
        (
            "DROP INDEX idx_credentials_user_type_one; CREATE UNIQUE INDEX ON credentials (user_id, type)
             WHERE type = 'totp'",
            &["0003_accounts: there is no unique or exclusion constraint matching"],
        ),
        (
            "DROP INDEX idx_credentials_oauth_unique",
            &["credentials: there is no unique index on credentials(provider, provider_uid)"],
        ),
        (
            "ALTER TABLE users ALTER COLUMN id DROP DEFAULT",
            &["users: column id has no default"],
        ),
        (
            "ALTER TABLE credentials ADD COLUMN x TEXT NOT NULL",
            &["credentials: column x is none that we know"],
        ),
        (
            "CREATE TABLE outbox (x INTEGER)",
            &["outbox: a table of this name is there already, and is not ours"],
        ),
        (
            "DROP TABLE credentials",
            &["credentials: this table is missing"],
        ),
        (
            "ALTER TABLE users RENAME TO people; CREATE VIEW users AS SELECT * FROM people",
            &["users: this is no ordinary table"],
        ),
    ];
    for (change, expected) in cases {
        let database = shared().database();
        sql(&database, &format!("{}; {change}", old_service::SCHEMA));
        let url = url("POSTGRES", &database);
        for is_trial in [true, false] {
            // That index has the right columns; what it holds for shows only in a transaction.
            if is_trial && change.contains("'totp'") {
                continue;
            }
            let refused = run(&url, is_trial).unwrap_err();
            for part in expected {
                assert!(refused.contains(part), "{change}: {refused}");
            }
        }
        let columns = "SELECT count(*) FROM information_schema.columns
            WHERE column_name IN ('sessions_not_before', 'changed_ms', 'nfc_of')";
        assert_eq!(sql(&database, columns), "0");
        let refused = refusal(&url);
        assert!(
            refused.contains("its schema is 0, this cloudchat needs 4"),
            "{refused}"
        );
    }
}

/// The old service's role owns its tables, and has no right on ours; ours is a member of it.
#[tokio::test]
async fn two_roles_share_the_tables() {
    let services = shared();
    let database = old_database(1);
    let admin = |sql: &str| admin(&database, sql);
    let role = format!("site_{database}");
    // Not REASSIGN OWNED, which gives away the databases of the tests beside this one, too.
    admin(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'site';
         DO $$ DECLARE of_site TEXT; BEGIN
             FOR of_site IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
                 EXECUTE format('ALTER TABLE public.%I OWNER TO {role}', of_site);
             END LOOP;
         END $$;
         ALTER DATABASE {database} OWNER TO postgres; GRANT CREATE ON SCHEMA public TO {role}"
    ));
    let url_ours = url("POSTGRES", &database);
    let refused = run(&url_ours, false).unwrap_err();
    for part in [
        format!(
            "users belongs to the role {role}, of which cloudchat is no member: GRANT {role} TO cloudchat"
        ),
        "cloudchat may make no tables in the schema public: GRANT CREATE ON SCHEMA public"
            .to_owned(),
    ] {
        assert!(refused.contains(&part), "{refused}");
    }
    admin(&format!(
        "GRANT {role} TO cloudchat; GRANT CREATE ON SCHEMA public TO cloudchat"
    ));
    run(&url_ours, false).unwrap();
    let (_, host) = services.address("POSTGRES").split_once('@').unwrap();
    let theirs = format!("postgres://{role}:site@{host}/{database}");
    let (old, driver) = tokio_postgres::connect(&theirs, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(driver);
    let denied = old
        .batch_execute("SELECT * FROM secrets")
        .await
        .unwrap_err();
    assert_eq!(
        denied.code().unwrap().code(),
        "42501",
        "ours is not its to read"
    );
    old.batch_execute(
        "INSERT INTO users (uid, email) VALUES ('b0b5d8f178f3', 'bob@b.c');
         INSERT INTO credentials (user_id, type, secret_hash) SELECT id, 'password', '$a$b$c' FROM users WHERE email = 'bob@b.c';
         UPDATE credentials SET secret_hash = '$a$b$d' WHERE user_id = (SELECT id FROM users WHERE email = 'bob@b.c');
         UPDATE credentials SET secret_hash = '$x$b$d' WHERE user_id = (SELECT id FROM users WHERE email = 'bob@b.c')",
    )
    .await
    .unwrap();
    let changed = "SELECT changed_ms > 0 FROM credentials WHERE secret_hash = '$x$b$d'";
    assert_eq!(sql(&database, changed), "t");
    // A server needs rows only, and is told what it lacks.
    let (plain, sequences) = (
        format!("plain_{database}"),
        "users_id_seq, credentials_id_seq",
    );
    admin(&format!(
        "CREATE ROLE {plain} LOGIN PASSWORD 'plain'; GRANT SELECT ON schema_migrations TO {plain}"
    ));
    let plain_url = format!("postgres://{plain}:plain@{host}/{database}");
    let refused = refusal(&plain_url);
    for part in [
        "INSERT ON users",
        "DELETE ON outbox",
        "SELECT ON secrets",
        "USAGE ON SEQUENCE public.users_id_seq",
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    admin(&format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON users, credentials, secrets, used_tokens, outbox TO {plain};
         GRANT USAGE ON SEQUENCE {sequences} TO {plain}"
    ));
    let folder = tempfile::tempdir().unwrap();
    let backend = Backend::start(&settings(&folder, &plain_url, "named"), quiet).unwrap();
    let store = backend.connect().accounts;
    let made = store.register(T0, new_user("carol@b.c")).await;
    let Ok(Registered::Done(carol)) = made else {
        panic!("{made:?}")
    };
    assert_eq!(store.delete_user(carol).await, Ok(true));
    backend.stop().unwrap();
}
