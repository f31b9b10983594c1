//! The way of every request: id, prefix, cross-site rule, endpoint, common headers, log line.

use std::convert::Infallible;
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Response};

use crate::app::App;
use crate::clock;
use crate::entropy;
use crate::error::Error;
use crate::handlers::{chat, status};
use crate::http::address::{Address, Trusted};
use crate::http::body::Body;
use crate::http::origin;
use crate::http::reply::{Reply, Style, X_REQUEST_ID};
use crate::http::request::{Record, Request};
use crate::http::wire::Wire;

/// The whole API.
async fn answer(
    app: &Rc<App>,
    method: &Method,
    path: &str,
    request: Request,
) -> Result<Reply, Error> {
    match (method.as_str(), path) {
        ("GET" | "HEAD", "/test") => Ok(status::test(&request.id)),
        ("GET" | "HEAD", "/auth/healthz") => Ok(status::healthz(app).await),
        ("POST", "/deepseek_chat") => chat::ask(app, request).await,
        ("POST", "/reset_chat") => chat::reset(app, request).await,
        (method, path) => match (method, endpoint(path)) {
            (_, None) => Err(Error::NotFound),
            ("OPTIONS", Some((_, allow))) => Ok(Reply::options(allow)),
            (_, Some((_, allow))) => Err(Error::MethodNotAllowed(allow)),
        },
    }
}

/// An endpoint's name for the log, and the methods it takes.
fn endpoint(path: &str) -> Option<(&'static str, &'static str)> {
    match path {
        "/test" => Some(("/test", "GET, HEAD, OPTIONS")),
        "/auth/healthz" => Some(("/auth/healthz", "GET, HEAD, OPTIONS")),
        "/deepseek_chat" => Some(("/deepseek_chat", "POST, OPTIONS")),
        "/reset_chat" => Some(("/reset_chat", "POST, OPTIONS")),
        _ => None,
    }
}

/// Serves one request.
pub async fn serve(
    app: Rc<App>,
    wire: Rc<Wire>,
    peer: Address,
    request: hyper::Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let started = clock::now();
    let busy = wire.begin();
    let config = &app.shared.config;
    let (head, body) = request.into_parts();
    let path = head.uri.path().strip_prefix(config.server.prefix.as_str());
    let path = path.filter(|rest| rest.starts_with('/')).unwrap_or("");
    let style = match path == "/auth" || path.starts_with("/auth/") {
        true => Style::Auth,
        false => Style::Plain,
    };
    let trusted = Trusted {
        networks: &config.server.trusted_proxies,
        unix: config.server.trust_unix,
    };
    let client = trusted.client(peer, &head.headers);
    let id = request_id(&head.headers);
    let cross_site = origin::is_cross_site(&head.method, &head.headers, &config.server.origins);
    let result = if cross_site {
        Err(Error::CrossSite)
    } else {
        let request = Request {
            headers: head.headers,
            client,
            id: Rc::clone(&id),
            wire,
            body,
        };
        answer(&app, &head.method, path, request).await
    };
    let reply = result.unwrap_or_else(|error| Reply::error(&error, style));
    let mut response = reply.finish(style, &id);
    let record = Record {
        id,
        method: known_method(&head.method),
        route: endpoint(path).map_or("-", |(name, _)| name),
        status: response.status().as_u16(),
        worker: app.worker,
        started,
        client: config.log.client_address.then_some(client),
        stream: None,
    };
    response.body_mut().attach(busy, record);
    Ok(response)
}

/// The id that the proxy gave this request, if it is a harmless one; else a new one.
fn request_id(headers: &HeaderMap) -> Rc<str> {
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let sent = headers.get(&X_REQUEST_ID).and_then(|v| v.to_str().ok());
    match sent.filter(|id| (8..=64).contains(&id.len()) && id.bytes().all(harmless)) {
        Some(id) => id.into(),
        None => entropy::uuid().to_string().into(),
    }
}

/// A method's name for the log; a client may make up others.
fn known_method(method: &Method) -> &'static str {
    ["GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"]
        .into_iter()
        .find(|name| *name == method.as_str())
        .unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_request_ids_are_kept() {
        for (sent, kept) in [
            ("abcdefgh", true),
            ("0f-_0123456789", true),
            ("short", false),
            ("has blank in it", false),
            ("quote\"\"\"\"", false),
            (&"x".repeat(65), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", sent.parse().unwrap());
            assert_eq!(&*request_id(&headers) == sent, kept, "{sent}");
        }
        assert_eq!(request_id(&HeaderMap::new()).len(), 36);
    }
}
