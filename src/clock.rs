//! The door to time: the only file that reads a clock.

use std::cell::Cell;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::coop;
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

/// Wall time since 1970-01-01 UTC at this moment or shortly before `now`; zero if the clock stands
/// before it. Asks the system's clock once a second and counts on from there, so that a clock that
/// is set follows within that time.
pub fn since_epoch_at(now: Instant) -> Duration {
    thread_local! {
        static ASKED: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
    }
    if let Some((asked, wall)) = ASKED.get() {
        let past = now.saturating_duration_since(asked);
        if past < Duration::from_secs(1) {
            return wall + past;
        }
    }
    let wall = since_epoch();
    ASKED.set(Some((now, wall)));
    wall
}

/// Connections that may be polled before [`turn`] asks the clocks again; some hundred microseconds.
const TURN_POLLS: u32 = 32;

thread_local! {
    static TURN_BEGAN: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
    static TURN_POLLS_LEFT: Cell<u32> = const { Cell::new(0) };
}

/// When this core woke up to what has come in, or a little later: monotonic, and on the wall since 1970-01-01
/// UTC. Requests that came in together came at that time, so the clocks are asked once for all of them, which
/// is a good part of what the shortest request costs. Only for a thread that calls [`end_turn`] and
/// [`count_poll`].
pub fn turn() -> (Instant, Duration) {
    if TURN_POLLS_LEFT.get() > 0
        && let Some(began) = TURN_BEGAN.get()
    {
        return began;
    }
    let now = now();
    let began = (now, since_epoch_at(now));
    TURN_BEGAN.set(Some(began));
    TURN_POLLS_LEFT.set(TURN_POLLS);
    began
}

/// This core is about to sleep: the next [`turn`] asks the clocks.
pub fn end_turn() {
    TURN_POLLS_LEFT.set(0);
}

/// A connection is being polled. A busy core may never sleep, so its turns end after some of these, too.
pub fn count_poll() {
    TURN_POLLS_LEFT.set(TURN_POLLS_LEFT.get().saturating_sub(1));
}

/// Wall time since 1970-01-01 UTC; zero if the clock stands before it.
pub fn since_epoch() -> Duration {
    wall().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// How far the wall clock may lag behind the monotonic one without having been set back: what serves time corrects
/// as much by running slower.
const SET_BACK_MS: i64 = 30_000;

/// The wall clock, watched.
#[derive(Debug, Default)]
pub struct Wall {
    /// When it was looked at last, and what it showed.
    last: Option<(Instant, i64)>,
}

impl Wall {
    /// Wall time in milliseconds since 1970-01-01 UTC, and whether the clock was set back since the last look.
    pub fn look(&mut self) -> (i64, bool) {
        let (now, wall_ms) = (now(), Clock::System.wall_ms());
        let was_set_back = self.note(now, wall_ms);
        (wall_ms, was_set_back)
    }

    fn note(&mut self, now: Instant, wall_ms: i64) -> bool {
        let last = self.last.replace((now, wall_ms));
        last.is_some_and(|(then, then_ms)| {
            let passed = now.saturating_duration_since(then).as_millis();
            let expected_ms = then_ms.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX));
            wall_ms < expected_ms.saturating_sub(SET_BACK_MS)
        })
    }
}

/// A timer whose deadline is named anew at each look. It stays armed for an earlier one where
/// that saves re-arming it for each token, and then looks again.
#[derive(Debug)]
pub struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// The task that polls this will be woken at the deadline it is armed for.
    is_armed: bool,
}

impl Timer {
    /// A timer that is armed for `first` when it is first asked. Always the same task must ask.
    pub fn new(first: Instant) -> Self {
        Self {
            sleep: Box::pin(sleep_until(first)),
            is_armed: false,
        }
    }

    /// Ready once `deadline` has passed; else the task is woken then, or before.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.sleep.deadline() > deadline {
            self.arm(deadline);
        }
        if self.is_armed && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            if now() >= deadline {
                return Poll::Ready(());
            }
            self.arm(deadline);
        }
        // Without budget the sleep was not looked at, and nothing will wake this task in time.
        self.is_armed = coop::has_budget_remaining();
        Poll::Pending
    }

    fn arm(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.is_armed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_when_the_core_sleeps_or_has_polled_some_connections() {
        let pass = || tokio::time::advance(Duration::from_secs(2));
        let (first, _) = turn();
        assert_eq!(first, now());
        pass().await;
        count_poll();
        assert_eq!(turn().0, first, "the same turn");
        end_turn();
        let (second, _) = turn();
        assert_eq!(second, now());
        pass().await;
        for _ in 1..TURN_POLLS {
            count_poll();
        }
        assert_eq!(turn().0, second);
        count_poll();
        let (third, wall) = turn();
        assert_eq!(third, now());
        assert!(since_epoch().abs_diff(wall) < Duration::from_secs(60));
    }

    #[test]
    fn a_wall_clock_that_is_set_back_is_seen() {
        let (begin, mut wall) = (now(), Wall::default());
        let day_ms = 86_400_000;
        for (seconds, wall_ms, expect) in [
            (0, day_ms, false),
            (1, day_ms + 1_000, false),
            (2, 2 * day_ms, false),
            (3, day_ms + 3_000, true),
            (4, day_ms + 4_000, false),
            // Slowed down, or this process slept.
            (100, day_ms + 75_000, false),
            (101, day_ms + 76_000, false),
            (200, day_ms + 140_000, true),
        ] {
            let now = begin + Duration::from_secs(seconds);
            assert_eq!(wall.note(now, wall_ms), expect, "after {seconds} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_fires_at_the_deadline_that_was_named_last() {
        let begin = now();
        let ms = |n| begin + Duration::from_millis(n);
        let mut timer = Timer::new(ms(500));
        for (deadlines, expect) in [
            // Named earlier than armed for, later than armed for, and in the past.
            (&[300][..], 300),
            (&[400, 600], 600),
            (&[900, 700], 700),
            (&[100], 700),
        ] {
            let mut deadlines = deadlines.iter();
            let mut deadline = ms(0);
            std::future::poll_fn(|cx| {
                for next in deadlines.by_ref() {
                    deadline = ms(*next);
                    if timer.poll(cx, deadline).is_ready() {
                        return Poll::Ready(());
                    }
                }
                timer.poll(cx, deadline)
            })
            .await;
            assert_eq!(now().duration_since(begin).as_millis(), expect);
        }
    }
}
