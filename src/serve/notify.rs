//! What systemd is told (sd_notify(3)), and the watchdog. Without systemd nothing happens here.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::log::{self, Value};
use crate::worker::Pulse;

/// Signs of life asked for in the time that systemd waits for one.
const SIGNS_PER_PERIOD: u32 = 4;

/// It serves.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It is about to be replaced by a new process.
pub fn reloading() {
    let status = NotifyState::Status("Starting the new version");
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now, status]),
        Err(_) => tell(&[NotifyState::Reloading, status]),
    }
}

/// It has been replaced by this process, and is not listened to any more.
pub fn main_pid(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// It has been told to end.
pub fn stopping() {
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("Draining: running answers go on, nothing new begins"),
    ]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn("systemd not told", &[("cause", Value::Display(&error))]);
    }
}

/// Tells systemd that the server is alive as long as every worker's tasks take turns, so that one
/// hung core is noticed although the others go on.
#[derive(Debug)]
pub struct Watchdog {
    /// Between two questions; none if systemd does not ask.
    pause: Option<Duration>,
    asks: watch::Sender<u64>,
    answers: Vec<Arc<AtomicU64>>,
}

impl Watchdog {
    /// For that many workers.
    pub fn new(workers: usize) -> Self {
        let period = sd_notify::watchdog_enabled();
        Self {
            pause: period.map(|period| period / SIGNS_PER_PERIOD),
            asks: watch::Sender::new(0),
            answers: (0..workers).map(|_| Arc::default()).collect(),
        }
    }

    /// What that worker answers on.
    pub fn pulse(&self, worker: usize) -> Option<Pulse> {
        let answered = self.answers.get(worker).filter(|_| self.pause.is_some())?;
        Some(Pulse {
            asked: self.asks.subscribe(),
            answered: Arc::clone(answered),
        })
    }

    /// Asks, waits, and passes it on if all have answered; for ever.
    pub async fn watch(&self) {
        let Some(pause) = self.pause else {
            return pending().await;
        };
        loop {
            let asked = *self.asks.borrow();
            let mut answers = self.answers.iter();
            if answers.all(|answered| answered.load(Ordering::Relaxed) == asked) {
                tell(&[NotifyState::Watchdog]);
                self.asks.send_replace(asked + 1);
            }
            sleep(pause).await;
        }
    }
}
