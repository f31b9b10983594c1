//! A core's connections: how many there are, and their tasks, so that all can be woken.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;

use tokio::sync::Notify;

/// Counts this core's connections.
#[derive(Debug, Default)]
pub struct Live {
    count: Cell<usize>,
    /// The last one has ended.
    none: Notify,
    /// One has ended, and may have left memory behind.
    pub ended: Notify,
    /// Their tasks, by the number that each got when it began.
    tasks: RefCell<HashMap<u64, Waker>>,
    begun: Cell<u64>,
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
        self.tasks.borrow().values().for_each(Waker::wake_by_ref);
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
    /// Has this task woken at each change of the phase.
    pub fn register(&self, task: &Waker) {
        let mut tasks = self.live.tasks.borrow_mut();
        tasks.insert(self.number, task.clone());
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
