//! The clocks of the measuring programs. `CLOCK_MONOTONIC` is the same in all processes of a
//! machine, so a stamp written by the provider can be compared with the client's reading.

use rustix::time::{ClockId, Timespec, clock_gettime};
use tokio::time::Instant;

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// CPU time that this process has used so far, user and system, in nanoseconds.
pub fn cpu_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::ProcessCPUTime))
}

/// The runtime's time, for timers.
#[expect(clippy::disallowed_methods, reason = "the one place of this package")]
pub fn now() -> Instant {
    Instant::now()
}

fn nanoseconds(time: Timespec) -> u64 {
    // Neither clock is ever negative.
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}
