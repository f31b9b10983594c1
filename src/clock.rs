//! The door to time: the only file that reads a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Where a core takes its time from.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// The system's clocks.
    System,
    /// A wall clock that stands still at these milliseconds since the epoch, for tests.
    Manual(i64),
}

impl Clock {
    /// Wall time in milliseconds since 1970-01-01 UTC.
    pub fn wall_ms(self) -> i64 {
        match self {
            Clock::System => {
                i64::try_from(since_epoch().as_millis()).expect("the year is below 292 million")
            }
            Clock::Manual(ms) => ms,
        }
    }
}

/// Monotonic time, for deadlines; follows tokio's paused clock in tests.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Instant {
    Instant::now()
}

/// Wall time, for log lines and `/test`.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Wall time since 1970-01-01 UTC; zero if the clock stands before it.
pub fn since_epoch() -> Duration {
    wall().duration_since(UNIX_EPOCH).unwrap_or_default()
}
