//! A Redis that is not there, dies, hangs or does not let us in.

use std::sync::Mutex;
use std::time::Duration;

use cloudchat::clock;
use cloudchat::model::UserId;
use cloudchat::store::{Backend, Sessions, StoreError, Window};
use tempfile::TempDir;

use super::services::Services;
use super::single::logins::login;
use super::support::{T0, quiet, with};

pub const ME: UserId = UserId(7);
const LOOK: Duration = Duration::from_millis(10);

/// What was reported, by any test of this file.
static REPORTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn report(event: &'static str, detail: String) {
    REPORTS.lock().unwrap().push(format!("{event}: {detail}"));
}

/// A store of short patience.
pub fn start(url: &str) -> (TempDir, Backend) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[redis]\nurl = \"{url}\"\nconnect_seconds = 0.3\ntimeout_seconds = 0.4\n[store]\nqueue_max = 8\n"
    );
    let backend = Backend::start(&with(&folder, &text), report).unwrap();
    (folder, backend)
}

/// Asks until there is an answer; how long that took.
async fn recovered(store: &Sessions) -> Duration {
    let (start, mut look) = (clock::now(), tokio::time::interval(LOOK));
    while store.ping().await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "it stays away");
        look.tick().await;
    }
    start.elapsed()
}

#[tokio::test]
async fn one_that_dies_is_missed_at_once_and_found_again() {
    let mut services = Services::start("redis");
    // What Redis has answered it keeps: `everysec`, the usual setting, writes up to two seconds late when
    // the disk is busy (redis.conf), and what was not written dies with the process.
    assert_eq!(
        services.redis(&["CONFIG", "SET", "appendfsync", "always"]),
        "OK"
    );
    let (_folder, backend) = start(services.address("REDIS"));
    let store = backend.connect().sessions;
    let (token, new) = login(ME, T0);
    store.create_session(new).await.unwrap();
    services.tell("kill", "redis");
    let begun = clock::now();
    for _ in 0..20 {
        assert!(store.session(T0, &token).await.is_err());
        assert!(store.reserve(T0, &[Window::new(b"x", 1, 9)]).await.is_err());
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "nobody waits");
    services.tell("start", "redis");
    let took = recovered(&store).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    // It keeps its data, and the client whatever it knew.
    assert!(store.session(T0, &token).await.unwrap().is_some());
    backend.stop().unwrap();
}

#[tokio::test]
async fn one_that_hangs_costs_a_deadline_and_no_memory() {
    let mut services = Services::start("redis");
    let (_folder, backend) = start(services.address("REDIS"));
    let store = backend.connect().sessions;
    store.ping().await.unwrap();
    services.tell("stop", "redis");
    let begun = clock::now();
    let all = (0..50).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.ping().await })
    });
    let mut timed_out = 0;
    for call in all.collect::<Vec<_>>() {
        match call.await.unwrap() {
            Err(StoreError::TimedOut) => timed_out += 1,
            outcome => assert_eq!(outcome, Err(StoreError::Unavailable)),
        }
    }
    // As many wait as may (`store.queue_max`).
    assert_eq!(timed_out, 8);
    assert!(begun.elapsed() < Duration::from_secs(1));
    // Clients go on asking, for longer than a connection is kept that gives no answer.
    let mut look = tokio::time::interval(LOOK);
    while begun.elapsed() < Duration::from_secs(3) {
        look.tick().await;
        assert!(store.ping().await.is_err());
    }
    services.tell("continue", "redis");
    let took = recovered(&store).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    backend.stop().unwrap();
}

#[tokio::test]
async fn one_that_is_not_there_yet_is_waited_for() {
    let mut services = Services::start("redis");
    services.tell("kill", "redis");
    let (_folder, backend) = start(services.address("REDIS"));
    let store = backend.connect().sessions;
    assert!(store.ping().await.is_err());
    services.tell("start", "redis");
    let took = recovered(&store).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    let reports = REPORTS.lock().unwrap();
    let line = reports
        .iter()
        .find(|line| line.contains("store failed: Redis"));
    assert!(line.is_some(), "{reports:?}");
    drop(reports);
    backend.stop().unwrap();
}

#[test]
fn a_wrong_password_is_one_line_and_no_start() {
    let services = super::support::shared();
    let folder = tempfile::tempdir().unwrap();
    for (server, kind, users) in [
        ("REDIS", "redis", &["", ":hidden-1@"][..]),
        ("REDIS_CLUSTER", "redis-cluster", &["", ":hidden-1@"]),
        // A wrong one looks like sentinels that are not there.
        ("REDIS_SENTINEL", "redis-sentinel", &[""]),
    ] {
        let url = services.address(server);
        let hosts = url.split_once('@').unwrap().1;
        for user in users {
            let text = format!("redis.url = \"{kind}://{user}{hosts}\"\n");
            let error = Backend::start(&with(&folder, &text), quiet).unwrap_err();
            assert!(error.starts_with("Redis at 127.0.0.1:"), "{error}");
            assert!(
                error.contains("NOAUTH") || error.contains("WRONGPASS"),
                "{error}"
            );
            assert!(!error.contains("hidden") && error.lines().count() == 1);
        }
    }
}
