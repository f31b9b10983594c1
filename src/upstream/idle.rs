//! Warm connections of one core, per provider. They are few, they are closed when their time is
//! over even if nobody asks for one, and none is handed out without a look at it.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::connection::Connection;
use super::exchange::{Body, Rest};
use crate::clock;

/// How long an answered request's body may take to end: many servers send the last chunk on its
/// own, just behind `[DONE]`.
const REST_TIMEOUT: Duration = Duration::from_secs(1);

struct Parked {
    body: Body,
    /// Whether the body has not ended yet.
    open: bool,
    /// Since when it has had nothing to do.
    since: Instant,
    /// When it is closed, or looked at again if `open`.
    until: Instant,
}

/// The warm connections.
pub(super) struct Idle {
    /// Per provider, the longest idle first; at most `max` each.
    parked: RefCell<Vec<Vec<Parked>>>,
    max: usize,
    timeout: Duration,
    /// Whether the task runs that closes connections; it runs while there are any.
    sweeping: Cell<bool>,
    /// Wakes it before its time.
    sooner: Rc<Notify>,
}

impl Idle {
    /// No connection yet; room for `max` for each of `providers`, `timeout` long.
    pub fn new(providers: usize, max: usize, timeout: Duration) -> Rc<Self> {
        Rc::new(Self {
            parked: RefCell::new((0..providers).map(|_| Vec::new()).collect()),
            max,
            timeout,
            sweeping: Cell::new(false),
            sooner: Rc::default(),
        })
    }

    /// Keeps the connection under `body` if it can be used again. The longest idle one makes room.
    pub fn park(self: &Rc<Self>, provider: usize, mut body: Body) {
        let rest = body.look_for_end();
        if self.max == 0 || rest == Rest::Useless {
            return;
        }
        let (since, open) = (clock::now(), rest == Rest::Open);
        let wait = if open {
            REST_TIMEOUT.min(self.timeout)
        } else {
            self.timeout
        };
        let all = &mut *self.parked.borrow_mut();
        let row = &mut all[provider];
        if row.len() == self.max {
            row.remove(0);
        }
        row.push(Parked {
            body,
            open,
            since,
            until: since + wait,
        });
        if !self.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(self), Rc::clone(&self.sooner)));
        } else if open {
            self.sooner.notify_one();
        }
    }

    /// The connection that has been idle for the shortest time and is still good.
    pub fn take(&self, provider: usize) -> Option<Connection> {
        let now = clock::now();
        loop {
            let mut parked = self.parked.borrow_mut()[provider].pop()?;
            if now < parked.until && parked.body.look_for_end() == Rest::Reusable {
                let mut connection = parked.body.into_connection();
                if connection.is_quiet() {
                    return Some(connection);
                }
            }
        }
    }

    /// Closes what is over; when to look again, or `None` if nothing is left.
    fn close_expired(&self, now: Instant) -> Option<Instant> {
        let all = &mut *self.parked.borrow_mut();
        for row in &mut *all {
            row.retain_mut(|parked| parked.stays(now, self.timeout));
        }
        let next = all.iter().flatten().map(|parked| parked.until).min();
        self.sweeping.set(next.is_some());
        next
    }
}

impl Parked {
    fn stays(&mut self, now: Instant, timeout: Duration) -> bool {
        if self.open && self.until <= now && self.body.look_for_end() == Rest::Reusable {
            self.open = false;
            self.until = self.since + timeout;
        }
        now < self.until
    }
}

/// Closes connections when their time is over; ends with the last one, or with its core's
/// [`Idle`], which it does not keep alive.
async fn sweep(idle: Weak<Idle>, sooner: Rc<Notify>) {
    while let Some(next) = idle
        .upgrade()
        .and_then(|idle| idle.close_expired(clock::now()))
    {
        let _ = timeout_at(next, sooner.notified()).await.is_ok();
    }
}
