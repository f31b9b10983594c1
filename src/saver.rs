//! Stores finished turns, so that an answer may be dropped without waiting.
//!
//! One per core. A stream's slot stays taken until its turn is stored, so there are never more
//! turns here than slots.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::http::request::RequestId;
use crate::limits::Permit;
use crate::log::{self, Value};
use crate::store::{Sessions, Turn};

/// How long storing a turn may take.
pub const SAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A turn on its way into its chat.
#[derive(Debug)]
pub struct Finished {
    /// Question and answer.
    pub turn: Turn,
    /// The request's id, for the log.
    pub id: RequestId,
    /// The slot and the memory that the turn holds until it is stored.
    pub held: Vec<Permit>,
}

#[derive(Debug)]
struct Job {
    finished: Finished,
    reply: oneshot::Sender<bool>,
}

/// The way to this core's saver.
#[derive(Debug, Clone)]
pub struct Saver(mpsc::Sender<Job>);

impl Saver {
    /// Starts the saver; its task ends when the last [`Saver`] is gone and all turns are stored.
    /// `queue_max` is the number of slots.
    pub fn start(sessions: Sessions, clock: Clock, queue_max: usize) -> (Self, JoinHandle<()>) {
        let (sender, mut jobs) = mpsc::channel::<Job>(queue_max);
        let task = tokio::task::spawn_local(async move {
            let mut running = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    job = jobs.recv() => match job {
                        Some(job) => {
                            let sessions = sessions.clone();
                            running.spawn_local(store(sessions, clock, job));
                        }
                        None => break,
                    },
                    Some(_) = running.join_next() => {}
                }
            }
            while running.join_next().await.is_some() {}
        });
        (Self(sender), task)
    }

    /// Hands over a turn; the answer is whether it was stored. It is stored even if nobody waits.
    pub fn save(&self, finished: Finished) -> oneshot::Receiver<bool> {
        let (reply, stored) = oneshot::channel();
        if let Err(refused) = self.0.try_send(Job { finished, reply }) {
            let id = refused.into_inner().finished.id;
            log::error(
                "turn not stored",
                &[
                    ("id", Value::Str(id.as_str())),
                    ("cause", Value::Str("no saver")),
                ],
            );
        }
        stored
    }
}

async fn store(sessions: Sessions, clock: Clock, job: Job) {
    let Finished { turn, id, held } = job.finished;
    let save = sessions.save_turn(clock.wall_ms(), turn);
    let outcome = match timeout(SAVE_TIMEOUT, save).await {
        Ok(Ok(stored)) => Ok(stored),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("time-out".to_string()),
    };
    if let Err(cause) = &outcome {
        log::error(
            "turn not stored",
            &[
                ("id", Value::Str(id.as_str())),
                ("cause", Value::Str(cause)),
            ],
        );
    }
    drop(held);
    // Nobody may be waiting: the client can have gone.
    let _: Result<(), bool> = job.reply.send(outcome.unwrap_or(false));
}
