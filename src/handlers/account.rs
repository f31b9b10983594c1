//! `/auth/register` and `/auth/me`.

use std::rc::Rc;

use serde_json::{Value, json};

use super::export::Export;
use super::{browser, ignore, login, read, without_login};
use crate::accounts::register::Form;
use crate::accounts::{profile, register, session};
use crate::app::App;
use crate::config::DEVICE_COOKIE;
use crate::error::Error;
use crate::http::cookie;
use crate::http::reply::Reply;
use crate::http::request::Request;
use crate::store::SessionInfo;

/// Makes an account.
pub async fn register(app: Rc<App>, mut request: Request) -> Result<Reply, Error> {
    let body = read(&app, &mut request).await?;
    let [email, password, phone, display_name] =
        body.fields(["email", "password", "phone", "display_name"]);
    let form = Form {
        email,
        password,
        phone,
        display_name,
    };
    let client = request.counted(&app.shared.config.server);
    register::register(&app, &client, &form).await?;
    Ok(Reply::created())
}

/// Who is logged in.
pub async fn me(app: Rc<App>, mut request: Request) -> Result<Reply, Error> {
    ignore(&app, &mut request).await?;
    let token = login(&app, &request);
    let current = session::current(&app, token.as_ref()).await?;
    Ok(Reply::user(current.user.shown()))
}

/// Changes name or phone number.
pub async fn update(app: Rc<App>, mut request: Request) -> Result<Reply, Error> {
    let body = read(&app, &mut request).await?;
    let [display_name, phone] = body.fields(["display_name", "phone"]);
    let browser = browser(&app, &request);
    let user = profile::update(&app, &browser, &display_name, &phone).await?;
    Ok(Reply::user(user.shown()))
}

/// Deletes the account and all that belongs to it.
pub async fn delete(app: Rc<App>, mut request: Request) -> Result<Reply, Error> {
    let body = read(&app, &mut request).await?;
    let [password] = body.fields(["password"]);
    profile::delete(&app, &browser(&app, &request), &password).await?;
    let reply = without_login(&app, Reply::fixed(r#"{"ok":true}"#));
    let secure = app.shared.config.server.cookie_secure;
    Ok(reply.with_cookie(cookie::clear(DEVICE_COOKIE, secure)))
}

/// All that is held on the caller.
pub async fn export(app: Rc<App>, mut request: Request) -> Result<Reply, Error> {
    ignore(&app, &mut request).await?;
    let export = profile::export(&app, &browser(&app, &request)).await?;
    let mut user = json!(export.user.shown());
    user["created"] = export.user.created_ms.map(|ms| ms / 1000).into();
    let sessions: Vec<Value> = export.sessions.iter().map(shown_session).collect();
    let start = json!({"ok": true, "user": user, "sessions": sessions});
    let id = export.user.id;
    let stream = Export::new(app, id, export.held, start.to_string());
    Ok(Reply::stream(stream))
}

/// A session as its user sees it; times in seconds since 1970.
pub(super) fn shown_session(session: &SessionInfo) -> Value {
    json!({
        "id": session.id,
        "created": session.created_ms / 1000,
        "last_seen": session.last_seen_ms / 1000,
        "address": session.address,
        "user_agent": session.user_agent,
    })
}
