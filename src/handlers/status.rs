//! `/test` and `/auth/healthz`.

use std::time::Duration;

use tokio::time::timeout;

use crate::app::App;
use crate::clock;
use crate::entropy;
use crate::http::reply::Reply;

/// How long each store has to answer, so that the whole check stays below a second.
const HEALTH_TIMEOUT: Duration = Duration::from_millis(900);

/// The time and a fresh id: enough to see whether an answer came from a cache.
pub fn test() -> Reply {
    let now = clock::since_epoch();
    let id = entropy::uuid();
    let seconds = now.as_secs();
    let fraction = now.subsec_micros() / 100;
    Reply::ok(format!(
        r#"{{"timestamp":{seconds}.{fraction:04},"request_id":"{id}"}}"#
    ))
}

/// Whether the stores answer.
pub async fn healthz(app: &App) -> Reply {
    let (sessions, accounts) = tokio::join!(
        timeout(HEALTH_TIMEOUT, app.stores.sessions.ping()),
        timeout(HEALTH_TIMEOUT, app.stores.accounts.ping()),
    );
    Reply::health(
        matches!(sessions, Ok(Ok(()))),
        matches!(accounts, Ok(Ok(()))),
    )
}
