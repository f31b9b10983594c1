//! The process: bind first, then start; signals; drain.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::accounts::quota::{WAITING_PER_CLIENT_MAX, WAITING_PER_SUBJECT_MAX};
use crate::app::{Phase, Shared};
use crate::budget::Budget;
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::hasher;
use crate::limits::{KeyedPool, Windows};
use crate::log::{self, Value};
use crate::mail::Sender;
use crate::store::Backend;
use crate::upstream;
use crate::worker::{self, Listener, Setup};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;
/// Clients counted in the process while the session store is down.
const FALLBACK_CLIENTS_MAX: usize = 10_000;
/// After the drain time: workers end by themselves, or are left behind.
const WORKERS_TIMEOUT: Duration = Duration::from_secs(8);

/// A running server.
#[derive(Debug)]
pub struct Running {
    /// Where it listens, with the ports that were chosen.
    pub addresses: Vec<Listen>,
    config: Arc<Shared>,
    phases: watch::Sender<Phase>,
    ends: mpsc::UnboundedReceiver<(u16, Result<(), String>)>,
    workers: Vec<JoinHandle<()>>,
    hasher: hasher::Running,
    backend: Backend,
}

/// Runs the server until it is told to stop.
///
/// # Errors
/// It cannot start, or a part of it has died.
pub fn run(config: Config, budget: &Budget) -> Result<(), String> {
    let signals = Signals::listen()?;
    start(config, budget)?.until_signal(signals)
}

/// SIGTERM and SIGINT. Made before anything is served, or one that comes right after would end
/// the process with its streams.
#[derive(Debug)]
pub struct Signals {
    runtime: tokio::runtime::Runtime,
    term: Signal,
    int: Signal,
}

impl Signals {
    /// From now on they do not end the process by themselves.
    ///
    /// # Errors
    /// The system has no resources for it.
    pub fn listen() -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("runtime: {error}"))?;
        let (term, int) = {
            let _entered = runtime.enter();
            (
                signal(SignalKind::terminate()).map_err(|error| format!("SIGTERM: {error}"))?,
                signal(SignalKind::interrupt()).map_err(|error| format!("SIGINT: {error}"))?,
            )
        };
        Ok(Self { runtime, term, int })
    }
}

/// Binds every address, opens the stores, then starts the workers.
///
/// # Errors
/// One clear line on what cannot be had.
pub fn start(config: Config, budget: &Budget) -> Result<Running, String> {
    std::panic::set_hook(Box::new(log_panic));
    raise_file_limit(budget.files_max as u64);
    let workers = config.server.workers;
    let mut bound = Vec::new();
    for listen in &config.server.listen {
        bound.push(bind(listen, workers, config.server.socket_buffer_bytes)?);
    }
    let upstream = upstream::Shared::new(&config.upstream, &config.providers)?;
    let backend = Backend::start(&config.store, log_store)?;
    let mut stores: Vec<_> = (0..workers).map(|_| backend.connect()).collect();
    // The worker that runs it shares its connections with it.
    let first = stores.first().expect("there is at least one worker");
    let mail = Sender::new(&config, first.clone(), Clock::System)?;
    let hasher = hasher::Running::start(&config.auth)?;
    let shared = Arc::new(Shared {
        pools: budget.pools(),
        clients: KeyedPool::new(config.chat.streams_per_client_max),
        waiting_clients: KeyedPool::new(WAITING_PER_CLIENT_MAX),
        waiting_subjects: KeyedPool::new(WAITING_PER_SUBJECT_MAX),
        fallback_windows: Windows::new(FALLBACK_CLIENTS_MAX),
        config,
    });
    let (phases, phase) = watch::channel(Phase::Running);
    let (end, ends) = mpsc::unbounded_channel();
    let addresses: Vec<Listen> = bound.iter().map(|b| b.address.clone()).collect();
    let mut listeners: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
    for bound in bound {
        for (own, bound) in listeners.iter_mut().zip(bound.listeners) {
            own.extend(bound);
        }
    }
    let mut mail = Some(mail);
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
            phases: phase.clone(),
        };
        let end = end.clone();
        let thread = thread::Builder::new().name(format!("worker-{worker}"));
        let thread = thread.spawn(move || {
            let run = std::panic::AssertUnwindSafe(|| worker::run(setup));
            let ended = std::panic::catch_unwind(run);
            let ended = ended.unwrap_or_else(|_| Err("panicked".to_string()));
            // Nobody listens any more when the process is ending anyway.
            end.send((worker, ended)).unwrap_or_default();
        });
        threads.push(thread.map_err(|error| format!("thread: {error}"))?);
    }
    for address in &addresses {
        let address = address.to_string();
        log::info("listening", &[("address", Value::Str(&address))]);
    }
    Ok(Running {
        addresses,
        config: shared,
        phases,
        ends,
        workers: threads,
        hasher,
        backend,
    })
}

impl Running {
    /// Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once.
    ///
    /// # Errors
    /// A worker, the hasher or the store has died, or the drain was cut short.
    pub fn until_signal(mut self, signals: Signals) -> Result<(), String> {
        let Signals {
            runtime,
            mut term,
            mut int,
        } = signals;
        runtime.block_on(async {
            let died = tokio::select! {
                _ = term.recv() => None,
                _ = int.recv() => None,
                Some((worker, ended)) = self.ends.recv() => {
                    Some(format!("worker {worker} ended: {ended:?}"))
                }
                () = self.hasher.ended() => Some("the hasher's thread ended".to_string()),
                () = self.backend.ended() => Some("the store's thread ended".to_string()),
            };
            if let Some(cause) = died {
                return Err(cause);
            }
            let drain = self.config.config.server.drain_timeout;
            log::info("draining", &[("ms", Value::Millis(drain))]);
            tokio::select! {
                ended = self.stop(drain) => ended,
                _ = term.recv() => Err("a second signal: ended at once".to_string()),
                _ = int.recv() => Err("a second signal: ended at once".to_string()),
            }
        })
    }

    /// Stops listening, gives what runs `drain` to end, then ends it, and closes the stores.
    ///
    /// # Errors
    /// A worker did not end in time, or not well, or the stores could not be closed.
    pub async fn stop(mut self, drain: Duration) -> Result<(), String> {
        for address in &self.addresses {
            if let Listen::Unix(path) = address {
                // Somebody may have removed it already.
                fs::remove_file(path).unwrap_or_default();
            }
        }
        self.phases.send_replace(Phase::Draining);
        let mut left = self.workers.len();
        let ends = &mut self.ends;
        match timeout(drain, all_ended(ends, &mut left)).await {
            Ok(ended) => ended?,
            Err(_) => {
                self.phases.send_replace(Phase::Ending);
                let ended = timeout(WORKERS_TIMEOUT, all_ended(ends, &mut left)).await;
                ended.map_err(|_| format!("{left} workers did not end in time"))??;
            }
        }
        for worker in self.workers {
            worker.join().map_err(|_| "a worker panicked")?;
        }
        self.hasher.stop()?;
        self.backend.stop()?;
        log::info("stopped", &[]);
        Ok(())
    }
}

async fn all_ended(
    ends: &mut mpsc::UnboundedReceiver<(u16, Result<(), String>)>,
    left: &mut usize,
) -> Result<(), String> {
    while *left > 0 {
        let Some((worker, ended)) = ends.recv().await else {
            return Err("a worker ended without a word".to_string());
        };
        *left -= 1;
        ended.map_err(|error| format!("worker {worker}: {error}"))?;
    }
    Ok(())
}

/// An address and what listens there.
struct Bound {
    address: Listen,
    /// For each worker.
    listeners: Vec<Vec<Listener>>,
}

fn bind(listen: &Listen, workers: usize, send_buffer: usize) -> Result<Bound, String> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{listen} is in use by another process: stop it, or choose another --listen")
        }
        _ => format!("cannot listen on {listen}: {error}"),
    };
    match listen {
        Listen::Tcp(address) => bind_tcp(*address, workers, send_buffer).map_err(failed),
        Listen::Unix(path) => bind_unix(path, workers).map_err(failed),
    }
}

/// One socket per worker on a shared port, so that the kernel spreads connections over the cores.
fn bind_tcp(address: SocketAddr, workers: usize, send_buffer: usize) -> io::Result<Bound> {
    // With SO_REUSEPORT a second server would silently take part of the traffic: ask without.
    // Not by listening, because a client that came just then would be lost with the probe.
    let probe = tcp_socket(address)?;
    probe.bind(&address.into())?;
    let address = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    let mut listeners = Vec::new();
    for _ in 0..workers {
        let socket = tcp_socket(address)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit it.
        socket.set_send_buffer_size(send_buffer)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        listeners.push(vec![Listener::Tcp(socket.into())]);
    }
    Ok(Bound {
        address: Listen::Tcp(address),
        listeners,
    })
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// One socket, whose connections are dealt out to all workers; for its owner and group only.
fn bind_unix(path: &Path, workers: usize) -> io::Result<Bound> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    listener.set_nonblocking(true)?;
    // If all accepted, the one that wakes first would take nearly everything.
    let ways = (0..workers).map(|_| mpsc::unbounded_channel());
    let (dealt, taken): (Vec<_>, Vec<_>) = ways.unzip();
    let taken = taken.into_iter().map(|dealt| vec![Listener::Dealt(dealt)]);
    let mut listeners: Vec<Vec<Listener>> = taken.collect();
    if let Some(first) = listeners.first_mut() {
        first.push(Listener::Unix(listener, dealt));
    }
    Ok(Bound {
        address: Listen::Unix(PathBuf::from(path)),
        listeners,
    })
}

/// Removes a socket that nobody listens on any more; anything else stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is no socket is there",
        )),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            _ => Err(io::ErrorKind::AddrInUse.into()),
        },
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
