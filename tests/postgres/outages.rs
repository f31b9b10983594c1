//! A server that hangs or dies: what was not committed in time is not written, and calls work again
//! as soon as the server does.

use std::sync::Mutex;
use std::time::Duration;

use cloudchat::clock;
use cloudchat::config;
use cloudchat::model::{Identifier, PasswordHash, Token};
use cloudchat::store::{Accounts, Backend, Registered, StoreError, TokenUse, migrate};

use super::services::Services;
use super::support::{T0, locked, new_user, quiet, settings};

/// What was reported, by any test of this file.
static REPORTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A store of short patience on a server of the test's own.
fn start(services: &Services, server: &str) -> (tempfile::TempDir, Backend, config::Store) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("{}/{}", services.address(server), services.database());
    let mut settings = settings(&folder, &url, "auto");
    let database = settings.database.as_mut().unwrap();
    migrate(database, false, quiet).unwrap();
    database.connect_timeout = Duration::from_millis(200);
    database.timeout = Duration::from_millis(400);
    let report = |event: &'static str, detail: String| {
        REPORTS.lock().unwrap().push(format!("{event}: {detail}"));
    };
    let backend = Backend::start(&settings, report).unwrap();
    (folder, backend, settings)
}

/// Asks until there is an answer; how long that took.
async fn recovered(store: &Accounts) -> Duration {
    let start = clock::now();
    while store.ping().await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "it stays away");
    }
    start.elapsed()
}

/// Writes nothing: each call is given up in time.
async fn writes_in_vain(store: &Accounts, token: &Token, user: cloudchat::model::UserId) {
    let new = PasswordHash::new("$a$b$d".to_owned());
    let old = PasswordHash::new("$a$b$c".to_owned());
    let start = clock::now();
    for n in 0..4 {
        let failed = match n {
            0 => {
                let used = store.use_reset_token(T0, token, user, new.clone(), true);
                used.await.map(drop)
            }
            1 => store.register(T0, new_user("b@b.c")).await.map(drop),
            2 => {
                let changed = store.change_password(T0, user, &old, new.clone());
                changed.await.map(drop)
            }
            _ => store.set_password(T0, user, new.clone()).await.map(drop),
        };
        assert!(failed.is_err(), "{n}");
    }
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_written() {
    for server in ["POSTGRES", "PGBOUNCER"] {
        let services = Services::start("postgres,pgbouncer");
        let (_folder, backend, settings) = start(&services, server);
        let store = backend.connect().accounts;
        let registered = store.register(T0, new_user("a@b.c")).await.unwrap();
        let Registered::Done(id) = registered else {
            panic!("{registered:?}")
        };
        let before = store.credential_of(id).await.unwrap();
        let token = Token::new();
        // Another holds the rows: the server has the statements, and works on them later.
        let name = settings.database.as_ref().unwrap().name.clone();
        let locker = locked(&services, &name, "users, credentials, outbox").await;
        writes_in_vain(&store, &token, id).await;
        locker.batch_execute("COMMIT").await.unwrap();
        recovered(&store).await;
        // Asked after all of these are through.
        let waiting = "SELECT count(*) FROM pg_stat_activity
            WHERE application_name = 'cloudchat' AND state <> 'idle'";
        let mut asked = 0..1000;
        let is_idle = |_| services.psql("POSTGRES_ADMIN", "postgres", waiting) == "0";
        assert!(asked.any(is_idle), "{server} is still busy");
        assert_eq!(store.credential_of(id).await.unwrap(), before, "{server}");
        let other = Identifier::parse("b@b.c").unwrap();
        assert_eq!(store.credential(&other).await, Ok(None), "{server}");
        let new = PasswordHash::new("$a$b$d".to_owned());
        let used = store.use_reset_token(T0, &token, id, new, true).await;
        assert_eq!(
            used,
            Ok(TokenUse::Done),
            "the token is still good: {server}"
        );
        backend.stop().unwrap();
    }
}

#[tokio::test]
async fn a_server_that_hangs_or_dies_is_survived() {
    let mut services = Services::start("postgres,pgbouncer");
    for (server, victim) in [
        ("POSTGRES", "postgres"),
        ("PGBOUNCER", "postgres"),
        ("PGBOUNCER", "pgbouncer"),
    ] {
        let (_folder, backend, _) = start(&services, server);
        let store = backend.connect().accounts;
        let all = async |store: &Accounts| {
            let store = store.clone();
            let calls = (0..20).map(|_| {
                let store = store.clone();
                tokio::spawn(async move { store.ping().await })
            });
            let calls: Vec<_> = calls.collect();
            let mut answers = Vec::new();
            for call in calls {
                answers.push(call.await.unwrap());
            }
            answers
        };
        assert_eq!(all(&store).await, [Ok(()); 20]);
        for (take, give) in [("stop", "continue"), ("kill", "start")] {
            services.tell(take, victim);
            let start = clock::now();
            for answer in all(&store).await {
                let is_away = [Err(StoreError::TimedOut), Err(StoreError::Unavailable)];
                assert!(is_away.contains(&answer), "{take} {victim}: {answer:?}");
            }
            let took = start.elapsed();
            assert!(took < Duration::from_secs(1), "{take} {victim}: {took:?}");
            services.tell(give, victim);
            let away = recovered(&store).await;
            assert!(away < Duration::from_secs(2), "{give} {victim}: {away:?}");
            assert_eq!(all(&store).await, [Ok(()); 20], "{give} {victim}");
        }
        backend.stop().unwrap();
    }
    let reports = REPORTS.lock().unwrap();
    assert!(
        reports
            .iter()
            .any(|line| line.starts_with("store failed: PostgreSQL: ")),
        "{reports:?}"
    );
    assert!(
        !reports.iter().any(|line| line.contains('@')),
        "{reports:?}"
    );
}
