//! `/deepseek_chat` and `/reset_chat`.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Once;

use hyper::Version;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::login;
use crate::accounts::session;
use crate::app::App;
use crate::chat::{forget, turn};
use crate::clock;
use crate::config::Guide;
use crate::error::Error;
use crate::http::address::Client;
use crate::http::cookie;
use crate::http::fields::is_deep;
use crate::http::reply::Reply;
use crate::http::request::{BodyLimits, Request};
use crate::log::{self, Value};
use crate::store::Owner;

/// Longest message in Unicode code points.
const MESSAGE_CHARS_MAX: usize = 32_000;
/// Longest message in bytes, as it stands in the request.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Streams the answer to a message.
pub async fn ask(app: Rc<App>, mut request: Request) -> Result<Reply, Error> {
    let config = &app.shared.config;
    let client = request.counted(&config.server);
    note_proxy(&client);
    let body = request
        .read_body(&BodyLimits {
            bytes_max: config.server.chat_body_bytes_max,
            timeout: config.server.body_timeout,
            pool: &app.shared.pools.bodies,
            client: client.share(),
        })
        .await?;
    let received = clock::now();
    if !request.is_json() {
        return Err(Error::UnsupportedType);
    }
    let message = message(&body.bytes)?.into_owned();
    let guide = guide(&body.bytes, &config.chat.guides);
    drop(body);
    if request.version == Version::HTTP_10 {
        warn_of_http_1_0(&request);
    }
    let owner = match session::asking(&app, login(&app, &request).as_ref()).await {
        Ok(Some(Owner::Anonymous)) if config.chat.require_login => return Err(Error::Unauthorized),
        Ok(Some(owner)) => owner,
        Ok(None) if config.chat.require_login => return Err(Error::STORE_DOWN),
        Ok(None) => Owner::Anonymous,
        // Without its memory a chat needs no user, unless it may be a user's only.
        Err(_) if config.chat.without_history && !config.chat.require_login => Owner::Anonymous,
        Err(error) => return Err(error.into()),
    };
    let ends_cleanly = request.accepts("application/x-ndjson");
    let ask = turn::Ask {
        message: &message,
        guide,
        owner,
        client,
        cookie: cookie::token(&request.headers, &config.server.app_cookie),
        id: request.id,
        wire: request.wire,
        ends_cleanly,
        received,
    };
    let answered = turn::answer(&app, ask).await?;
    let reply = Reply::stream(answered.stream);
    Ok(match answered.cookie {
        Some(value) => reply.with_cookie(cookie::set(
            &config.server.app_cookie,
            &value,
            config.chat.session_ttl.as_secs(),
            config.server.cookie_secure,
        )),
        None => reply,
    })
}

/// Says once that visitors cannot be told apart, so that limits for one visitor cannot keep to one visitor.
fn note_proxy(client: &Client) {
    static HAS_SAID: Once = Once::new();
    if client.is_proxy {
        HAS_SAID.call_once(|| {
            let what = "a trusted proxy names no client: all of its visitors share one rate limit, and none has a \
                share of memory and connections; have it send X-Forwarded-For";
            log::warn("clients unknown", &[("cause", Value::Str(what))]);
        });
    }
}

/// Says, once in the life of the process, that a proxy in front speaks HTTP/1.0: such a stream has no
/// framing (RFC 9112, 6.3), so its client cannot tell an answer that broke off from a whole one.
fn warn_of_http_1_0(request: &Request) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let fields = [
            ("id", Value::Str(request.id.as_str())),
            (
                "cause",
                "clients cannot see that an answer broke off".into(),
            ),
            (
                "fix",
                r#"Nginx: proxy_http_version 1.1; proxy_set_header Connection "";"#.into(),
            ),
        ];
        log::warn("chat over HTTP/1.0", &fields);
    });
}

/// Forgets the caller's chat.
pub async fn reset(app: Rc<App>, mut request: Request) -> Result<Reply, Error> {
    let bytes_max = app.shared.config.server.chat_body_bytes_max;
    request.refuse_long_body(bytes_max).await?;
    let name = &app.shared.config.server.app_cookie;
    let cookie = cookie::token(&request.headers, name);
    if cookie.is_some() {
        for owner in session::owners(&app, login(&app, &request).as_ref()).await? {
            forget::forget(&app, owner, cookie).await?;
        }
    }
    Ok(Reply::fixed(
        r#"{"status":"Reset chat history successfully"}"#,
    ))
}

/// The message of a request body.
fn message(body: &[u8]) -> Result<Cow<'_, str>, Error> {
    #[derive(Deserialize)]
    struct Body<'a> {
        // An `Option`, because serde would word an error about a field that is missing.
        #[serde(borrow)]
        message: Option<&'a RawValue>,
    }
    const REQUIRED: Error = Error::Invalid("Message is required");
    // serde would take an array's first element for the first field.
    if body.trim_ascii_start().first() != Some(&b'{') || is_deep(body) {
        return Err(REQUIRED);
    }
    // Also what is ignored must be UTF-8 (RFC 8259, 8.1); serde looks at what it takes only.
    let body = std::str::from_utf8(body).map_err(|_| REQUIRED)?;
    let body: Body<'_> = serde_json::from_str(body).map_err(|_| REQUIRED)?;
    let raw = body.message.ok_or(REQUIRED)?.get();
    let text: Message<'_> = serde_json::from_str(raw).map_err(|_| REQUIRED)?;
    let text = text.0;
    if text.trim().is_empty() || text.contains('\0') {
        return Err(REQUIRED);
    }
    if raw.len() - 2 > MESSAGE_BYTES_MAX || text.chars().count() > MESSAGE_CHARS_MAX {
        return Err(Error::Invalid("Message too long"));
    }
    Ok(text)
}

/// The text that a body with a message asks for, if its `guideMode` is the name of one. Whatever else it
/// is, it is ignored, like all that the body holds besides.
fn guide<'a>(body: &[u8], guides: &'a [Guide]) -> Option<&'a str> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow, rename = "guideMode")]
        mode: &'a RawValue,
    }
    if guides.is_empty() {
        return None;
    }
    let body: Body<'_> = serde_json::from_slice(body).ok()?;
    let mode: Message<'_> = serde_json::from_str(body.mode.get()).ok()?;
    let found = guides.iter().find(|guide| guide.mode == mode.0);
    found.map(|guide| guide.text.as_str())
}

/// A JSON string that is borrowed where it holds no escapes.
#[derive(Deserialize)]
struct Message<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_a_string_with_something_in_it() {
        let deep = format!(
            r#"{{"message":{}1{}}}"#,
            "[".repeat(10_000),
            "]".repeat(10_000)
        );
        let deep_beside = deep
            .replace("message", "x")
            .replacen('{', r#"{"message":"m","#, 1);
        for (body, expect) in [
            (r#"{"message":"hi"}"#, Some("hi")),
            (
                r#" {"x":[{}],"message":"a\n\ud83d\ude00","y":1} "#,
                Some("a\n😀"),
            ),
            (deep_beside.as_str(), None),
            (
                r#"{"x":[[[["]"]]]],"message":"[[[\\\"[["}"#,
                Some("[[[\\\"[["),
            ),
            (r#"{"message":"a\u0000"}"#, None),
            (deep.as_str(), None),
            ("", None),
            ("null", None),
            (r#"["hi"]"#, None),
            (r#""hi""#, None),
            (r#"{"message":"hi"} x"#, None),
            (r#"{"message":"hi""#, None),
            ("{}", None),
            (r#"{"message":null}"#, None),
            (r#"{"message":1}"#, None),
            (r#"{"message":true}"#, None),
            (r#"{"message":["hi"]}"#, None),
            (r#"{"message":{"a":"hi"}}"#, None),
            (r#"{"message":""}"#, None),
            (r#"{"message":" \t\n\u3000"}"#, None),
            (r#"{"message":"\ud83d"}"#, None),
            (r#"{"message":"\ude00\ud83d"}"#, None),
        ] {
            assert_eq!(
                message(body.as_bytes()).ok().as_deref(),
                expect,
                "{body:.40}"
            );
        }
        assert!(message(b"{\"message\":\"\xff\"}").is_err());
        assert!(message(b"{\"message\":\"hi\",\"x\":\"\xff\"}").is_err());
    }

    #[test]
    fn a_message_has_its_limits() {
        let body = |text: &str| format!(r#"{{"message":"{text}"}}"#);
        for (text, fits) in [
            ("字".repeat(21_845), true),
            ("x".repeat(32_000), true),
            ("x".repeat(32_001), false),
            ("字".repeat(21_846), false),
            ("\\u0061".repeat(10_922), true),
            ("\\u0061".repeat(10_923), false),
        ] {
            let body = body(&text);
            let result = message(body.as_bytes());
            assert_eq!(result.is_ok(), fits, "{} bytes", text.len());
        }
    }
}
