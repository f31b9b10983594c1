//! How a server ends: with its answers, when it is told to; or when another process serves, with the last of them.

use std::time::Duration;

use tokio::time::{sleep_until, timeout, timeout_at};

use super::signals::{Heard, Told};
use super::sockets::Bound;
use super::upgrade::{News, Successor};
use super::{Running, notify, outcome};
use crate::app::Phase;
use crate::clock;
use crate::log::{self, Value};
use crate::saver::SAVE_TIMEOUT;
use crate::scrape;

/// After the drain time: workers end by themselves, or are left behind.
const WORKERS_TIMEOUT: Duration = Duration::from_secs(8);
/// After that: the processes that served before close their stores, and end.
const LINEAGE_TIMEOUT: Duration = Duration::from_secs(2);
/// Signals that end a process at once which a signal has told to end.
pub(super) const TOLD: usize = 1;
/// As [`TOLD`], for a process that ends with another: the signal that ends both may still come.
const UNTOLD: usize = 2;
const AT_ONCE: &str = "a second signal: ended at once";

impl Running {
    /// Ends the process after the drain time, or at once after so many signals more; the main process as the
    /// last of its lineage.
    pub(super) async fn leave(mut self, heard: &mut Heard, signals: usize) -> Result<(), String> {
        let drain = self.shared.config.server.drain_timeout;
        let limit = clock::now() + drain + WORKERS_TIMEOUT + LINEAGE_TIMEOUT;
        notify::stopping();
        log::info("draining", &[("ms", Value::Millis(drain))]);
        if let Some(predecessor) = &mut self.parts.predecessor {
            predecessor.leave().await;
        }
        // Until this process serves, it is for the other to wait.
        let is_main = *self.phases.borrow() == Phase::Running;
        let lineage = self.lineage.take().filter(|_| is_main);
        let end = async {
            self.stop(drain).await?;
            if let Some(lineage) = lineage {
                // What has not ended by now is left behind.
                drop(timeout_at(limit, lineage.alone()).await);
            }
            Ok(())
        };
        let told_again = async {
            for _ in 0..signals {
                heard.stop().await;
            }
        };
        tokio::select! {
            ended = end => ended,
            () = told_again => Err(AT_ONCE.to_string()),
        }
    }

    /// Lets another process serve, and what runs here come to its end.
    pub(super) async fn hand_over(
        mut self,
        mut successor: Successor,
        heard: &mut Heard,
    ) -> Result<(), String> {
        let limit = self.shared.config.chat.stream_max + SAVE_TIMEOUT;
        let pid = successor.pid();
        // The kernel closes it, when this process really ends.
        std::mem::forget(self.lineage.take());
        notify::main_pid(pid);
        successor.announce().await;
        // The files of Unix sockets are the other's from now on.
        self.held.clear();
        self.phases.send_replace(Phase::HandedOver);
        // Whoever scrapes is to meet the other.
        self.parts
            .scrape
            .take()
            .map_or(Ok(()), scrape::Running::stop)?;
        outcome::tell(Ok(pid));
        if let Some(predecessor) = &mut self.parts.predecessor {
            predecessor.hand_on().await;
        }
        let fields = [("to", Value::U64(pid.into())), ("ms", Value::Millis(limit))];
        log::info("handed over", &fields);
        let deadline = clock::now() + limit;
        // Whether it has not been replaced in its turn.
        let mut is_current = true;
        while self.parts.left > 0 {
            tokio::select! {
                event = self.parts.next_event() => if event? {
                    successor.give_letters().await;
                },
                told = heard.next() => match told {
                    Told::Stop => return self.leave(heard, TOLD).await,
                    Told::Upgrade => {
                        log::warn("already handed over", &fields);
                        outcome::tell(Err(&format!("process {pid} has replaced it: reload that one")));
                    }
                },
                news = successor.next(), if is_current => match news {
                    News::HandedOn => is_current = false,
                    News::Leaving => return self.leave(heard, UNTOLD).await,
                    News::Gone => return self.end_with(successor, heard).await,
                },
                () = sleep_until(deadline) => break,
            }
        }
        self.close(Duration::ZERO).await
    }

    /// The new process has ended, and nobody serves now. With the last process gone, systemd starts
    /// the service again, unless somebody has stopped it.
    async fn end_with(self, mut successor: Successor, heard: &mut Heard) -> Result<(), String> {
        match successor.ended().await {
            Some(status) if status.success() => self.leave(heard, UNTOLD).await,
            status => {
                let status = status.map_or("is lost".to_owned(), |status| status.to_string());
                let cause = format!("the new process ended: {status}");
                log::error("successor lost", &[("cause", Value::Str(&cause))]);
                self.leave(heard, UNTOLD).await?;
                Err(cause)
            }
        }
    }

    /// Stops listening, gives what runs `drain` to end, then ends it, and closes the stores.
    ///
    /// # Errors
    /// A worker did not end in time, or not well, or the stores could not be closed.
    pub async fn stop(mut self, drain: Duration) -> Result<(), String> {
        // Before it began, they were another's.
        if *self.phases.borrow() >= Phase::Running {
            self.held.iter().for_each(Bound::remove_file);
        }
        self.held.clear();
        self.phases.send_replace(Phase::Draining);
        self.close(drain).await
    }

    /// Gives the workers `drain` to end, then has them end, and closes the stores.
    async fn close(mut self, drain: Duration) -> Result<(), String> {
        let parts = &mut self.parts;
        match timeout(drain, parts.all_ended()).await {
            Ok(ended) => ended?,
            Err(_) => {
                self.phases.send_replace(Phase::Ending);
                let ended = timeout(WORKERS_TIMEOUT, parts.all_ended()).await;
                ended.map_err(|_| format!("{} workers did not end in time", self.parts.left))??;
            }
        }
        for worker in self.workers {
            worker.join().map_err(|_| "a worker panicked")?;
        }
        self.parts.scrape.map_or(Ok(()), scrape::Running::stop)?;
        self.parts.hasher.stop()?;
        self.parts.backend.stop()?;
        log::info("stopped", &[]);
        Ok(())
    }
}
