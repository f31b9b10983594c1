//! A simulated model provider: OpenAI-compatible, HTTP/1.1, plain or TLS.
//!
//! `POST …/chat/completions` streams DeepSeek-like events; the last message of the request says
//! how (`sim: tokens=100 rate=50 stamp=1`, see `behaviour.rs`), the command line gives the
//! defaults. `GET …/models` lists the model; `GET /sim/stats` shows counts, CPU time and how late
//! deltas went out against their schedule, `GET /sim/reset` the same and counts from zero again.
//!
//! Written on plain tokio, one current-thread runtime per core, so that it is never what a
//! measurement is waiting for; `--measure` shows that, with readers that throw everything away.
//!
//! ```text
//! cargo run -p bench --bin provider -- --listen 127.0.0.1:9000
//! curl -N http://127.0.0.1:9000/v1/chat/completions -d '{"messages":[{"role":"user","content":"sim: tokens=5 rate=2"}]}'
//! ```

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use bench::args::{Args, fail};
use bench::behaviour::Behaviour;
use bench::connection::Connection;
use bench::drain::Drain;
use bench::simulate::REQUEST_BYTES_MAX;
use bench::stats::{Core, Stats};
use bench::timer::Timers;
use bench::{certificate, listen, simulate, wire};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

const USAGE: &str =
    "provider [--listen 127.0.0.1:0] [--threads N] [--sim 'key=value …'] [--tls --ca-file FILE]
prints its address as http://… or https://…; GET /sim/stats and /sim/reset show how it does
provider --measure [--streams 5000] [--rate 10] [--seconds 5] [--threads N]
measures itself without a proxy: as fast as one reader takes it, and many streams on schedule
keys: tokens rate flood burst bytes head_ms first_ms stamp id hold status finish no_end split,
and one of stall_after (stall_ms) cut_after reset_after error_after garbage_after";

struct Shared {
    defaults: Behaviour,
    tls: Option<TlsAcceptor>,
    stats: Stats,
}

/// What the connections of one thread share.
struct Thread {
    shared: Arc<Shared>,
    timers: Timers,
    index: usize,
}

impl Thread {
    fn core(&self) -> &Core {
        &self.shared.stats.cores[self.index]
    }
}

fn main() {
    let options = [
        "listen", "threads", "sim", "ca-file", "streams", "rate", "seconds",
    ];
    let args = Args::read(USAGE, &options, &["tls", "measure"]);
    let listen = args.text("listen").unwrap_or("127.0.0.1:0");
    let Ok(addr) = listen.parse() else {
        fail(&format!("--listen: {listen} is no address"))
    };
    let mut defaults = Behaviour::default();
    if let Err(error) = defaults.apply(args.text("sim").unwrap_or_default()) {
        fail(&format!("--sim: {error}"));
    }
    let tls = args.has("tls").then(|| {
        let file = args.text("ca-file");
        certificate::acceptor(file.unwrap_or_else(|| fail("--tls needs --ca-file FILE")))
    });
    listen::raise_open_files();
    let threads = args.number("threads", listen::cores());
    let shared = Arc::new(Shared {
        defaults,
        tls,
        stats: Stats::new(threads),
    });
    if let Err(error) = run(addr, threads, &shared, &args) {
        fail(&format!("provider: {error}"));
    }
}

fn run(addr: SocketAddr, threads: usize, shared: &Arc<Shared>, args: &Args) -> io::Result<()> {
    let (addr, sockets) = listen::bind_shared(addr, threads)?;
    let listening = Arc::new(Barrier::new(sockets.len() + 1));
    let mut running = Vec::new();
    for (index, socket) in sockets.into_iter().enumerate() {
        let (shared, listening) = (Arc::clone(shared), Arc::clone(&listening));
        running.push(std::thread::spawn(move || {
            core(index, socket, shared, &listening)
        }));
    }
    listening.wait();
    if args.has("measure") {
        return measure(addr, &shared.stats, args);
    }
    let scheme = if shared.tls.is_some() {
        "https"
    } else {
        "http"
    };
    println!("{scheme}://{addr}");
    for thread in running {
        thread
            .join()
            .map_err(|_| io::Error::other("a thread died"))??;
    }
    Ok(())
}

/// What this program can do when nothing is between it and its readers; prints one JSON object.
fn measure(addr: SocketAddr, stats: &Stats, args: &Args) -> io::Result<()> {
    let streams = args.number("streams", 5000);
    let seconds = Duration::from_secs_f64(args.number("seconds", 5.0));
    let rate: f64 = args.number("rate", 10.0);
    let phase = |streams, sim: &str| -> io::Result<serde_json::Value> {
        let drain = Drain::start(addr, streams, sim);
        let ready = drain.ready(streams, 60);
        stats.reset();
        std::thread::sleep(seconds);
        let mut shown = stats.json();
        shown["streams"] = ready.into();
        drain.stop()?;
        Ok(shown)
    };
    let flood = phase(1, "stamp=1 flood=1 tokens=100000000")?;
    let paced = phase(streams, &format!("stamp=1 rate={rate} tokens=100000000"))?;
    println!("{}", serde_json::json!({"flood": flood, "paced": paced}));
    Ok(())
}

fn core(
    index: usize,
    socket: TcpSocket,
    shared: Arc<Shared>,
    listening: &Barrier,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async {
        let listener = socket.listen(4096)?;
        let thread = Rc::new(Thread {
            shared,
            timers: Timers::new()?,
            index,
        });
        thread.core().begin()?;
        listening.wait();
        tokio::select! {
            ended = accept(&listener, &thread) => ended,
            ended = thread.timers.drive() => ended,
        }
    })
}

async fn accept(listener: &TcpListener, thread: &Rc<Thread>) -> io::Result<()> {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors; some will be closed soon.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(handshake(stream, Rc::clone(thread)));
    }
}

async fn handshake(stream: TcpStream, thread: Rc<Thread>) {
    thread.core().connections.fetch_add(1, Relaxed);
    match &thread.shared.tls {
        None => connection(stream, &thread).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                connection(stream, &thread).await;
            }
        }
    }
}

/// Serves requests until either side closes; an error of the socket is the client's leaving.
async fn connection<S: Connection>(mut io: S, thread: &Thread) {
    let mut input = Vec::with_capacity(4096);
    loop {
        let Ok(head) = read_request(&mut io, &mut input).await else {
            return;
        };
        let length = head.length.unwrap_or_default();
        let body: Vec<u8> = input
            .drain(..head.bytes + length)
            .skip(head.bytes)
            .collect();
        thread.core().requests.fetch_add(1, Relaxed);
        match answer(&mut io, &mut input, &head, &body, thread).await {
            Ok(()) if !head.close => {}
            _ => return,
        }
    }
}

/// Reads until `input` starts with a whole request.
async fn read_request<S: AsyncRead + Unpin>(
    io: &mut S,
    input: &mut Vec<u8>,
) -> io::Result<wire::Head> {
    loop {
        if let Some(head) = wire::head(input)
            && input.len() >= head.bytes + head.length.unwrap_or_default()
        {
            return Ok(head);
        }
        if input.len() > REQUEST_BYTES_MAX || io.read_buf(input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn answer<S: Connection>(
    io: &mut S,
    input: &mut Vec<u8>,
    head: &wire::Head,
    body: &[u8],
    thread: &Thread,
) -> io::Result<()> {
    let json = match (head.first.as_str(), head.second.as_str()) {
        ("POST", target) if target.ends_with("/chat/completions") => {
            match thread.shared.defaults.asked_by(body) {
                Ok(asked) if asked.status == 200 => {
                    let core = thread.core();
                    core.open.fetch_add(1, Relaxed);
                    let end = simulate::stream(io, input, &asked, &thread.timers, core).await;
                    core.open.fetch_sub(1, Relaxed);
                    if end.is_err() {
                        core.gone.fetch_add(1, Relaxed);
                    }
                    return end;
                }
                Ok(asked) => (asked.status, error("asked for", asked.status)),
                Err(mistake) => (400, error(&mistake, 400)),
            }
        }
        ("GET", target) if target.ends_with("/models") => (
            200,
            r#"{"object":"list","data":[{"id":"deepseek-flash","object":"model","owned_by":"bench"}]}"#
                .to_owned(),
        ),
        ("GET", "/sim/stats") => (200, thread.shared.stats.json().to_string()),
        ("GET", "/sim/reset") => {
            let shown = thread.shared.stats.json().to_string();
            thread.shared.stats.reset();
            (200, shown)
        }
        _ => (404, error("no such path", 404)),
    };
    let (status, text) = json;
    let reply = format!(
        "HTTP/1.1 {status} Simulated\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    );
    io.write_all(reply.as_bytes()).await?;
    io.flush().await
}

fn error(message: &str, status: u16) -> String {
    serde_json::json!({"error": {"message": message, "type": "simulated", "code": status}})
        .to_string()
}
