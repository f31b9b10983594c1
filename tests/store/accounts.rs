//! Users, credentials and mails: what the rules can rely on.

use cloudchat::model::{
    DisplayName, Email, Identifier, Letter, NewUser, PasswordHash, Phone, Token, User, UserId,
};
use cloudchat::store::{Accounts, Posted, Registered, Stores, Taken, TokenUse, Updated};

use super::logins::login;
use super::support::{HOUR, Open, T0};

const OLD: &str = "$argon2id$v=19$m=65536,t=3,p=4";
pub const NEW: &str = "$argon2id$v=19$m=19456,t=2,p=1";

pub fn hash(parameters: &str, password: &str) -> PasswordHash {
    PasswordHash::new(format!("{parameters}$c2FsdA${password}"))
}

pub fn new_user(email: &str) -> NewUser {
    NewUser {
        email: Email::parse(email).unwrap(),
        phone: None,
        display_name: None,
        hash: hash(NEW, "first"),
        welcome: false,
    }
}

pub async fn registered(store: &Accounts, email: &str) -> UserId {
    match store.register(T0, new_user(email)).await {
        Ok(Registered::Done(id)) => id,
        other => panic!("{other:?}"),
    }
}

async fn user(store: &Accounts, id: UserId) -> User {
    store.user(id).await.unwrap().expect("the user is there")
}

async fn reset(
    store: &Accounts,
    now: i64,
    id: UserId,
    new: PasswordHash,
    end_sessions: bool,
) -> TokenUse {
    let token = Token::new();
    let used = store.use_reset_token(now, &token, id, new, end_sessions);
    used.await.unwrap()
}

pub fn identifier(text: &str) -> Identifier {
    Identifier::parse(text).unwrap()
}

#[tokio::test]
async fn a_registered_user_is_found_by_email_and_phone() {
    let open = Open::fresh();
    let store = &open.stores.accounts;
    let new = NewUser {
        phone: Phone::parse("+1"),
        display_name: DisplayName::parse("张"),
        welcome: true,
        ..new_user("a@b.c")
    };
    let Ok(Registered::Done(id)) = store.register(T0, new.clone()).await else {
        panic!("it is the first")
    };
    let found = user(store, id).await;
    assert_eq!(
        (found.email.as_ref(), &found.phone, &found.display_name),
        (Some(&new.email), &new.phone, &new.display_name)
    );
    assert!(found.is_active && found.created_ms == Some(T0) && found.admits(T0));
    assert!(found.uid.len() == 12 && found.uid.bytes().all(|b| b.is_ascii_hexdigit()));
    for text in [" A@B.C", "+1 "] {
        let credential = store.credential(&identifier(text)).await.unwrap().unwrap();
        assert_eq!(
            (credential.user, &credential.hash),
            (id, &Some(new.hash.clone()))
        );
        assert_eq!(Some(credential), store.credential_of(id).await.unwrap());
    }
    for text in ["b@b.c", "a@b.c\0", "+2", &"1".repeat(33)] {
        assert_eq!(
            store.credential(&identifier(text)).await,
            Ok(None),
            "{text}"
        );
    }
    for text in ["a@b.c", "+1", found.uid.as_str(), &id.to_string()] {
        assert_eq!(store.find_users(text).await, Ok(vec![found.clone()]));
    }
    let phone = Phone::parse("+1");
    let taken = |email: &str| {
        let email = Email::parse(email).unwrap();
        let (store, phone) = (store.clone(), phone.clone());
        async move { store.taken(&email, phone.as_ref()).await.unwrap() }
    };
    let (email, phone) = (true, true);
    assert_eq!(taken("a@b.c").await, Taken { email, phone });
    let email = false;
    assert_eq!(taken("b@b.c").await, Taken { email, phone });
    let other = NewUser {
        email: Email::parse("b@b.c").unwrap(),
        ..new.clone()
    };
    assert_eq!(store.register(T0, other).await, Ok(Registered::PhoneTaken));
    assert_eq!(store.register(T0, new).await, Ok(Registered::EmailTaken));
    let mails = store.claim_letters(T0, HOUR, 9).await.unwrap();
    assert_eq!(mails.len(), 1, "refused registrations post nothing");
    assert_eq!(
        (mails[0].letter, mails[0].user),
        (Letter::Welcome, Some(id))
    );
    // Free at once, and the number is not given again.
    assert_eq!(store.delete_user(id).await, Ok(true));
    assert_eq!(store.delete_user(id).await, Ok(false));
    assert_eq!(store.claim_letters(T0 + HOUR, 1, 9).await, Ok(vec![]));
    assert_eq!(store.hash_mix().await, Ok(vec![]));
    assert!(registered(store, "a@b.c").await > id);
    open.stop();
}

/// Runs `work` 20 times at once, each from a thread of its own.
pub async fn race<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    stores: &Stores,
    work: impl Fn(Stores, usize) -> F,
) -> Vec<T> {
    let start = std::sync::Arc::new(tokio::sync::Barrier::new(20));
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let (start, running) = (start.clone(), work(stores.clone(), n));
            tokio::spawn(async move {
                start.wait().await;
                running.await
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.unwrap());
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_twenty_racing_calls_one_wins() {
    let open = Open::fresh();
    let other = Open::beside(&open);
    for email in ["a@b.c", "b@b.c", "c@b.c"] {
        let (here, there) = (open.stores.clone(), other.connect());
        let all = race(&here, |stores, n| {
            let store = [&stores, &there][n % 2].accounts.clone();
            async move { store.register(T0, new_user(email)).await.unwrap() }
        })
        .await;
        let done = |one: &&Registered| matches!(one, Registered::Done(_));
        assert_eq!(all.iter().filter(done).count(), 1, "{all:?}");
    }
    let id = registered(&open.stores.accounts, "d@b.c").await;
    let token = Token::new();
    let all = race(&open.stores, |stores, n| {
        let token = token.clone();
        let new = hash(NEW, &n.to_string());
        async move {
            let used = stores.accounts.use_reset_token(T0, &token, id, new, true);
            used.await.unwrap()
        }
    })
    .await;
    let done = all.iter().filter(|one| **one == TokenUse::Done).count();
    let used = all.iter().filter(|one| **one == TokenUse::Used).count();
    assert_eq!((done, used), (1, 19));
    let old = open
        .stores
        .accounts
        .credential_of(id)
        .await
        .unwrap()
        .unwrap();
    let all = race(&open.stores, |stores, n| {
        let (old, new) = (old.hash.clone().unwrap(), hash(NEW, &format!("c{n}")));
        async move {
            let changed = stores.accounts.change_password(T0, id, &old, new);
            changed.await.unwrap().is_some()
        }
    })
    .await;
    assert_eq!(all.iter().filter(|changed| **changed).count(), 1);
    other.stop().unwrap();
    open.stop();
}

#[tokio::test]
async fn what_changes_the_password_ends_what_was_there_and_voids_the_device() {
    let open = Open::fresh();
    let store = &open.stores.accounts;
    let id = registered(store, "a@b.c").await;
    let mut before = store.credential_of(id).await.unwrap().unwrap();
    let steps = 4;
    for step in 0..steps {
        // All in one millisecond, and once with the clock set back.
        let now = if step == 2 { T0 - HOUR } else { T0 };
        let old_start = before.session_start_ms(now);
        let (old, new) = (before.hash.clone().unwrap(), hash(OLD, &step.to_string()));
        match step {
            0 => {
                let wrong = hash(OLD, "wrong");
                let refused = store.change_password(now, id, &wrong, new.clone()).await;
                assert_eq!(refused, Ok(None));
                let changed = store.change_password(now, id, &old, new.clone()).await;
                assert_eq!(changed, store.credential_of(id).await);
            }
            1 => {
                let used = reset(store, now, id, new.clone(), true).await;
                assert_eq!(used, TokenUse::Done);
            }
            _ => assert_eq!(store.set_password(now, id, new.clone()).await, Ok(true)),
        }
        let after = store.credential_of(id).await.unwrap().unwrap();
        assert_eq!(after.hash, Some(new));
        assert!(after.password_changed_ms > before.password_changed_ms);
        let user = user(store, id).await;
        assert!(!user.admits(old_start), "step {step}");
        assert!(user.admits(after.session_start_ms(now)), "step {step}");
        before = after;
    }
    // A token whose owner does not want sessions to end, and a re-hash, leave them alone.
    let start = before.session_start_ms(T0);
    let kept = reset(store, T0, id, hash(OLD, "k"), false).await;
    assert_eq!(kept, TokenUse::Done);
    assert!(user(store, id).await.admits(start));
    let before = store.credential_of(id).await.unwrap().unwrap();
    let (old, new) = (before.hash.clone().unwrap(), hash(NEW, "k"));
    assert_eq!(store.rehash(id, &old, new.clone()).await, Ok(true));
    assert_eq!(store.rehash(id, &old, new.clone()).await, Ok(false));
    let after = store.credential_of(id).await.unwrap().unwrap();
    assert_eq!(after.password_changed_ms, before.password_changed_ms);
    assert_eq!(after.hash, Some(new));
    // Deactivating ends sessions for good.
    assert_eq!(store.set_active(T0, id, false).await, Ok(true));
    let used = reset(store, T0, id, hash(NEW, "x"), true).await;
    assert_eq!(used, TokenUse::NoUser);
    assert!(!user(store, id).await.admits(i64::MAX));
    assert_eq!(store.set_active(T0, id, true).await, Ok(true));
    assert!(!user(store, id).await.admits(start));
    let gone = UserId(99);
    assert_eq!(store.set_active(T0, gone, true).await, Ok(false));
    assert_eq!(
        store.set_password(T0, gone, hash(NEW, "x")).await,
        Ok(false)
    );
    assert_eq!(store.end_sessions_before_now(T0, gone).await, Ok(false));
    open.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_login_that_races_with_an_end_of_sessions_lives() {
    let open = Open::fresh();
    let id = registered(&open.stores.accounts, "a@b.c").await;
    for round in 0..100 {
        let stores = open.stores.clone();
        let logging_in = tokio::spawn(async move {
            let credential = stores.accounts.credential_of(id).await.unwrap().unwrap();
            let start_ms = credential.session_start_ms(T0);
            let (token, new) = login(id, start_ms);
            stores.sessions.create_session(new).await.unwrap();
            (token, credential)
        });
        let stores = open.stores.clone();
        let ending = tokio::spawn(async move {
            match round % 3 {
                0 => drop(stores.accounts.set_active(T0, id, false).await.unwrap()),
                1 => drop(stores.accounts.set_password(T0, id, hash(NEW, "n")).await),
                _ => drop(stores.accounts.end_sessions_before_now(T0, id).await),
            }
        });
        let (token, seen) = logging_in.await.unwrap();
        ending.await.unwrap();
        open.stores.accounts.set_active(T0, id, true).await.unwrap();
        let session = open.stores.sessions.session(T0, &token).await.unwrap();
        let now = user(&open.stores.accounts, id).await;
        // Alive only if the credential that it rests on was read after the end.
        let is_newer = seen.sessions_not_before_ms == now.sessions_not_before_ms;
        assert_eq!(now.admits(session.unwrap().created_ms), is_newer, "{round}");
    }
    open.stop();
}

#[tokio::test]
async fn a_profile_changes_as_far_as_it_is_given() {
    let open = Open::fresh();
    let store = &open.stores.accounts;
    let id = registered(store, "a@b.c").await;
    let other = registered(store, "b@b.c").await;
    let (name, phone) = (DisplayName::parse("A"), Phone::parse("2"));
    let set = store.update_profile(id, Some(name.clone()), Some(phone.clone()));
    assert_eq!(set.await, Ok(Updated::Done(user(store, id).await)));
    // Her phone number is the other's number: both are meant.
    let text = other.to_string();
    assert_eq!(store.find_users(&text).await.unwrap().len(), 2);
    let again = store.update_profile(id, None, Some(phone.clone()));
    let Ok(Updated::Done(found)) = again.await else {
        panic!("her own phone number is free for her")
    };
    assert_eq!((found.display_name, found.phone), (name, phone.clone()));
    let taken = store.update_profile(other, None, Some(phone.clone()));
    assert_eq!(taken.await, Ok(Updated::PhoneTaken));
    let cleared = store.update_profile(id, Some(None), Some(None));
    let Ok(Updated::Done(found)) = cleared.await else {
        panic!("nothing is in the way")
    };
    assert_eq!((found.display_name, found.phone), (None, None));
    let gone = store.update_profile(UserId(99), None, None);
    assert_eq!(gone.await, Ok(Updated::NoUser));
    let all = store.list_users(UserId(0), 9).await.unwrap();
    assert_eq!(
        all.iter().map(|user| user.id).collect::<Vec<_>>(),
        [id, other]
    );
    assert_eq!(store.list_users(id, 1).await.unwrap()[0].id, other);
    open.stop();
}

#[tokio::test]
async fn the_mix_of_hashes_follows_every_change() {
    let open = Open::fresh();
    let store = &open.stores.accounts;
    let a = registered(store, "a@b.c").await;
    registered(store, "b@b.c").await;
    let old = NewUser {
        hash: hash(OLD, "x"),
        ..new_user("c@b.c")
    };
    store.register(T0, old).await.unwrap();
    let mix = async || store.hash_mix().await.unwrap();
    assert_eq!(mix().await, [(NEW.to_owned(), 2), (OLD.to_owned(), 1)]);
    store.set_password(T0, a, hash(OLD, "y")).await.unwrap();
    assert_eq!(mix().await, [(OLD.to_owned(), 2), (NEW.to_owned(), 1)]);
    store.set_password(T0, a, hash(OLD, "z")).await.unwrap();
    assert_eq!(mix().await, [(OLD.to_owned(), 2), (NEW.to_owned(), 1)]);
    store.delete_user(a).await.unwrap();
    let (new, old) = ((NEW.to_owned(), 1), (OLD.to_owned(), 1));
    let left = mix().await;
    assert!(left.len() == 2 && left.contains(&new) && left.contains(&old));
    open.stop();
}

#[tokio::test]
async fn a_mail_is_claimed_by_one_until_it_is_finished_or_its_lease_ends() {
    let open = Open::with(|settings| settings.outbox_max = 2);
    let store = open.stores.accounts.clone();
    for (text, expect) in [
        ("a@b.c", Posted::Queued),
        (&"1".repeat(99), Posted::Queued),
        ("x@b.c", Posted::Dropped),
    ] {
        let posted = store.post_reset_request(T0, &identifier(text)).await;
        assert_eq!(posted, Ok(expect));
    }
    // A full outbox does not stop a registration.
    let full = NewUser {
        welcome: true,
        ..new_user("b@b.c")
    };
    let done = store.register(T0, full).await;
    assert!(matches!(done, Ok(Registered::Done(_))));
    let mails = store.claim_letters(T0, 1000, 9).await.unwrap();
    let asked: Vec<_> = mails.iter().map(|mail| &mail.identifier).collect();
    assert_eq!(asked, [&Some(identifier("a@b.c")), &None]);
    assert!(
        mails
            .iter()
            .all(|mail| mail.letter == Letter::Reset && mail.tries == 0)
    );
    assert_eq!(store.claim_letters(T0 + 999, 1000, 9).await, Ok(vec![]));
    store.finish_letter(mails[1].id).await.unwrap();
    store.retry_letter(mails[0].id, T0 + 5000).await.unwrap();
    let open = open.again(|_| {});
    let store = &open.stores.accounts;
    assert_eq!(store.claim_letters(T0 + 4999, 1000, 9).await, Ok(vec![]));
    let again = store.claim_letters(T0 + 5000, 1000, 9).await.unwrap();
    assert_eq!((again[0].id, again[0].tries), (mails[0].id, 1));
    assert_eq!((again.len(), again[0].created_ms), (1, T0));
    let leased_out = store.claim_letters(T0 + 6000, 1000, 9).await.unwrap();
    assert_eq!(leased_out[0].tries, 2);
    open.stop();
}

#[tokio::test]
async fn one_mail_of_a_kind_waits_for_a_user_and_some_room_is_for_resets() {
    let open = Open::with(|settings| settings.outbox_max = 8);
    let store = open.stores.accounts.clone();
    let id = registered(&store, "a@b.c").await;
    let mails = async || store.claim_letters(T0, 0, 99).await.unwrap().len();
    let before = mails().await;
    for password in ["b", "c", "d"] {
        let set = store.set_password(T0, id, hash(NEW, password)).await;
        assert_eq!(set, Ok(true));
    }
    assert_eq!(mails().await, before + 1, "one says it");
    for _ in 0..3 {
        let posted = store.post_reset_request(T0, &identifier("a@b.c")).await;
        assert_eq!(posted, Ok(Posted::Queued));
    }
    assert_eq!(mails().await, before + 2);
    // News fill three quarters of the outbox, so that those who ask for a link get one.
    for n in 0..9 {
        let new = NewUser {
            welcome: true,
            ..new_user(&format!("n{n}@b.c"))
        };
        let done = store.register(T0, new).await;
        assert!(matches!(done, Ok(Registered::Done(_))));
    }
    assert_eq!(mails().await, 6);
    for (n, expect) in [
        (1, Posted::Queued),
        (2, Posted::Queued),
        (3, Posted::Dropped),
    ] {
        let who = identifier(&format!("n{n}@b.c"));
        let posted = store.post_reset_request(T0, &who).await;
        assert_eq!(posted, Ok(expect), "{n}");
    }
    open.stop();
}
