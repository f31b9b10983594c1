//! What depends on the accounts being in a file of this server's own.

use std::time::Duration;

use cloudchat::model::Token;
use cloudchat::store::{StoreError, TokenUse};

use super::accounts::{NEW, hash, identifier, new_user, registered};
use super::support::{Open, T0};

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_written() {
    let open = Open::with(|settings| settings.timeout = Duration::from_millis(200));
    let store = &open.stores.accounts;
    let id = registered(store, "a@b.c").await;
    let before = store.credential_of(id).await.unwrap().unwrap();
    let (old, new) = (before.hash.clone().unwrap(), hash(NEW, "other"));
    let (token, late) = (Token::new(), Err(StoreError::TimedOut));
    let file = rusqlite::Connection::open(open.folder.path().join("accounts.db")).unwrap();
    // One waits for the lock when it is given up, the others in the queue.
    for first in 0..4 {
        file.execute_batch("BEGIN IMMEDIATE").unwrap();
        for n in first..first + 4 {
            let outcome = match n % 4 {
                0 => {
                    let used = store.use_reset_token(T0, &token, id, new.clone(), true);
                    used.await.map(drop)
                }
                1 => store.register(T0, new_user("b@b.c")).await.map(drop),
                2 => {
                    let changed = store.change_password(T0, id, &old, new.clone());
                    changed.await.map(drop)
                }
                _ => store.set_password(T0, id, new.clone()).await.map(drop),
            };
            assert_eq!(outcome, late, "{n}");
        }
        file.execute_batch("ROLLBACK").unwrap();
        // Asked after all of these; as soon as the lock is free there is an answer.
        let after = loop {
            match store.credential_of(id).await {
                Err(StoreError::TimedOut) => {}
                found => break found.unwrap(),
            }
        };
        assert_eq!(after.as_ref(), Some(&before), "{first}");
    }
    assert_eq!(
        store.credential(&identifier("b@b.c")).await,
        Ok(None),
        "no registration"
    );
    let used = store.use_reset_token(T0, &token, id, new, true).await;
    assert_eq!(used, Ok(TokenUse::Done), "the token is still good");
    open.stop();
}

#[tokio::test]
async fn a_server_that_starts_does_not_wait_for_the_leases_of_the_one_before() {
    let open = Open::fresh();
    let store = &open.stores.accounts;
    let alice = identifier("a@b.c");
    store.post_reset_request(T0, &alice).await.unwrap();
    for tries in 0..2 {
        let mails = store.claim_letters(T0, 1000, 9).await.unwrap();
        assert_eq!((mails.len(), mails[0].tries), (1, tries));
        assert_eq!(store.claim_letters(T0, 1000, 9).await, Ok(vec![]));
        store.release_letters(T0).await.unwrap();
    }
    open.stop();
}
