//! Whether a store works, to report each change once.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::{OnEvent, StoreError};

/// A failure ends with the first success this long after the last one: on a full disk small
/// writes go on succeeding between the failures, and the log must not hold a pair for each.
const RECOVERED_AFTER: Duration = Duration::from_secs(5);

/// What was last seen of a store.
#[derive(Debug)]
pub(super) struct Health {
    name: &'static str,
    on_event: OnEvent,
    failed_at: Option<Instant>,
}

impl Health {
    /// Of a store that works, under the name that reports give it.
    pub(super) fn new(name: &'static str, on_event: OnEvent) -> Self {
        Self {
            name,
            on_event,
            failed_at: None,
        }
    }

    /// `error` holds no secret and no value that anybody has sent.
    pub(super) fn failed(&mut self, now: Instant, error: &dyn fmt::Display) -> StoreError {
        if self.failed_at.replace(now).is_none() {
            (self.on_event)("store failed", format!("{}: {error}", self.name));
        }
        StoreError::Unavailable
    }

    pub(super) fn succeeded(&mut self, now: impl FnOnce() -> Instant) {
        if self
            .failed_at
            .is_some_and(|failed_at| now().duration_since(failed_at) >= RECOVERED_AFTER)
        {
            self.failed_at = None;
            self.report("store recovered");
        }
    }

    /// Something about this store that is not a failure of a call.
    pub(super) fn report(&self, event: &'static str) {
        (self.on_event)(event, self.name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    static REPORTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

    #[test]
    fn a_failure_and_its_end_are_reported_once_each() {
        let mut health = Health::new("x.db", |event, detail| {
            let line = format!("{event}: {detail}");
            REPORTS.lock().unwrap().push(line);
        });
        let (start, error) = (crate::clock::now(), "broken");
        let at = |seconds| start + Duration::from_secs(seconds);
        health.succeeded(|| at(0));
        health.failed(at(1), &error);
        health.succeeded(|| at(2));
        health.failed(at(3), &error);
        health.succeeded(|| at(7));
        health.succeeded(|| at(8));
        health.succeeded(|| at(9));
        health.failed(at(10), &error);
        let reports = REPORTS.lock().unwrap();
        let events: Vec<&str> = reports.iter().filter_map(|line| line.get(..9)).collect();
        assert_eq!(
            events,
            ["store fai", "store rec", "store fai"],
            "{reports:?}"
        );
    }
}
