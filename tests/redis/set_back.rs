//! What ends too late, because it was written before the clock was set back.

use cloudchat::model::{Token, UserId};
use cloudchat::store::Session;

use super::single::ME;
use super::single::logins::login;
use super::support::{HOUR, Open, T0, found, key, ready, text, turn};

const DAY: i64 = 24 * HOUR;

#[tokio::test]
async fn chats_and_mailed_links_have_ended_and_sessions_are_shortened() {
    let open = Open::<0>::fresh();
    let store = &open.stores.sessions;
    let (chat, generation) = (key(1), [1; 16]);
    let begin = async |now_ms| store.begin_chat(now_ms, Some(chat), ME, Vec::new()).await;
    store
        .open_chat(T0 + DAY, chat, ME, generation, HOUR, true)
        .await
        .unwrap();
    assert_eq!(begin(T0).await, Ok(ready(None)));
    assert_ne!(begin(T0 + DAY).await, Ok(ready(None)));
    // A turn that ran meanwhile brings it back.
    assert_eq!(
        store.save_turn(T0, turn(chat, generation, "q1")).await,
        Ok(true)
    );
    assert_eq!(text(&found(store, chat, ME).await), "q1 a:q1");

    let (token, user) = (Token::new(), UserId(7));
    store
        .put_reset_token(T0 + DAY, &token, user, HOUR / 4)
        .await
        .unwrap();
    assert_eq!(store.reset_token(T0, &token).await, Ok(None));
    assert_eq!(store.reset_token(T0 + DAY, &token).await, Ok(Some(user)));

    let (token, mut new) = login(user, T0 + DAY);
    new.ttl_ms = 7 * DAY;
    store.create_session(new).await.unwrap();
    let created_ms = T0 + DAY;
    let alive = Ok(Some(Session {
        user,
        created_ms,
        is_noted: true,
    }));
    assert_eq!(store.session(T0, &token).await, alive);
    assert_eq!(store.session(T0 + 7 * DAY - 1, &token).await, alive);
    assert_eq!(store.session(T0 + 7 * DAY, &token).await, Ok(None));
    open.stop();
}
