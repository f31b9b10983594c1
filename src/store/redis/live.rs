//! A core's client of Redis, and the one that takes its place when the server takes no writes any more.
//!
//! A master that has been demoted, or cut off from its replicas, goes on answering. So its refusals lead to a
//! second client, which looks the name up (or asks the sentinels) anew; calls go on with the first until the
//! second is connected.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::ClientLike as _;
use fred::types::ConnectHandle;
use fred::types::config::ReconnectPolicy;
use tokio::time::{Instant, timeout};

use super::{Core, RECONNECT_MS, Shared};
use crate::clock;

/// How a server begins to say that it takes no writes, or nothing at all, and that another may have its place;
/// older ones say it of a script in the middle of the line.
const REFUSALS: [&str; 5] = [
    "READONLY ",
    "MASTERDOWN ",
    "LOADING ",
    "MISCONF ",
    "NOREPLICAS ",
];
/// A client that has been there for less than this is not replaced: the server is the right one, and ill.
const REPLACED_AFTER: Duration = Duration::from_secs(1);
/// For the answers that a client still waits for when another has taken its place.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

/// A client, and the task that keeps it connected.
pub(super) struct Live {
    pub(super) client: Client,
    task: ConnectHandle,
    pub(super) was_connected: AtomicBool,
    made: Instant,
}

/// The client that calls use, and the one that is to take its place.
#[derive(Default)]
pub(super) struct Slot {
    current: Option<Arc<Live>>,
    next: Option<Arc<Live>>,
}

impl Live {
    /// Begins to connect, on the runtime that this is called on.
    fn begin(shared: &Shared) -> Arc<Self> {
        let client = Client::new(
            shared.config.clone(),
            Some(shared.performance.clone()),
            Some(shared.connection.clone()),
            // Without end.
            Some(ReconnectPolicy::new_constant(0, RECONNECT_MS)),
        );
        Arc::new(Self {
            task: client.connect(),
            client,
            was_connected: AtomicBool::new(false),
            made: clock::now(),
        })
    }

    /// Ends it when what has been asked is answered, or soon.
    fn retire(self: Arc<Self>) {
        tokio::spawn(async move {
            // However that ends, the task does.
            let _late = timeout(QUIT_TIMEOUT, self.client.quit()).await;
            self.task.abort();
        });
    }
}

impl Core {
    /// The client, or a new one if the last one has given up (after a refused password, perhaps).
    pub(super) fn live(&self) -> Arc<Live> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(next) = slot.next.take_if(|next| next.client.is_connected()) {
            slot.current
                .replace(next)
                .into_iter()
                .for_each(Live::retire);
        }
        slot.next.take_if(|next| next.task.is_finished());
        match &slot.current {
            Some(live) if !live.task.is_finished() => Arc::clone(live),
            _ => Arc::clone(slot.current.insert(Live::begin(&self.shared))),
        }
    }

    /// Looks for another server, if this is why the current one has failed.
    pub(super) fn note(&self, error: &Error) {
        let details = error.details();
        if !REFUSALS.iter().any(|refusal| details.contains(refusal)) {
            return;
        }
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |live: &Arc<Live>| clock::now() - live.made >= REPLACED_AFTER;
        if slot.next.is_none() && slot.current.as_ref().is_some_and(is_old) {
            slot.next = Some(Live::begin(&self.shared));
        }
    }
}
