//! The embedded store, through its public handles: what a chat and its limits can rely on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "store/accounts.rs"]
mod accounts;
#[path = "store/chats.rs"]
mod chats;
#[path = "store/durability.rs"]
mod durability;
#[path = "store/forms.rs"]
mod forms;
#[path = "store/locked.rs"]
mod locked;
#[path = "store/logins.rs"]
mod logins;
#[path = "store/migration.rs"]
mod migration;
#[path = "store/model.rs"]
mod model;
#[path = "store/room.rs"]
mod room;
#[path = "store/set_back.rs"]
mod set_back;
#[path = "store/support.rs"]
mod support;
#[path = "store/words.rs"]
mod words;

use cloudchat::store::{ChatKey, Owner, Window};

const ME: Owner = Owner::User(7);

#[test]
fn nothing_secret_shows_itself() {
    let shown = format!(
        "{:?} {:?}",
        ChatKey::of("cookie"),
        Window::new(b"192.0.2.1", 1, 2)
    );
    assert_eq!(shown, "ChatKey Window(1 in 2 ms)");
}
