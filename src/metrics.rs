//! What happens, counted for the operator: one set of cells for each core, added up when it is asked for.
//!
//! Only its own core writes a set, by plain loads and stores, so counting locks nothing, allocates nothing
//! and shares no cache line with another core. A core without a set (`metrics.listen` is empty) counts
//! nothing.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Statuses that are told apart; all others count as the last.
pub const STATUSES: [u16; 19] = [
    200, 201, 204, 400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 500, 501, 502, 503, 504, 0,
];
/// Most endpoints, with one place for paths that do not exist.
pub const ROUTES_MAX: usize = 32;
/// How answers end, as their log lines say.
pub const ENDS: [&str; 4] = ["done", "error", "gone", "restarting"];

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// By the one core that writes it.
    fn add(&self, n: u64) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_add(n), Ordering::Relaxed);
    }

    /// By anybody.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Most buckets of a [`Histogram`], the one without a bound included.
pub const BUCKETS_MAX: usize = 14;

/// How long something took.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds in microseconds, ascending; fewer than [`BUCKETS_MAX`].
    pub bounds: &'static [u64],
    /// For each bound what is within it and above the one before; the last is what is above all.
    pub buckets: [Counter; BUCKETS_MAX],
    /// All of them together, in nanoseconds.
    pub sum_ns: Counter,
}

impl Histogram {
    fn new(bounds: &'static [u64]) -> Self {
        assert!(bounds.len() < BUCKETS_MAX && bounds.is_sorted());
        Self {
            bounds,
            buckets: Default::default(),
            sum_ns: Counter::default(),
        }
    }

    fn observe(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.bounds.iter().position(|bound| ns <= bound * 1000);
        self.buckets[bucket.unwrap_or(self.bounds.len())].add(1);
        self.sum_ns.add(ns);
    }
}

/// 50 µs to 1 s.
const DELAYS: &[u64] = &[
    50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 100_000, 1_000_000,
];
/// 50 ms to 10 minutes.
const WAITS: &[u64] = &[
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    600_000_000,
];
/// 100 µs to 2.5 s.
const CALLS: &[u64] = &[
    100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 100_000, 500_000, 1_000_000, 2_500_000,
];

/// A kind of store that is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// The files' thread.
    Sqlite,
    /// A database server.
    Postgres,
    /// One server, sentinels or a cluster.
    Redis,
}

impl Store {
    /// Each with its name.
    pub const ALL: [(Self, &'static str); 3] = [
        (Self::Sqlite, "sqlite"),
        (Self::Postgres, "postgresql"),
        (Self::Redis, "redis"),
    ];
}

/// Why a provider gave no answer, or not all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Not resolved, not connected, not trusted, closed.
    Unreachable,
    /// A status that means no.
    Refused,
    /// The provider does not know the model.
    ModelNotServed,
    /// 429 or 5xx.
    Overloaded,
    /// No HTTP, or no event stream.
    Malformed,
    /// Nothing came within a limit.
    Silent,
    /// The stream broke off, held an error, or no events.
    Broken,
}

impl Cause {
    /// Each with its name.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Unreachable, "unreachable"),
        (Self::Refused, "refused"),
        (Self::ModelNotServed, "model_not_served"),
        (Self::Overloaded, "overloaded"),
        (Self::Malformed, "malformed"),
        (Self::Silent, "silent"),
        (Self::Broken, "broken"),
    ];
}

/// One core's cells.
#[derive(Debug)]
pub struct Core {
    /// The endpoints' paths, in the order of [`Core::requests`].
    routes: &'static [&'static str],
    /// For each route and status; the last route stands for paths that do not exist.
    pub requests: [[Counter; STATUSES.len()]; ROUTES_MAX],
    /// Answers that have begun.
    pub streams_started: Counter,
    /// Answers that have ended, by [`ENDS`].
    pub streams_ended: [Counter; ENDS.len()],
    /// Texts forwarded.
    pub texts: Counter,
    /// From reading a provider's bytes to handing the lines to the kernel.
    pub added_delay: Histogram,
    /// From the end of a question to the first text of its answer.
    pub first_text: Histogram,
    /// By [`Store::ALL`].
    pub store_calls: [Histogram; Store::ALL.len()],
    /// For each provider, by [`Cause::ALL`].
    pub provider_errors: Box<[[Counter; Cause::ALL.len()]]>,
}

impl Core {
    /// All zero.
    pub fn new(routes: &'static [&'static str], providers: usize) -> Self {
        assert!(routes.len() < ROUTES_MAX, "ROUTES_MAX holds every endpoint");
        Self {
            routes,
            requests: Default::default(),
            streams_started: Counter::default(),
            streams_ended: Default::default(),
            texts: Counter::default(),
            added_delay: Histogram::new(DELAYS),
            first_text: Histogram::new(WAITS),
            store_calls: Store::ALL.map(|_| Histogram::new(CALLS)),
            provider_errors: (0..providers).map(|_| Default::default()).collect(),
        }
    }
}

thread_local! {
    static CORE: Cell<Option<&'static Core>> = const { Cell::new(None) };
}

/// From now on this thread counts in this set.
pub fn enter(core: &'static Core) {
    CORE.set(Some(core));
}

/// Whether this thread counts.
pub fn is_on() -> bool {
    CORE.get().is_some()
}

/// A response, or the end of a stream, of this route.
pub fn request(route: &str, status: u16) {
    let Some(core) = CORE.get() else { return };
    let found = core.routes.iter().position(|known| *known == route);
    let route = &core.requests[found.unwrap_or(ROUTES_MAX - 1)];
    let status = STATUSES.iter().position(|known| *known == status);
    route[status.unwrap_or(STATUSES.len() - 1)].add(1);
}

/// An answer has begun.
pub fn stream_started() {
    if let Some(core) = CORE.get() {
        core.streams_started.add(1);
    }
}

/// An answer has ended, in a way of [`ENDS`].
pub fn stream_ended(end: &str) {
    if let Some(core) = CORE.get()
        && let Some(n) = ENDS.iter().position(|known| *known == end)
    {
        core.streams_ended[n].add(1);
    }
}

/// A text is on its way.
pub fn text() {
    if let Some(core) = CORE.get() {
        core.texts.add(1);
    }
}

/// Lines have reached the kernel so long after their bytes were read.
pub fn added_delay(took: Duration) {
    if let Some(core) = CORE.get() {
        core.added_delay.observe(took);
    }
}

/// The first text of an answer came so long after its question.
pub fn first_text(took: Duration) {
    if let Some(core) = CORE.get() {
        core.first_text.observe(took);
    }
}

/// A call to a store took so long, its wait for a connection included.
pub fn store_call(store: Store, took: Duration) {
    if let Some(core) = CORE.get() {
        core.store_calls[store as usize].observe(took);
    }
}

/// A provider (an index into the configuration's rows) has failed.
pub fn provider_error(provider: usize, cause: Cause) {
    if let Some(core) = CORE.get()
        && let Some(causes) = core.provider_errors.get(provider)
    {
        causes[cause as usize].add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_stands_where_its_value_counts() {
        for (n, (store, _)) in Store::ALL.into_iter().enumerate() {
            assert_eq!(store as usize, n);
        }
        for (n, (cause, _)) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, n);
        }
    }

    #[test]
    fn a_thread_counts_where_it_has_entered_and_else_nothing() {
        request("/test", 200);
        let core: &'static Core = Box::leak(Box::new(Core::new(&["/test"], 1)));
        enter(core);
        request("/test", 200);
        request("/test", 299);
        request("-", 404);
        let row = |route: usize| core.requests[route].iter().map(Counter::get).sum::<u64>();
        assert_eq!((row(0), row(ROUTES_MAX - 1)), (2, 1));
        assert_eq!(
            (
                core.requests[0][0].get(),
                core.requests[0][STATUSES.len() - 1].get()
            ),
            (1, 1)
        );
        for (us, bucket) in [(0, 0), (50, 0), (51, 1), (1_000_000, 10), (9_000_000, 11)] {
            let before = core.added_delay.buckets[bucket].get();
            added_delay(Duration::from_micros(us));
            assert_eq!(core.added_delay.buckets[bucket].get(), before + 1, "{us}");
        }
        assert_eq!(core.added_delay.sum_ns.get(), 10_000_101_000);
        provider_error(0, Cause::Silent);
        provider_error(1, Cause::Silent);
        assert_eq!(core.provider_errors[0][Cause::Silent as usize].get(), 1);
    }
}
