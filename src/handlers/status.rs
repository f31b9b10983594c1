//! `/test`, `/auth/healthz` and `/openapi.yaml`.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::timeout;

use crate::app::App;
use crate::entropy;
use crate::error::Error;
use crate::http::body::Lent;
use crate::http::reply::Reply;
use crate::http::request::Record;

/// How long each store has to answer, so that the whole check stays below a second.
const HEALTH_TIMEOUT: Duration = Duration::from_millis(900);

/// The time and an id: enough to see whether an answer came from a cache. The id is the request's
/// own if that is a UUID of ours, as it is unless a proxy has named the request. Written into `out`,
/// the core's own buffer.
pub fn test(mut out: Lent, record: &Record) -> Reply {
    let now = record.started_wall;
    // Four digits are what clients of the old service know.
    let fraction = 10_000 + now.subsec_micros() / 100;
    let json = &mut out.bytes;
    json.extend_from_slice(br#"{"timestamp":"#);
    json.extend_from_slice(itoa::Buffer::new().format(now.as_secs()).as_bytes());
    json.push(b'.');
    json.extend_from_slice(&itoa::Buffer::new().format(fraction).as_bytes()[1..]);
    json.extend_from_slice(br#","request_id":""#);
    match record.is_own_id {
        true => json.extend_from_slice(record.id.as_bytes()),
        false => json.extend_from_slice(entropy::uuid().to_string().as_bytes()),
    }
    json.extend_from_slice(b"\"}");
    Reply::lent(out)
}

/// Whether the stores answer.
pub async fn healthz(app: Rc<App>) -> Result<Reply, Error> {
    let (sessions, accounts) = tokio::join!(
        timeout(HEALTH_TIMEOUT, app.stores.sessions.ping()),
        timeout(HEALTH_TIMEOUT, app.stores.accounts.ping()),
    );
    Ok(Reply::health(
        matches!(sessions, Ok(Ok(()))),
        matches!(accounts, Ok(Ok(()))),
    ))
}

/// The API's own description.
pub fn openapi() -> Reply {
    Reply::yaml(include_str!("../../openapi.yaml"))
}
