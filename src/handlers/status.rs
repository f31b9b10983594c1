//! `/test`, `/auth/healthz` and `/openapi.yaml`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::app::App;
use crate::entropy;
use crate::error::Error;
use crate::http::body::Lent;
use crate::http::reply::Reply;
use crate::http::request::{Record, RequestId};
use crate::store;

/// How long each store has to answer, so that the whole check stays below a second.
const HEALTH_TIMEOUT: Duration = Duration::from_millis(900);

/// An answer of `/test`, in which only the id and what is below a second change as long as the second lasts.
#[derive(Debug, Default)]
struct Pattern {
    second: u64,
    /// Empty at first.
    text: Vec<u8>,
}

impl Pattern {
    /// From the fraction of the second on.
    const REST: &[u8] = br#"0000,"request_id":"00000000-0000-0000-0000-000000000000"}"#;
    /// Where in that the id stands.
    const ID_AT: usize = 19;

    /// Begins another second.
    #[cold]
    fn make(&mut self, second: u64) {
        self.second = second;
        self.text.clear();
        self.text.extend_from_slice(br#"{"timestamp":"#);
        let mut digits = itoa::Buffer::new();
        self.text
            .extend_from_slice(digits.format(second).as_bytes());
        self.text.push(b'.');
        self.text.extend_from_slice(Self::REST);
    }
}

thread_local! {
    static PATTERN: RefCell<Pattern> = RefCell::default();
}

/// The time and an id: enough to see whether an answer came from a cache. The id is the request's
/// own if that is a UUID of ours, as it is unless a proxy has named the request. Written into `out`,
/// the core's own buffer.
pub fn test(mut out: Lent, record: &Record) -> Lent {
    let (second, micros) = (
        record.started_wall.as_secs(),
        record.started_wall.subsec_micros(),
    );
    PATTERN.with_borrow_mut(|pattern| {
        if pattern.text.is_empty() || pattern.second != second {
            pattern.make(second);
        }
        out.bytes.extend_from_slice(&pattern.text);
    });
    let rest_at = out.bytes.len() - Pattern::REST.len();
    let rest = &mut out.bytes[rest_at..];
    // Four digits are what clients of the old service know.
    let ticks = micros / 100;
    let digits = [ticks / 1000, ticks / 100 % 10, ticks / 10 % 10, ticks % 10];
    rest[..4].copy_from_slice(&digits.map(|digit| b'0' + digit as u8));
    let id = &mut rest[Pattern::ID_AT..Pattern::ID_AT + entropy::UUID_LENGTH];
    match record.own_id() {
        Some(own) => id.copy_from_slice(own),
        None => id.copy_from_slice(RequestId::made().as_bytes()),
    }
    out
}

/// Whether the stores answer and take writes.
pub async fn healthz(app: Rc<App>) -> Result<Reply, Error> {
    let (sessions, accounts) = tokio::join!(
        store::limit(HEALTH_TIMEOUT, app.stores.sessions.ping()),
        store::limit(HEALTH_TIMEOUT, app.stores.accounts.ping()),
    );
    Ok(Reply::health(sessions.is_ok(), accounts.is_ok()))
}

/// The API's own description.
pub fn openapi() -> Reply {
    Reply::yaml(include_str!("../../openapi.yaml"))
}
