//! One core: a thread with its own runtime, listeners and doors, and a task per connection.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{sleep, timeout};

use crate::app::{App, Front, Phase, Shared};
use crate::clock::{self, Clock};
use crate::hasher::Hasher;
use crate::http::body::Scratch;
use crate::limits::READ_BYTES;
use crate::log;
use crate::mail::Sender;
use crate::memory;
use crate::metrics;
use crate::saver::{SAVE_TIMEOUT, Saver};
use crate::store::Stores;
use crate::upstream::{self, Upstream};

mod accept;
mod beside;
mod client;
mod live;

pub use accept::{Dealt, Door, Listener};
use accept::{accept_own, accept_shared, take_dealt};
use beside::{check_models, log_memory};
use client::Client;
use live::Live;

/// How long memory of connections that have ended may stay with the allocator.
const COLLECT_PAUSE: Duration = Duration::from_secs(10);
/// After the drain time: enough to store the turns and send the last lines.
const ENDING_TIMEOUT: Duration = Duration::from_secs(SAVE_TIMEOUT.as_secs() + 1);
/// Names that a core looks up at a time: a provider's, and the mail server's, which must not keep it
/// waiting.
const LOOKUPS_MAX: usize = 2;

/// What a worker is started with.
pub struct Setup {
    /// Which worker, counted from 0.
    pub worker: u16,
    /// Its sockets, bound and set not to block.
    pub listeners: Vec<Listener>,
    /// What all cores share.
    pub shared: Arc<Shared>,
    /// Its way to the stores.
    pub stores: Stores,
    /// Its way to the hasher.
    pub hasher: Hasher,
    /// The providers.
    pub upstream: Arc<upstream::Shared>,
    /// Sends the mails of the whole process; one worker has it.
    pub mail: Option<Mailing>,
    /// Where it counts what happens, if that is wanted.
    pub metrics: Option<&'static metrics::Core>,
    /// The server's phase.
    pub phases: watch::Receiver<Phase>,
    /// Asked for a sign of life now and then, if anybody wants to know.
    pub pulse: Option<Pulse>,
    /// Where it says how it gets on.
    pub events: mpsc::UnboundedSender<Event>,
}

/// What a worker says to the process.
#[derive(Debug)]
pub enum Event {
    /// It is set up, and waits for [`Phase::Running`].
    Ready,
    /// The mail sender has no letter in hand any more, and takes none.
    MailStopped,
    /// It has ended, and how.
    Ended(u16, Result<(), String>),
}

/// The mail sender, and when it may begin.
pub struct Mailing {
    /// Sends what is due.
    pub sender: Sender,
    /// Whether no other process that was here before sends any more.
    pub may_begin: watch::Receiver<bool>,
}

/// Shows that a worker's tasks still take turns.
#[derive(Debug)]
pub struct Pulse {
    /// Each new number asks for a sign of life.
    pub asked: watch::Receiver<u64>,
    /// The last number that was answered.
    pub answered: Arc<AtomicU64>,
}

/// Serves until the drain is over.
///
/// # Errors
/// The runtime or a listener cannot be set up, or listening ends by itself.
pub fn run(setup: Setup) -> Result<(), String> {
    log::gather();
    let lines_wait = Arc::new(Notify::new());
    let waiting = Arc::clone(&lines_wait);
    let rest = move || {
        clock::end_turn();
        if log::rest() {
            waiting.notify_one();
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(LOOKUPS_MAX)
        .on_thread_park(rest)
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(|error| format!("runtime: {error}"))?;
    runtime.block_on(async {
        spawn_local(write_lines(lines_wait));
        serve(setup).await
    })
}

async fn serve(setup: Setup) -> Result<(), String> {
    let Setup {
        worker,
        listeners,
        shared,
        stores,
        hasher,
        upstream,
        mail,
        metrics,
        mut phases,
        pulse,
        events,
    } = setup;
    if let Some(core) = metrics {
        metrics::enter(core);
    }
    let streams_max = shared.pools.streams.max();
    stores.begin();
    let (saver, saving) = Saver::start(stores.sessions.clone(), Clock::System, streams_max);
    let config = &shared.config;
    let app = Rc::new(App {
        front: Front {
            prefix: config.server.prefix.as_str().into(),
            logs_client: config.log.client_address,
            worker,
            phase: Cell::new(Phase::Running),
        },
        stores,
        hasher,
        hash_mix: RefCell::default(),
        upstream: Upstream::new(upstream),
        saver,
        clock: Clock::System,
        read: RefCell::new(Box::new([0; READ_BYTES])),
        out: Scratch::default(),
        shared: Arc::clone(&shared),
    });
    if let Some(pulse) = pulse {
        spawn_local(answer_signs(pulse));
    }
    // Nobody listens any more when the process is ending anyway.
    events.send(Event::Ready).unwrap_or_default();
    let begun = phases.wait_for(|phase| *phase >= Phase::Running).await;
    begun.map_err(|_| "never begun")?;
    if worker == 0 {
        spawn_local(check_models(Rc::clone(&app)));
        if let Some(every) = shared.config.log.memory_every {
            spawn_local(log_memory(Rc::clone(&app), every));
        }
    }
    let mut mailing = JoinSet::new();
    if let Some(mail) = mail {
        mailing.spawn_local(send_mail(mail, phases.clone(), events));
    }
    let live = Rc::new(Live::default());
    spawn_local(give_memory_back(Rc::clone(&live)));
    memory::begin_fresh_pages();
    memory::collect();
    let (mut accepting, mut taking) = (JoinSet::new(), JoinSet::new());
    for listener in listeners {
        let (app, live) = (Rc::clone(&app), Rc::clone(&live));
        match listener {
            Listener::Own(door) => {
                accepting.spawn_local(accept_own(app, door, live));
            }
            Listener::Shared(door, dealt) => {
                accepting.spawn_local(accept_shared(app, door, dealt, live));
            }
            Listener::Dealt(dealt) => {
                taking.spawn_local(take_dealt(app, dealt, live));
            }
        }
    }
    let ended = tokio::select! {
        _ = phases.wait_for(|phase| *phase > Phase::Running) => None,
        Some(ended) = accepting.join_next() => Some(format!("listening ended: {ended:?}")),
        Some(ended) = taking.join_next() => Some(format!("dealing ended: {ended:?}")),
        Some(ended) = mailing.join_next() => Some(format!("the mail sender ended: {ended:?}")),
    };
    // Afterwards another worker or the sender may end before this one hears of it.
    if let Some(ended) = ended
        && *phases.borrow() <= Phase::Running
    {
        return Err(ended);
    }
    // The listeners close here: who comes now is refused by the kernel, or served by the process
    // that has them too.
    accepting.shutdown().await;
    let last = async {
        // What others have accepted for this worker is served, too.
        while taking.join_next().await.is_some() {}
        live.none().await;
    };
    let mut last = pin!(last);
    loop {
        let phase = *phases.borrow_and_update();
        app.front.phase.set(phase);
        live.wake_all();
        if phase == Phase::Ending {
            if timeout(ENDING_TIMEOUT, last.as_mut()).await.is_err() {
                log::warn("connections cut", &[("worker", worker.into())]);
            }
            break;
        }
        tokio::select! {
            () = &mut last => break,
            changed = phases.changed() => changed.map_err(|_| "the process has lost its way")?,
        }
    }
    drop(app);
    let ended = async { tokio::join!(saving, mailing.join_next()) };
    match timeout(ENDING_TIMEOUT, ended).await {
        Ok((Err(error), _)) => Err(format!("the saver: {error}")),
        Ok((_, Some(Err(error)))) => Err(format!("the mail sender: {error}")),
        // A connection that was cut still holds the way to the saver, but nothing to save; a letter
        // that takes longer is sent by the next process.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Writes the log lines that a busy core has let wait.
async fn write_lines(wait: Arc<Notify>) {
    loop {
        wait.notified().await;
        sleep(log::WAIT_MAX).await;
        log::flush();
    }
}

/// Shows again and again that tasks of this core take turns.
async fn answer_signs(mut pulse: Pulse) {
    while pulse.asked.changed().await.is_ok() {
        let asked = *pulse.asked.borrow_and_update();
        pulse.answered.store(asked, Ordering::Relaxed);
    }
}

/// Sends mails from when it may until the server is no longer the one that serves.
async fn send_mail(
    mail: Mailing,
    mut phases: watch::Receiver<Phase>,
    events: mpsc::UnboundedSender<Event>,
) {
    let mut may_begin = mail.may_begin;
    // A server that is gone is not running either.
    let mut has_begun = may_begin.wait_for(|may| *may).await.is_ok();
    has_begun &= *phases.borrow() <= Phase::Running;
    if has_begun {
        let stop = async move {
            let _: Result<_, _> = phases.wait_for(|phase| *phase > Phase::Running).await;
        };
        mail.sender.run(stop).await;
    }
    events.send(Event::MailStopped).unwrap_or_default();
}

/// Lets the allocator return what connecting to the stores and ended connections have left, now and then
/// while any end; without any connection, code goes, too.
async fn give_memory_back(live: Rc<Live>) {
    loop {
        sleep(COLLECT_PAUSE).await;
        memory::collect();
        if live.is_none() {
            memory::forget_code();
        }
        live.ended.notified().await;
    }
}
