//! Chats and their limits: what the rules can rely on.

use cloudchat::store::{Begun, Owner, Window};

use super::ME;
use super::support::{HOUR, Open, T0, found, key, ready, text, turn};

#[tokio::test]
async fn a_chat_belongs_to_its_owner_and_remembers_whole_pairs() {
    let open = Open::fresh();
    let store = &open.stores.sessions;
    let (chat, generation) = (key(1), [1; 16]);
    assert_eq!(found(store, chat, ME).await, None);
    store
        .open_chat(T0, chat, ME, generation, HOUR, true)
        .await
        .unwrap();
    assert_eq!(text(&found(store, chat, ME).await), "");
    assert!(
        store
            .save_turn(T0, turn(chat, generation, "q1"))
            .await
            .unwrap()
    );
    assert!(
        store
            .save_turn(T0, turn(chat, generation, "q2"))
            .await
            .unwrap()
    );
    assert_eq!(text(&found(store, chat, ME).await), "q1 a:q1 q2 a:q2");
    for other in [Owner::Anonymous, Owner::User(8)] {
        assert_eq!(found(store, chat, other).await, None);
        store.reset_chat(chat, other).await.unwrap();
    }
    assert_eq!(text(&found(store, chat, ME).await), "q1 a:q1 q2 a:q2");
    open.stop();
}

#[tokio::test]
async fn a_reset_wins_over_a_running_turn() {
    let open = Open::fresh();
    let store = &open.stores.sessions;
    let (chat, old) = (key(1), [1; 16]);
    store
        .open_chat(T0, chat, ME, old, HOUR, true)
        .await
        .unwrap();
    store.reset_chat(chat, ME).await.unwrap();
    assert!(!store.save_turn(T0, turn(chat, old, "late")).await.unwrap());
    // Renewing under the old generation does not bring it back, nor prolong the new one.
    store
        .open_chat(T0 + HOUR, chat, ME, old, HOUR, false)
        .await
        .unwrap();
    store
        .open_chat(T0 + HOUR, chat, ME, old, HOUR, true)
        .await
        .unwrap();
    assert_eq!(
        store
            .begin_chat(T0 + HOUR, Some(chat), ME, Vec::new())
            .await
            .unwrap(),
        ready(None)
    );
    let fresh = found(store, chat, ME).await.expect("the chat itself stays");
    assert!(fresh.messages.is_empty() && fresh.generation != old);
    assert!(
        store
            .save_turn(T0, turn(chat, fresh.generation, "new"))
            .await
            .unwrap()
    );
    assert_eq!(text(&found(store, chat, ME).await), "new a:new");
    open.stop();
}

#[tokio::test]
async fn turns_that_end_together_are_stored_as_whole_pairs() {
    let open = Open::fresh();
    let (chat, generation) = (key(1), [1; 16]);
    open.stores
        .sessions
        .open_chat(T0, chat, ME, generation, HOUR, true)
        .await
        .unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..5 {
        let store = open.stores.sessions.clone();
        tasks.spawn(async move {
            store
                .save_turn(T0, turn(chat, generation, &format!("q{n}")))
                .await
        });
    }
    while let Some(saved) = tasks.join_next().await {
        assert_eq!(saved.unwrap(), Ok(true));
    }
    let all = text(&found(&open.stores.sessions, chat, ME).await);
    let words: Vec<&str> = all.split(' ').collect();
    assert_eq!(words.len(), 10);
    for pair in words.chunks(2) {
        assert_eq!(pair[1], format!("a:{}", pair[0]));
    }
    open.stop();
}

#[tokio::test]
async fn an_expired_chat_is_not_found_but_a_turn_on_its_way_revives_it() {
    let open = Open::fresh();
    let store = &open.stores.sessions;
    let (chat, generation) = (key(1), [1; 16]);
    store
        .open_chat(T0, chat, ME, generation, 1000, true)
        .await
        .unwrap();
    let at = |ms| store.begin_chat(T0 + ms, Some(chat), ME, Vec::new());
    assert!(matches!(at(999).await, Ok(Begun::Ready { chat: Some(_) })));
    assert_eq!(at(1000).await, Ok(ready(None)));
    store
        .open_chat(T0 + 1500, chat, ME, generation, 1000, false)
        .await
        .unwrap();
    assert!(matches!(at(2499).await, Ok(Begun::Ready { chat: Some(_) })));
    open.stop();
}

#[tokio::test]
async fn a_window_starts_with_its_first_hit_and_ends_on_time() {
    let open = Open::fresh();
    let window = Window::new(b"chat:192.0.2.1", 2, 60_000);
    let hit = |ms| {
        open.stores
            .sessions
            .begin_chat(T0 + ms, None, ME, vec![window.clone()])
    };
    // Milliseconds after the first hit, and the wait until the next may succeed.
    let rows = [
        (0, None),
        (30_000, None),
        (30_000, Some(30)),
        (30_001, Some(30)),
        (59_000, Some(1)),
        (59_999, Some(1)),
        (60_000, None),
        (60_000, None),
        (60_001, Some(60)),
        (119_999, Some(1)),
        (120_000, None),
    ];
    for (ms, wait) in rows {
        let expected = wait.map_or(ready(None), |retry_after_s| Begun::Limited {
            retry_after_s,
        });
        assert_eq!(hit(ms).await, Ok(expected), "after {ms} ms");
    }
    // The clock was set back a day: nobody waits a day for it.
    assert_eq!(hit(-86_400_000).await, Ok(ready(None)));
    let long = [b'x'; 500];
    let long = Window::new(&long, 1, 1000);
    let begun = open
        .stores
        .sessions
        .begin_chat(T0, None, ME, vec![long])
        .await;
    assert_eq!(begun, Ok(ready(None)));
    open.stop();
}
