//! Replies: the only place where statuses and common headers are given.

use std::fmt::Write as _;
use std::mem;

use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    RETRY_AFTER, SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{HeaderMap, Response, StatusCode};
use serde::Serialize;
use tokio::time::Instant;

use crate::error::Error;
use crate::http::body::{Body, Chunk, Lent, Source};
use crate::http::request::Record;
use crate::http::wire::Busy;
use crate::model::Shown;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// RFC 9512.
const YAML: HeaderValue = HeaderValue::from_static("application/yaml");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// A proxy that compresses without flushing (Next.js, webpack's development server) would hold a stream
/// back until its end (RFC 9111, 5.2.2.6).
const NO_TRANSFORM: HeaderValue = HeaderValue::from_static("no-store, no-transform");
/// The header that names a request, ours and our proxy's.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Headers that a map has room for when it first gets one.
const HEADERS_KEPT_MAX: usize = 6;

/// How an endpoint words its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `/auth/*`: `{"ok":false,"error":"…"}`, and headers that keep the answer out of caches.
    Auth,
    /// All others: `{"error":"…"}`.
    Plain,
}

/// The body of an error.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<bool>,
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// What a handler answers.
#[derive(Debug)]
pub struct Reply(Response<Body>);

impl Reply {
    fn new(status: StatusCode, body: Body) -> Self {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        Self(response)
    }

    fn json(status: StatusCode, chunk: Chunk) -> Self {
        let mut reply = Self::new(status, Body::whole(chunk));
        reply.0.headers_mut().insert(CONTENT_TYPE, JSON);
        reply
    }

    /// 200 with a JSON text that is part of the program.
    pub fn fixed(json: &'static str) -> Self {
        Self::json(StatusCode::OK, Chunk::fixed(json.as_bytes()))
    }

    /// 200 with a JSON text.
    pub fn ok(json: impl Into<Vec<u8>>) -> Self {
        Self::json(StatusCode::OK, Chunk::owned(json.into()))
    }

    /// 200 with a user. Every page of a site asks for it, so it is written here and not by way of a `Value`.
    pub fn user(user: Shown<'_>) -> Self {
        #[derive(Serialize)]
        struct Answer<'a> {
            ok: bool,
            user: Shown<'a>,
        }
        let text = serde_json::to_vec(&Answer { ok: true, user });
        Self::ok(text.expect("texts and numbers only"))
    }

    /// 200 with a text in a core's own buffer; [`Reply::set_json`] says what it is.
    pub fn lent(text: Lent) -> Self {
        Self::new(StatusCode::OK, Body::whole(Chunk::lent(text)))
    }

    /// Says that a reply without headers has a JSON text. Takes the memory of those that the request had, so that
    /// none has to be asked for; unless there is much of it, which hyper would keep for the connection.
    #[inline]
    pub fn set_json(&mut self, memory: &mut HeaderMap) {
        let headers = self.0.headers_mut();
        if memory.capacity() <= HEADERS_KEPT_MAX {
            mem::swap(headers, memory);
            headers.clear();
        }
        headers.insert(CONTENT_TYPE, JSON);
    }

    /// 201: what was asked for has been made.
    pub fn created() -> Self {
        Self::json(StatusCode::CREATED, Chunk::fixed(br#"{"ok":true}"#))
    }

    /// 200, and how many sessions have ended.
    pub fn revoked(sessions: u32) -> Self {
        Self::ok(format!(r#"{{"ok":true,"revoked_sessions":{sessions}}}"#))
    }

    /// 200 with a YAML text that is part of the program.
    pub fn yaml(text: &'static str) -> Self {
        let mut reply = Self::new(StatusCode::OK, Body::whole(Chunk::fixed(text.as_bytes())));
        reply.0.headers_mut().insert(CONTENT_TYPE, YAML);
        reply
    }

    /// The health of the two stores: 200 if both answer, else 503.
    pub fn health(sessions: bool, accounts: bool) -> Self {
        let ok = sessions && accounts;
        let json = format!(r#"{{"ok":{ok},"redis":{sessions},"db":{accounts}}}"#);
        let status = match ok {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::json(status, Chunk::owned(json.into_bytes()))
    }

    /// 200 with a chat's lines.
    pub fn stream(source: impl Source + 'static) -> Self {
        let mut reply = Self::new(StatusCode::OK, Body::stream(source));
        let headers = reply.0.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(CACHE_CONTROL, NO_TRANSFORM);
        headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
        reply
    }

    /// 200 with an event stream.
    pub fn events(source: impl Source + 'static) -> Self {
        let mut reply = Self::new(StatusCode::OK, Body::stream(source));
        let headers = reply.0.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        reply
    }

    /// The answer to OPTIONS.
    pub fn options(allow: &'static str) -> Self {
        let mut reply = Self::new(StatusCode::NO_CONTENT, Body::empty());
        let headers = reply.0.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static(allow));
        reply
    }

    /// An error in the endpoint's words.
    pub fn error(error: &Error, style: Style) -> Self {
        let told = Told {
            ok: (style == Style::Auth).then_some(false),
            error: error.message(),
            reason: match error {
                Error::Weak { reason, .. } => Some(reason),
                _ => None,
            },
        };
        let mut json = Vec::with_capacity(96);
        serde_json::to_writer(&mut json, &told).expect("texts are JSON, and memory takes them");
        let mut reply = Self::json(status(error), Chunk::owned(json));
        let headers = reply.0.headers_mut();
        if let Error::MethodNotAllowed(allow) = error {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(seconds) = error.retry_after() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        // What is left of such a body is not worth reading.
        if matches!(error, Error::BodyTimeout | Error::BodyBroken) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    }

    /// Sets a cookie; such an answer must never be cached.
    pub fn with_cookie(mut self, cookie: HeaderValue) -> Self {
        let headers = self.0.headers_mut();
        headers.append(SET_COOKIE, cookie);
        headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
        self
    }

    /// Says that the connection ends with this response (RFC 9112, 9.6).
    pub fn close(&mut self) {
        let headers = self.0.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }

    /// Adds what every response carries, and ties its body to its connection and its log line.
    #[inline]
    pub fn finish(&mut self, style: Style, busy: Busy, mut record: Record, now: Instant) {
        record.status = self.0.status().as_u16();
        let id = self.0.body_mut().attach(busy, record, now);
        let headers = self.0.headers_mut();
        headers.insert(X_REQUEST_ID, id.into_header());
        if style == Style::Auth {
            headers.insert(CACHE_CONTROL, NO_STORE);
            headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN"));
            headers.insert(
                REFERRER_POLICY,
                HeaderValue::from_static("strict-origin-when-cross-origin"),
            );
        }
    }

    /// As hyper sends it.
    pub fn into_response(self) -> Response<Body> {
        self.0
    }
}

/// The metrics, for whoever scrapes them; the connection ends with them.
pub fn metrics(text: String) -> Reply {
    let mut reply = Reply::new(StatusCode::OK, Body::whole(Chunk::owned(text.into_bytes())));
    let headers = reply.0.headers_mut();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, NO_STORE);
    reply.close();
    reply
}

/// Another path than that of the metrics, or a method that is none of `allow`.
pub fn metrics_refused(allow: Option<&'static str>) -> Reply {
    let error = allow.map_or(Error::NotFound, Error::MethodNotAllowed);
    let mut reply = Reply::error(&error, Style::Plain);
    reply.close();
    reply
}

/// The one place where an error gets its status.
fn status(error: &Error) -> StatusCode {
    match error {
        Error::Invalid(_) | Error::Weak { .. } | Error::BodyBroken => StatusCode::BAD_REQUEST,
        Error::UnsupportedType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Error::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Error::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        Error::Unauthorized | Error::InvalidCredentials => StatusCode::UNAUTHORIZED,
        Error::Taken(_) => StatusCode::CONFLICT,
        Error::CrossSite => StatusCode::FORBIDDEN,
        Error::NotFound => StatusCode::NOT_FOUND,
        Error::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
        Error::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
        Error::Unavailable { .. } | Error::ProviderBusy { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Error::ProviderFailed(_) => StatusCode::BAD_GATEWAY,
        Error::ProviderSilent(_) => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// The whole response, head included, for a connection that there is no room for.
pub fn no_room_for_connection() -> String {
    let json = r#"{"error":"Busy, try again"}"#;
    let mut text = String::from("HTTP/1.1 503 Service Unavailable\r\n");
    write!(
        text,
        "Content-Type: application/json\r\nContent-Length: {}\r\nRetry-After: 2\r\nConnection: close\r\n\r\n{json}",
        json.len()
    )
    .expect("writing to a String does not fail");
    text
}
