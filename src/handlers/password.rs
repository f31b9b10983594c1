//! `/auth/password/*`.

use std::rc::Rc;

use serde_json::json;

use super::{browser, read, with_login};
use crate::accounts::recovery;
use crate::app::App;
use crate::error::Error;
use crate::http::reply::Reply;
use crate::http::request::Request;

/// Has a link mailed, if there is somebody to mail it to.
pub async fn forgot(app: Rc<App>, mut request: Request) -> Result<Reply, Error> {
    let body = read(&app, &mut request).await?;
    let [identifier] = body.fields(["identifier"]);
    let identifier = identifier.text().unwrap_or_default();
    let token = recovery::forgot(&app, &browser(&app, &request), identifier).await?;
    Ok(match token {
        None => Reply::fixed(r#"{"ok":true}"#),
        Some(token) => {
            let seconds = app.shared.config.auth.reset_token_ttl.as_secs();
            let reply = json!({"ok": true, "debug_token": token.as_str(), "debug_ttl": seconds});
            Reply::ok(reply.to_string())
        }
    })
}

/// Replaces the password by way of such a link.
pub async fn reset(app: Rc<App>, mut request: Request) -> Result<Reply, Error> {
    let body = read(&app, &mut request).await?;
    let [token, password] = body.fields(["token", "password"]);
    let ended = recovery::reset(&app, &token, &password).await?;
    Ok(Reply::revoked(ended))
}

/// Replaces the password of whoever knows the old one.
pub async fn change(app: Rc<App>, mut request: Request) -> Result<Reply, Error> {
    let body = read(&app, &mut request).await?;
    let [old, new] = body.fields(["old_password", "new_password"]);
    let browser = browser(&app, &request);
    let changed = recovery::change(&app, &browser, &old, &new).await?;
    let reply = Reply::revoked(changed.ended);
    Ok(with_login(&app, reply, &changed.session, &changed.device))
}
