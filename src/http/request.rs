//! What a handler gets: head, body within its limits, and the request's log line.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, EXPECT, HOST, HeaderValue};
use hyper::{HeaderMap, Version};
use tokio::time::{Instant, timeout_at};

use crate::clock;
use crate::config;
use crate::entropy;
use crate::error::Error;
use crate::http::address::{self, Address, Client};
use crate::http::reply::X_REQUEST_ID;
use crate::http::wire::Wire;
use crate::limits::{Key, Permit, Pool};
use crate::log::{self, Value};
use crate::metrics;

/// What is read of a body that was refused, so that the refusal arrives.
const DISCARD_BYTES_MAX: usize = 1 << 20;
/// How long that may take.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// A request on its way to a handler.
#[derive(Debug)]
pub struct Request {
    /// All headers.
    pub headers: HeaderMap,
    /// The other end of the connection.
    pub peer: Address,
    /// What stands in each of this request's log lines and in `X-Request-Id`.
    pub id: RequestId,
    /// The connection it came on.
    pub wire: Rc<Wire>,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// What stands in the path for the segment that the endpoint names in braces; else empty.
    pub segment: String,
    /// The body, not read yet.
    pub body: Incoming,
}

/// The limits of one endpoint's request bodies.
#[derive(Debug)]
pub struct BodyLimits<'a> {
    /// Largest body in bytes.
    pub bytes_max: usize,
    /// Time for the whole body.
    pub timeout: Duration,
    /// Where its bytes are counted.
    pub pool: &'a Arc<Pool>,
    /// Whose share of them it is.
    pub client: Option<Key>,
}

/// A body that was read, and its share of the memory budget.
#[derive(Debug)]
pub struct Read {
    /// The bytes.
    pub bytes: Vec<u8>,
    _permit: Permit,
}

/// A request's name: the one that the proxy gave it, if that is a harmless one, or a random UUID.
#[derive(Debug, Clone)]
pub struct RequestId(HeaderValue);

/// Ids that a core makes at a time: one question to the system's generator, and a loop that stays in the
/// processor's caches. What an id costs while a request is served is to take it.
const IDS: usize = 32;

thread_local! {
    static NEXT_IDS: RefCell<Vec<HeaderValue>> = const { RefCell::new(Vec::new()) };
}

impl RequestId {
    /// A random UUID.
    pub fn made() -> Self {
        NEXT_IDS.with_borrow_mut(|ids| {
            if ids.is_empty() {
                make_ids(ids);
            }
            // An `Option` from `pop` would be put together in pieces, and waited for.
            Self(ids.swap_remove(ids.len() - 1))
        })
    }

    /// From now on the only one in its memory, for a request that may live long: it would keep what it came in,
    /// which is others of its batch, or the connection's buffer.
    pub fn detach(&mut self) {
        self.0 = header(Bytes::copy_from_slice(self.as_bytes()));
    }

    /// As bytes, all of them ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default() // it is ASCII
    }

    /// As a header's value.
    pub fn into_header(self) -> HeaderValue {
        self.0
    }
}

/// What is read off each head's fields in one go: to look at each name is quicker than to hash some.
#[derive(Debug)]
pub struct Seen {
    /// The request's id.
    pub id: RequestId,
    /// We have made it.
    pub is_own_id: bool,
    /// There is one `Host`, or none in HTTP/1.0 (RFC 9112, 3.2).
    pub has_host: bool,
}

impl Seen {
    /// Looks at these fields.
    pub fn of(headers: &HeaderMap, version: Version) -> Self {
        let (mut sent, mut hosts) = (None, 0);
        for (name, value) in headers {
            if *name == HOST {
                hosts += 1;
            } else if sent.is_none() && *name == X_REQUEST_ID {
                sent = Some(value);
            }
        }
        let harmless = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_';
        let is_id = |v: &[u8]| (8..=64).contains(&v.len()) && v.iter().all(harmless);
        let sent = sent.filter(|sent| is_id(sent.as_bytes()));
        Self {
            is_own_id: sent.is_none(),
            id: sent.map_or_else(RequestId::made, |sent| RequestId(sent.clone())),
            has_host: hosts == 1 || hosts == 0 && version < Version::HTTP_11,
        }
    }
}

/// Makes further ids.
#[cold]
fn make_ids(ids: &mut Vec<HeaderValue>) {
    let text = Bytes::from(entropy::uuids(IDS));
    let ends = (1..=IDS).map(|n| n * entropy::UUID_LENGTH);
    ids.extend(ends.map(|end| header(text.slice(end - entropy::UUID_LENGTH..end))));
}

fn header(id: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(id).expect("an id may stand in a header")
}

impl Request {
    /// Who is asking, behind the proxies that are trusted.
    pub fn client(&self, config: &config::Server) -> Address {
        address::client(config, self.peer, &self.headers)
    }

    /// The same as limits see it.
    pub fn counted(&self, config: &config::Server) -> Client {
        address::counted(config, self.peer, &self.headers)
    }

    /// Whether the body is declared as `application/json`, with or without parameters.
    pub fn is_json(&self) -> bool {
        let declared = self.headers.get(CONTENT_TYPE).map(|v| v.as_bytes());
        declared
            .and_then(|v| v.split(|b| *b == b';').next())
            .is_some_and(|t| t.trim_ascii().eq_ignore_ascii_case(b"application/json"))
    }

    /// Whether `Accept` names this media type (RFC 9110, 12.5.1; parameters are not looked at).
    pub fn accepts(&self, media_type: &str) -> bool {
        let lines = self.headers.get_all(ACCEPT).into_iter();
        let mut ranges = lines.flat_map(|line| line.as_bytes().split(|b| *b == b','));
        ranges.any(|range| {
            let name = range.split(|b| *b == b';').next().unwrap_or_default();
            name.trim_ascii()
                .eq_ignore_ascii_case(media_type.as_bytes())
        })
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// Too large, too slow, broken off, or no room for it in the memory budget.
    pub async fn read_body(&mut self, limits: &BodyLimits<'_>) -> Result<Read, Error> {
        let read = self.read_within(limits).await;
        if matches!(read, Err(Error::BodyTooLarge | Error::Unavailable { .. })) {
            discard(&self.headers, &mut self.body).await;
        }
        read
    }

    /// Refuses a body that is declared longer than any may be, where nobody wants it; a shorter one is
    /// read away, so that the connection and a proxy that still sends are fine.
    ///
    /// # Errors
    /// Too large.
    pub async fn refuse_long_body(&mut self, bytes_max: usize) -> Result<(), Error> {
        let is_long = self.body.size_hint().lower() > bytes_max as u64;
        if !self.body.is_end_stream() {
            discard(&self.headers, &mut self.body).await;
        }
        match is_long {
            true => Err(Error::BodyTooLarge),
            false => Ok(()),
        }
    }

    async fn read_within(&mut self, limits: &BodyLimits<'_>) -> Result<Read, Error> {
        let declared = self.body.size_hint();
        if declared.lower() > limits.bytes_max as u64 {
            return Err(Error::BodyTooLarge);
        }
        let permit = limits.pool.take_for(limits.client, 0);
        let mut permit = permit.ok_or(Error::NO_ROOM)?;
        let mut bytes = Vec::new();
        let begun = clock::now();
        let deadline = begun + limits.timeout;
        let mut pace = Pace::new(begun);
        while !self.body.is_end_stream() {
            let next = timeout_at(deadline.min(pace.due), self.body.frame()).await;
            let Some(frame) = next.map_err(|_| Error::BodyTimeout)? else {
                break;
            };
            let frame = frame.map_err(|_| Error::BodyBroken)?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            pace.came(data.len());
            let needed = bytes.len() + data.len();
            if needed > limits.bytes_max {
                return Err(Error::BodyTooLarge);
            }
            if needed > bytes.capacity() {
                // Twice as much each time, so that a body in small pieces is not copied for each.
                let capacity = needed.max(2 * bytes.capacity()).min(limits.bytes_max);
                if !permit.resize(capacity) {
                    return Err(Error::NO_ROOM);
                }
                bytes.reserve_exact(capacity - bytes.len());
            }
            bytes.extend_from_slice(data);
        }
        Ok(Read {
            bytes,
            _permit: permit,
        })
    }
}

/// The least rate of a body: some KiB in each span of some seconds, or its end. What holds memory and sends
/// less is not worth waiting for until the whole body's time is over.
struct Pace {
    /// When the next bytes are overdue.
    due: Instant,
    bytes: usize,
}

impl Pace {
    const BYTES: usize = 1024;
    const SPAN: Duration = Duration::from_secs(4);

    fn new(since: Instant) -> Self {
        Self {
            due: since + Self::SPAN,
            bytes: 0,
        }
    }

    fn came(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= Self::BYTES {
            *self = Self::new(clock::now());
        }
    }
}

/// Reads on for a moment before a refusal, because a client or a proxy that is still sending when the
/// connection closes sees a reset instead of the answer. Not if it asked first (RFC 9110, 10.1.1).
pub async fn discard(headers: &HeaderMap, body: &mut Incoming) {
    if headers.contains_key(EXPECT) {
        return;
    }
    let deadline = clock::now() + DISCARD_TIMEOUT;
    let mut left = DISCARD_BYTES_MAX;
    while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await {
        let read = frame.data_ref().map_or(0, Bytes::len);
        left = match left.checked_sub(read) {
            Some(left) => left,
            None => break,
        };
    }
}

/// A request's line in the log.
#[derive(Debug)]
pub struct Record {
    /// The request's id.
    pub id: RequestId,
    /// It is a UUID that we made.
    pub is_own_id: bool,
    /// Its method.
    pub method: &'static str,
    /// The endpoint as it is written in the router; never the path, which may hold anything.
    pub route: &'static str,
    /// The status that was sent.
    pub status: u16,
    /// The worker that served it.
    pub worker: u16,
    /// When its head was complete.
    pub started: Instant,
    /// The same on the wall clock, since the epoch.
    pub started_wall: Duration,
    /// The client's address, if the configuration wants it in the log.
    pub client: Option<Address>,
}

/// It is handed on several times for each request; what is longer is moved by a call.
const _: () = assert!(size_of::<Record>() <= 128);

/// How a stream went, in the log.
#[derive(Debug, Clone, Default)]
pub struct StreamRecord {
    /// How it ended.
    pub end: &'static str,
    /// The provider that answered.
    pub provider: Option<String>,
    /// Bytes of lines sent.
    pub bytes: u64,
    /// Deltas with text.
    pub deltas: u64,
    /// Time to the first text.
    pub first_text: Option<Duration>,
}

impl Record {
    /// The request's id, if it is a UUID that we made.
    pub fn own_id(&self) -> Option<&[u8; entropy::UUID_LENGTH]> {
        let id = self.is_own_id.then(|| self.id.as_bytes());
        id.and_then(|id| id.try_into().ok())
    }

    /// Writes the line; for a stream at its end (`now`), with how it went.
    #[inline]
    pub fn write(&self, now: Instant, stream: Option<&StreamRecord>) {
        metrics::request(self.route, self.status);
        match (&self.client, stream) {
            (None, None) => log::request(&self.line(now), &[]),
            _ => self.write_more(now, stream),
        }
    }

    fn write_more(&self, now: Instant, stream: Option<&StreamRecord>) {
        let client = self.client.map(|client| client.to_string());
        let mut more = Vec::with_capacity(6);
        let client = client.as_deref().map(Value::Str);
        more.extend(client.map(|client| ("client", client)));
        if let Some(stream) = stream {
            more.push(("end", Value::Word(stream.end)));
            more.push(("deltas", Value::U64(stream.deltas)));
            more.push(("bytes", Value::U64(stream.bytes)));
            let first_text = stream.first_text.map(Value::Millis);
            more.extend(first_text.map(|span| ("first_text_ms", span)));
            let provider = stream.provider.as_deref().map(Value::Str);
            more.extend(provider.map(|name| ("provider", name)));
        }
        log::request(&self.line(now), &more);
    }

    #[inline]
    fn line(&self, now: Instant) -> log::Request<'_> {
        let (since_epoch, took) = if now == self.started {
            // As it is for each answer that waits for nothing.
            (self.started_wall, Duration::ZERO)
        } else {
            let took = now.saturating_duration_since(self.started);
            // The wall clock may be set while a stream runs.
            let since_epoch = match took < Duration::from_secs(1) {
                true => self.started_wall + took,
                false => clock::since_epoch_at(now),
            };
            (since_epoch, took)
        };
        log::Request {
            id: self.id.as_bytes(),
            since_epoch,
            took_tenths: u32::try_from(log::tenths(took)).unwrap_or(u32::MAX),
            method: self.method,
            route: self.route,
            status: self.status,
            worker: self.worker,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

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
            headers.insert(&X_REQUEST_ID, sent.parse().unwrap());
            let Seen { id, is_own_id, .. } = Seen::of(&headers, Version::HTTP_11);
            assert_eq!((id.as_str() == sent, !is_own_id), (kept, kept), "{sent}");
        }
    }

    #[test]
    fn own_request_ids_are_uuids_and_never_the_same() {
        let ids: HashSet<_> = (0..3 * IDS)
            .map(|_| {
                let mut id = RequestId::made();
                let before = id.clone();
                id.detach();
                assert_eq!(id.as_str(), before.as_str());
                let text = |id: &RequestId| id.as_bytes().as_ptr();
                assert_ne!(text(&id), text(&before), "in memory of its own");
                id.as_str().to_owned()
            })
            .collect();
        assert_eq!(ids.len(), 3 * IDS);
        for id in ids {
            assert_eq!(uuid::Uuid::try_parse(&id).unwrap().get_version_num(), 4);
        }
    }
}
