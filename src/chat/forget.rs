//! Forgetting a chat when its owner asks for it.

use crate::app::App;
use crate::error::Error;
use crate::store::{ChatKey, Owner};

/// Empties the history of the caller's own chat; its cookie stays. A turn that is running is not
/// stored afterwards, since the history has a new generation.
///
/// # Errors
/// The session store does not answer.
pub async fn forget(app: &App, owner: Owner, cookie: Option<&str>) -> Result<(), Error> {
    let Some(cookie) = cookie else {
        return Ok(());
    };
    let reset = app.stores.sessions.reset_chat(ChatKey::of(cookie), owner);
    reset.await.map_err(|_| Error::STORE_DOWN)
}
