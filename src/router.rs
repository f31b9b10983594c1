//! The way of every request: id and `Host`, prefix, cross-site rule, endpoint, common headers, log line.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::Method;
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

use crate::app::App;
use crate::clock;
use crate::connection::Serving;
use crate::error::Error;
use crate::handlers::{account, chat, password, session, status};
use crate::http::address::{self, Address};
use crate::http::origin;
use crate::http::reply::{Reply, Style};
use crate::http::request::{Record, Request, Seen, discard};
use crate::http::wire::{Busy, Wire};
use crate::store;

/// An endpoint's answer: at once, or after waiting for a body, a store or a provider.
enum Answer {
    Now(Reply),
    Later(Pin<Box<dyn Future<Output = Result<Reply, Error>>>>),
}

/// The whole API, but for what [`serve`] answers by itself.
fn answer(
    app: &Rc<App>,
    found: Option<Found>,
    style: Style,
    record: &mut Record,
    came: Came<'_>,
    whole: Whole,
) -> Answer {
    let Some(found) = found else {
        return refuse(whole, Error::NotFound, style);
    };
    let patience = app.shared.config.store.request_max;
    let mut request = |whole| came.request(whole, found, record);
    let app = || Rc::clone(app);
    match (verb(whole.method()), found.endpoint.route) {
        (Verb::Read, Route::Openapi) => Answer::Now(status::openapi()),
        (Verb::Read, Route::Healthz) => later(patience, status::healthz(app())),
        (Verb::Post, Route::Chat) => later(patience, chat::ask(app(), request(whole))),
        (Verb::Post, Route::Reset) => later(patience, chat::reset(app(), request(whole))),
        (Verb::Post, Route::Register) => later(patience, account::register(app(), request(whole))),
        (Verb::Post, Route::Login) => later(patience, session::login(app(), request(whole))),
        (Verb::Post, Route::Logout) => later(patience, session::logout(app(), request(whole))),
        (Verb::Read, Route::Me) => later(patience, account::me(app(), request(whole))),
        (Verb::Patch, Route::Me) => later(patience, account::update(app(), request(whole))),
        (Verb::Delete, Route::Me) => later(patience, account::delete(app(), request(whole))),
        (Verb::Read, Route::Export) => later(patience, account::export(app(), request(whole))),
        (Verb::Post, Route::Forgot) => later(patience, password::forgot(app(), request(whole))),
        (Verb::Post, Route::PasswordReset) => {
            later(patience, password::reset(app(), request(whole)))
        }
        (Verb::Post, Route::Change) => later(patience, password::change(app(), request(whole))),
        (Verb::Read, Route::Sessions) => later(patience, session::list(app(), request(whole))),
        (Verb::Delete, Route::Session) => later(patience, session::end(app(), request(whole))),
        (Verb::Post, Route::RevokeOthers) => {
            later(patience, session::revoke_others(app(), request(whole)))
        }
        (Verb::Options, _) => Answer::Now(Reply::options(found.endpoint.allow)),
        _ => refuse(whole, Error::MethodNotAllowed(found.endpoint.allow), style),
    }
}

/// Answers with an error, after the body: a proxy that is still sending one would report that the
/// server has failed.
fn refuse(whole: Whole, error: Error, style: Style) -> Answer {
    let (head, mut body) = whole.into_parts();
    if body.is_end_stream() {
        return Answer::Now(Reply::error(&error, style));
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

/// What a method asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    /// GET and HEAD.
    Read,
    Post,
    Patch,
    Delete,
    Options,
    Other,
}

/// Names an endpoint. Once it is found no text is compared any more: the texts stand far apart, and have left
/// the processor's caches between two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Test,
    Openapi,
    Healthz,
    Chat,
    Reset,
    Register,
    Login,
    Logout,
    Me,
    Export,
    Forgot,
    PasswordReset,
    Change,
    Sessions,
    RevokeOthers,
    Session,
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
    route: Route,
    /// How its errors are worded.
    style: Style,
}

const TEST: &str = "/test";

/// Every path; of two that match the first counts.
pub static ENDPOINTS: [Endpoint; 16] = [
    get(Route::Test, TEST),
    post(Route::Chat, "/deepseek_chat"),
    post(Route::Reset, "/reset_chat"),
    taking("GET, HEAD, PATCH, DELETE, OPTIONS", Route::Me, "/auth/me"),
    post(Route::Login, "/auth/login"),
    post(Route::Logout, "/auth/logout"),
    post(Route::Register, "/auth/register"),
    post(Route::Forgot, "/auth/password/forgot"),
    post(Route::PasswordReset, "/auth/password/reset"),
    post(Route::Change, "/auth/password/change"),
    get(Route::Sessions, "/auth/sessions"),
    post(Route::RevokeOthers, "/auth/sessions/revoke_others"),
    Endpoint {
        parent: Some("/auth/sessions/"),
        ..taking("DELETE, OPTIONS", Route::Session, "/auth/sessions/{id}")
    },
    get(Route::Export, "/auth/me/export"),
    get(Route::Healthz, "/auth/healthz"),
    get(Route::Openapi, "/openapi.yaml"),
];

const fn get(route: Route, path: &'static str) -> Endpoint {
    taking("GET, HEAD, OPTIONS", route, path)
}

const fn post(route: Route, path: &'static str) -> Endpoint {
    taking("POST, OPTIONS", route, path)
}

const fn taking(allow: &'static str, route: Route, path: &'static str) -> Endpoint {
    Endpoint {
        path,
        allow,
        parent: None,
        route,
        style: match path.as_bytes() {
            [b'/', b'a', b'u', b't', b'h', b'/', ..] => Style::Auth,
            _ => Style::Plain,
        },
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
        let below = match prefix {
            "" => path,
            _ => path.strip_prefix(prefix)?,
        };
        // What watches a server asks for this all day. It is first, and compared without its text in memory.
        if below == TEST {
            return Some(Self {
                endpoint: &ENDPOINTS[0],
                segment_at: path.len(),
            });
        }
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

/// A request as it came. It stays whole until a handler wants its parts: most are large, and `/test` is
/// answered without them.
type Whole = hyper::Request<Incoming>;

fn verb(method: &Method) -> Verb {
    match *method {
        Method::GET | Method::HEAD => Verb::Read,
        Method::POST => Verb::Post,
        Method::PATCH => Verb::Patch,
        Method::DELETE => Verb::Delete,
        Method::OPTIONS => Verb::Options,
        _ => Verb::Other,
    }
}

/// The connection that a request came on.
#[derive(Debug, Clone, Copy)]
struct Came<'a> {
    peer: Address,
    wire: &'a Rc<Wire>,
}

impl Came<'_> {
    fn request(self, whole: Whole, found: Found, record: &mut Record) -> Request {
        let (head, body) = whole.into_parts();
        record.id.detach();
        Request {
            segment: head.uri.path()[found.segment_at..].to_owned(),
            headers: head.headers,
            peer: self.peer,
            id: record.id.clone(),
            wire: Rc::clone(self.wire),
            version: head.version,
            body,
        }
    }
}

/// How the errors of a path are worded, whether it exists or not.
fn style(endpoint: Option<&Endpoint>, path: &str, prefix: &str) -> Style {
    if let Some(endpoint) = endpoint {
        return endpoint.style;
    }
    let path = path.strip_prefix(prefix).unwrap_or_default();
    match path == "/auth" || path.starts_with("/auth/") {
        true => Style::Auth,
        false => Style::Plain,
    }
}

/// Serves one request.
pub fn serve(app: &Rc<App>, wire: &Rc<Wire>, peer: Address, mut whole: Whole) -> Serving {
    let (started, started_wall) = clock::turn();
    let busy = wire.begin();
    let front = &app.front;
    let path = whole.uri().path();
    let found = Found::find(path, &front.prefix);
    let endpoint = found.map(|found| found.endpoint);
    let style = style(endpoint, path, &front.prefix);
    let seen = Seen::of(whole.headers(), whole.version());
    let record = Record {
        id: seen.id,
        is_own_id: seen.is_own_id,
        method: known_method(whole.method()),
        route: endpoint.map_or("-", |endpoint| endpoint.path),
        status: 0,
        worker: front.worker,
        started,
        started_wall,
        client: front
            .logs_client
            .then(|| address::client(&app.shared.config.server, peer, whole.headers())),
    };
    let call = Call {
        record,
        style,
        busy,
        is_last: app.is_leaving(),
        has_host: seen.has_host,
    };
    match (verb(whole.method()), endpoint.map(|found| found.route)) {
        // What watches a server asks for it all day. It changes nothing, so the cross-site rule has nothing to say.
        (Verb::Read, Some(Route::Test)) if call.has_host => {
            let json = status::test(app.out.lend(), &call.record);
            let mut serving = Serving::Now(Some(Reply::lent(json)));
            if let Serving::Now(Some(reply)) = &mut serving {
                reply.set_json(whole.headers_mut());
                call.finish(reply, started);
            }
            serving
        }
        _ => serve_others(app, Came { peer, wire }, found, call, whole),
    }
}

/// Serves all but `/test`. Apart, because what has to wait takes some KiB of the stack while it is made.
#[inline(never)]
fn serve_others(
    app: &Rc<App>,
    came: Came<'_>,
    found: Option<Found>,
    mut call: Call,
    whole: Whole,
) -> Serving {
    let origins = &app.shared.config.server.origins;
    let answer = if !call.has_host {
        let error = Error::Invalid("Exactly one Host header is needed");
        refuse(whole, error, call.style)
    } else if origin::is_cross_site(whole.method(), whole.headers(), origins) {
        refuse(whole, Error::CrossSite, call.style)
    } else {
        answer(app, found, call.style, &mut call.record, came, whole)
    };
    match answer {
        // Nothing was waited for, so the clock need not be asked again.
        Answer::Now(mut reply) => {
            let started = call.record.started;
            call.finish(&mut reply, started);
            Serving::Now(Some(reply))
        }
        Answer::Later(answer) => Serving::Later(Box::pin(async {
            let result = answer.await;
            let mut reply = result.unwrap_or_else(|error| Reply::error(&error, call.style));
            call.finish(&mut reply, clock::now());
            reply
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
    /// Whether its `Host` is as HTTP wants it.
    has_host: bool,
}

impl Call {
    // Always: a call would move the record once more.
    #[inline(always)]
    fn finish(self, reply: &mut Reply, now: Instant) {
        if self.is_last {
            reply.close();
        }
        reply.finish(self.style, self.busy, self.record, now);
    }
}

/// A method's name for the log; a client may make up others.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
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
            ("/x/auth/sessions", Some(("/auth/sessions", ""))),
            (
                "/x/auth/sessions/ab%20",
                Some(("/auth/sessions/{id}", "ab%20")),
            ),
            (
                "/x/auth/sessions/revoke_others",
                Some(("/auth/sessions/revoke_others", "")),
            ),
            ("/x/auth/sessions/", None),
            ("/x/auth/sessions/a/", None),
            ("/x/auth/sessions/a/b", None),
            ("/x/auth/me/", None),
            ("/x/auth/me/export", Some(("/auth/me/export", ""))),
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
