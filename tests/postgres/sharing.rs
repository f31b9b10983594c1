//! Calls that read share a connection: from the first, not for ever while somebody waits for it, and not one
//! that has stopped to answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cloudchat::model::{Identifier, UserId};
use cloudchat::store::{Backend, Registered, StoreError, migrate};
use tempfile::TempDir;
use tokio::time::{interval, timeout};

use super::support::{T0, locked, new_user, settings, shared};

/// For a hundred reads.
const PATIENCE: Duration = Duration::from_secs(5);

/// A store with one connection, whose calls may take a second.
fn one_connection() -> (TempDir, Backend, String) {
    connections(1)
}

fn connections(per_core: usize) -> (TempDir, Backend, String) {
    let services = shared();
    let name = services.database();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("{}/{name}", services.address("POSTGRES"));
    let mut settings = settings(&folder, &url, "named");
    let database = settings.database.as_mut().unwrap();
    migrate(database, false, |_, _| {}).unwrap();
    database.connections_per_core = per_core;
    database.timeout = Duration::from_secs(1);
    let backend = Backend::start(&settings, |_, _| {}).unwrap();
    (folder, backend, name)
}

/// If each read of a burst took a connection of its own, all that follow would wait for one, and none would
/// share any more for as long as the load lasts.
#[tokio::test]
async fn a_burst_of_reads_shares_one_connection_from_the_first() {
    let (_folder, backend, name) = connections(5);
    let store = backend.connect().accounts;
    for _ in 0..3 {
        let reads = (0..40).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.ping().await })
        });
        for read in reads.collect::<Vec<_>>() {
            assert_eq!(read.await.unwrap(), Ok(()));
        }
    }
    // The one that has looked at the schema may still be closing.
    let open = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'");
    let mut look = interval(Duration::from_millis(20));
    let mut looks = 0;
    while shared().psql("POSTGRES_ADMIN", "postgres", &open) != "1" {
        look.tick().await;
        looks += 1;
        assert!(looks < 25, "more than one connection is open");
    }
    backend.stop().unwrap();
}

/// Who waits for another call's connection hears that there is none to be had, and the next one tries
/// again.
#[tokio::test]
async fn who_waits_for_a_connection_hears_that_there_is_none() {
    let (_folder, backend, name) = connections(5);
    let store = backend.connect().accounts;
    let allow = |yes: bool| {
        let sql = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {yes}");
        shared().psql("POSTGRES_ADMIN", "postgres", &sql);
    };
    allow(false);
    let reads = (0..40).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.ping().await })
    });
    for read in reads.collect::<Vec<_>>() {
        assert_eq!(read.await.unwrap(), Err(StoreError::Unavailable));
    }
    allow(true);
    assert_eq!(store.ping().await, Ok(()));
    backend.stop().unwrap();
}

/// A call that is given up while it fetches a connection leaves that to those who wait for it.
#[tokio::test]
async fn a_call_that_is_given_up_keeps_nobody_waiting() {
    let (_folder, backend, _) = one_connection();
    let store = backend.connect().accounts;
    let fetching = {
        let store = store.clone();
        tokio::spawn(async move { store.ping().await })
    };
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { store.ping().await })
    };
    // Both have begun, and the first connects.
    tokio::task::yield_now().await;
    assert!(!fetching.is_finished() && !waiting.is_finished());
    fetching.abort();
    assert_eq!(waiting.await.unwrap(), Ok(()));
    assert!(fetching.await.unwrap_err().is_cancelled());
    backend.stop().unwrap();
}

/// A connection that owes an answer to somebody who has gone is nobody's before that has come.
#[tokio::test]
async fn nobody_waits_for_what_somebody_has_left() {
    let (_folder, backend, name) = connections(2);
    let store = backend.connect().accounts;
    store.ping().await.unwrap();
    let locker = locked(shared(), &name, "users, credentials").await;
    let other = store.clone();
    let write = tokio::spawn(async move { other.register(T0, new_user("a@b.c")).await.map(drop) });
    wait_for_lock(&name).await;
    write.abort();
    assert!(write.await.unwrap_err().is_cancelled());
    for _ in 0..5 {
        assert_eq!(store.ping().await, Ok(()));
    }
    // It is closed at last, with its transaction.
    let mut look = interval(Duration::from_millis(20));
    while shared().psql("POSTGRES_ADMIN", "postgres", &waiting(&name)) != "0" {
        look.tick().await;
    }
    locker.batch_execute("COMMIT").await.unwrap();
    let someone = Identifier::parse("a@b.c").unwrap();
    assert_eq!(store.credential(&someone).await, Ok(None));
    backend.stop().unwrap();
}

/// Statements that wait for a lock in this database.
fn waiting(name: &str) -> String {
    format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND wait_event_type = 'Lock'"
    )
}

/// Until one does.
async fn wait_for_lock(name: &str) {
    let mut look = interval(Duration::from_millis(20));
    let mut looks = 0;
    while shared().psql("POSTGRES_ADMIN", "postgres", &waiting(name)) != "1" {
        look.tick().await;
        looks += 1;
        assert!(looks < 25, "the statement is not at the server");
    }
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
    wait_for_lock(&name).await;
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
