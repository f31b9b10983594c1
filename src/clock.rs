//! The door to time: the only file that reads a clock.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, Sleep, sleep_until};

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

/// A timer whose deadline is named anew at each look. It stays armed for an earlier one where
/// that saves re-arming it for each token, and then looks again.
#[derive(Debug)]
pub struct Timer(Pin<Box<Sleep>>);

impl Timer {
    /// A timer that is armed when it is first asked.
    pub fn new(first: Instant) -> Self {
        Self(Box::pin(sleep_until(first)))
    }

    /// Ready once `deadline` has passed; else the task is woken then, or before.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.0.deadline() > deadline || self.0.is_elapsed() {
            self.0.as_mut().reset(deadline);
        }
        while self.0.as_mut().poll(cx).is_ready() {
            if now() >= deadline {
                return Poll::Ready(());
            }
            self.0.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}
