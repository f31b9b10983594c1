//! What is looked for in the background when a user's sessions end.

use cloudchat::clock::Clock;

use cloudchat::store::Backend;

use super::outages::ME;
use super::services::Services;
use super::single::logins::login;
use super::support::{quiet, with};

/// More than one step of the look takes in.
const OTHER_KEYS: &str =
    "for n = 1, 5000 do redis.call('SET', 'sess:other-' .. n, 1) end return 'OK'";

#[tokio::test]
async fn what_begins_after_the_end_outlives_the_look_for_older_sessions() {
    let services = Services::start("redis");
    assert_eq!(services.redis(&["EVAL", OTHER_KEYS, "0"]), "OK");
    for prefix in ["", "[a-z]*:"] {
        looks_for_older_ones(&services, prefix).await;
    }
}

async fn looks_for_older_ones(services: &Services, prefix: &str) {
    let folder = tempfile::tempdir().unwrap();
    let url = services.address("REDIS");
    let text = format!("[redis]\nurl = \"{url}\"\nkey_prefix = \"{prefix}\"\n");
    let backend = Backend::start(&with(&folder, &text), quiet).unwrap();
    let store = backend.connect().sessions;
    let end_ms = Clock::System.wall_ms();
    let (older, new) = login(ME, end_ms - 1);
    store.create_session(new).await.unwrap();
    // Evicted: no list names it any more.
    assert_eq!(
        services.redis(&["DEL", &format!("{prefix}user_sess:7")]),
        "1"
    );
    assert_eq!(store.end_sessions_of(ME, None, end_ms).await, Ok(0));
    // As after a changed password: it begins while the look goes on, and by the account's own time.
    let (later, new) = login(ME, end_ms);
    store.create_session(new).await.unwrap();
    store.swept().await;
    let now_ms = Clock::System.wall_ms();
    assert_eq!(store.session(now_ms, &older).await, Ok(None));
    assert!(matches!(store.session(now_ms, &later).await, Ok(Some(_))));
    backend.stop().unwrap();
}
