//! One core: a thread with its own runtime, listeners and doors, and a task per connection.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{sleep, timeout};

use crate::app::{App, Phase, Shared};
use crate::clock::Clock;
use crate::hasher::Hasher;
use crate::http::address::Address;
use crate::http::body::Scratch;
use crate::http::reply;
use crate::http::wire::{ClientIo, Socket, Timeouts, Wire};
use crate::limits::{Permit, READ_BYTES};
use crate::log::{self, Value};
use crate::mail::Sender;
use crate::memory;
use crate::router;
use crate::saver::{SAVE_TIMEOUT, Saver};
use crate::store::Stores;
use crate::upstream::{self, Upstream};

/// hyper's smallest write buffer; it also bounds a request's head.
const BUFFER_BYTES: usize = 8192;
/// How long memory of connections that have ended may stay with the allocator.
const COLLECT_PAUSE: Duration = Duration::from_secs(10);
/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// After the drain time: enough to store the turns and send the last lines.
const ENDING_TIMEOUT: Duration = Duration::from_secs(SAVE_TIMEOUT.as_secs() + 1);
/// How long a connection that there is no room for is kept so that it sees the refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Names that a core looks up at a time: a provider's, and the mail server's, which must not keep it
/// waiting.
const LOOKUPS_MAX: usize = 2;
/// How many such connections a core keeps at a time.
const REFUSALS_MAX: usize = 32;

/// A bound socket, not yet known to a runtime.
#[derive(Debug)]
pub enum Listener {
    /// This worker's own socket of a port that all share.
    Tcp(std::net::TcpListener),
    /// A Unix socket, which only one worker can own: it deals the connections out, to itself too.
    Unix(std::os::unix::net::UnixListener, Vec<Dealt>),
    /// What another worker deals to this one.
    Dealt(mpsc::UnboundedReceiver<(std::os::unix::net::UnixStream, Permit)>),
}

/// The way to a worker for connections that another one has accepted. Unbounded, because each
/// connection brings its permit.
pub type Dealt = mpsc::UnboundedSender<(std::os::unix::net::UnixStream, Permit)>;

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
    pub mail: Option<Sender>,
    /// The server's phase.
    pub phases: watch::Receiver<Phase>,
}

/// Serves until the drain is over.
///
/// # Errors
/// The runtime or a listener cannot be set up, or listening ends by itself.
pub fn run(setup: Setup) -> Result<(), String> {
    log::gather();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(LOOKUPS_MAX)
        .on_thread_park(log::flush)
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(|error| format!("runtime: {error}"))?;
    runtime.block_on(serve(setup))
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
        mut phases,
    } = setup;
    let streams_max = shared.pools.streams.max();
    stores.begin();
    let (saver, saving) = Saver::start(stores.sessions.clone(), Clock::System, streams_max);
    let app = Rc::new(App {
        worker,
        stores,
        hasher,
        upstream: Upstream::new(upstream),
        saver,
        clock: Clock::System,
        read: RefCell::new(Box::new([0; READ_BYTES])),
        out: Scratch::default(),
        phase: Cell::new(Phase::Running),
        shared: Arc::clone(&shared),
    });
    if worker == 0 {
        spawn_local(check_models(Rc::clone(&app)));
    }
    let mut mailing = JoinSet::new();
    if let Some(sender) = mail {
        let mut phases = phases.clone();
        mailing.spawn_local(sender.run(async move {
            // A server that is gone is not running either.
            let _: Result<_, _> = phases.wait_for(|phase| *phase >= Phase::Draining).await;
        }));
    }
    let live = Rc::new(Live::default());
    spawn_local(give_memory_back(Rc::clone(&live)));
    memory::begin_fresh_pages();
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let (app, live) = (Rc::clone(&app), Rc::clone(&live));
        match listener {
            Listener::Tcp(tcp) => accepting.spawn_local(accept_tcp(app, tcp, live)),
            Listener::Unix(unix, dealt) => accepting.spawn_local(accept_unix(app, unix, dealt)),
            Listener::Dealt(dealt) => accepting.spawn_local(take_dealt(app, dealt, live)),
        };
    }
    let ended = tokio::select! {
        _ = phases.wait_for(|phase| *phase >= Phase::Draining) => None,
        ended = accepting.join_next() => Some(format!("listening ended: {ended:?}")),
        Some(ended) = mailing.join_next() => Some(format!("the mail sender ended: {ended:?}")),
    };
    // In a drain the accepting worker or the sender may end before this one hears of the drain.
    if let Some(ended) = ended
        && *phases.borrow() < Phase::Draining
    {
        return Err(ended);
    }
    app.phase.set(Phase::Draining);
    live.wake_all();
    // The listeners close here: who comes now is refused by the kernel.
    accepting.shutdown().await;
    tokio::select! {
        () = live.none() => {}
        _ = phases.wait_for(|phase| *phase >= Phase::Ending) => {
            app.phase.set(Phase::Ending);
            live.wake_all();
            if timeout(ENDING_TIMEOUT, live.none()).await.is_err() {
                log::warn("connections cut", &[("worker", worker.into())]);
            }
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

/// Counts this core's connections.
#[derive(Debug, Default)]
struct Live {
    count: Cell<usize>,
    /// The last one has ended.
    none: Notify,
    /// One has ended, and may have left memory behind.
    ended: Notify,
    /// Their tasks, by the number that each got when it began.
    tasks: RefCell<HashMap<u64, Waker>>,
    begun: Cell<u64>,
}

impl Live {
    fn enter(self: &Rc<Self>) -> Lives {
        self.count.set(self.count.get() + 1);
        self.begun.set(self.begun.get() + 1);
        Lives {
            number: self.begun.get(),
            live: Rc::clone(self),
        }
    }

    /// Has every connection look at the phase.
    fn wake_all(&self) {
        self.tasks.borrow().values().for_each(Waker::wake_by_ref);
    }

    async fn none(&self) {
        while self.count.get() > 0 {
            self.none.notified().await;
        }
    }
}

/// A connection, as long as it lives.
struct Lives {
    live: Rc<Live>,
    number: u64,
}

impl Lives {
    fn register(&self, task: &Waker) {
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

/// Lets the allocator return what ended connections have left, now and then while any end.
async fn give_memory_back(live: Rc<Live>) {
    loop {
        live.ended.notified().await;
        sleep(COLLECT_PAUSE).await;
        memory::collect();
    }
}

/// Accepts until the task is aborted. The kernel has spread the connections over the workers.
async fn accept_tcp(app: Rc<App>, tcp: std::net::TcpListener, live: Rc<Live>) -> io::Error {
    let tcp = match TcpListener::from_std(tcp) {
        Ok(tcp) => tcp,
        Err(error) => return error,
    };
    let mut door = Door::default();
    loop {
        let Some((socket, peer)) = door.entered(tcp.accept().await).await else {
            continue;
        };
        // Each line must leave at once; without this it would wait for the last one's ACK.
        if let Err(error) = socket.set_nodelay(true) {
            log::warn(
                "connection not set up",
                &[("cause", Value::Display(&error))],
            );
        }
        let socket = Socket::Tcp(socket);
        match app.shared.pools.connections.take(1) {
            Some(permit) => {
                let peer = Address::of(peer.ip());
                let connection = connection(Rc::clone(&app), socket, peer, permit, live.enter());
                spawn_local(connection);
            }
            None => door.refuse(socket),
        }
    }
}

/// Accepts until the task is aborted, and deals the connections out in turn.
async fn accept_unix(
    app: Rc<App>,
    unix: std::os::unix::net::UnixListener,
    dealt: Vec<Dealt>,
) -> io::Error {
    let unix = match UnixListener::from_std(unix) {
        Ok(unix) => unix,
        Err(error) => return error,
    };
    let mut door = Door::default();
    let mut turns = dealt.iter().cycle();
    loop {
        let Some((socket, _)) = door.entered(unix.accept().await).await else {
            continue;
        };
        match (app.shared.pools.connections.take(1), turns.next()) {
            (Some(permit), Some(worker)) => match socket.into_std() {
                // A worker that has stopped drops the connection: the server is draining.
                Ok(socket) => worker.send((socket, permit)).unwrap_or_default(),
                Err(error) => return error,
            },
            _ => door.refuse(Socket::Unix(socket)),
        }
    }
}

/// Serves what another worker has accepted.
async fn take_dealt(
    app: Rc<App>,
    mut dealt: mpsc::UnboundedReceiver<(std::os::unix::net::UnixStream, Permit)>,
    live: Rc<Live>,
) -> io::Error {
    while let Some((socket, permit)) = dealt.recv().await {
        match UnixStream::from_std(socket) {
            Ok(socket) => {
                let socket = Socket::Unix(socket);
                let connection =
                    connection(Rc::clone(&app), socket, Address::Unix, permit, live.enter());
                spawn_local(connection);
            }
            Err(error) => log::error("connection lost", &[("cause", Value::Display(&error))]),
        }
    }
    io::Error::other("the accepting worker has ended")
}

/// What happens at a listener besides serving.
#[derive(Default)]
struct Door {
    is_failing: bool,
    refusals: Rc<Cell<usize>>,
}

impl Door {
    /// The connection that came in; none after a failure, and then only after a pause.
    async fn entered<T>(&mut self, accepted: io::Result<T>) -> Option<T> {
        match accepted {
            Ok(accepted) => {
                self.is_failing = false;
                Some(accepted)
            }
            // The client was gone before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => None,
            Err(error) => {
                if !self.is_failing {
                    log::error("accept failed", &[("cause", Value::Display(&error))]);
                }
                self.is_failing = true;
                sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }

    fn refuse(&self, socket: Socket) {
        if self.refusals.get() < REFUSALS_MAX {
            spawn_local(refuse(socket, Rc::clone(&self.refusals)));
        }
    }
}

/// Serves one connection to its end. It is polled again at each change of the phase, and with it
/// the handler or body that is running, so that these need not watch the phase themselves.
async fn connection(app: Rc<App>, socket: Socket, peer: Address, permit: Permit, lives: Lives) {
    let config = &app.shared.config.server;
    let timeouts = Timeouts {
        head: config.head_timeout,
        idle: config.idle_timeout,
        write: config.write_timeout,
    };
    let wire = Wire::new();
    let stalled = Arc::clone(&app.shared.pools.stalled);
    let io = ClientIo::new(socket, Rc::clone(&wire), timeouts, stalled);
    let service = service_fn(|request| router::serve(&app, &wire, peer, request));
    let mut connection = pin!(
        http1::Builder::new()
            .max_buf_size(BUFFER_BYTES)
            .writev(false)
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(io), service)
    );
    let mut phase = Phase::Running;
    let mut is_registered = false;
    poll_fn(|cx| {
        if !is_registered {
            lives.register(cx.waker());
            is_registered = true;
        }
        if phase != app.phase.get() {
            phase = app.phase.get();
            connection.as_mut().graceful_shutdown();
        }
        // How a connection ends says nothing that the request's line does not say.
        connection.as_mut().poll(cx).map(drop)
    })
    .await;
    drop(permit);
    drop(lives);
}

/// Answers a connection that there is no room for, so that the client sees why.
async fn refuse(socket: Socket, refusals: Rc<Cell<usize>>) {
    refusals.set(refusals.get() + 1);
    let text = reply::no_room_for_connection();
    let sent = match &socket {
        Socket::Tcp(tcp) => tcp.try_write(text.as_bytes()),
        Socket::Unix(unix) => unix.try_write(text.as_bytes()),
    };
    if sent.is_ok() {
        // Closing before the request has been read would reset the connection, answer and all.
        let mut buffer = [0; 1024];
        let read_on = async {
            match socket {
                Socket::Tcp(mut tcp) => while matches!(tcp.read(&mut buffer).await, Ok(1..)) {},
                Socket::Unix(mut unix) => while matches!(unix.read(&mut buffer).await, Ok(1..)) {},
            }
        };
        // Either end of the wait is fine.
        let _: Result<(), _> = timeout(REFUSAL_TIMEOUT, read_on).await;
    }
    refusals.set(refusals.get() - 1);
}

/// Warns of models that their provider no longer serves.
async fn check_models(app: Rc<App>) {
    for (index, row) in app.upstream.providers().iter().enumerate() {
        if let Ok(Some(false)) = app.upstream.model_served(index).await {
            log::warn(
                "model not served",
                &[
                    ("provider", Value::Str(&row.name)),
                    ("model", Value::Str(&row.model)),
                ],
            );
        }
    }
}
