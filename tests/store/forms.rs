//! One mailbox has several forms of its address, and one password several of its code points: what the rules can rely
//! on.

use cloudchat::model::{Email, PasswordHash, Token};
use cloudchat::store::{Registered, TokenUse};

use super::accounts::{hash, identifier, new_user, race, registered};
use super::support::{Open, T0};

const UNICODE: &str = "info@bücher.example";
const ASCII: &str = "info@xn--bcher-kva.example";

#[tokio::test]
async fn either_form_of_an_address_finds_its_user_and_blocks_another() {
    for [stored, other] in [[UNICODE, ASCII], [ASCII, UNICODE]] {
        let open = Open::fresh();
        let store = &open.stores.accounts;
        let id = registered(store, stored).await;
        let user = store.user(id).await.unwrap().unwrap();
        assert_eq!(
            user.email.as_ref().map(Email::as_str),
            Some(stored),
            "as typed"
        );
        for typed in [stored, other, "INFO@Bu\u{308}cher.example"] {
            let found = store.credential(&identifier(typed)).await.unwrap();
            assert_eq!(found.map(|found| found.user), Some(id), "{typed}");
            let found = store.find_users(typed).await.unwrap();
            assert_eq!(found.len(), 1, "{typed}");
            let email = Email::parse(typed).unwrap();
            assert!(store.taken(&email, None).await.unwrap().email, "{typed}");
            let refused = store.register(T0, new_user(typed)).await;
            assert_eq!(refused, Ok(Registered::EmailTaken), "{typed}");
        }
        // Not another mailbox.
        for typed in [
            "info@bucher.example",
            "\0@bücher.example",
            "info@bücher.example.b",
        ] {
            assert_eq!(
                store.credential(&identifier(typed)).await,
                Ok(None),
                "{typed}"
            );
        }
        open.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn both_forms_at_the_same_moment_make_one_account() {
    let open = Open::fresh();
    let other = Open::beside(&open);
    for local in ["a", "b", "c"] {
        let (here, there) = (open.stores.clone(), other.connect());
        let all = race(&here, |stores, n| {
            let store = [&stores, &there][n % 2].accounts.clone();
            let domain = ["bücher.example", "xn--bcher-kva.example"][n / 2 % 2];
            let email = format!("{local}@{domain}");
            async move { store.register(T0, new_user(&email)).await.unwrap() }
        })
        .await;
        let done = |one: &&Registered| matches!(one, Registered::Done(_));
        assert_eq!(all.iter().filter(done).count(), 1, "{all:?}");
    }
    other.stop().unwrap();
    open.stop();
}

#[tokio::test]
async fn a_hash_keeps_the_form_of_its_password() {
    let open = Open::fresh();
    let store = &open.stores.accounts;
    let phc = |password: &str| {
        hash("$argon2id$v=19$m=19456,t=2,p=1", password)
            .as_str()
            .to_owned()
    };
    let nfc = |password: &str| PasswordHash::of_nfc(phc(password));
    let typed = |password: &str| PasswordHash::new(phc(password));
    let id = registered(store, "a@b.c").await;
    let stored = async || {
        store
            .credential_of(id)
            .await
            .unwrap()
            .unwrap()
            .hash
            .unwrap()
    };
    assert_eq!(stored().await, typed("first"));
    // Each way to another hash, from either form to either.
    let mut now = stored().await;
    for (n, new) in [
        nfc("nfc number 1"),
        nfc("nfc number 2"),
        typed("typed number 3"),
        nfc("nfc number 4"),
    ]
    .into_iter()
    .enumerate()
    {
        let ms = T0 + n as i64;
        assert_eq!(store.rehash(id, &now, new.clone()).await, Ok(true));
        assert_eq!(stored().await, new);
        assert_eq!(store.set_password(ms, id, now.clone()).await, Ok(true));
        assert_eq!(stored().await, now);
        let changed = store.change_password(ms, id, &now, new.clone()).await;
        assert_eq!(
            changed.unwrap().and_then(|changed| changed.hash),
            Some(new.clone())
        );
        assert_eq!(stored().await, new);
        let used = store
            .use_reset_token(ms, &Token::new(), id, now, false)
            .await;
        assert_eq!(used, Ok(TokenUse::Done));
        let used = store
            .use_reset_token(ms, &Token::new(), id, new.clone(), false)
            .await;
        assert_eq!(used, Ok(TokenUse::Done));
        assert_eq!(stored().await, new);
        now = new;
    }
    let mut new = new_user("b@b.c");
    new.hash = nfc("nfc number 5");
    let Ok(Registered::Done(id)) = store.register(T0, new.clone()).await else {
        panic!("it is the first of its name")
    };
    let found = store.credential_of(id).await.unwrap().unwrap();
    assert_eq!(found.hash, Some(new.hash));
    open.stop();
}
