//! Another password: by way of a mailed link, or by whoever knows the old one.

use super::register::new_password;
use super::verify::{Verified, verify};
use super::{Browser, device, password, quota, session};
use crate::app::App;
use crate::error::Error;
use crate::http::fields::Field;
use crate::log;
use crate::model::{Identifier, Token, UserId};
use crate::store::TokenUse;

/// Has a link mailed to whoever this identifier belongs to. Nobody is told whether there is such a
/// user: one row is written either way. With `auth.debug_return_reset_token` no mail goes out, and
/// the token is given back.
///
/// # Errors
/// A store is down.
pub async fn forgot(
    app: &App,
    browser: &Browser<'_>,
    identifier: &str,
) -> Result<Option<Token>, Error> {
    let Some(identifier) = Identifier::parse(identifier) else {
        return Ok(None);
    };
    match quota::count(app, &quota::resets(&browser.client, &identifier)).await {
        Err(Error::TooMany(_)) => return Ok(None),
        counted => counted?,
    }
    let accounts = &app.stores.accounts;
    let now_ms = app.clock.wall_ms();
    let auth = &app.shared.config.auth;
    if !auth.debug_return_reset_token {
        // A full outbox has been reported where it happened; the answer stays the same.
        accounts.post_reset_request(now_ms, &identifier).await?;
        return Ok(None);
    }
    let user = accounts.credential(&identifier).await?;
    let Some(user) = user.filter(|user| user.is_active) else {
        return Ok(None);
    };
    let token = Token::new();
    let sessions = &app.stores.sessions;
    let ttl_ms = auth.reset_token_ttl_ms();
    sessions
        .put_reset_token(now_ms, &token, user.user, ttl_ms)
        .await?;
    Ok(Some(token))
}

/// Replaces the password of whoever was sent this token; how many sessions ended. A token is good
/// for one replacement, however many requests bring it at once, and stays good as long as none was
/// committed.
///
/// # Errors
/// The token or the password will not do; busy; a store is down.
pub async fn reset(app: &App, token: &Field<'_>, new: &Field<'_>) -> Result<u32, Error> {
    const INVALID: Error = Error::Invalid("Token invalid or expired");
    const UNFIT: &str = "Invalid token or weak password";
    if token.is_none() {
        return Err(Error::Invalid(UNFIT));
    }
    let new = new_password(new, UNFIT)?;
    let token = token.text().and_then(Token::parse).ok_or(INVALID)?;
    let (sessions, accounts) = (&app.stores.sessions, &app.stores.accounts);
    let user = sessions.reset_token(app.clock.wall_ms(), &token).await?;
    let user = user.ok_or(INVALID)?;
    let found = accounts.user(user).await?;
    if !found.is_some_and(|user| user.is_active) {
        return Err(INVALID);
    }
    let hash = password::hash(app, new).await?;
    let ends_sessions = app.shared.config.auth.reset_revokes_sessions;
    let now_ms = app.clock.wall_ms();
    let used = accounts.use_reset_token(now_ms, &token, user, hash, ends_sessions);
    match used.await? {
        TokenUse::Done => {}
        TokenUse::Used | TokenUse::NoUser => return Err(INVALID),
    }
    let before_ms = ends_sessions.then_some(now_ms);
    Ok(clean_up(app, user, Some(&token), before_ms).await)
}

/// What goes after a password was replaced: the mailed tokens and the sessions. The account says
/// already that they are dead, so what a store keeps for lack of an answer is of no use to anybody. Of the sessions
/// go those that began earlier than `before_ms`; without it, none.
async fn clean_up(app: &App, user: UserId, used: Option<&Token>, before_ms: Option<i64>) -> u32 {
    let sessions = &app.stores.sessions;
    let dropped = sessions.drop_reset_tokens(user, used).await;
    let ended = match before_ms {
        Some(before_ms) => sessions.end_sessions_of(user, None, before_ms).await,
        None => Ok(0),
    };
    if dropped.and(ended.map(drop)).is_err() {
        log::warn("sessions left behind", &[]);
    }
    ended.unwrap_or_default()
}

/// What a browser gets that has changed its password.
#[derive(Debug)]
pub struct Changed {
    /// Its new session.
    pub session: Token,
    /// Its new `cc_dev`, as the old one is void.
    pub device: String,
    /// Sessions of other browsers that have ended.
    pub ended: u32,
}

/// Replaces the password of whoever is logged in and knows the old one. A wrong one counts like a
/// failed login.
///
/// # Errors
/// Nobody is logged in; the new password is weak; [`Error::InvalidCredentials`] if the old one is
/// wrong; busy; a store is down.
pub async fn change(
    app: &App,
    browser: &Browser<'_>,
    old: &Field<'_>,
    new: &Field<'_>,
) -> Result<Changed, Error> {
    let current = session::current(app, browser.session.as_ref()).await?;
    let user = current.user.id;
    let new = new_password(new, "Weak password")?;
    let old = old.text().ok_or(Error::InvalidCredentials)?;
    let accounts = &app.stores.accounts;
    let credential = accounts.credential_of(user).await?;
    let identifier = Identifier::from(&current.user);
    let Verified { hash: stored, .. } = verify(app, browser, &identifier, credential, old).await?;
    quota::count(app, &quota::password_changes(user)).await?;
    let new = password::hash(app, new).await?;
    let now_ms = app.clock.wall_ms();
    let changed = accounts.change_password(now_ms, user, &stored, new).await?;
    // Somebody was faster.
    let credential = changed.ok_or(Error::InvalidCredentials)?;
    let start_ms = credential.session_start_ms(now_ms);
    let ended = clean_up(app, user, None, Some(start_ms)).await;
    Ok(Changed {
        session: session::begin(app, browser, user, start_ms).await?,
        device: device::issue(accounts.device_key(), &credential),
        ended: ended.saturating_sub(1),
    })
}
