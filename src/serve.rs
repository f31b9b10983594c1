//! The process: bind first, then start; signals; drain; handing over to a new process.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::app::{Phase, Shared};
use crate::budget::Budget;
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::hasher;
use crate::limits::{KeyedPool, Windows};
use crate::log::{self, Value};
use crate::mail::Sender;
use crate::memory;
use crate::scrape;
use crate::store::{Backend, Upkeep};
use crate::upstream;
use crate::worker::{self, Event, Mailing, Setup};

mod ending;
mod inherit;
mod lineage;
mod notify;
mod outcome;
mod parts;
mod signals;
mod sockets;
mod upgrade;

use ending::TOLD;
use inherit::Inheritance;
use lineage::Lineage;
use notify::Watchdog;
pub use outcome::Waiting;
use parts::{Parts, Turn};
pub use signals::Signals;
use signals::{Heard, Told};
use sockets::Bound;
use upgrade::{Predecessor, Program, Successor};

/// Clients counted in the process while the session store is down.
const FALLBACK_CLIENTS_MAX: usize = 10_000;
/// After so long the cores have done what they do once only.
const SETTLE_TIME: Duration = Duration::from_secs(1);

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
    /// The processes that served before, once there is one, and that which serves next.
    lineage: Option<Lineage>,
    program: Program,
}

/// Runs the server until it is told to stop, or has handed over to a new process.
///
/// # Errors
/// It cannot start, or a part of it has died.
pub fn run(config: Config, budget: &Budget) -> Result<(), String> {
    // It may go on in another process, without the lines that wait here and without any thread; the runtime is better
    // made there, too.
    log::flush();
    let inheritance = Inheritance::take()?;
    log::start()?;
    let signals = Signals::listen()?;
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
        lineage: inheritance.lineage,
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

    /// Serves until SIGTERM or SIGINT, or the terminal hangs up, then drains; a second signal ends the process
    /// at once. SIGUSR2 or SIGHUP starts the program anew; when the new process serves, this one ends with its streams.
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
            () = heard.stop() => return self.leave(heard, TOLD).await,
        };
        entered?;
        // Starting has left more than this thread will ever need again.
        memory::collect();
        tokio::spawn(async {
            sleep(SETTLE_TIME).await;
            memory::forget_code();
        });
        loop {
            match self.parts.turn(heard).await {
                Turn::Told(Told::Stop) => return self.leave(heard, TOLD).await,
                Turn::Died(cause) => return Err(cause),
                Turn::Told(Told::Upgrade) => {}
            }
            log::info("upgrading", &[]);
            notify::reloading();
            let patience = self.shared.config.server.upgrade_timeout;
            let outcome = tokio::select! {
                outcome = Successor::start(&self.program, &self.held, &mut self.lineage, patience) => outcome,
                turn = self.parts.turn_to_end(heard) => match turn {
                    Turn::Died(cause) => return Err(cause),
                    Turn::Told(_) => return self.leave(heard, TOLD).await,
                },
            };
            match outcome {
                Ok(successor) => return self.hand_over(successor, heard).await,
                Err(cause) => {
                    log::error("upgrade failed", &[("cause", Value::Str(&cause))]);
                    outcome::tell(Err(&cause));
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
        let hears_leaving = self.lineage.is_some();
        let control = self.control.take();
        let predecessor = control.map(|control| Predecessor::new(control, hears_leaving));
        let mut predecessor = predecessor.transpose()?;
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
