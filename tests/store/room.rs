//! The embedded files are bounded: what expires first makes room, and what has expired is swept.

use std::time::Duration;

use cloudchat::model::{Token, UserId};
use cloudchat::store::{Begun, Stores, TokenUse, Turn, Window};

use super::ME;
use super::accounts::{hash, registered};
use super::logins::login;
use super::support::{HOUR, Open, T0, found, key, ready, turn};

#[tokio::test]
async fn the_rows_that_expire_first_make_room() {
    let open = Open::with(|settings| (settings.chats_max, settings.windows_max) = (10, 3));
    let store = &open.stores.sessions;
    for n in 0..30 {
        // Odd ones live longer.
        let ttl = HOUR + (n % 2) as i64 * HOUR + n as i64;
        store
            .open_chat(T0, key(n), ME, [1; 16], ttl, true)
            .await
            .unwrap();
    }
    for n in 0..30 {
        // The newest is always kept, though it may expire first.
        let kept = n >= 11 && n % 2 == 1;
        assert_eq!(found(store, key(n), ME).await.is_some(), kept, "{n}");
    }
    for n in 0..4u8 {
        let window = Window::new(&[n], 1, HOUR);
        store
            .begin_chat(T0 + i64::from(n), None, ME, vec![window])
            .await
            .unwrap();
    }
    let begun = |n: u8| store.begin_chat(T0 + 9, None, ME, vec![Window::new(&[n], 1, HOUR)]);
    assert!(matches!(begun(3).await, Ok(Begun::Limited { .. })));
    assert_eq!(begun(0).await, Ok(ready(None)));
    open.stop();
}

#[tokio::test]
async fn expired_rows_are_swept_while_nobody_calls() {
    let open = Open::fresh();
    let store = &open.stores.sessions;
    let long_ago = 1_000_000_000_000;
    for n in 0..60u8 {
        store
            .open_chat(long_ago, key(n.into()), ME, [1; 16], HOUR, true)
            .await
            .unwrap();
        let window = Window::new(&[n], 1, HOUR);
        store
            .begin_chat(long_ago, None, ME, vec![window])
            .await
            .unwrap();
    }
    let file = rusqlite::Connection::open(open.folder.path().join("sessions.db")).unwrap();
    let rows = || -> (i64, i64, i64, i64) {
        file.query_row(
            "SELECT (SELECT count(*) FROM chats), (SELECT count(*) FROM windows), chats, windows FROM totals",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .unwrap()
    };
    tokio::time::timeout(Duration::from_secs(10), async {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while rows() != (0, 0, 0, 0) {
            look.tick().await;
        }
    })
    .await
    .unwrap();
    open.stop();
}

#[tokio::test]
async fn what_has_expired_is_swept_while_nobody_calls() {
    let open = Open::fresh();
    let Stores { sessions, accounts } = &open.stores;
    let long_ago = 1_000_000_000_000;
    let owner = registered(accounts, "a@b.c").await;
    for n in 0..40 {
        let (token, new) = login(UserId(n), long_ago);
        sessions.create_session(new).await.unwrap();
        let put = sessions.put_reset_token(long_ago, &token, UserId(n), HOUR);
        put.await.unwrap();
        let used = accounts.use_reset_token(long_ago, &token, owner, hash("$x", "y"), true);
        assert_eq!(used.await, Ok(TokenUse::Done));
    }
    let (kept, new) = login(UserId(7), T0);
    sessions.create_session(new).await.unwrap();
    let rows = |name: &str, sql: &str| -> i64 {
        let file = rusqlite::Connection::open(open.folder.path().join(name)).unwrap();
        file.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let left = || {
        [
            rows("sessions.db", "SELECT count(*) FROM sessions"),
            rows("sessions.db", "SELECT sessions FROM totals"),
            rows("sessions.db", "SELECT count(*) FROM reset_tokens"),
            rows("accounts.db", "SELECT count(*) FROM used_tokens"),
        ]
    };
    tokio::time::timeout(Duration::from_secs(10), async {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while left() != [1, 1, 0, 0] {
            look.tick().await;
        }
    })
    .await
    .unwrap();
    assert!(sessions.session(T0, &kept).await.unwrap().is_some());
    open.stop();
}

#[tokio::test]
async fn a_session_that_a_crash_left_behind_leads_to_no_chat() {
    let open = Open::fresh();
    let (sessions, accounts) = (&open.stores.sessions, &open.stores.accounts);
    for case in 0..4 {
        let id = registered(accounts, &format!("{case}@b.c")).await;
        let (token, new) = login(id, T0);
        sessions.create_session(new).await.unwrap();
        let session = sessions.chat_user(T0, &token).await.unwrap();
        assert_eq!(session.map(|session| session.user), Some(id));
        assert_eq!(sessions.chat_user(T0 + HOUR, &token).await, Ok(None));
        // The process ends before the rows of the sessions are removed.
        match case {
            0 => assert_eq!(accounts.delete_user(id).await, Ok(true)),
            1 => assert_eq!(accounts.set_active(T0, id, false).await, Ok(true)),
            2 => {
                let set = accounts.set_password(T0, id, hash("$argon2id", "x"));
                assert_eq!(set.await, Ok(true));
            }
            _ => assert_eq!(accounts.end_sessions_before_now(T0, id).await, Ok(true)),
        }
        assert!(sessions.session(T0, &token).await.unwrap().is_some());
        assert_eq!(sessions.chat_user(T0, &token).await, Ok(None), "{case}");
    }
    assert_eq!(sessions.chat_user(T0, &Token::new()).await, Ok(None));
    open.stop();
}

#[tokio::test]
async fn the_sessions_that_expire_first_make_room() {
    let open = Open::with(|settings| settings.sessions_max = 60);
    let store = &open.stores.sessions;
    for (user, sessions, start_ms) in [(UserId(7), 50, T0), (UserId(8), 20, T0 + 1000)] {
        for n in 0..sessions {
            let (_, new) = login(user, start_ms + n);
            store.create_session(new).await.unwrap();
        }
    }
    let left = async |user| store.sessions_of(T0, UserId(user)).await.unwrap().len();
    assert_eq!((left(7).await, left(8).await), (40, 20));
    open.stop();
}

#[tokio::test]
async fn a_full_file_takes_room_from_the_client_that_holds_most() {
    const ANSWER: usize = 30_000;
    let open = Open::with(|settings| settings.disk_bytes_max = 2 << 20);
    let store = &open.stores.sessions;
    let save = async |n: usize, client: u8, bytes: usize| {
        let new = store.open_chat(T0, key(n), ME, [1; 16], HOUR, true);
        new.await.unwrap();
        let turn = Turn {
            answer_escaped: vec![b'x'; bytes],
            client: Some([client; 8]),
            ..turn(key(n), [1; 16], "q")
        };
        store.save_turn(T0, turn).await
    };
    // An honest visitor is there first, others come and go; one fills the file several times over.
    assert_eq!(save(0, 1, ANSWER).await, Ok(true));
    for n in 1..300 {
        assert_eq!(save(n, 2, ANSWER).await, Ok(true), "{n}");
    }
    assert_eq!(save(300, 3, ANSWER).await, Ok(true));
    assert!(found(store, key(0), ME).await.is_some());
    assert!(found(store, key(300), ME).await.is_some());
    // It is the oldest of the one that holds most that are gone.
    assert!(found(store, key(1), ME).await.is_none());
    assert!(found(store, key(299), ME).await.is_some());
    // What is no chat has room of its own.
    for n in 0..200 {
        let (token, new) = login(UserId(n), T0);
        store.create_session(new).await.unwrap();
        assert!(store.session(T0, &token).await.unwrap().is_some());
        let window = Window::new(&n.to_be_bytes(), 1, HOUR);
        let begun = store.begin_chat(T0, None, ME, vec![window]).await;
        assert_eq!(begun, Ok(ready(None)));
    }
    open.stop();
}
