//! What is kept over kills, restarts, full disks and other processes.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use cloudchat::model::Identifier;
use cloudchat::model::UserId;
use cloudchat::store::{Backend, Begun, Sessions, StoreError, Window};

use super::ME;
use super::accounts::registered;
use super::logins::login;
use super::support::{HOUR, Open, T0, found, key, settings, text, turn};

#[tokio::test]
async fn everything_outlives_the_process_and_the_key_stays() {
    let open = Open::fresh();
    let (chat, generation) = (key(1), [1; 16]);
    let window = Window::new(b"w", 1, HOUR);
    let store = &open.stores.sessions;
    store
        .open_chat(T0, chat, ME, generation, HOUR, true)
        .await
        .unwrap();
    store
        .save_turn(T0, turn(chat, generation, "q"))
        .await
        .unwrap();
    store
        .begin_chat(T0, None, ME, vec![window.clone()])
        .await
        .unwrap();
    let hmac_key = *open.stores.accounts.hmac_key();
    let folder = open.folder.path().to_owned();
    for (name, mode) in [
        ("sessions.db", 0o600),
        ("sessions.db-wal", 0o600),
        ("accounts.db", 0o600),
    ] {
        let found = std::fs::metadata(folder.join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(found & 0o777, mode, "{name}");
    }
    let open = open.again(|_| {});
    let store = &open.stores.sessions;
    assert_eq!(text(&found(store, chat, ME).await), "q a:q");
    let limited = store.begin_chat(T0, Some(chat), ME, vec![window]).await;
    assert_eq!(
        limited,
        Ok(Begun::Limited {
            retry_after_s: 3600
        })
    );
    assert_eq!(*open.stores.accounts.hmac_key(), hmac_key);
    assert_ne!(hmac_key, [0; 32]);
    assert_eq!(
        (store.ping().await, open.stores.accounts.ping().await),
        (Ok(()), Ok(()))
    );
    let cookie_bytes = std::fs::read(folder.join("sessions.db")).unwrap();
    assert!(!cookie_bytes.windows(8).any(|bytes| bytes == b"cookie 1"));
    open.stop();
    assert!(!folder.join("sessions.db-wal").exists());
}

const CHILD: &str = "CLOUDCHAT_STORE_CHILD";

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "how the child learns that it is one"
)]
async fn kill_9_loses_nothing_that_was_answered() {
    if let Ok(folder) = std::env::var(CHILD) {
        return write_until_killed(&folder).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "durability::kill_9_loses_nothing_that_was_answered",
            "--nocapture",
        ])
        .env(CHILD, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answered = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        if let Some((_, n)) = line.unwrap().split_once("answered ") {
            answered = n.parse().unwrap();
        }
        if answered == 300 {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(answered >= 300, "{answered}");
    let open = Open::at(folder, |_| {});
    for n in 1..=answered {
        let chat = found(&open.stores.sessions, key(n), ME).await;
        assert_eq!(text(&chat), format!("q{n} a:q{n}"));
        let email = Identifier::parse(&format!("a@b.c{n}")).unwrap();
        let user = open.stores.accounts.credential(&email).await.unwrap();
        assert!(user.is_some_and(|user| user.hash.is_some()), "{n}");
    }
    open.stop();
}

async fn write_until_killed(folder: &str) {
    let backend = Backend::start(&settings(folder.as_ref()), |_, _| ()).unwrap();
    let stores = backend.connect();
    let store = stores.sessions;
    for n in 1.. {
        registered(&stores.accounts, &format!("a@b.c{n}")).await;
        store
            .open_chat(T0, key(n), ME, [1; 16], HOUR, true)
            .await
            .unwrap();
        store
            .save_turn(T0, turn(key(n), [1; 16], &format!("q{n}")))
            .await
            .unwrap();
        println!("answered {n}");
    }
}

#[tokio::test]
async fn two_processes_may_overlap() {
    let open = Open::fresh();
    let other = Backend::start(&settings(open.folder.path()), |_, _| ()).unwrap();
    let there = other.connect();
    let here = &open.stores;
    assert_eq!(here.accounts.hmac_key(), there.accounts.hmac_key());
    let (chat, generation) = (key(1), [1; 16]);
    here.sessions
        .open_chat(T0, chat, ME, generation, HOUR, true)
        .await
        .unwrap();
    let window = Window::new(b"w", 100, HOUR);
    let hits = |store: Sessions| {
        let window = window.clone();
        tokio::spawn(async move {
            let mut ready = 0;
            for _ in 0..80 {
                let begun = store
                    .begin_chat(T0, None, ME, vec![window.clone()])
                    .await
                    .unwrap();
                ready += u32::from(matches!(begun, Begun::Ready { .. }));
            }
            ready
        })
    };
    let (first, second) = (hits(here.sessions.clone()), hits(there.sessions.clone()));
    assert_eq!(first.await.unwrap() + second.await.unwrap(), 100);
    assert!(
        there
            .sessions
            .save_turn(T0, turn(chat, generation, "q"))
            .await
            .unwrap()
    );
    assert_eq!(text(&found(&here.sessions, chat, ME).await), "q a:q");
    here.sessions.reset_chat(chat, ME).await.unwrap();
    assert!(
        !there
            .sessions
            .save_turn(T0, turn(chat, generation, "q"))
            .await
            .unwrap()
    );
    other.stop().unwrap();
    open.stop();
}

#[tokio::test]
async fn a_full_disk_refuses_writes_reads_on_and_recovers() {
    let open = Open::with(|settings| settings.disk_bytes_max = 128 * 1024);
    let store = &open.stores.sessions;
    // Chats make room by themselves; logins do not, up to their number.
    let create = async |store: &Sessions, n: i64| {
        let (token, new) = login(UserId(n), T0);
        store.create_session(new).await.map(|()| token)
    };
    let mut tokens = Vec::new();
    let failure = loop {
        match create(store, tokens.len() as i64).await {
            Ok(token) => tokens.push(token),
            Err(error) => break error,
        }
        assert!(tokens.len() < 5000, "128 KiB hold 5,000 sessions");
    };
    assert_eq!(failure, StoreError::Unavailable);
    let found = store.session(T0, &tokens[0]).await.unwrap();
    assert_eq!(found.map(|session| session.user), Some(UserId(0)));
    assert_eq!(store.ping().await, Ok(()));
    // Room made by ending some is used at once …
    for token in &tokens[..100] {
        store.end_session(token).await.unwrap();
    }
    for n in 0..50 {
        create(store, 10_000 + n).await.unwrap();
    }
    // … and a higher limit after a restart.
    let open = open.again(|settings| settings.disk_bytes_max = 1 << 20);
    let store = &open.stores.sessions;
    for n in 0..500 {
        create(store, 20_000 + n).await.unwrap();
    }
    open.stop();
}

#[tokio::test]
async fn a_call_has_a_deadline_and_its_write_is_carried_out_all_the_same() {
    let open = Open::with(|settings| {
        settings.timeout = Duration::from_millis(100);
        settings.queue_max = 2;
    });
    let store = &open.stores.sessions;
    let (chat, generation) = (key(1), [1; 16]);
    store
        .open_chat(T0, chat, ME, generation, HOUR, true)
        .await
        .unwrap();
    let file = rusqlite::Connection::open(open.folder.path().join("sessions.db")).unwrap();
    file.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let began = cloudchat::clock::now();
    let (saved, pings) = tokio::join!(store.save_turn(T0, turn(chat, generation, "q")), async {
        tokio::join!(store.ping(), store.ping(), store.ping(), store.ping())
    });
    let late = Err(StoreError::TimedOut);
    assert_eq!(
        (saved, pings),
        (Err(StoreError::TimedOut), (late, late, late, late))
    );
    assert!(began.elapsed() < Duration::from_secs(1));
    file.execute_batch("COMMIT").unwrap();
    let open = open.again(|_| {});
    assert_eq!(text(&found(&open.stores.sessions, chat, ME).await), "q a:q");
    open.stop();
}

#[tokio::test]
async fn stopping_carries_out_what_is_queued_and_ends_the_handles() {
    let open = Open::fresh();
    let (chat, generation) = (key(1), [1; 16]);
    let store = open.stores.sessions.clone();
    store
        .open_chat(T0, chat, ME, generation, HOUR, true)
        .await
        .unwrap();
    let ended = open.backend.ended();
    let file = rusqlite::Connection::open(open.folder.path().join("sessions.db")).unwrap();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    let saves: Vec<_> = (0..5)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                store
                    .save_turn(T0, turn(chat, generation, &format!("q{n}")))
                    .await
            })
        })
        .collect();
    tokio::task::yield_now().await;
    let stopping = tokio::task::spawn_blocking(move || open.stop());
    // Calls wait behind the saves until the queue closes; then they are refused at once.
    let moment = Duration::from_millis(1);
    while tokio::time::timeout(moment, store.ping()).await != Ok(Err(StoreError::Unavailable)) {}
    file.execute_batch("COMMIT").unwrap();
    drop(file);
    let folder = stopping.await.unwrap();
    for save in saves {
        assert_eq!(save.await.unwrap(), Ok(true));
    }
    ended.await;
    assert_eq!(store.ping().await, Err(StoreError::Unavailable));
    let open = Open::at(folder, |_| {});
    assert_eq!(
        text(&found(&open.stores.sessions, chat, ME).await)
            .split(' ')
            .count(),
        10
    );
    open.stop();
}

#[test]
fn the_data_folder_is_made_for_this_user_only() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("var/cloudchat");
    let backend = Backend::start(&settings(&dir), |_, _| ()).unwrap();
    let mode = std::fs::metadata(&dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    backend.stop().unwrap();
}

#[test]
fn a_file_is_not_made_at_the_end_of_a_link_nor_where_others_write() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let victim = elsewhere.path().join("victim");
    for name in ["accounts.db", "sessions.db"] {
        let link = folder.path().join(name);
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        let refused = Backend::start(&settings(folder.path()), |_, _| ()).unwrap_err();
        assert!(refused.contains(name), "{refused}");
        assert!(!victim.exists());
        std::fs::remove_file(&link).unwrap();
    }
    let all = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions(elsewhere.path(), all).unwrap();
    let refused = Backend::start(&settings(elsewhere.path()), |_, _| ()).unwrap_err();
    assert!(refused.contains("others may put files"), "{refused}");
    // One that is there already may be elsewhere.
    let backend = Backend::start(&settings(folder.path()), |_, _| ()).unwrap();
    backend.stop().unwrap();
    let (link, moved) = (
        folder.path().join("accounts.db"),
        elsewhere.path().join("moved"),
    );
    std::fs::rename(&link, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &link).unwrap();
    let backend = Backend::start(&settings(folder.path()), |_, _| ()).unwrap();
    backend.stop().unwrap();
}

#[tokio::test]
async fn a_thread_that_dies_is_noticed_by_all() {
    let folder = tempfile::tempdir().unwrap();
    // The thread reports an unreadable history, and the report panics.
    let backend = Backend::start(&settings(folder.path()), |_, _| panic!("on purpose")).unwrap();
    let store = backend.connect().sessions;
    store
        .open_chat(T0, key(1), ME, [1; 16], HOUR, true)
        .await
        .unwrap();
    let file = rusqlite::Connection::open(folder.path().join("sessions.db")).unwrap();
    file.execute("UPDATE chats SET messages = x'ff'", [])
        .unwrap();
    let begun = store.begin_chat(T0, Some(key(1)), ME, Vec::new()).await;
    assert_eq!(begun, Err(StoreError::Unavailable));
    backend.ended().await;
    assert_eq!(store.ping().await, Err(StoreError::Unavailable));
    let why = backend.stop().expect_err("it panicked");
    assert_eq!(why, "the store's thread panicked");
}

#[test]
fn what_cannot_be_opened_is_named_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "text").unwrap();
    let refusal = |dir: &std::path::Path| {
        let refusal = Backend::start(&settings(dir), |_, _| ());
        let line = refusal.expect_err("it cannot start");
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    };
    assert!(refusal(&file).contains("file: cannot make this folder"));
    for name in ["sessions.db", "accounts.db"] {
        let dir = folder.path().join(name.replace('.', "-"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(name), [b'x'; 8192]).unwrap();
        let line = refusal(&dir);
        assert!(line.contains(name) && line.contains("damaged"), "{line}");
        std::fs::remove_file(dir.join(name)).unwrap();
        std::fs::create_dir(dir.join(name)).unwrap();
        let line = refusal(&dir);
        assert!(
            line.contains(name) && line.contains("cannot open"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_an_unreadable_history_is_empty() {
    let open = Open::fresh();
    let (chat, generation) = (key(1), [1; 16]);
    let store = &open.stores.sessions;
    store
        .open_chat(T0, chat, ME, generation, HOUR, true)
        .await
        .unwrap();
    let file = rusqlite::Connection::open(open.folder.path().join("sessions.db")).unwrap();
    file.execute("UPDATE chats SET messages = CAST('no json' AS BLOB)", [])
        .unwrap();
    assert_eq!(text(&found(store, chat, ME).await), "");
    assert!(
        store
            .save_turn(T0, turn(chat, generation, "q"))
            .await
            .unwrap()
    );
    assert_eq!(text(&found(store, chat, ME).await), "q a:q");
    let folder = open.stop();
    file.pragma_update(None, "user_version", 99).unwrap();
    let refused = Backend::start(&settings(folder.path()), |_, _| ());
    let line = refused.expect_err("it is newer");
    assert!(
        line.contains("sessions.db: made by a newer cloudchat (schema 99"),
        "{line}"
    );
}
