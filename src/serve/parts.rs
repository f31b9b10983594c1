//! The parts of a running server that may end or speak up, and waiting for them.

use tokio::sync::{mpsc, watch};

use super::notify::Watchdog;
use super::signals::{Heard, Told};
use super::upgrade::{Predecessor, Word};
use crate::hasher;
use crate::scrape;
use crate::store::Backend;
use crate::worker::Event;

/// What may end, or speak up.
#[derive(Debug)]
pub struct Parts {
    pub events: mpsc::UnboundedReceiver<Event>,
    /// Workers that have not ended.
    pub left: usize,
    pub hasher: hasher::Running,
    /// Tells the metrics, if that is wanted.
    pub scrape: Option<scrape::Running>,
    pub backend: Backend,
    pub watchdog: Watchdog,
    /// The process that served before, as long as it runs.
    pub predecessor: Option<Predecessor>,
    /// Whether our mail sender may begin.
    pub letters: watch::Sender<bool>,
}

/// Why a server does not simply go on.
pub enum Turn {
    /// Somebody wants it to.
    Told(Told),
    /// A part has died; which, and how.
    Died(String),
}

impl Parts {
    /// Waits, and shows that the server is alive, until something is to be done.
    pub async fn turn(&mut self, heard: &mut Heard) -> Turn {
        tokio::select! {
            told = heard.next() => Turn::Told(told),
            died = self.died() => Turn::Died(died),
        }
    }

    /// As [`Parts::turn`], deaf to SIGUSR2 and SIGHUP.
    pub async fn turn_to_end(&mut self, heard: &mut Heard) -> Turn {
        tokio::select! {
            () = heard.stop() => Turn::Told(Told::Stop),
            died = self.died() => Turn::Died(died),
        }
    }

    /// Which part has died.
    async fn died(&mut self) -> String {
        loop {
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(Event::Ended(worker, ended)) => {
                        return format!("worker {worker} ended: {ended:?}");
                    }
                    Some(Event::Ready | Event::MailStopped) => {}
                    None => return "the workers are gone".to_owned(),
                },
                () = self.hasher.ended() => return "the hasher's thread ended".to_owned(),
                () = scrape::ended(self.scrape.as_ref()) => {
                    return "the metrics' thread ended".to_owned();
                }
                () = self.backend.ended() => return "the store's thread ended".to_owned(),
                () = self.watchdog.watch() => {}
                word = hear(&mut self.predecessor) => self.heed(word),
            }
        }
    }

    fn heed(&mut self, word: Word) {
        if word == Word::Gone {
            self.predecessor = None;
        }
        self.letters.send_replace(true);
    }

    /// While workers end: whether the mail sender has stopped.
    ///
    /// # Errors
    /// A worker has ended, and not well.
    pub async fn next_event(&mut self) -> Result<bool, String> {
        let event = tokio::select! {
            event = self.events.recv() => event,
            word = hear(&mut self.predecessor) => {
                self.heed(word);
                return Ok(false);
            }
        };
        match event {
            None => Err("a worker ended without a word".to_string()),
            Some(Event::Ready) => Ok(false),
            Some(Event::MailStopped) => Ok(true),
            Some(Event::Ended(worker, ended)) => {
                self.left -= 1;
                ended.map_err(|error| format!("worker {worker}: {error}"))?;
                Ok(false)
            }
        }
    }

    /// Waits until all workers have ended.
    ///
    /// # Errors
    /// One did not end well.
    pub async fn all_ended(&mut self) -> Result<(), String> {
        while self.left > 0 {
            self.next_event().await?;
        }
        Ok(())
    }
}

/// What the process that served before says; nothing if there is none.
async fn hear(predecessor: &mut Option<Predecessor>) -> Word {
    match predecessor {
        Some(predecessor) => predecessor.next().await,
        None => std::future::pending().await,
    }
}
