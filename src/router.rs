//! The way of every request: id, prefix, cross-site rule, endpoint, common headers, log line.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::{Method, Response};
use tokio::time::Instant;

use crate::app::App;
use crate::clock;
use crate::error::Error;
use crate::handlers::{account, chat, password, session, status};
use crate::http::address::{self, Address};
use crate::http::body::Body;
use crate::http::origin;
use crate::http::reply::{Reply, Style};
use crate::http::request::{Record, Request, RequestId, discard};
use crate::http::wire::{Busy, Wire};
use crate::store;

/// An endpoint's answer: at once, or after waiting for a body, a store or a provider.
enum Answer {
    Now(Result<Reply, Error>),
    Later(Pin<Box<dyn Future<Output = Result<Reply, Error>>>>),
}

/// The whole API.
fn answer(app: &Rc<App>, found: Option<Found>, record: &Record, asked: Asked<'_>) -> Answer {
    let Some(found) = found else {
        return refuse(asked, Error::NotFound);
    };
    let patience = app.shared.config.store.request_max;
    let request = |asked: Asked<'_>| asked.into_request(record, found);
    let app = || Rc::clone(app);
    match (record.method, found.endpoint.path) {
        ("GET" | "HEAD", TEST) => Answer::Now(Ok(status::test(app().out.lend(), record))),
        ("GET" | "HEAD", OPENAPI) => Answer::Now(Ok(status::openapi())),
        ("GET" | "HEAD", HEALTHZ) => later(patience, status::healthz(app())),
        ("POST", CHAT) => later(patience, chat::ask(app(), request(asked))),
        ("POST", RESET) => later(patience, chat::reset(app(), request(asked))),
        ("POST", REGISTER) => later(patience, account::register(app(), request(asked))),
        ("POST", LOGIN) => later(patience, session::login(app(), request(asked))),
        ("POST", LOGOUT) => later(patience, session::logout(app(), request(asked))),
        ("GET" | "HEAD", ME) => later(patience, account::me(app(), request(asked))),
        ("PATCH", ME) => later(patience, account::update(app(), request(asked))),
        ("DELETE", ME) => later(patience, account::delete(app(), request(asked))),
        ("GET" | "HEAD", EXPORT) => later(patience, account::export(app(), request(asked))),
        ("POST", FORGOT) => later(patience, password::forgot(app(), request(asked))),
        ("POST", PASSWORD_RESET) => later(patience, password::reset(app(), request(asked))),
        ("POST", CHANGE) => later(patience, password::change(app(), request(asked))),
        ("GET" | "HEAD", SESSIONS) => later(patience, session::list(app(), request(asked))),
        ("DELETE", SESSION) => later(patience, session::end(app(), request(asked))),
        ("POST", REVOKE_OTHERS) => later(patience, session::revoke_others(app(), request(asked))),
        ("OPTIONS", _) => Answer::Now(Ok(Reply::options(found.endpoint.allow))),
        _ => refuse(asked, Error::MethodNotAllowed(found.endpoint.allow)),
    }
}

/// Answers with an error, after the body: a proxy that is still sending one would report that the
/// server has failed.
fn refuse(asked: Asked<'_>, error: Error) -> Answer {
    let (head, mut body) = asked.whole.into_parts();
    if body.is_end_stream() {
        return Answer::Now(Err(error));
    }
    Answer::Later(Box::pin(async move {
        discard(&head.headers, &mut body).await;
        Err(error)
    }))
}

fn later(
    patience: Duration,
    answer: impl Future<Output = Result<Reply, Error>> + 'static,
) -> Answer {
    Answer::Later(Box::pin(store::limit(patience, answer)))
}

/// A path of the API, which is also its name in the log. A last segment in braces stands for any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// As above, below the prefix.
    pub path: &'static str,
    /// The methods it takes, as `Allow` lists them.
    pub allow: &'static str,
    /// What stands before the braces, if there are any.
    parent: Option<&'static str>,
}

const TEST: &str = "/test";
const OPENAPI: &str = "/openapi.yaml";
const HEALTHZ: &str = "/auth/healthz";
const CHAT: &str = "/deepseek_chat";
const RESET: &str = "/reset_chat";
const REGISTER: &str = "/auth/register";
const LOGIN: &str = "/auth/login";
const LOGOUT: &str = "/auth/logout";
const ME: &str = "/auth/me";
const EXPORT: &str = "/auth/me/export";
const FORGOT: &str = "/auth/password/forgot";
const PASSWORD_RESET: &str = "/auth/password/reset";
const CHANGE: &str = "/auth/password/change";
const SESSIONS: &str = "/auth/sessions";
const REVOKE_OTHERS: &str = "/auth/sessions/revoke_others";
const SESSION: &str = "/auth/sessions/{id}";

/// Every path; of two that match the first counts.
pub static ENDPOINTS: [Endpoint; 16] = [
    get(TEST),
    post(CHAT),
    post(RESET),
    taking("GET, HEAD, PATCH, DELETE, OPTIONS", ME),
    post(LOGIN),
    post(LOGOUT),
    post(REGISTER),
    post(FORGOT),
    post(PASSWORD_RESET),
    post(CHANGE),
    get(SESSIONS),
    post(REVOKE_OTHERS),
    Endpoint {
        parent: Some("/auth/sessions/"),
        ..taking("DELETE, OPTIONS", SESSION)
    },
    get(EXPORT),
    get(HEALTHZ),
    get(OPENAPI),
];

const fn get(path: &'static str) -> Endpoint {
    taking("GET, HEAD, OPTIONS", path)
}

const fn post(path: &'static str) -> Endpoint {
    taking("POST, OPTIONS", path)
}

const fn taking(allow: &'static str, path: &'static str) -> Endpoint {
    Endpoint {
        path,
        allow,
        parent: None,
    }
}

/// The endpoint of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    endpoint: &'static Endpoint,
    /// Where in the path, as it was sent, the segment begins that braces stand for; else its end.
    segment_at: usize,
}

impl Found {
    /// The endpoint of a path as it was sent, if there is one under the prefix.
    fn find(path: &str, prefix: &str) -> Option<Self> {
        let below = path.strip_prefix(prefix)?;
        ENDPOINTS.iter().find_map(|endpoint| {
            let segment = match endpoint.parent {
                None => (below == endpoint.path).then_some(""),
                Some(parent) => below
                    .strip_prefix(parent)
                    .filter(|segment| !segment.is_empty() && !segment.contains('/')),
            };
            segment.map(|segment| Self {
                endpoint,
                segment_at: path.len() - segment.len(),
            })
        })
    }
}

/// A request as it came, and the connection it came on. It stays whole until a handler wants its
/// parts: most are large, and `/test` is answered without them.
struct Asked<'a> {
    peer: Address,
    wire: &'a Rc<Wire>,
    whole: hyper::Request<Incoming>,
}

impl Asked<'_> {
    fn into_request(self, record: &Record, found: Found) -> Request {
        let (head, body) = self.whole.into_parts();
        Request {
            segment: head.uri.path()[found.segment_at..].to_owned(),
            headers: head.headers,
            peer: self.peer,
            id: record.id.clone(),
            wire: Rc::clone(self.wire),
            body,
        }
    }
}

/// How the errors of a path are worded, whether it exists or not.
fn style(endpoint: Option<&Endpoint>, path: &str, prefix: &str) -> Style {
    let path = match endpoint {
        Some(endpoint) => endpoint.path,
        None => path.strip_prefix(prefix).unwrap_or_default(),
    };
    match path == "/auth" || path.starts_with("/auth/") {
        true => Style::Auth,
        false => Style::Plain,
    }
}

/// Serves one request.
pub fn serve(
    app: &Rc<App>,
    wire: &Rc<Wire>,
    peer: Address,
    whole: hyper::Request<Incoming>,
) -> Serving {
    let started = clock::now();
    let busy = wire.begin();
    let front = &app.front;
    let path = whole.uri().path();
    let found = Found::find(path, &front.prefix);
    let endpoint = found.map(|found| found.endpoint);
    let style = style(endpoint, path, &front.prefix);
    let record = Record {
        id: RequestId::of(whole.headers()),
        method: known_method(whole.method()),
        route: endpoint.map_or("-", |endpoint| endpoint.path),
        status: 0,
        worker: front.worker,
        started,
        started_wall: clock::since_epoch_at(started),
        client: front
            .logs_client
            .then(|| address::client(&app.shared.config.server, peer, whole.headers())),
    };
    let origins = &app.shared.config.server.origins;
    let answer = if origin::is_cross_site(whole.method(), whole.headers(), origins) {
        refuse(Asked { peer, wire, whole }, Error::CrossSite)
    } else {
        answer(app, found, &record, Asked { peer, wire, whole })
    };
    let call = Call {
        record,
        style,
        busy,
        is_last: app.is_leaving(),
    };
    match answer {
        // Nothing was waited for, so the clock need not be asked again.
        Answer::Now(result) => Serving::Now(Some(call.finish(result, started))),
        Answer::Later(answer) => Serving::Later(Box::pin(async {
            let result = answer.await;
            call.finish(result, clock::now())
        })),
    }
}

/// What every response gets, whatever the endpoint says.
struct Call {
    record: Record,
    style: Style,
    busy: Busy,
    /// Whether the connection ends with it.
    is_last: bool,
}

impl Call {
    fn finish(self, result: Result<Reply, Error>, now: Instant) -> Response<Body> {
        let mut reply = result.unwrap_or_else(|error| Reply::error(&error, self.style));
        if self.is_last {
            reply = reply.closing();
        }
        reply.finish(self.style, self.busy, self.record, now)
    }
}

/// A request being served. What has to wait is boxed, because hyper keeps room for this as long as
/// the connection lives.
pub enum Serving {
    /// The response is there.
    Now(Option<Response<Body>>),
    /// It will come.
    Later(Pin<Box<dyn Future<Output = Response<Body>>>>),
}

impl Future for Serving {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Now(response) => {
                let response = response.take().expect("hyper polls once to the end");
                Poll::Ready(Ok(response))
            }
            Self::Later(response) => response.as_mut().poll(cx).map(Ok),
        }
    }
}

/// A method's name for the log; a client may make up others.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_as_they_are() {
        for (path, expect) in [
            ("/x/test", Some((TEST, ""))),
            ("/x/auth/sessions", Some((SESSIONS, ""))),
            ("/x/auth/sessions/ab%20", Some((SESSION, "ab%20"))),
            ("/x/auth/sessions/revoke_others", Some((REVOKE_OTHERS, ""))),
            ("/x/auth/sessions/", None),
            ("/x/auth/sessions/a/", None),
            ("/x/auth/sessions/a/b", None),
            ("/x/auth/me/", None),
            ("/x/auth/me/export", Some((EXPORT, ""))),
            ("/x", None),
            ("/test", None),
            ("/x/Test", None),
            ("/x/%74est", None),
        ] {
            let found = Found::find(path, "/x");
            let found = found.map(|found| (found.endpoint.path, &path[found.segment_at..]));
            assert_eq!(found, expect, "{path}");
        }
    }
}
