//! Fixed sizes of the token path, and the counters that hold the process to its derived limits.
//!
//! A [`Pool`] counts something scarce (streams, bytes of prompts) for the whole process; a
//! [`Permit`] is a share of it and gives it back when dropped. Taking never waits: a pool that is
//! used up is an ordinary answer (503) for the caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes read from a provider at once, into the core's scratch buffer.
pub const READ_BYTES: usize = 4096;
/// Bytes of a cut event that a stream keeps for itself; a longer one borrows a long line.
pub const CARRY_BYTES_MAX: usize = 3800;
/// Longest event (its `data` together) accepted from a provider.
pub const EVENT_BYTES_MAX: usize = 1 << 20;
/// Most bytes handed to hyper at once, so that its write buffer stays at 16 KiB.
pub const PIECE_BYTES_MAX: usize = 8000;
/// Longest response head accepted from a provider.
pub const HEAD_BYTES_MAX: usize = 8192;

/// A process-wide count of something scarce.
#[derive(Debug)]
pub struct Pool {
    used: AtomicUsize,
    max: usize,
}

impl Pool {
    /// A pool of `max` units.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            max,
        })
    }

    /// Takes `n` units, or nothing if that would exceed the maximum.
    pub fn take(self: &Arc<Self>, n: usize) -> Option<Permit> {
        self.add(n).then(|| Permit {
            pool: Arc::clone(self),
            n,
        })
    }

    /// Units in use now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Units there are.
    pub fn max(&self) -> usize {
        self.max
    }

    fn add(&self, n: usize) -> bool {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(n).filter(|sum| *sum <= self.max)
            })
            .is_ok()
    }
}

/// A share of a [`Pool`], given back when dropped.
#[derive(Debug)]
pub struct Permit {
    pool: Arc<Pool>,
    n: usize,
}

impl Permit {
    /// Units held.
    pub fn units(&self) -> usize {
        self.n
    }

    /// Makes this permit `n` units large; `false`, and nothing changes, if the pool has not as many.
    pub fn resize(&mut self, n: usize) -> bool {
        if n <= self.n {
            self.pool.used.fetch_sub(self.n - n, Ordering::Relaxed);
        } else if !self.pool.add(n - self.n) {
            return false;
        }
        self.n = n;
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.pool.used.fetch_sub(self.n, Ordering::Relaxed);
    }
}

/// A buffer for one event that outgrew a stream's carry; there are only a few in the process.
#[derive(Debug)]
pub struct LongLine {
    /// The bytes; grows in steps up to [`EVENT_BYTES_MAX`].
    pub bytes: Vec<u8>,
    _permit: Permit,
}

impl LongLine {
    /// Borrows one, empty, from the pool of long lines.
    pub fn borrow(pool: &Arc<Pool>) -> Option<Self> {
        pool.take(1).map(|permit| Self {
            bytes: Vec::new(),
            _permit: permit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_returns_what_it_took() {
        let pool = Pool::new(10);
        let mut first = pool.take(6).expect("6 of 10 are free");
        assert!(pool.take(5).is_none());
        assert!(first.resize(10) && !first.resize(11) && first.resize(3));
        assert_eq!((pool.used(), first.units()), (3, 3));
        drop(first);
        assert_eq!((pool.used(), pool.max()), (0, 10));
        assert!(pool.take(usize::MAX).is_none());
    }
}
