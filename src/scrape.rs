//! The metrics of the whole process as Prometheus reads them, on a listener of their own
//! (`metrics.listen`): what each core has counted is added up when somebody asks.
//!
//! It runs on a thread of its own, so that nobody who asks, or asks slowly, delays a stream.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hyper::body::Incoming;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::app::Shared;
use crate::budget::{self, Budget};
use crate::clock;
use crate::connection;
use crate::connection::Serving;
use crate::hasher::Hasher;
use crate::http::reply;
use crate::http::wire::Busy;
use crate::log::{self, Value};
use crate::memory;
use crate::metrics::{Cause, Core, ENDS, ROUTES_MAX, STATUSES, Store};
use crate::router;
use crate::upstream;

mod text;

use text::{Text, sum};

/// Connections at a time; who comes then waits.
const CONNECTIONS_MAX: usize = 4;
/// From being accepted to the last byte of the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 16;
/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// What is told of.
pub struct Sources {
    /// One for each worker.
    pub cores: Vec<&'static Core>,
    /// Settings and counters.
    pub shared: Arc<Shared>,
    /// The memory sum.
    pub budget: Budget,
    /// The providers' breakers.
    pub upstream: Arc<upstream::Shared>,
    /// Its queue.
    pub hasher: Hasher,
}

/// The running thread.
#[derive(Debug)]
pub struct Running {
    thread: JoinHandle<()>,
    stop: watch::Sender<()>,
    ended: watch::Receiver<()>,
}

/// One set of cells for each worker. They stay until the process ends, as its workers do.
pub fn cores(workers: usize, providers: usize) -> Vec<&'static Core> {
    let routes: Vec<&'static str> = router::ENDPOINTS.iter().map(|row| row.path).collect();
    let routes: &'static [&'static str] = routes.leak();
    let core = || &*Box::leak(Box::new(Core::new(routes, providers)));
    (0..workers).map(|_| core()).collect()
}

/// Binds the listener; where it listens, with the port that was chosen.
///
/// # Errors
/// One line on what cannot be had.
pub fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    let bind = || {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        // The process that this one takes over from still listens; no other user's can join in.
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(TcpListener::from(socket))
    };
    let listener = bind();
    listener.map_err(|error| format!("metrics.listen: cannot listen on {address}: {error}"))
}

impl Running {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no resources for it.
    pub fn start(listener: TcpListener, sources: Sources) -> Result<Self, String> {
        let (stop, stopping) = watch::channel(());
        let (alive, ended) = watch::channel(());
        let thread = thread::Builder::new().name("metrics".into());
        let thread = thread.spawn(move || {
            let _alive = alive;
            if let Err(cause) = run(listener, sources, stopping) {
                log::error("metrics ended", &[("cause", Value::Str(&cause))]);
            }
        });
        Ok(Self {
            thread: thread.map_err(|error| format!("thread: {error}"))?,
            stop,
            ended,
        })
    }

    /// Ends the thread.
    ///
    /// # Errors
    /// It had panicked.
    pub fn stop(self) -> Result<(), String> {
        drop(self.stop);
        let joined = self.thread.join();
        joined.map_err(|_| "the metrics' thread panicked".to_owned())
    }
}

/// Resolves when the thread has ended; never, if there is none.
pub fn ended(running: Option<&Running>) -> impl Future<Output = ()> + Send + use<> {
    let ended = running.map(|running| running.ended.clone());
    async move {
        match ended {
            Some(mut ended) => while ended.changed().await.is_ok() {},
            None => std::future::pending().await,
        }
    }
}

fn run(
    listener: TcpListener,
    sources: Sources,
    mut stopping: watch::Receiver<()>,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(|error| format!("runtime: {error}"))?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)
            .map_err(|error| format!("listener: {error}"))?;
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let sources = Arc::new(sources);
        let accept = async {
            loop {
                let place = Arc::clone(&places).acquire_owned().await;
                match listener.accept().await {
                    Ok((socket, _)) => {
                        let sources = Arc::clone(&sources);
                        tokio::task::spawn_local(async move {
                            // Who is slower than that asks again.
                            let _: Result<(), _> =
                                timeout(CONNECTION_TIMEOUT, serve(socket, sources)).await;
                            drop(place);
                        });
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        };
        tokio::select! {
            () = accept => {}
            _ = stopping.changed() => {}
        }
        Ok(())
    })
}

async fn serve(socket: TcpStream, sources: Arc<Sources>) {
    let answer = move |request: hyper::Request<Incoming>, _: Busy| {
        let known = request.uri().path() == "/metrics";
        let reply = match (known, request.method().as_str()) {
            (true, "GET" | "HEAD") => reply::metrics(text(&sources)),
            (true, _) => reply::metrics_refused(Some("GET, HEAD")),
            (false, _) => reply::metrics_refused(None),
        };
        Serving::Now(Some(reply))
    };
    // How it ended says nothing that matters to anybody.
    connection::serve_other(socket, CONNECTION_TIMEOUT, answer).await;
}

/// Everything, as of now.
fn text(sources: &Sources) -> String {
    let mut text = Text(String::with_capacity(24 * 1024));
    text.family(
        "cloudchat_build_info",
        "gauge",
        "Always 1; the version is a label.",
    );
    let version = env!("CARGO_PKG_VERSION");
    text.sample("cloudchat_build_info", &[("version", version)], 1);
    requests(&mut text, sources);
    streams(&mut text, sources);
    providers(&mut text, sources);
    limits(&mut text, sources);
    stores(&mut text, sources);
    process(&mut text);
    text.0
}

fn requests(text: &mut Text, sources: &Sources) {
    let name = "cloudchat_requests_total";
    text.family(name, "counter", "Responses, streams when they have ended; the route - is for unknown paths, the status 0 for others.");
    let known = router::ENDPOINTS
        .iter()
        .enumerate()
        .map(|(n, row)| (n, row.path));
    for (n, route) in known.chain([(ROUTES_MAX - 1, "-")]) {
        for (at, status) in STATUSES.iter().enumerate() {
            let count = sum(sources.cores.iter().map(|core| &core.requests[n][at]));
            if count > 0 {
                let status = status.to_string();
                text.sample(name, &[("route", route), ("status", &status)], count);
            }
        }
    }
}

fn streams(text: &mut Text, sources: &Sources) {
    let cores = || sources.cores.iter();
    let pools = &sources.shared.pools;
    text.one(
        "cloudchat_streams_open",
        "gauge",
        "Answers running now.",
        pools.streams.used(),
    );
    let started = sum(cores().map(|core| &core.streams_started));
    text.one(
        "cloudchat_streams_started_total",
        "counter",
        "Answers that have begun.",
        started,
    );
    let name = "cloudchat_streams_ended_total";
    text.family(
        name,
        "counter",
        "Answers that have ended, by reason; gone: the client went away.",
    );
    for (n, end) in ENDS.iter().enumerate() {
        let count = sum(cores().map(|core| &core.streams_ended[n]));
        text.sample(name, &[("reason", end)], count);
    }
    let texts = sum(cores().map(|core| &core.texts));
    text.one(
        "cloudchat_tokens_total",
        "counter",
        "Texts forwarded; a model sends about one for each token.",
        texts,
    );
    let name = "cloudchat_added_delay_seconds";
    text.family(name, "histogram", "From reading a provider's bytes to handing their lines to the kernel; with a client that does not read, the wait for it.");
    text.histogram(name, &[], cores().map(|core| &core.added_delay));
    let name = "cloudchat_first_text_seconds";
    text.family(
        name,
        "histogram",
        "From the end of a question to the first text of its answer.",
    );
    text.histogram(name, &[], cores().map(|core| &core.first_text));
}

fn providers(text: &mut Text, sources: &Sources) {
    let rows = &sources.shared.config.providers;
    let name = "cloudchat_provider_errors_total";
    text.family(name, "counter", "Failures of a provider, by cause.");
    for (n, row) in rows.iter().enumerate() {
        for (cause, shown) in Cause::ALL {
            let count = sum(sources
                .cores
                .iter()
                .map(|core| &core.provider_errors[n][cause as usize]));
            text.sample(name, &[("provider", &row.name), ("cause", shown)], count);
        }
    }
    let name = "cloudchat_provider_breaker";
    text.family(
        name,
        "gauge",
        "1 for the state that the provider's circuit breaker is in.",
    );
    for (row, now) in rows.iter().zip(sources.upstream.breakers(clock::now())) {
        for state in ["closed", "open", "half_open"] {
            let is = u8::from(state == now);
            text.sample(name, &[("provider", &row.name), ("state", state)], is);
        }
    }
}

fn limits(text: &mut Text, sources: &Sources) {
    let pools = &sources.shared.pools;
    let (waiting, places) = sources.hasher.queue();
    let rows = [
        ("streams", pools.streams.used(), pools.streams.max()),
        (
            "connections",
            pools.connections.used(),
            pools.connections.max(),
        ),
        ("stalled_streams", pools.stalled.used(), pools.stalled.max()),
        (
            "long_lines",
            pools.long_lines.used(),
            pools.long_lines.max(),
        ),
        ("prompt_bytes", pools.prompts.used(), pools.prompts.max()),
        ("body_bytes", pools.bodies.used(), pools.bodies.max()),
        ("answer_bytes", pools.answers.used(), pools.answers.max()),
        ("hash_queue", waiting, places),
    ];
    for (name, help) in [
        ("cloudchat_limit_used", "What is in use of each limit."),
        (
            "cloudchat_limit_max",
            "The limits, as cloudchat check prints them.",
        ),
    ] {
        text.family(name, "gauge", help);
        for (limit, used, max) in rows {
            let value = if name.ends_with("used") { used } else { max };
            text.sample(name, &[("limit", limit)], value);
        }
    }
    let name = "cloudchat_memory_max_bytes";
    text.family(name, "gauge", "The memory sum, by owner.");
    for row in &sources.budget.rows {
        text.sample(name, &[("owner", row.what)], row.bytes());
    }
    let name = "cloudchat_memory_used_bytes";
    text.family(
        name,
        "gauge",
        "What of it is in use, for owners whose use is counted.",
    );
    for (owner, used) in [
        (
            "connections",
            pools.connections.used() * budget::CONNECTION_BYTES,
        ),
        ("streams", pools.streams.used() * budget::STREAM_BYTES),
        (
            "long lines",
            pools.long_lines.used() * budget::LONG_LINE_BYTES,
        ),
        ("prompts", pools.prompts.used()),
        ("request bodies", pools.bodies.used()),
        ("answers", pools.answers.used()),
    ] {
        text.sample(name, &[("owner", owner)], used);
    }
}

fn stores(text: &mut Text, sources: &Sources) {
    let name = "cloudchat_store_call_seconds";
    text.family(
        name,
        "histogram",
        "Calls to the stores, their wait for a connection included.",
    );
    for (store, shown) in Store::ALL {
        let cores = sources
            .cores
            .iter()
            .map(|core| &core.store_calls[store as usize]);
        text.histogram(name, &[("store", shown)], cores);
    }
}

fn process(text: &mut Text) {
    if let Some(used) = memory::resident() {
        text.one(
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory.",
            used.resident,
        );
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        text.one(
            "process_open_fds",
            "gauge",
            "Open file descriptors.",
            files.count(),
        );
    }
}
