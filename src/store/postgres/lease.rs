//! Connections out of a core's pool. A call that writes has one to itself; calls that only read share one,
//! which the first of them fetches for all.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use deadpool::managed::{self, PoolError};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, timeout_at};

use super::connection::{self, Manager};
use super::{Kind, Pool, Refusal};
use crate::store::StoreError;

/// Calls that share a connection for reading; more take another one.
const READS_AT_ONCE_MAX: usize = 64;

/// A core's calls that only read.
#[derive(Default)]
pub(super) struct Reading {
    state: Mutex<ReadingState>,
    /// One of them has fetched a connection, or could not.
    fetched: Notify,
}

#[derive(Default)]
struct ReadingState {
    /// The connection that the last one has fetched.
    lease: Weak<Lease>,
    /// One fetches a connection. Others wait for that one: if each took a connection of its own, there would
    /// soon be none left, and under load all would wait for a turn for ever, one query at a time.
    is_fetching: bool,
    /// Why the last one could not.
    failed: Option<StoreError>,
}

/// A connection out of the pool, for one call or for several that only read. Dropping it gives it back, once
/// what callers have left there is answered and their transaction has ended; one that is spoiled, or where that
/// takes longer than a call may, is closed instead.
pub(super) struct Lease {
    object: Option<managed::Object<Manager>>,
    is_spoiled: AtomicBool,
    /// Calls on it so far, and the last of them that came to its end. Answers come in order.
    asked: AtomicU32,
    answered: AtomicU32,
    timeout: Duration,
}

impl Lease {
    pub fn connection(&self) -> &connection::Connection {
        self.object
            .as_ref()
            .expect("it is there until the lease ends")
    }

    /// A call begins; its number.
    pub fn ask(&self) -> u32 {
        self.asked.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The call of this number has its answer.
    pub fn end(&self, call: u32) {
        self.answered.fetch_max(call, Ordering::Relaxed);
    }

    /// Nobody else is to use it.
    pub fn spoil(&self) {
        self.is_spoiled.store(true, Ordering::Relaxed);
    }

    fn is_good(&self) -> bool {
        !self.is_spoiled.load(Ordering::Relaxed) && !self.connection().is_closed()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else {
            return;
        };
        if *self.is_spoiled.get_mut() {
            return managed::Object::take(object).abort();
        }
        if *self.asked.get_mut() == *self.answered.get_mut() {
            return;
        }
        let timeout = self.timeout;
        let settle = async move {
            let settled = tokio::time::timeout(timeout, object.settle()).await;
            if !matches!(settled, Ok(Ok(()))) {
                managed::Object::take(object).abort();
            }
        };
        // Without a runtime nobody will use it any more.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(settle);
        }
    }
}

/// Whether one more call may read from it.
fn has_room(lease: &Arc<Lease>) -> bool {
    // The one at hand is counted, too.
    Arc::strong_count(lease) <= READS_AT_ONCE_MAX && lease.is_good()
}

/// One call fetches a connection for all that read. However it ends, they hear of it.
struct Fetching<'a>(&'a Pool);

impl Fetching<'_> {
    async fn fetch(self, deadline: Instant) -> Result<Arc<Lease>, Refusal> {
        let fetched = self.0.fetch(deadline).await;
        let mut reading = self.0.reading();
        match &fetched {
            Ok(lease) => reading.lease = Arc::downgrade(lease),
            // Others may have more time.
            Err(Refusal::Conflict | Refusal::Store(StoreError::TimedOut)) => {}
            Err(Refusal::Store(error)) => reading.failed = Some(*error),
        }
        drop(reading);
        fetched
    }
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.0.reading().is_fetching = false;
        self.0.reading.fetched.notify_waiters();
    }
}

impl Pool {
    /// A connection for a call of this kind.
    pub(super) async fn lease(&self, deadline: Instant, kind: Kind) -> Result<Arc<Lease>, Refusal> {
        if kind != Kind::Read {
            return self.fetch(deadline).await;
        }
        if let Some(lease) = self.joined() {
            return Ok(lease);
        }
        loop {
            let Some(fetched) = self.being_fetched() else {
                return Fetching(self).fetch(deadline).await;
            };
            if timeout_at(deadline, fetched).await.is_err() {
                return Err(self.timed_out("no connection in time"));
            }
            let reading = self.reading();
            // Whoever has waited for it may join, even if somebody else waits by now.
            if let Some(lease) = reading.lease.upgrade().filter(has_room) {
                return Ok(lease);
            }
            if let Some(error) = reading.failed {
                return Err(Refusal::Store(error));
            }
        }
    }

    /// A connection out of the pool.
    async fn fetch(&self, deadline: Instant) -> Result<Arc<Lease>, Refusal> {
        let object = match timeout_at(deadline, self.connections.get()).await {
            Ok(Ok(object)) => object,
            Ok(Err(PoolError::Backend(trouble))) => return Err(self.failed(&trouble)),
            Ok(Err(error)) => return Err(self.failed(&error)),
            Err(_) => return Err(self.timed_out("no connection in time")),
        };
        Ok(Arc::new(Lease {
            object: Some(object),
            is_spoiled: AtomicBool::new(false),
            asked: AtomicU32::new(0),
            answered: AtomicU32::new(0),
            timeout: self.shared.timeout,
        }))
    }

    /// The connection that others read from at the moment, if there is room on it. Not while somebody
    /// waits for a connection: those who read could keep this one for ever.
    fn joined(&self) -> Option<Arc<Lease>> {
        let lease = self.reading().lease.upgrade()?;
        let is_free = has_room(&lease) && self.connections.status().waiting == 0;
        is_free.then_some(lease)
    }

    /// Ready when another call that reads has fetched a connection. Without one the caller is to fetch it.
    fn being_fetched(&self) -> Option<Notified<'_>> {
        let mut reading = self.reading();
        if reading.is_fetching {
            return Some(self.reading.fetched.notified());
        }
        reading.is_fetching = true;
        reading.failed = None;
        None
    }

    fn reading(&self) -> MutexGuard<'_, ReadingState> {
        // Nothing panics while it is held.
        let state = self.reading.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}
