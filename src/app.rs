//! What one core works with: the doors to the outside, the limits, and the phase the server is in.

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;

use crate::budget::Pools;
use crate::clock::Clock;
use crate::config::Config;
use crate::hasher::{Hasher, Mix};
use crate::http::address::Bucket;
use crate::http::body::Scratch;
use crate::limits::{KeyedPool, READ_BYTES};
use crate::saver::Saver;
use crate::store::Stores;
use crate::upstream::Upstream;
use crate::upstream::reader::Reading;

/// The phases of the server's life; it only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Set up; nothing is accepted yet.
    Starting,
    /// Serving.
    Running,
    /// Another process serves from now on. No new connections; what runs goes on to its end, and
    /// idle connections get an answer to their next request that says it is the last.
    HandedOver,
    /// No new connections, idle ones are closed; what runs may go on for the drain time.
    Draining,
    /// The drain time is over: streams end now, with a line that says so.
    Ending,
}

/// What all cores share.
#[derive(Debug)]
pub struct Shared {
    /// The settings.
    pub config: Config,
    /// The process-wide counters behind every limit.
    pub pools: Pools,
    /// Streams per user, and per address and network.
    pub clients: KeyedPool<Bucket>,
    /// Passwords of a client that wait for the hasher.
    pub waiting_clients: KeyedPool<Bucket>,
    /// Passwords for a user, or from a known browser, that wait for the hasher: by a SHA-256.
    pub waiting_subjects: KeyedPool<[u8; 32]>,
    /// Chats per client and minute while the session store is down.
    pub fallback_windows: crate::limits::Windows<Bucket>,
}

/// What every request asks for, side by side: between two requests it leaves the processor's caches, and
/// one miss is cheaper than one for each.
#[derive(Debug)]
pub struct Front {
    /// What stands before every path.
    pub prefix: Box<str>,
    /// Whether log lines name the client's address.
    pub logs_client: bool,
    /// Which worker this is, counted from 0.
    pub worker: u16,
    /// The server's phase as this core knows it.
    pub phase: Cell<Phase>,
}

/// One core's set of everything.
pub struct App {
    /// What every request asks for.
    pub front: Front,
    /// What all cores share.
    pub shared: Arc<Shared>,
    /// Accounts and sessions.
    pub stores: Stores,
    /// Hashes and verifies passwords.
    pub hasher: Hasher,
    /// What the stored hashes cost, as far as this core has seen.
    pub hash_mix: RefCell<Mix>,
    /// The providers.
    pub upstream: Rc<Upstream>,
    /// Stores turns after their stream has ended.
    pub saver: Saver,
    /// The wall clock.
    pub clock: Clock,
    /// Where bytes from providers are read to, within one poll.
    pub read: RefCell<Box<[u8; READ_BYTES]>>,
    /// Where lines are written for hyper.
    pub out: Scratch,
}

impl App {
    /// Whether a connection's next answer should be its last.
    pub fn is_leaving(&self) -> bool {
        self.front.phase.get() >= Phase::HandedOver
    }

    /// What answers are read with, for one poll.
    pub fn reading(&self) -> Reading<'_> {
        Reading {
            buffer: RefMut::map(self.read.borrow_mut(), |buffer| &mut buffer[..]),
            long_lines: &self.shared.pools.long_lines,
        }
    }

    /// Whether streams must end now.
    pub fn is_ending(&self) -> bool {
        self.front.phase.get() == Phase::Ending
    }
}
