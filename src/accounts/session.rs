//! Sessions: who is asking, and how a session begins and ends.

use super::Browser;
use crate::app::App;
use crate::error::Error;
use crate::model::{Token, User, UserId};
use crate::store::{ChatKey, NewSession, Owner, Session, SessionInfo, StoreError};

/// Somebody who is logged in.
#[derive(Debug)]
pub struct Current {
    /// The session's cookie.
    pub token: Token,
    /// Who it is.
    pub user: User,
}

/// Who is logged in with this cookie. A session that its account does not admit any more (the user
/// is gone or inactive, or the password has changed since) ends here.
///
/// # Errors
/// [`Error::Unauthorized`]; a store is down, which says nothing about who is asking.
pub async fn current(app: &App, cookie: Option<&Token>) -> Result<Current, Error> {
    let token = cookie.ok_or(Error::Unauthorized)?;
    let sessions = &app.stores.sessions;
    let session = sessions.session(app.clock.wall_ms(), token).await?;
    let session = session.ok_or(Error::Unauthorized)?;
    let user = app.stores.accounts.user(session.user).await?;
    let user = admitted(app, token, &session, user).await?;
    let user = user.ok_or(Error::Unauthorized)?;
    let token = token.clone();
    Ok(Current { token, user })
}

/// The user, if the account admits this session: then the session store has a record of it from now on. Else it ends.
async fn admitted(
    app: &App,
    token: &Token,
    session: &Session,
    user: Option<User>,
) -> Result<Option<User>, StoreError> {
    let sessions = &app.stores.sessions;
    let user = user.filter(|user| user.admits(session.created_ms));
    if user.is_none() {
        sessions.end_session(token).await?;
    } else if !session.is_noted {
        let now_ms = app.clock.wall_ms();
        sessions.note_session(now_ms, token, session).await?;
    }
    Ok(user)
}

/// Who asks in a chat: an unknown session makes it anonymous. The account store is asked only for a session of
/// which there is no record, once; `None`: it does not answer.
///
/// # Errors
/// The session store is down.
pub async fn asking(app: &App, cookie: Option<&Token>) -> Result<Option<Owner>, StoreError> {
    let Some(token) = cookie else {
        return Ok(Some(Owner::Anonymous));
    };
    let now_ms = app.clock.wall_ms();
    match app.stores.sessions.chat_user(now_ms, token).await? {
        None => Ok(Some(Owner::Anonymous)),
        Some(session) if session.is_noted => Ok(Some(Owner::User(session.user.0))),
        // Boxed, because it is seldom: every chat would hold room for it.
        Some(session) => {
            Box::pin(async move {
                let Ok(user) = app.stores.accounts.user(session.user).await else {
                    return Ok(None);
                };
                let user = admitted(app, token, &session, user).await?;
                Ok(Some(
                    user.map_or(Owner::Anonymous, |user| Owner::User(user.id.0)),
                ))
            })
            .await
        }
    }
}

/// Whose chat it may be that this browser has, to forget it: an unknown session makes it anonymous, and one without
/// its record may have done so when the account was not known. The account store is not asked.
///
/// # Errors
/// The session store is down.
pub async fn owners(app: &App, cookie: Option<&Token>) -> Result<Vec<Owner>, StoreError> {
    let Some(token) = cookie else {
        return Ok(vec![Owner::Anonymous]);
    };
    let now_ms = app.clock.wall_ms();
    let session = app.stores.sessions.chat_user(now_ms, token).await?;
    Ok(match session {
        None => vec![Owner::Anonymous],
        Some(session) if session.is_noted => vec![Owner::User(session.user.0)],
        Some(session) => vec![Owner::User(session.user.0), Owner::Anonymous],
    })
}

/// Begins a session in the place of the browser's own, if it has one.
///
/// # Errors
/// The session store is down.
pub async fn begin(
    app: &App,
    browser: &Browser<'_>,
    user: UserId,
    start_ms: i64,
) -> Result<Token, Error> {
    let token = Token::new();
    let session = NewSession {
        token: token.clone(),
        user,
        start_ms,
        ttl_ms: app.shared.config.auth.session_ttl_ms(),
        address: browser.address.clone(),
        user_agent: browser.user_agent.clone(),
        replaces: browser.session.clone(),
    };
    app.stores.sessions.create_session(session).await?;
    Ok(token)
}

/// Ends the browser's session and its chat, so that the next person there inherits neither.
///
/// # Errors
/// The session store is down; then the session is still there.
pub async fn logout(app: &App, session: Option<&Token>, chat: Option<&str>) -> Result<(), Error> {
    let sessions = &app.stores.sessions;
    if let Some(chat) = chat {
        // While the session still says whose chat it may be.
        for owner in owners(app, session).await? {
            sessions.delete_chat(ChatKey::of(chat), owner).await?;
        }
    }
    if let Some(token) = session {
        sessions.end_session(token).await?;
    }
    Ok(())
}

/// The sessions of whoever is asking, the newest first.
///
/// # Errors
/// Nobody is logged in; a store is down.
pub async fn list(app: &App, cookie: Option<&Token>) -> Result<(Current, Vec<SessionInfo>), Error> {
    let current = current(app, cookie).await?;
    let now_ms = app.clock.wall_ms();
    let sessions = app.stores.sessions.sessions_of(now_ms, current.user.id);
    let sessions = sessions.await?;
    Ok((current, sessions))
}

/// Ends one of the caller's own sessions; whether it was the one that is asking.
///
/// # Errors
/// Nobody is logged in; there is no such session of this user; a store is down.
pub async fn end(app: &App, cookie: Option<&Token>, id: &str) -> Result<bool, Error> {
    let (current, sessions) = list(app, cookie).await?;
    let named = sessions.iter().find(|session| session.id == id);
    let is_own = named.is_some_and(|session| session.is(&current.token));
    let ended = app.stores.sessions.end_session_by_id(current.user.id, id);
    match ended.await? {
        true => Ok(is_own),
        false => Err(Error::NotFound),
    }
}

/// Ends all of the caller's sessions but this one; how many there were.
///
/// # Errors
/// Nobody is logged in; a store is down.
pub async fn end_others(app: &App, cookie: Option<&Token>) -> Result<u32, Error> {
    let current = current(app, cookie).await?;
    let sessions = &app.stores.sessions;
    let ended =
        sessions.end_sessions_of(current.user.id, Some(&current.token), app.clock.wall_ms());
    Ok(ended.await?)
}
