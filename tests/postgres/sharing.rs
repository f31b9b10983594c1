//! Calls that read share a connection: not for ever while somebody waits for it, and not one that has
//! stopped to answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cloudchat::model::UserId;
use cloudchat::store::{Backend, Registered, StoreError, migrate};
use tempfile::TempDir;
use tokio::time::{interval, timeout};

use super::support::{T0, locked, new_user, settings, shared};

/// For a hundred reads.
const PATIENCE: Duration = Duration::from_secs(5);

/// A store with one connection, whose calls may take a second.
fn one_connection() -> (TempDir, Backend, String) {
    let services = shared();
    let name = services.database();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("{}/{name}", services.address("POSTGRES"));
    let mut settings = settings(&folder, &url, "named");
    let database = settings.database.as_mut().unwrap();
    migrate(database, false, |_, _| {}).unwrap();
    database.connections_per_core = 1;
    database.timeout = Duration::from_secs(1);
    let backend = Backend::start(&settings, |_, _| {}).unwrap();
    (folder, backend, name)
}

#[tokio::test]
async fn a_write_has_its_turn_among_reads() {
    let (_folder, backend, _) = one_connection();
    let store = backend.connect().accounts;
    // Who reads while the connection is being opened, or is out of the pool, waits for it and does not join.
    store.ping().await.unwrap();
    for n in 0..5 {
        let is_over = Arc::new(AtomicBool::new(false));
        let read = Arc::new(AtomicUsize::new(0));
        let readers = (0..8).map(|_| {
            let (store, is_over, read) = (store.clone(), Arc::clone(&is_over), Arc::clone(&read));
            tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    store.ping().await.unwrap();
                    read.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let readers: Vec<_> = readers.collect();
        let all_read = async || {
            let before = read.load(Ordering::Relaxed);
            while read.load(Ordering::Relaxed) < before + 100 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, all_read()).await.unwrap();
        let registered = store.register(T0, new_user(&format!("user{n}@b.c"))).await;
        assert!(
            matches!(registered, Ok(Registered::Done(_))),
            "{n}: {registered:?}"
        );
        // Nor does the write keep others from reading.
        timeout(PATIENCE, all_read()).await.unwrap();
        is_over.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.await.unwrap();
        }
    }
    backend.stop().unwrap();
}

#[tokio::test]
async fn nobody_joins_a_connection_that_has_stopped_to_answer() {
    let (_folder, backend, name) = one_connection();
    let store = backend.connect().accounts;
    store.ping().await.unwrap();
    let locker = locked(shared(), &name, "users, credentials").await;
    let hanging = {
        let store = store.clone();
        tokio::spawn(async move { store.credential_of(UserId(1)).await.map(drop) })
    };
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND wait_event_type = 'Lock'"
    );
    let mut look = interval(Duration::from_millis(20));
    let mut looks = 0;
    while shared().psql("POSTGRES_ADMIN", "postgres", &waiting) != "1" {
        look.tick().await;
        looks += 1;
        assert!(looks < 25, "the statement is not at the server");
    }
    // What has joined it before waits behind it in vain.
    let behind = {
        let store = store.clone();
        tokio::spawn(async move { store.ping().await })
    };
    assert_eq!(hanging.await.unwrap(), Err(StoreError::TimedOut));
    // It is still out of the pool: this one waits for another.
    assert_eq!(store.ping().await, Ok(()));
    assert_eq!(behind.await.unwrap(), Err(StoreError::TimedOut));
    locker.batch_execute("COMMIT").await.unwrap();
    backend.stop().unwrap();
}
