//! Logging in: the password is checked, a session begins, and nothing has changed meanwhile.

use super::verify::{Verified, verify};
use super::{Browser, device, password, quota, session};
use crate::app::App;
use crate::error::Error;
use crate::hasher::Against;
use crate::model::{Credential, Identifier, PasswordHash, Token};

/// What a browser gets that has logged in: the values of its two cookies.
#[derive(Debug)]
pub struct LoggedIn {
    /// The session.
    pub session: Token,
    /// The proof that it has logged in before; none where it could not be made.
    pub device: String,
}

/// Begins a session for whoever this identifier belongs to. The session that the browser had before
/// ends.
///
/// # Errors
/// [`Error::InvalidCredentials`], the same for every reason; [`Error::TooMany`] after too many
/// successes; busy; a store is down.
pub async fn login(
    app: &App,
    browser: &Browser<'_>,
    identifier: &str,
    typed: &str,
) -> Result<LoggedIn, Error> {
    let identifier = Identifier::parse(identifier).ok_or(Error::InvalidCredentials)?;
    // Taken before the credential is read: a change that comes later has a later time, and a
    // session that is written after it is dead.
    let now_ms = app.clock.wall_ms();
    let credential = app.stores.accounts.credential(&identifier).await?;
    let verified = verify(app, browser, &identifier, credential, typed).await?;
    quota::count_success(app, &identifier).await?;
    let Verified { credential, hash } = verified;
    let start_ms = credential.session_start_ms(now_ms);
    let token = session::begin(app, browser, credential.user, start_ms).await?;
    if let Err(error) = is_unchanged(app, &credential, &hash, typed).await {
        app.stores.sessions.end_session(&token).await?;
        return Err(error);
    }
    Ok(LoggedIn {
        session: token,
        device: device::issue(app.stores.accounts.device_key(), &credential),
    })
}

/// Reads the credential again: chats do not ask the account store, so a session that was written
/// after a disable, a reset or a change must not stay. Another hash may be one of the same password, made
/// by a login elsewhere at the same moment, or by the service that shares the table; the password tells.
async fn is_unchanged(
    app: &App,
    before: &Credential,
    hash: &PasswordHash,
    typed: &str,
) -> Result<(), Error> {
    let now = app.stores.accounts.credential_of(before.user).await?;
    let now = now.filter(|now| {
        now.is_active
            && now.password_changed_ms == before.password_changed_ms
            && now.sessions_not_before_ms == before.sessions_not_before_ms
    });
    let now = now.and_then(|now| now.hash);
    let now = now.ok_or(Error::InvalidCredentials)?;
    if now == *hash {
        return Ok(());
    }
    let compared = password::to_compare(typed, Some(&now)).ok_or(Error::InvalidCredentials)?;
    let against = Against::Stored {
        user: before.user.0,
        hash: now.as_str().to_owned(),
    };
    let verdict = app.hasher.verify(against, compared).await;
    match verdict.map_err(|_| Error::NO_ROOM)?.matches {
        true => Ok(()),
        false => Err(Error::InvalidCredentials),
    }
}
