//! A core's connections: how many there are, their tasks, so that all can be woken, and whose they are, so that
//! one can be ended for a newcomer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;

use tokio::sync::Notify;

use crate::http::wire::Wire;
use crate::limits::Key;

/// Counts this core's connections.
#[derive(Debug, Default)]
pub struct Live {
    count: Cell<usize>,
    /// The last one has ended.
    none: Notify,
    /// One has ended, and may have left memory behind.
    pub ended: Notify,
    /// Their tasks, by the number that each got when it began.
    tasks: RefCell<HashMap<u64, Task>>,
    begun: Cell<u64>,
}

/// A connection's task, and what is known of it from outside.
#[derive(Debug)]
struct Task {
    waker: Waker,
    /// Whose share it counts in; none: a proxy's.
    client: Option<Key>,
    wire: Rc<Wire>,
}

impl Live {
    /// Counts one more, until what this returns is dropped.
    pub fn enter(self: &Rc<Self>) -> Lives {
        self.count.set(self.count.get() + 1);
        self.begun.set(self.begun.get() + 1);
        Lives {
            number: self.begun.get(),
            live: Rc::clone(self),
        }
    }

    /// Has every connection look at the phase.
    pub fn wake_all(&self) {
        let tasks = self.tasks.borrow();
        tasks.values().for_each(|task| task.waker.wake_by_ref());
    }

    /// Ends the connection that has waited longest, without a request under way, of the client that has most of
    /// them here, if that client has more than one. Whether there was one; it ends at its next turn.
    pub fn end_idlest(&self) -> bool {
        let tasks = self.tasks.borrow();
        let mut held: HashMap<Key, usize> = HashMap::new();
        for client in tasks.values().filter_map(|task| task.client) {
            *held.entry(client).or_default() += 1;
        }
        let idlest_of = |client: Key| {
            let idle = tasks.values().filter(|task| task.client == Some(client));
            let idle = idle.filter_map(|task| Some((task.wire.idle_since()?, task)));
            idle.min_by_key(|(since, _)| *since).map(|(_, task)| task)
        };
        let largest = held.into_iter().max_by_key(|(_, held)| *held);
        let largest = largest.filter(|(_, held)| *held > 1);
        let Some(task) = largest.and_then(|(client, _)| idlest_of(client)) else {
            return false;
        };
        task.wire.end();
        task.waker.wake_by_ref();
        true
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.count.get() == 0
    }

    /// Waits until there is none.
    pub async fn none(&self) {
        while self.count.get() > 0 {
            self.none.notified().await;
        }
    }
}

/// A connection, as long as it lives.
pub struct Lives {
    live: Rc<Live>,
    number: u64,
}

impl Lives {
    /// Has this task woken at each change of the phase, and when it is to end.
    pub fn register(&self, task: &Waker, client: Option<Key>, wire: &Rc<Wire>) {
        let mut tasks = self.live.tasks.borrow_mut();
        let task = Task {
            waker: task.clone(),
            client,
            wire: Rc::clone(wire),
        };
        tasks.insert(self.number, task);
    }
}

impl Drop for Lives {
    fn drop(&mut self) {
        let live = &self.live;
        let mut tasks = live.tasks.borrow_mut();
        tasks.remove(&self.number);
        if tasks.capacity() > 64 && tasks.len() * 4 < tasks.capacity() {
            tasks.shrink_to_fit();
        }
        live.count.set(live.count.get() - 1);
        live.ended.notify_one();
        if live.count.get() == 0 {
            live.none.notify_one();
        }
    }
}
