//! What a user sees of the own account, changes of it, and takes away.

use super::verify::verify;
use super::{Browser, quota, register, session};
use crate::app::App;
use crate::error::Error;
use crate::http::address::Bucket;
use crate::http::fields::Field;
use crate::limits::{KeyedPermit, Permit};
use crate::log;
use crate::model::{Identifier, User, UserId};
use crate::store::{OwnChat, SessionInfo, StoreError, Updated};

/// Changes the fields that are there; one that is empty is removed. The user as it is then.
///
/// # Errors
/// Nobody is logged in; a field will not do; over the limit; somebody has the phone number; a store
/// is down.
pub async fn update(
    app: &App,
    browser: &Browser<'_>,
    display_name: &Field<'_>,
    phone: &Field<'_>,
) -> Result<User, Error> {
    let current = session::current(app, browser.session.as_ref()).await?;
    let user = current.user.id;
    let phone = given(phone).map(register::phone).transpose()?;
    let display_name = given(display_name)
        .map(register::display_name)
        .transpose()?;
    quota::count(app, &quota::changes(user)).await?;
    let updated = app
        .stores
        .accounts
        .update_profile(user, display_name, phone);
    match updated.await? {
        Updated::Done(user) => Ok(user),
        Updated::PhoneTaken => Err(register::PHONE_TAKEN),
        Updated::NoUser => Err(Error::Unauthorized),
    }
}

fn given<'a, 'f>(field: &'a Field<'f>) -> Option<&'a Field<'f>> {
    Some(field).filter(|field| **field != Field::Missing)
}

/// Deletes the account of whoever is logged in and knows the password, with all sessions and chats.
/// A wrong one counts like a failed login.
///
/// # Errors
/// Nobody is logged in; [`Error::InvalidCredentials`]; busy; a store is down.
pub async fn delete(app: &App, browser: &Browser<'_>, password: &Field<'_>) -> Result<(), Error> {
    let current = session::current(app, browser.session.as_ref()).await?;
    let user = current.user.id;
    let password = password.text().ok_or(Error::InvalidCredentials)?;
    let (accounts, sessions) = (&app.stores.accounts, &app.stores.sessions);
    let credential = accounts.credential_of(user).await?;
    let identifier = Identifier::from(&current.user);
    verify(app, browser, &identifier, credential, password).await?;
    accounts.delete_user(user).await?;
    // With the account all of it is dead; this frees the room, and forgets what was said.
    let ended = sessions
        .end_sessions_of(user, None, app.clock.wall_ms())
        .await;
    let dropped = sessions.drop_reset_tokens(user, None).await;
    let deleted = sessions.delete_chats_of(user).await;
    if ended.map(drop).and(dropped).and(deleted).is_err() {
        log::warn("data of a deleted user left until it expires", &[]);
    }
    Ok(())
}

/// All that is held on a user.
#[derive(Debug)]
pub struct Export {
    /// The account.
    pub user: User,
    /// Its sessions.
    pub sessions: Vec<SessionInfo>,
    /// What it takes to read the chats, which may be more than fits into memory.
    pub held: ExportHeld,
}

/// A running export counts as one of its user's streams, and holds the room for one chat.
#[derive(Debug)]
pub struct ExportHeld {
    _stream: Permit,
    _user: KeyedPermit<Bucket>,
    _memory: Permit,
}

/// Collects what is held on whoever is logged in, but for the chats: [`next_chat`] reads these one
/// by one.
///
/// # Errors
/// Nobody is logged in; as many streams of this user as there may be; no room; a store is down.
pub async fn export(app: &App, browser: &Browser<'_>) -> Result<Export, Error> {
    let (current, sessions) = session::list(app, browser.session.as_ref()).await?;
    let user = current.user;
    let shared = &app.shared;
    let each_max = shared.config.chat.streams_per_client_max;
    let streams = shared.clients.take(Bucket::of_user(user.id.0), each_max);
    let streams = streams.ok_or(Error::TooMany(5))?;
    // A chat stands in memory twice while the store hands it over.
    let chat_bytes = 2 * shared.config.chat.history_bytes_max;
    Ok(Export {
        user,
        sessions,
        held: ExportHeld {
            _stream: shared.pools.streams.take(1).ok_or(Error::NO_ROOM)?,
            _user: streams,
            _memory: shared
                .pools
                .prompts
                .take_for(browser.client.share(), chat_bytes)
                .ok_or(Error::NO_ROOM)?,
        },
    })
}

/// The user's next chat after that place, if there is one more.
///
/// # Errors
/// The session store is down.
pub async fn next_chat(app: &App, user: UserId, after: i64) -> Result<Option<OwnChat>, StoreError> {
    let now_ms = app.clock.wall_ms();
    let chats = app.stores.sessions.chats_of(now_ms, user, after, 1).await?;
    Ok(chats.into_iter().next())
}
