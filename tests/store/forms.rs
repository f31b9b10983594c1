//! One mailbox has several forms of its address: what the rules can rely on.

use cloudchat::model::Email;
use cloudchat::store::Registered;

use super::accounts::{identifier, new_user, race, registered};
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
