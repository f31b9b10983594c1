//! Files of the version before accounts open, keep what they hold, and take accounts.

use cloudchat::model::Token;
use rusqlite::{Connection, params};

use super::ME;
use super::accounts::registered;
use super::logins::login;
use super::support::{HOUR, Open, T0, found, key};

#[tokio::test]
async fn files_of_the_version_before_are_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let old = |name: &str, schema: &str| {
        let file = Connection::open(folder.path().join(name)).unwrap();
        file.pragma_update(None, "journal_mode", "wal").unwrap();
        file.execute_batch(schema).unwrap();
        file.pragma_update(None, "user_version", 1).unwrap();
        file
    };
    let accounts = old(
        "accounts.db",
        include_str!("../../sql/sqlite/accounts/0001_secrets.sql"),
    );
    accounts
        .execute("INSERT INTO secrets VALUES ('hmac', ?1)", [[5u8; 32]])
        .unwrap();
    let sessions = old(
        "sessions.db",
        include_str!("../../sql/sqlite/sessions/0001_chats_and_windows.sql"),
    );
    // The key of the cookie `cookie 1`: its SHA-256.
    let digest = ring::digest::digest(&ring::digest::SHA256, b"cookie 1");
    sessions
        .execute(
            "INSERT INTO chats VALUES (?1, 7, ?2, ?3, x'')",
            params![digest.as_ref(), [1u8; 16], T0 + HOUR],
        )
        .unwrap();
    drop((accounts, sessions));

    let open = Open::at(folder, |_| {});
    let (store, accounts) = (&open.stores.sessions, &open.stores.accounts);
    assert_eq!(*accounts.hmac_key(), [5; 32]);
    let keys = [
        *accounts.device_key(),
        *accounts.mix_key(),
        [5; 32],
        [0; 32],
    ];
    for (n, a) in keys.iter().enumerate() {
        assert!(!keys[..n].contains(a));
    }
    assert!(found(store, key(1), ME).await.is_some());
    let id = registered(accounts, "a@b.c").await;
    let (token, new) = login(id, T0);
    store.create_session(new).await.unwrap();
    let open = open.again(|_| {});
    let accounts = &open.stores.accounts;
    assert_eq!([*accounts.device_key(), *accounts.mix_key()], keys[..2]);
    assert!(accounts.user(id).await.unwrap().is_some());
    let session = open.stores.sessions.session(T0, &token).await;
    assert_eq!(session.unwrap().map(|session| session.user), Some(id));
    let other = open.stores.sessions.session(T0, &Token::new()).await;
    assert_eq!(other, Ok(None));
    // Neither cookie nor token can be read from the files.
    let bytes = std::fs::read(open.stop().path().join("sessions.db")).unwrap();
    let secret = token.as_str().as_bytes();
    assert!(!bytes.windows(secret.len()).any(|part| part == secret));
}
