//! `/auth/login`, `/auth/logout` and `/auth/sessions`.

use std::rc::Rc;

use serde_json::{Value, json};

use super::account::shown_session;
use super::{browser, ignore, login as own, read, with_login, without_login};
use crate::accounts::{login, session};
use crate::app::App;
use crate::error::Error;
use crate::http::cookie;
use crate::http::reply::Reply;
use crate::http::request::Request;

/// Begins a session.
pub async fn login(app: Rc<App>, mut request: Request) -> Result<Reply, Error> {
    let body = read(&app, &mut request).await?;
    let [identifier, password] = body.fields(["identifier", "password"]);
    let given = identifier.text().zip(password.text());
    let given = given.filter(|(_, password)| !password.is_empty());
    let (identifier, password) = given.ok_or(Error::InvalidCredentials)?;
    let browser = browser(&app, &request);
    let logged_in = login::login(&app, &browser, identifier, password).await?;
    let reply = Reply::fixed(r#"{"ok":true}"#);
    Ok(with_login(
        &app,
        reply,
        &logged_in.session,
        &logged_in.device,
    ))
}

/// Ends the session and the chat of this browser.
pub async fn logout(app: Rc<App>, mut request: Request) -> Result<Reply, Error> {
    ignore(&app, &mut request).await?;
    let chat = cookie::token(&request.headers, &app.shared.config.server.app_cookie);
    session::logout(&app, own(&app, &request).as_ref(), chat).await?;
    Ok(without_login(&app, Reply::fixed(r#"{"ok":true}"#)))
}

/// The caller's sessions.
pub async fn list(app: Rc<App>, mut request: Request) -> Result<Reply, Error> {
    ignore(&app, &mut request).await?;
    let token = own(&app, &request);
    let (current, sessions) = session::list(&app, token.as_ref()).await?;
    let shown = sessions.iter().map(|session| {
        let mut shown = shown_session(session);
        shown["current"] = session.is(&current.token).into();
        shown
    });
    let sessions: Vec<Value> = shown.collect();
    Ok(Reply::ok(
        json!({"ok": true, "sessions": sessions}).to_string(),
    ))
}

/// Ends one of the caller's sessions.
pub async fn end(app: Rc<App>, mut request: Request) -> Result<Reply, Error> {
    ignore(&app, &mut request).await?;
    let is_own = session::end(&app, own(&app, &request).as_ref(), &request.segment).await?;
    let reply = Reply::fixed(r#"{"ok":true}"#);
    let config = &app.shared.config.server;
    Ok(match is_own {
        true => reply.with_cookie(cookie::clear(&config.auth_cookie, config.cookie_secure)),
        false => reply,
    })
}

/// Ends the caller's other sessions.
pub async fn revoke_others(app: Rc<App>, mut request: Request) -> Result<Reply, Error> {
    ignore(&app, &mut request).await?;
    let ended = session::end_others(&app, own(&app, &request).as_ref()).await?;
    Ok(Reply::revoked(ended))
}
