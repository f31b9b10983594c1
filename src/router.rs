//! The way of every request: id, prefix, cross-site rule, endpoint, common headers, log line.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::{Method, Response};
use tokio::time::Instant;

use crate::app::App;
use crate::clock;
use crate::error::Error;
use crate::handlers::{chat, status};
use crate::http::address::{self, Address};
use crate::http::body::Body;
use crate::http::origin;
use crate::http::reply::{Reply, Style};
use crate::http::request::{Record, Request, RequestId};
use crate::http::wire::{Busy, Wire};

/// An endpoint's answer: at once, or after waiting for a body, a store or a provider.
enum Answer {
    Now(Result<Reply, Error>),
    Later(Pin<Box<dyn Future<Output = Result<Reply, Error>>>>),
}

/// The whole API.
fn answer(
    app: &Rc<App>,
    method: &str,
    endpoint: Option<Endpoint>,
    record: &Record,
    request: impl FnOnce() -> Request,
) -> Answer {
    match (method, endpoint) {
        ("GET" | "HEAD", Some(TEST)) => Answer::Now(Ok(status::test(&record.id, record.started))),
        ("GET" | "HEAD", Some(HEALTHZ)) => {
            let app = Rc::clone(app);
            Answer::Later(Box::pin(async move { Ok(status::healthz(&app).await) }))
        }
        ("POST", Some(CHAT)) => Answer::Later(Box::pin(chat::ask(Rc::clone(app), request()))),
        ("POST", Some(RESET)) => Answer::Later(Box::pin(chat::reset(Rc::clone(app), request()))),
        (_, None) => Answer::Now(Err(Error::NotFound)),
        ("OPTIONS", Some(endpoint)) => Answer::Now(Ok(Reply::options(endpoint.allow))),
        (_, Some(endpoint)) => Answer::Now(Err(Error::MethodNotAllowed(endpoint.allow))),
    }
}

/// A path of the API, which is also its name in the log.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Endpoint {
    path: &'static str,
    /// The methods it takes.
    allow: &'static str,
}

const TEST: Endpoint = get("/test");
const HEALTHZ: Endpoint = get("/auth/healthz");
const CHAT: Endpoint = post("/deepseek_chat");
const RESET: Endpoint = post("/reset_chat");

const fn get(path: &'static str) -> Endpoint {
    let allow = "GET, HEAD, OPTIONS";
    Endpoint { path, allow }
}

const fn post(path: &'static str) -> Endpoint {
    let allow = "POST, OPTIONS";
    Endpoint { path, allow }
}

impl Endpoint {
    /// The endpoint of a path as it was sent, if there is one under the prefix.
    fn find(path: &str, prefix: &str) -> Option<Self> {
        Some(match path.strip_prefix(prefix)? {
            "/test" => TEST,
            "/auth/healthz" => HEALTHZ,
            "/deepseek_chat" => CHAT,
            "/reset_chat" => RESET,
            _ => return None,
        })
    }
}

/// How the errors of a path are worded, whether it exists or not.
fn style(endpoint: Option<Endpoint>, path: &str, prefix: &str) -> Style {
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
    request: hyper::Request<Incoming>,
) -> Serving {
    let started = clock::now();
    let busy = wire.begin();
    let config = &app.shared.config;
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let endpoint = Endpoint::find(path, &config.server.prefix);
    let style = style(endpoint, path, &config.server.prefix);
    let id = RequestId::of(&head.headers);
    let log_client = config.log.client_address;
    let record = Record {
        id,
        method: known_method(&head.method),
        route: endpoint.map_or("-", |endpoint| endpoint.path),
        status: 0,
        worker: app.worker,
        started,
        client: log_client.then(|| address::client(&config.server, peer, &head.headers)),
    };
    let origins = &config.server.origins;
    let answer = if origin::is_cross_site(&head.method, &head.headers, origins) {
        Answer::Now(Err(Error::CrossSite))
    } else {
        let id = &record.id;
        answer(app, head.method.as_str(), endpoint, &record, || Request {
            headers: head.headers,
            peer,
            id: id.clone(),
            wire: Rc::clone(wire),
            body,
        })
    };
    let call = Call {
        record,
        style,
        busy,
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
}

impl Call {
    fn finish(self, result: Result<Reply, Error>, now: Instant) -> Response<Body> {
        let reply = result.unwrap_or_else(|error| Reply::error(&error, self.style));
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
