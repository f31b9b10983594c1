//! A Redis that takes no writes, or not from us.

use std::time::Duration;

use cloudchat::clock;
use cloudchat::store::{Backend, Sessions};

use super::outages::{ME, start};
use super::services::Services;
use super::single::logins::login;
use super::support::{T0, quiet, with};

/// Longer than a client is kept whose writes are refused.
const WHILE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(10);

/// Asks for writes in vain, and whether reads are answered, for a while.
async fn refuses_writes(store: &Sessions, reads: impl AsyncFn() -> bool) {
    let (begun, mut look) = (clock::now(), tokio::time::interval(LOOK));
    while begun.elapsed() < WHILE {
        look.tick().await;
        assert!(store.ping().await.is_err());
        assert!(reads().await, "after {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn what_reads_is_answered_while_another_server_is_looked_for() {
    let services = Services::start("redis");
    let (_folder, backend) = start(services.address("REDIS"));
    let store = backend.connect().sessions;
    let (token, new) = login(ME, T0);
    store.create_session(new).await.unwrap();
    let is_known = async || matches!(store.session(T0, &token).await, Ok(Some(_)));
    let on_replica = ["REPLICAOF", "127.0.0.1", "1"];
    for (refuse, admit) in [
        (&on_replica[..], &["REPLICAOF", "NO", "ONE"][..]),
        (
            &["CONFIG", "SET", "min-replicas-to-write", "1"],
            &["CONFIG", "SET", "min-replicas-to-write", "0"],
        ),
    ] {
        assert_eq!(services.redis(refuse), "OK");
        refuses_writes(&store, is_known).await;
        assert_eq!(services.redis(admit), "OK");
        store.ping().await.unwrap();
    }
    // Those whose place another has taken are gone.
    let clients = services.redis(&["CLIENT", "LIST"]);
    assert!(clients.lines().count() <= 3, "{clients}");
    // One that does not even read comes back, too.
    let set = services.redis(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
    assert_eq!(set, "OK");
    assert_eq!(services.redis(&on_replica), "OK");
    assert!(!is_known().await);
    assert_eq!(services.redis(&["REPLICAOF", "NO", "ONE"]), "OK");
    assert!(is_known().await);
    backend.stop().unwrap();
}

#[tokio::test]
async fn a_user_without_rights_is_one_line_that_says_what_to_grant() {
    let services = Services::start("redis");
    let (_, host) = services.address("REDIS").split_once('@').unwrap();
    let folder = tempfile::tempdir().unwrap();
    let settings = |user: &str| {
        let text =
            format!("[redis]\nurl = \"redis://{user}:secret-1@{host}\"\nkey_prefix = \"p:\"\n");
        with(&folder, &text)
    };
    let grant = |user: &str, rights: &[&str]| {
        let words = [&["ACL", "SETUSER", user, "on", ">secret-1"], rights].concat();
        assert_eq!(services.redis(&words), "OK");
    };
    for (user, rights) in [
        ("without-eval", &["~*", "+@all", "-eval"][..]),
        ("without-hset", &["~*", "+@all", "-hset"]),
        ("without-keys", &["~q:*", "+@all"]),
    ] {
        grant(user, rights);
        let error = Backend::start(&settings(user), quiet).unwrap_err();
        assert!(error.starts_with("Redis at 127.0.0.1:"), "{error}");
        let (_, fix) = error.split_once("ACL SETUSER ").unwrap();
        assert!(fix.starts_with(&format!("{user} ~p:* +ping ")), "{error}");
        assert!(!error.contains("secret-1") && error.lines().count() == 1);
    }
    // With just that it is enough.
    let error = Backend::start(&settings("without-eval"), quiet).unwrap_err();
    let (_, fix) = error.split_once("ACL SETUSER without-eval ").unwrap();
    grant("with-just-that", &fix.split(' ').collect::<Vec<_>>());
    let backend = Backend::start(&settings("with-just-that"), quiet).unwrap();
    let store = backend.connect().sessions;
    store.ping().await.unwrap();
    let (token, new) = login(ME, T0);
    store.create_session(new).await.unwrap();
    assert_eq!(store.sessions_of(T0, ME).await.unwrap().len(), 1);
    assert_eq!(store.end_sessions_of(ME, None, T0).await, Ok(1));
    assert_eq!(store.session(T0, &token).await, Ok(None));
    assert_eq!(services.redis(&["EXISTS", "p:cc:try"]), "0");
    backend.stop().unwrap();
}
