//! The time that one request may spend on stores, all its calls together. Each call has a limit of
//! its own; without this a request of six calls could take six times as long.

use std::cell::Cell;
use std::time::Duration;

use crate::clock;
use crate::metrics::{self, Store};

tokio::task_local! {
    /// What is left of it; only within [`limit`].
    static LEFT: Cell<Duration>;
}

/// Runs a request's work; its calls to stores get `all` together. What it does besides, such as
/// waiting for a hash or a provider, does not count, nor does what others do for it afterwards.
pub fn limit<T>(all: Duration, work: impl Future<Output = T>) -> impl Future<Output = T> {
    LEFT.scope(Cell::new(all), work)
}

/// A call within the request; its time is taken off when this is dropped, also if the call is given
/// up before its end.
#[derive(Debug)]
pub(super) struct Spending {
    started: tokio::time::Instant,
    store: Store,
    /// When the call must have ended.
    pub deadline: tokio::time::Instant,
}

impl Spending {
    /// A call that may take so long where nothing else limits it.
    pub fn begin(store: Store, call_max: Duration) -> Self {
        let started = clock::now();
        let left = LEFT.try_with(Cell::get).unwrap_or(call_max);
        Self {
            started,
            store,
            deadline: started + call_max.min(left),
        }
    }
}

impl Drop for Spending {
    fn drop(&mut self) {
        let spent = clock::now() - self.started;
        metrics::store_call(self.store, spent);
        // Outside of a request there is nothing to take it off.
        LEFT.try_with(|left| left.set(left.get().saturating_sub(spent)))
            .unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL_MAX: Duration = Duration::from_secs(2);

    fn allowed() -> Duration {
        let call = Spending::begin(Store::Sqlite, CALL_MAX);
        call.deadline - call.started
    }

    #[tokio::test(start_paused = true)]
    async fn calls_of_one_request_share_its_time() {
        let call = async |seconds| {
            let _spending = Spending::begin(Store::Sqlite, CALL_MAX);
            tokio::time::advance(Duration::from_secs_f64(seconds)).await;
        };
        limit(Duration::from_millis(2500), async {
            assert_eq!(allowed(), CALL_MAX);
            call(1.5).await;
            assert_eq!(allowed(), Duration::from_secs(1));
            // What is no call does not count.
            tokio::time::advance(Duration::from_secs(9)).await;
            assert_eq!(allowed(), Duration::from_secs(1));
            call(3.0).await;
            assert_eq!(allowed(), Duration::ZERO);
        })
        .await;
        // Each request has its own, and what is none has the call's limit only.
        call(3.0).await;
        assert_eq!(allowed(), CALL_MAX);
        assert_eq!(limit(CALL_MAX * 2, async { allowed() }).await, CALL_MAX);
    }
}
