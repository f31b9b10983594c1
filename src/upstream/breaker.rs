//! The circuit breaker of one provider: after so many failures in a row it is left alone for a
//! while, then one probe at a time is let through until one succeeds. It opens only when two
//! visitors have met failures, or one of them could close the chat for all. Process-wide; pure,
//! with the time as an input.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::Key;

/// What is told to callers while the probe is running: nobody knows when it ends.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// Who asks, as far as that can be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Visitor {
    /// The account, of those who are logged in.
    pub user: Option<i64>,
    /// The address bucket; none behind a proxy that names nobody.
    pub address: Option<Key>,
}

impl Visitor {
    /// Whether these are two. Who has an account is that account wherever they are; whoever cannot
    /// be told apart may be anybody.
    fn is_another_than(&self, other: &Self) -> bool {
        match (self.user, other.user, self.address, other.address) {
            (Some(one), Some(other), _, _) => one != other,
            (_, _, Some(one), Some(other)) => one != other,
            _ => true,
        }
    }
}

/// Who has met failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    Nobody,
    One(Visitor),
    Several,
}

impl Met {
    fn and(self, visitor: Visitor) -> Self {
        match self {
            Self::Nobody if visitor == Visitor::default() => Self::Several,
            Self::Nobody => Self::One(visitor),
            Self::One(first) if !visitor.is_another_than(&first) => self,
            Self::One(_) | Self::Several => Self::Several,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Everything passes; so many failures in a row.
    Closed { failures: u32, met: Met },
    /// Nothing passes before `until`.
    Open { until: Instant },
    /// The time is over; `probing` while a probe is on its way.
    HalfOpen { probing: bool },
}

impl State {
    const CLOSED: Self = Self::Closed {
        failures: 0,
        met: Met::Nobody,
    };
}

/// The state machine.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    /// Failures in a row that open it; 0 = it never opens.
    failures_max: u32,
    /// How long it stays open.
    open: Duration,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(failures_max: u32, open: Duration) -> Self {
        Self {
            state: State::CLOSED,
            failures_max,
            open,
        }
    }

    /// Whether a request may pass, and if so whether it is the probe; else how long to wait.
    pub fn admit(&mut self, now: Instant) -> Result<bool, Duration> {
        match self.state {
            State::Closed { .. } => return Ok(false),
            State::Open { until } if now < until => return Err(until - now),
            State::HalfOpen { probing: true } => return Err(PROBE_WAIT),
            State::Open { .. } | State::HalfOpen { probing: false } => {}
        }
        self.state = State::HalfOpen { probing: true };
        Ok(true)
    }

    /// The state's name.
    pub fn state(&self, now: Instant) -> &'static str {
        match self.state {
            State::Closed { .. } => "closed",
            State::Open { until } if now < until => "open",
            State::Open { .. } | State::HalfOpen { .. } => "half_open",
        }
    }

    /// A request succeeded. Late successes of requests from before it opened do not close it.
    pub fn succeeded(&mut self, probe: bool) {
        if probe || matches!(self.state, State::Closed { .. }) {
            self.state = State::CLOSED;
        }
    }

    /// A request of this visitor's failed. Those of one visitor alone are never enough to open it.
    pub fn failed(&mut self, probe: bool, visitor: Visitor, now: Instant) {
        let (failures, met) = match self.state {
            _ if self.failures_max == 0 => return,
            _ if probe => (self.failures_max, Met::Several),
            State::Closed { failures, met } => {
                let met = met.and(visitor);
                let most = match met {
                    Met::Several => u32::MAX,
                    Met::Nobody | Met::One(_) => self.failures_max - 1,
                };
                (failures.saturating_add(1).min(most), met)
            }
            State::Open { .. } | State::HalfOpen { .. } => return,
        };
        self.state = if failures < self.failures_max {
            State::Closed { failures, met }
        } else {
            State::Open {
                until: now + self.open,
            }
        };
    }

    /// A request ended without a verdict; if it was the probe, the next one may be.
    pub fn released(&mut self, probe: bool) {
        if probe {
            self.state = State::HalfOpen { probing: false };
        }
    }
}

/// The right to send one request. Its verdict is given once; dropped without one it is neutral.
#[derive(Debug)]
pub struct Ticket {
    breaker: Arc<Mutex<Breaker>>,
    provider: u32,
    probe: bool,
    /// Whether the verdict is still to come.
    open: bool,
}

impl Ticket {
    /// Asks the breaker of `provider`; `Err` says how long to wait.
    pub(super) fn take(
        breaker: &Arc<Mutex<Breaker>>,
        provider: usize,
        now: Instant,
    ) -> Result<Self, Duration> {
        let probe = lock(breaker).admit(now)?;
        Ok(Self {
            breaker: Arc::clone(breaker),
            provider: u32::try_from(provider).expect("there are few providers"),
            probe,
            open: true,
        })
    }

    /// Index of the provider it is for.
    pub fn provider(&self) -> usize {
        self.provider as usize
    }

    pub(super) fn succeeded(&mut self) {
        if std::mem::take(&mut self.open) {
            lock(&self.breaker).succeeded(self.probe);
        }
    }

    pub(super) fn failed(&mut self, visitor: Visitor, now: Instant) {
        if std::mem::take(&mut self.open) {
            lock(&self.breaker).failed(self.probe, visitor, now);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.open {
            lock(&self.breaker).released(self.probe);
        }
    }
}

/// A panic elsewhere cannot leave the state half written, so poison does not matter.
pub(super) fn lock(breaker: &Mutex<Breaker>) -> std::sync::MutexGuard<'_, Breaker> {
    breaker.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANYBODY: Visitor = Visitor {
        user: None,
        address: None,
    };
    const OPEN: Duration = Duration::from_secs(30);

    fn at(seconds: u64, start: Instant) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn failures_in_a_row_open_it() {
        let start = crate::clock::now();
        let mut breaker = Breaker::new(3, OPEN);
        for _ in 0..10 {
            breaker.failed(false, ANYBODY, start);
            breaker.failed(false, ANYBODY, start);
            assert_eq!(breaker.admit(start), Ok(false));
            breaker.succeeded(false);
        }
        for _ in 0..3 {
            breaker.failed(false, ANYBODY, start);
        }
        assert_eq!(breaker.admit(at(10, start)), Err(Duration::from_secs(20)));
        breaker.failed(false, ANYBODY, at(10, start)); // late: neither longer open
        breaker.succeeded(false); // nor closed
        assert_eq!(breaker.admit(at(29, start)), Err(Duration::from_secs(1)));
    }

    #[test]
    fn one_visitor_alone_does_not_open_it() {
        let start = crate::clock::now();
        let from = |user, last: u8| Visitor {
            user,
            address: Some([last; 9]),
        };
        let open = |max: u32, visitors: &[Visitor]| {
            let mut breaker = Breaker::new(max, OPEN);
            for visitor in visitors {
                breaker.failed(false, *visitor, start);
            }
            breaker.admit(start).is_err()
        };
        let (guest, other) = (from(None, 1), from(None, 2));
        for max in [1, 2, 5] {
            assert!(!open(max, &[guest; 1000]), "{max}");
            let mut visitors = [guest; 1000];
            visitors[999] = other;
            assert!(open(max, &visitors), "{max}");
            // An account is one visitor from wherever, and the guests of its address are no other.
            let (here, there) = (from(Some(7), 1), from(Some(7), 2));
            assert!(!open(max, &[here, there].repeat(500)), "{max}");
            assert!(!open(max, &[here, guest].repeat(500)), "{max}");
            assert!(open(max, &[here, from(Some(8), 1)].repeat(500)), "{max}");
            // Where nobody is named, every failure may be somebody's.
            assert!(open(max, &vec![ANYBODY; max as usize]), "{max}");
        }
        let mut breaker = Breaker::new(5, OPEN);
        for visitor in [guest, other, guest, guest] {
            breaker.failed(false, visitor, start);
        }
        breaker.succeeded(false);
        for _ in 0..1000 {
            breaker.failed(false, guest, start);
        }
        assert_eq!(breaker.admit(start), Ok(false), "a success makes it forget");
    }

    #[test]
    fn one_probe_at_a_time() {
        let start = crate::clock::now();
        let mut breaker = Breaker::new(1, OPEN);
        breaker.failed(false, ANYBODY, start);
        assert_eq!(breaker.admit(at(30, start)), Ok(true));
        assert_eq!(breaker.admit(at(31, start)), Err(PROBE_WAIT));
        breaker.released(true);
        assert_eq!(breaker.admit(at(31, start)), Ok(true));
        breaker.failed(true, ANYBODY, at(32, start));
        assert_eq!(breaker.admit(at(33, start)), Err(Duration::from_secs(29)));
        assert_eq!(breaker.admit(at(62, start)), Ok(true));
        breaker.succeeded(true);
        assert_eq!(breaker.admit(at(62, start)), Ok(false));
    }

    #[test]
    fn zero_never_opens() {
        let start = crate::clock::now();
        let mut breaker = Breaker::new(0, OPEN);
        for _ in 0..1000 {
            breaker.failed(false, ANYBODY, start);
        }
        assert_eq!(breaker.admit(start), Ok(false));
    }

    #[test]
    fn a_ticket_gives_one_verdict_or_none() {
        let start = crate::clock::now();
        let breaker = Arc::new(Mutex::new(Breaker::new(1, OPEN)));
        let mut first = Ticket::take(&breaker, 0, start).expect("closed");
        first.failed(ANYBODY, start);
        first.succeeded(); // too late to count
        assert!(Ticket::take(&breaker, 0, start).is_err());
        let probe = Ticket::take(&breaker, 0, at(30, start)).expect("half-open");
        assert!(Ticket::take(&breaker, 0, at(30, start)).is_err());
        drop(probe);
        assert!(Ticket::take(&breaker, 0, at(30, start)).is_ok());
    }
}
