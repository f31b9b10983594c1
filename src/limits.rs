//! Fixed sizes of the token path, and the counters that hold the process to its derived limits.
//!
//! A [`Pool`] counts something scarce (streams, bytes of prompts) for the whole process; a
//! [`Permit`] is a share of it and gives it back when dropped. Taking never waits: a pool that is
//! used up is an ordinary answer (503) for the caller.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// Counts something per key, up to a maximum each; only keys in use take memory.
#[derive(Debug)]
pub struct KeyedPool<K> {
    used: Arc<Mutex<HashMap<K, usize>>>,
    each_max: usize,
}

impl<K: Copy + Eq + Hash> KeyedPool<K> {
    /// At most `each_max` for each key. How many keys there can be is bounded by what the caller
    /// holds besides, such as a stream's slot.
    pub fn new(each_max: usize) -> Self {
        Self {
            used: Arc::default(),
            each_max,
        }
    }

    /// Takes one for this key, or nothing if it has its maximum.
    pub fn take(&self, key: K) -> Option<KeyedPermit<K>> {
        let mut used = lock(&self.used);
        let count = used.entry(key).or_default();
        if *count >= self.each_max {
            return None;
        }
        *count += 1;
        drop(used);
        Some(KeyedPermit {
            used: Arc::clone(&self.used),
            key,
        })
    }
}

/// One of a [`KeyedPool`], given back when dropped.
#[derive(Debug)]
pub struct KeyedPermit<K: Copy + Eq + Hash> {
    used: Arc<Mutex<HashMap<K, usize>>>,
    key: K,
}

impl<K: Copy + Eq + Hash> Drop for KeyedPermit<K> {
    fn drop(&mut self) {
        let mut used = lock(&self.used);
        if let Some(count) = used.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                used.remove(&self.key);
            }
        }
        if used.capacity() > 64 && used.len() * 4 < used.capacity() {
            used.shrink_to_fit();
        }
    }
}

/// Counts hits per key in windows that start with their first hit, in this process only. It stands
/// in for the session store while that is down.
#[derive(Debug)]
pub struct Windows<K> {
    hits: Mutex<HashMap<K, (u32, i64)>>,
    keys_max: usize,
}

impl<K: Copy + Eq + Hash> Windows<K> {
    /// For at most `keys_max` keys at a time; when they are used up, further keys are refused.
    pub fn new(keys_max: usize) -> Self {
        Self {
            hits: Mutex::default(),
            keys_max,
        }
    }

    /// Counts a hit at `now_ms`. `Err` holds the seconds until the window ends.
    ///
    /// # Errors
    /// The key has had `limit` hits in the window that is open.
    pub fn hit(&self, key: K, now_ms: i64, limit: u32, length_ms: i64) -> Result<(), u32> {
        let mut hits = lock(&self.hits);
        if hits.len() >= self.keys_max && !hits.contains_key(&key) {
            hits.retain(|_, (_, end)| *end > now_ms);
        }
        let full = hits.len() >= self.keys_max && !hits.contains_key(&key);
        let window = match full {
            true => return Err(seconds(length_ms)),
            false => hits.entry(key).or_insert((0, now_ms + length_ms)),
        };
        if window.1 <= now_ms {
            *window = (0, now_ms + length_ms);
        }
        if window.0 >= limit {
            return Err(seconds(window.1 - now_ms));
        }
        window.0 += 1;
        Ok(())
    }
}

fn seconds(ms: i64) -> u32 {
    u32::try_from((ms + 999) / 1000).unwrap_or(1).max(1)
}

/// A panic elsewhere leaves plain counts behind, which stay usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn each_key_has_its_own_maximum() {
        let pool = KeyedPool::new(2);
        let first = pool.take(1).expect("0 of 2");
        let _second = pool.take(1).expect("1 of 2");
        assert!(pool.take(1).is_none() && pool.take(2).is_some());
        drop(first);
        assert!(pool.take(1).is_some());
        assert_eq!(lock(&pool.used).len(), 1, "keys not in use are gone");
    }

    #[test]
    fn a_window_starts_with_its_first_hit_and_ends_on_time() {
        let windows = Windows::new(2);
        for (now, key, expect) in [
            (0, 'a', Ok(())),
            (500, 'a', Ok(())),
            (999, 'a', Err(1)),
            (1000, 'a', Ok(())),
            (1000, 'b', Ok(())),
            (1500, 'c', Err(1)),
            (2000, 'c', Ok(())),
        ] {
            assert_eq!(windows.hit(key, now, 2, 1000), expect, "{key} at {now}");
        }
    }
}
