//! Timers that are exact to microseconds. tokio's go by whole milliseconds: deltas of many streams
//! would leave in bunches, and requests would start up to a millisecond after they were due.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::clock;

/// Shortest time between two expirations: under load what is due meanwhile shares one, instead of
/// each costing two system calls, and is late by at most this.
const APART_NS: u64 = 250_000;

/// All timers of one current-thread runtime, on one kernel timer.
#[derive(Debug)]
pub struct Timers {
    fd: AsyncFd<OwnedFd>,
    waiting: RefCell<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// By due time, and a number that keeps equal times apart.
    wakers: BTreeMap<(u64, u64), Waker>,
    count: u64,
    /// The last expiration.
    fired_ns: u64,
}

impl Timers {
    /// Makes the kernel timer; to be called inside a runtime, which must then poll `drive`.
    #[expect(
        deprecated,
        reason = "the other constructor is unsafe; an OwnedFd keeps its descriptor until it is dropped"
    )]
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self {
            fd: AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)?,
            waiting: RefCell::default(),
        })
    }

    /// Wakes what is due, for ever.
    pub async fn drive(&self) -> io::Result<()> {
        loop {
            // The kernel's count of expirations need not be read: setting the timer clears it.
            self.fd.readable().await?.clear_ready();
            let now = clock::monotonic_ns();
            let waiting = &mut *self.waiting.borrow_mut();
            waiting.fired_ns = now;
            let later = waiting.wakers.split_off(&(now + 1, 0));
            for waker in std::mem::replace(&mut waiting.wakers, later).into_values() {
                waker.wake();
            }
            if let Some((due, _)) = waiting.wakers.keys().next() {
                self.arm((*due).max(now + APART_NS));
            }
        }
    }

    /// Waits until `due_ns` of `CLOCK_MONOTONIC`.
    pub fn until(&self, due_ns: u64) -> Until<'_> {
        Until {
            timers: self,
            due_ns,
            key: None,
        }
    }

    fn arm(&self, due_ns: u64) {
        let to = Timespec {
            tv_sec: (due_ns / 1_000_000_000).cast_signed(),
            tv_nsec: (due_ns % 1_000_000_000).cast_signed(),
        };
        let zero = Timespec::default();
        let spec = Itimerspec {
            it_interval: zero,
            it_value: to,
        };
        timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &spec)
            .expect("a timer takes every valid time");
    }
}

/// The future of [`Timers::until`].
#[derive(Debug)]
pub struct Until<'a> {
    timers: &'a Timers,
    due_ns: u64,
    key: Option<(u64, u64)>,
}

impl Future for Until<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if clock::monotonic_ns() >= self.due_ns {
            return Poll::Ready(());
        }
        let timers = self.timers;
        let mut waiting = timers.waiting.borrow_mut();
        let key = match self.key {
            Some(key) => key,
            None => {
                waiting.count += 1;
                (self.due_ns, waiting.count)
            }
        };
        self.key = Some(key);
        waiting.wakers.insert(key, cx.waker().clone());
        if waiting.wakers.keys().next() == Some(&key) {
            timers.arm(key.0.max(waiting.fired_ns + APART_NS));
        }
        Poll::Pending
    }
}

impl Drop for Until<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.timers.waiting.borrow_mut().wakers.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn timers_fire_in_order_and_never_early() {
        let timers = Timers::new().unwrap();
        let start = clock::monotonic_ns();
        let order = RefCell::new(Vec::new());
        let wait = async |us: u64| {
            timers.until(start + us * 1000).await;
            assert!(clock::monotonic_ns() >= start + us * 1000);
            order.borrow_mut().push(us);
        };
        let all = async {
            // One that is dropped while it waits leaves nothing behind.
            tokio::select! { () = wait(900_000_000) => unreachable!(), () = wait(500) => {} }
            tokio::join!(wait(9_000), wait(0), wait(3_000), wait(3_000), wait(6_000));
        };
        tokio::select! {
            () = all => {}
            ended = timers.drive() => unreachable!("{ended:?}"),
        }
        assert_eq!(*order.borrow(), [500, 0, 3_000, 3_000, 6_000, 9_000]);
        assert!(timers.waiting.borrow().wakers.is_empty());
    }
}
