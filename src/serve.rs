//! The process: bind first, then start; signals; drain; handing over to a new process.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};

use crate::app::{Phase, Shared};
use crate::budget::Budget;
use crate::clock::{self, Clock};
use crate::config::{Config, Listen};
use crate::hasher;
use crate::limits::{KeyedPool, Windows};
use crate::log::{self, Value};
use crate::mail::Sender;
use crate::memory;
use crate::saver::SAVE_TIMEOUT;
use crate::scrape;
use crate::store::{Backend, Upkeep};
use crate::upstream;
use crate::worker::{self, Event, Mailing, Setup};

mod notify;
mod parts;
mod signals;
mod sockets;
mod upgrade;

use notify::Watchdog;
use parts::{Parts, Turn};
pub use signals::Signals;
use signals::{Heard, Told};
use sockets::Bound;
pub use upgrade::outcome_address;
use upgrade::{Inheritance, Predecessor, Program, Successor};

/// Clients counted in the process while the session store is down.
const FALLBACK_CLIENTS_MAX: usize = 10_000;
/// After the drain time: workers end by themselves, or are left behind.
const WORKERS_TIMEOUT: Duration = Duration::from_secs(8);
const AT_ONCE: &str = "a second signal: ended at once";

/// A running server.
#[derive(Debug)]
pub struct Running {
    /// Where it listens, with the ports that were chosen.
    pub addresses: Vec<Listen>,
    shared: Arc<Shared>,
    phases: watch::Sender<Phase>,
    workers: Vec<JoinHandle<()>>,
    parts: Parts,
    /// The listening sockets, to be handed over.
    held: Vec<Bound>,
    /// What the process that served before listened on, and we do not.
    retired: Vec<Bound>,
    /// The way to the process that served before, until we serve.
    control: Option<std::os::unix::net::UnixStream>,
    program: Program,
}

/// Runs the server until it is told to stop, or has handed over to a new process.
///
/// # Errors
/// It cannot start, or a part of it has died.
pub fn run(config: Config, budget: &Budget) -> Result<(), String> {
    let signals = Signals::listen()?;
    let inheritance = Inheritance::take()?;
    prepare(config, budget, inheritance)?.until_signal(signals)
}

/// Binds every address, opens the stores, then starts the workers, and serves.
///
/// # Errors
/// One clear line on what cannot be had.
pub fn start(config: Config, budget: &Budget) -> Result<Running, String> {
    let running = prepare(config, budget, Inheritance::default())?;
    running.begin();
    Ok(running)
}

/// As [`start`], with the sockets that are there already, and without serving yet.
fn prepare(config: Config, budget: &Budget, inheritance: Inheritance) -> Result<Running, String> {
    std::panic::set_hook(Box::new(log_panic));
    raise_file_limit(budget.files_max as u64);
    let (workers, send_buffer) = (config.server.workers, config.server.socket_buffer_bytes);
    let listen = &config.server.listen;
    let (held, retired) = sockets::open(listen, inheritance.sockets, workers, send_buffer)?;
    let control = inheritance.predecessor;
    let scraped = config.metrics.map(scrape::bind).transpose()?;
    let cores = match scraped {
        Some(_) => scrape::cores(workers, config.providers.len()),
        None => Vec::new(),
    };
    let upstream = upstream::Shared::new(&config.upstream, &config.providers)?;
    // A process that serves still may be of an earlier version, and goes on with its files if we fail.
    let upkeep = match control {
        Some(_) => Upkeep::Later,
        None => Upkeep::Now,
    };
    let backend = Backend::start_with(&config.store, upkeep, log_store)?;
    let mut stores: Vec<_> = (0..workers).map(|_| backend.connect()).collect();
    // The worker that runs it shares its connections with it.
    let first = stores.first().expect("there is at least one worker");
    let letters = watch::Sender::new(control.is_none());
    let mut mail = Some(Mailing {
        sender: Sender::new(&config, first.clone(), Clock::System)?,
        may_begin: letters.subscribe(),
    });
    let hasher = hasher::Running::start(&config.auth)?;
    let shared = Arc::new(Shared {
        pools: budget.pools(),
        clients: KeyedPool::default(),
        waiting_clients: KeyedPool::default(),
        waiting_subjects: KeyedPool::default(),
        fallback_windows: Windows::new(FALLBACK_CLIENTS_MAX),
        config,
    });
    let (phases, phase) = watch::channel(Phase::Starting);
    let (event, events) = mpsc::unbounded_channel();
    let watchdog = Watchdog::new(workers);
    let listeners = sockets::deal_out(&held, workers);
    let listeners = listeners.map_err(|error| format!("a listening socket: {error}"))?;
    let mut threads = Vec::new();
    for (worker, (listeners, stores)) in (0_u16..).zip(listeners.into_iter().zip(stores.drain(..)))
    {
        let setup = Setup {
            worker,
            listeners,
            shared: Arc::clone(&shared),
            stores,
            hasher: hasher.connect(),
            upstream: Arc::clone(&upstream),
            mail: mail.take(),
            metrics: cores.get(usize::from(worker)).copied(),
            phases: phase.clone(),
            pulse: watchdog.pulse(worker.into()),
            events: event.clone(),
        };
        let event = event.clone();
        let thread = thread::Builder::new().name(format!("worker-{worker}"));
        let thread = thread.spawn(move || {
            let run = std::panic::AssertUnwindSafe(|| worker::run(setup));
            let ended = std::panic::catch_unwind(run);
            let ended = ended.unwrap_or_else(|_| Err("panicked".to_string()));
            // Nobody listens any more when the process is ending anyway.
            event.send(Event::Ended(worker, ended)).unwrap_or_default();
        });
        threads.push(thread.map_err(|error| format!("thread: {error}"))?);
    }
    let sources = scrape::Sources {
        cores,
        shared: Arc::clone(&shared),
        budget: budget.clone(),
        upstream,
        hasher: hasher.connect(),
    };
    let scrape = scraped.map(|listener| scrape::Running::start(listener, sources));
    Ok(Running {
        addresses: held.iter().map(|bound| bound.address.clone()).collect(),
        shared,
        phases,
        workers: threads,
        parts: Parts {
            events,
            left: workers,
            hasher,
            scrape: scrape.transpose()?,
            backend,
            watchdog,
            predecessor: None,
            letters,
        },
        control,
        held,
        retired,
        program: Program::of_this_process(),
    })
}

impl Running {
    /// Lets the workers accept.
    fn begin(&self) {
        self.phases.send_replace(Phase::Running);
        for address in &self.addresses {
            let address = address.to_string();
            log::info("listening", &[("address", Value::Str(&address))]);
        }
    }

    /// Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once.
    /// SIGUSR2 starts the program anew; when the new process serves, this one ends with its streams.
    ///
    /// # Errors
    /// A worker, the hasher or the store has died, or the drain was cut short.
    pub fn until_signal(self, signals: Signals) -> Result<(), String> {
        let Signals { runtime, mut heard } = signals;
        runtime.block_on(self.live(&mut heard))
    }

    async fn live(mut self, heard: &mut Heard) -> Result<(), String> {
        let entered = tokio::select! {
            entered = self.enter() => entered,
            () = heard.stop() => return self.leave(heard).await,
        };
        entered?;
        // Starting has left more than this thread will ever need again.
        memory::collect();
        loop {
            match self.parts.turn(heard).await {
                Turn::Told(Told::Stop) => return self.leave(heard).await,
                Turn::Died(cause) => return Err(cause),
                Turn::Told(Told::Upgrade) => {}
            }
            log::info("upgrading", &[]);
            notify::reloading();
            let patience = self.shared.config.server.upgrade_timeout;
            let outcome = tokio::select! {
                outcome = Successor::start(&self.program, &self.held, patience) => outcome,
                turn = self.parts.turn_to_end(heard) => match turn {
                    Turn::Died(cause) => return Err(cause),
                    Turn::Told(_) => return self.leave(heard).await,
                },
            };
            match outcome {
                Ok(successor) => return self.hand_over(successor, heard).await,
                Err(cause) => {
                    log::error("upgrade failed", &[("cause", Value::Str(&cause))]);
                    upgrade::tell_outcome(Err(&cause));
                    notify::ready(&format!("{} (upgrade failed: {cause})", self.status()));
                }
            }
        }
    }

    /// Serves, as soon as all workers are ready and nobody else wants to.
    async fn enter(&mut self) -> Result<(), String> {
        let mut ready = 0;
        while ready < self.workers.len() {
            match self.parts.events.recv().await {
                Some(Event::Ready) => ready += 1,
                Some(Event::Ended(worker, ended)) => {
                    return Err(format!("worker {worker} ended: {ended:?}"));
                }
                Some(Event::MailStopped) => {}
                None => return Err("the workers are gone".to_owned()),
            }
        }
        let mut predecessor = self.control.take().map(Predecessor::new).transpose()?;
        if let Some(predecessor) = &mut predecessor {
            predecessor.wait_for_go().await;
            // The last thing that may fail, and the first that the other notices.
            self.parts.backend.bring_up_to_date().await?;
        }
        if *self.phases.borrow() < Phase::Running {
            self.begin();
        }
        if let Some(predecessor) = &mut predecessor {
            predecessor.take_over().await;
        }
        self.parts.predecessor = predecessor;
        for bound in self.retired.drain(..) {
            bound.remove_file();
        }
        notify::ready(&self.status());
        Ok(())
    }

    fn status(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(Listen::to_string).collect();
        format!("Serving at {}", addresses.join(" "))
    }

    /// Ends the process after the drain time, or at once when told again.
    async fn leave(self, heard: &mut Heard) -> Result<(), String> {
        let drain = self.shared.config.server.drain_timeout;
        notify::stopping();
        log::info("draining", &[("ms", Value::Millis(drain))]);
        tokio::select! {
            ended = self.stop(drain) => ended,
            () = heard.stop() => Err(AT_ONCE.to_string()),
        }
    }

    /// Lets another process serve, and what runs here come to its end.
    async fn hand_over(
        mut self,
        mut successor: Successor,
        heard: &mut Heard,
    ) -> Result<(), String> {
        let limit = self.shared.config.chat.stream_max + SAVE_TIMEOUT;
        let pid = successor.pid();
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
        upgrade::tell_outcome(Ok(pid));
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
                    Told::Stop => return self.leave(heard).await,
                    Told::Upgrade => log::warn("already handed over", &fields),
                },
                replaced = successor.replaced(), if is_current => {
                    if !replaced {
                        return self.end_with(successor, heard).await;
                    }
                    is_current = false;
                }
                () = sleep_until(deadline) => break,
            }
        }
        self.close(Duration::ZERO).await
    }

    /// The new process has ended, and nobody serves now. With the last process gone, systemd starts
    /// the service again, unless somebody has stopped it.
    async fn end_with(self, mut successor: Successor, heard: &mut Heard) -> Result<(), String> {
        match successor.ended().await {
            Some(status) if status.success() => self.leave(heard).await,
            status => {
                let status = status.map_or("is lost".to_owned(), |status| status.to_string());
                let cause = format!("the new process ended: {status}");
                log::error("successor lost", &[("cause", Value::Str(&cause))]);
                self.leave(heard).await?;
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

/// A shell gives a process fewer open files than the memory budget gives it connections.
fn raise_file_limit(needed: u64) {
    let limit = rlimit::increase_nofile_limit(needed)
        .or_else(|_| rlimit::getrlimit(rlimit::Resource::NOFILE).map(|(soft, _)| soft));
    if let Ok(limit) = limit
        && limit < needed
    {
        log::warn(
            "fewer open files allowed than connections; raise LimitNOFILE or ulimit -n",
            &[
                ("allowed", Value::U64(limit)),
                ("needed", Value::U64(needed)),
            ],
        );
    }
}

fn log_store(event: &'static str, detail: String) {
    log::warn(event, &[("cause", Value::Str(&detail))]);
}

/// A panic costs the connection it happened on; the log says where it was.
fn log_panic(info: &std::panic::PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    log::error("panic", &[("at", Value::Str(&place))]);
}
