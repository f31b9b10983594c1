//! Fixed sizes of the token path, and the counters that hold the process to its derived limits.
//!
//! A [`Pool`] counts something scarce (streams, bytes of prompts) for the whole process; a
//! [`Permit`] is a part of it and gives it back when dropped. Taking never waits: a pool that is
//! used up is an ordinary answer (503) for the caller. A pool may have [`Shares`]: then one client
//! cannot take what others need.

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
/// Longest response head accepted from a provider, in bytes. It is held only while it is read, in a buffer
/// that grows with what comes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A client for the purpose of a share: [`Bucket::key`](crate::http::address::Bucket::key).
pub type Key = [u8; 9];

/// How a pool is shared among clients while more than half of it is used: until then a client may take
/// all of that half, so that many people behind one address are not refused on a quiet server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Units that one client may hold then.
    pub each_max: usize,
    /// Units that are kept for small requests.
    pub reserve: usize,
    /// What a small request takes at most, in units.
    pub small_max: usize,
}

/// A process-wide count of something scarce.
#[derive(Debug)]
pub struct Pool {
    used: AtomicUsize,
    max: usize,
    shares: Option<(Shares, Mutex<HashMap<Key, usize>>)>,
}

impl Pool {
    /// A pool of `max` units, first come, first served.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            max,
            shares: None,
        })
    }

    /// A pool of `max` units that clients share.
    pub fn shared(max: usize, shares: Shares) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            max,
            shares: Some((shares, Mutex::default())),
        })
    }

    /// Takes `n` units, or nothing if that would exceed the maximum.
    pub fn take(self: &Arc<Self>, n: usize) -> Option<Permit> {
        self.take_for(None, n)
    }

    /// The same for this client, or nothing either if its share would be exceeded. `None`: nobody in particular,
    /// who has no share.
    pub fn take_for(self: &Arc<Self>, client: Option<Key>, n: usize) -> Option<Permit> {
        let units = u32::try_from(n).ok()?;
        self.add(client, 0, n).then(|| Permit {
            pool: Arc::clone(self),
            client,
            n: units,
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

    /// Adds `n` units to a permit that has `held`.
    fn add(&self, client: Option<Key>, held: usize, n: usize) -> bool {
        if n == 0 {
            return true;
        }
        let Some((shares, holders)) = &self.shares else {
            return self.add_up_to(self.max, n);
        };
        let is_small = held.saturating_add(n) <= shares.small_max;
        let max = match is_small {
            true => self.max,
            false => self.max.saturating_sub(shares.reserve),
        };
        let Some(client) = client else {
            return self.add_up_to(max, n);
        };
        let mut holders = lock(holders);
        let held = holders.get(&client).copied().unwrap_or(0);
        let sum = held.saturating_add(n);
        let max = match sum <= shares.each_max {
            true => max,
            false => max.min(self.max / 2),
        };
        let is_added = self.add_up_to(max, n);
        if is_added {
            holders.insert(client, sum);
        }
        is_added
    }

    fn add_up_to(&self, max: usize, n: usize) -> bool {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(n).filter(|sum| *sum <= max)
            })
            .is_ok()
    }

    fn remove(&self, client: Option<Key>, n: usize) {
        if n == 0 {
            return;
        }
        self.used.fetch_sub(n, Ordering::Relaxed);
        let (Some((_, holders)), Some(client)) = (&self.shares, client) else {
            return;
        };
        let mut holders = lock(holders);
        if let Some(held) = holders.get_mut(&client) {
            *held -= n;
            if *held == 0 {
                holders.remove(&client);
            }
        }
        shrink(&mut holders);
    }
}

/// A part of a [`Pool`], given back when dropped.
#[derive(Debug)]
pub struct Permit {
    pool: Arc<Pool>,
    client: Option<Key>,
    /// As small as can be: each stream has several.
    n: u32,
}

// What a stream holds of them is in the memory sum.
const _: () = assert!(size_of::<Permit>() <= 24);

impl Permit {
    /// Units held.
    pub fn units(&self) -> usize {
        self.n as usize
    }

    /// Whose share they are in.
    pub fn client(&self) -> Option<Key> {
        self.client
    }

    /// Makes this permit `n` units large; `false`, and nothing changes, if the pool has not as many.
    pub fn resize(&mut self, n: usize) -> bool {
        let (held, Ok(units)) = (self.units(), u32::try_from(n)) else {
            return false;
        };
        if n <= held {
            self.pool.remove(self.client, held - n);
        } else if !self.pool.add(self.client, held, n - held) {
            return false;
        }
        self.n = units;
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.pool.remove(self.client, self.units());
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
}

impl<K> Default for KeyedPool<K> {
    fn default() -> Self {
        Self {
            used: Arc::default(),
        }
    }
}

impl<K> Clone for KeyedPool<K> {
    fn clone(&self) -> Self {
        Self {
            used: Arc::clone(&self.used),
        }
    }
}

impl<K: Copy + Eq + Hash> KeyedPool<K> {
    /// Takes one for this key, or nothing if it has `max` of them. How many keys there can be is bounded by
    /// what the caller holds besides, such as a stream's slot.
    pub fn take(&self, key: K, max: usize) -> Option<KeyedPermit<K>> {
        self.count(&[(key, max)]).then(|| KeyedPermit {
            pool: self.clone(),
            key,
        })
    }

    /// Counts one for each of these keys, or for none if one has its maximum. Whoever has counted gives them
    /// [back](Self::give_back).
    pub fn count(&self, keys: &[(K, usize)]) -> bool {
        let mut used = lock(&self.used);
        let has_room = |(key, max): &(K, usize)| used.get(key).copied().unwrap_or(0) < *max;
        let is_counted = keys.iter().all(has_room);
        if is_counted {
            for (key, _) in keys {
                *used.entry(*key).or_default() += 1;
            }
        }
        is_counted
    }

    /// One less for each of these keys.
    pub fn give_back(&self, keys: impl IntoIterator<Item = K>) {
        let mut used = lock(&self.used);
        for key in keys {
            if let Some(count) = used.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    used.remove(&key);
                }
            }
        }
        shrink(&mut used);
    }
}

/// One of a [`KeyedPool`], given back when dropped.
#[derive(Debug)]
pub struct KeyedPermit<K: Copy + Eq + Hash> {
    pool: KeyedPool<K>,
    key: K,
}

impl<K: Copy + Eq + Hash> Drop for KeyedPermit<K> {
    fn drop(&mut self) {
        self.pool.give_back([self.key]);
    }
}

/// Gives back what a busy hour has taken.
fn shrink<K: Eq + Hash>(map: &mut HashMap<K, usize>) {
    if map.capacity() > 64 && map.len() * 4 < map.capacity() {
        map.shrink_to_fit();
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
        // One that ends more than two lengths away was made before the clock was set back.
        if window.1 <= now_ms || window.1 > now_ms + 2 * length_ms {
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
    fn a_client_has_a_share_of_what_is_over_half_full() {
        let (one, other) = (Some([1; 9]), Some([2; 9]));
        let shares = Shares {
            each_max: 20,
            reserve: 10,
            small_max: 4,
        };
        let pool = Pool::shared(100, shares);
        // Alone it may have half of the pool, whatever its share.
        let mut most = pool.take_for(one, 45).expect("below half");
        assert!(!most.resize(51) && most.resize(50));
        assert!(pool.take_for(one, 1).is_none());
        // Others still get theirs, and no more.
        let second = pool.take_for(other, 20).expect("its share");
        assert!(pool.take_for(other, 1).is_none());
        // The rest is for those without a share of their own, but for what is kept for small requests.
        let unnamed = pool.take(20).expect("all but the reserve");
        assert!(pool.take(5).is_none() && pool.take_for(Some([3; 9]), 5).is_none());
        let mut small = pool.take_for(Some([3; 9]), 4).expect("small");
        assert!(!small.resize(5) && small.resize(1));
        drop((unnamed, second));
        assert!(small.resize(20));
        drop((most, small));
        assert_eq!(pool.used(), 0);
        let (_, holders) = pool.shares.as_ref().expect("it has shares");
        assert!(
            lock(holders).is_empty(),
            "clients that hold nothing are gone"
        );
        assert!(pool.take_for(one, 50).is_some());
    }

    #[test]
    fn each_key_has_its_own_maximum() {
        let pool = KeyedPool::default();
        let first = pool.take(1, 2).expect("0 of 2");
        let _second = pool.take(1, 2).expect("1 of 2");
        assert!(pool.take(1, 2).is_none() && pool.take(2, 2).is_some());
        assert!(pool.take(1, 3).is_some() && pool.take(3, 0).is_none());
        drop(first);
        assert!(pool.take(1, 2).is_some());
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
            // The clock is set forward by a day, and back.
            (90_000, 'c', Ok(())),
            (3000, 'c', Ok(())),
            (3000, 'c', Ok(())),
            (3000, 'c', Err(1)),
        ] {
            assert_eq!(windows.hit(key, now, 2, 1000), expect, "{key} at {now}");
        }
    }
}
