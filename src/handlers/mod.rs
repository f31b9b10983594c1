//! One function per endpoint: from a request to a reply or an error.

pub mod account;
pub mod chat;
mod export;
pub mod password;
pub mod session;
pub mod status;

use hyper::header::USER_AGENT;

use crate::accounts::Browser;
use crate::app::App;
use crate::config::DEVICE_COOKIE;
use crate::error::Error;
use crate::http::cookie;
use crate::http::fields::{self, Field};
use crate::http::reply::Reply;
use crate::http::request::{BodyLimits, Read, Request};
use crate::model::Token;

/// The body of a request under `/auth`. What is not declared as JSON counts as empty.
async fn read(app: &App, request: &mut Request) -> Result<Body, Error> {
    let limits = BodyLimits {
        bytes_max: app.shared.config.server.auth_body_bytes_max,
        timeout: app.shared.config.server.body_timeout,
        pool: &app.shared.pools.bodies,
        client: request.counted(&app.shared.config.server).share(),
    };
    let read = request.read_body(&limits).await?;
    Ok(Body {
        read,
        is_json: request.is_json(),
    })
}

/// For endpoints that take no body: one over the limit is refused, any other is left alone.
async fn ignore(app: &App, request: &mut Request) -> Result<(), Error> {
    let bytes_max = app.shared.config.server.auth_body_bytes_max;
    request.refuse_long_body(bytes_max).await
}

/// A body from which fields are taken.
struct Body {
    read: Read,
    is_json: bool,
}

impl Body {
    fn fields<const N: usize>(&self, names: [&str; N]) -> [Field<'_>; N] {
        let bytes = match self.is_json {
            true => &self.read.bytes[..],
            false => b"",
        };
        fields::read(bytes, names)
    }
}

/// Who sent this request.
fn browser<'a>(app: &App, request: &'a Request) -> Browser<'a> {
    let config = &app.shared.config.server;
    let address = request.client(config);
    let agent = request
        .headers
        .get(USER_AGENT)
        .map(|agent| agent.as_bytes());
    Browser {
        client: request.counted(config),
        address: address.to_string(),
        user_agent: String::from_utf8_lossy(agent.unwrap_or_default()).into_owned(),
        session: login(app, request),
        device: cookie::get(&request.headers, DEVICE_COOKIE),
    }
}

/// The cookie of a login, if it looks like one of ours.
fn login(app: &App, request: &Request) -> Option<Token> {
    let name = &app.shared.config.server.auth_cookie;
    cookie::get(&request.headers, name).and_then(Token::parse)
}

/// How long a browser is known after its last login, in seconds: 180 days.
const DEVICE_SECONDS: u64 = 15_552_000;

/// Gives a browser the two cookies of a login.
fn with_login(app: &App, reply: Reply, session: &Token, device: &str) -> Reply {
    let config = &app.shared.config;
    let (name, secure) = (&config.server.auth_cookie, config.server.cookie_secure);
    let seconds = config.auth.session_ttl.as_secs();
    reply
        .with_cookie(cookie::set(name, session.as_str(), seconds, secure))
        .with_cookie(cookie::set(DEVICE_COOKIE, device, DEVICE_SECONDS, secure))
}

/// Takes the session and the chat from a browser; that it has logged in before stays.
fn without_login(app: &App, reply: Reply) -> Reply {
    let config = &app.shared.config.server;
    reply
        .with_cookie(cookie::clear(&config.auth_cookie, config.cookie_secure))
        .with_cookie(cookie::clear(&config.app_cookie, config.cookie_secure))
}
