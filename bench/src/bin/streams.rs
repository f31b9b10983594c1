//! A client that opens many streams at once and measures what arrives.
//!
//! It speaks the chat contract (`POST /deepseek_chat`, JSON lines), or with `--sse` the provider's
//! own protocol, for the references: the provider alone, and Nginx before it. Start times are fixed
//! beforehand and waiting counts from them, so a slow server cannot hide by slowing the client down
//! (no coordinated omission). Prints one JSON object; with `--hold` first a line when the streams
//! are ready, and the report after a line (or the end) of standard input.
//!
//! ```text
//! streams --url http://127.0.0.1:5000/deepseek_chat --streams 200 --message 'sim: tokens=500 stamp=1'
//! streams --url http://127.0.0.1:9000/v1/chat/completions --sse --streams 200 --message 'sim: tokens=500 stamp=1'
//! ```

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bench::args::{Args, fail};
use bench::tally::Tally;
use bench::{clock, frame, listen, wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

const USAGE: &str =
    "streams --url URL [--sse] [--streams N] [--ramp-seconds S] [--message TEXT] [--threads N]
  [--timeout-seconds S]   what still runs then is closed and counted as late (default 120)
  [--hold] [--ready-deltas N]   say when every stream has N deltas, keep them until a line on stdin
  [--hold-seconds S]            the same, for S seconds
  [--slow N --slow-bytes B]     the first N streams read B bytes a second";

const OPTIONS: &[&str] = &[
    "url",
    "streams",
    "ramp-seconds",
    "message",
    "threads",
    "timeout-seconds",
    "ready-deltas",
    "hold-seconds",
    "slow",
    "slow-bytes",
];

/// What all streams have in common.
struct Plan {
    addr: SocketAddr,
    host: String,
    path: String,
    body: String,
    sse: bool,
    streams: usize,
    ramp: Duration,
    timeout: Duration,
    ready_deltas: u64,
    slow: usize,
    slow_bytes: usize,
    threads: usize,
    /// `CLOCK_MONOTONIC` when the first stream is due.
    start_ns: u64,
    ready: AtomicUsize,
    ended: AtomicUsize,
}

fn main() {
    let args = Args::read(USAGE, OPTIONS, &["sse", "hold"]);
    listen::raise_open_files();
    let plan = Arc::new(plan(&args));
    let (stop, stopped) = watch::channel(false);
    let cpu = clock::cpu_ns();
    let threads: Vec<_> = (0..plan.threads)
        .map(|thread| {
            let (plan, stopped) = (Arc::clone(&plan), stopped.clone());
            std::thread::spawn(move || core(thread, &plan, &stopped))
        })
        .collect();
    if args.has("hold") || args.has("hold-seconds") {
        hold(
            &plan,
            args.text("hold-seconds")
                .map(|_| args.number("hold-seconds", 0.0)),
        );
        stop.send_replace(true);
    }
    let mut sum = Tally::default();
    for thread in threads {
        match thread.join() {
            Ok(Ok(tally)) => sum.add(&tally),
            Ok(Err(error)) => fail(&format!("streams: {error}")),
            Err(_) => fail("streams: a thread died"),
        }
    }
    let mut report = sum.report();
    report["streams"] = plan.streams.into();
    report["seconds"] = seconds(clock::monotonic_ns() - plan.start_ns).into();
    report["client_cpu_seconds"] = seconds(clock::cpu_ns() - cpu).into();
    println!("{report}");
}

fn seconds(ns: u64) -> f64 {
    (ns as f64 / 1e6).round() / 1e3
}

fn plan(args: &Args) -> Plan {
    let url = args.text("url").unwrap_or_else(|| fail(USAGE));
    let Some(rest) = url.strip_prefix("http://") else {
        fail("--url: only http:// is spoken here")
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let addr = host.to_socket_addrs().ok().and_then(|mut all| all.next());
    let sse = args.has("sse");
    let message = args.text("message").unwrap_or("sim: stamp=1");
    let body = if sse {
        serde_json::json!({"model": "deepseek-flash", "stream": true,
            "messages": [{"role": "user", "content": message}]})
    } else {
        serde_json::json!({"message": message})
    };
    Plan {
        addr: addr.unwrap_or_else(|| fail(&format!("--url: {host} is no host:port"))),
        host: host.to_owned(),
        path: format!("/{path}"),
        body: body.to_string(),
        sse,
        streams: args.number("streams", 1),
        ramp: Duration::from_secs_f64(args.number("ramp-seconds", 0.0)),
        timeout: Duration::from_secs_f64(args.number("timeout-seconds", 120.0)),
        ready_deltas: args.number("ready-deltas", 1),
        slow: args.number("slow", 0),
        slow_bytes: args.number("slow-bytes", 1),
        threads: args.number("threads", listen::cores()).max(1),
        start_ns: clock::monotonic_ns(),
        ready: AtomicUsize::new(0),
        ended: AtomicUsize::new(0),
    }
}

/// Waits until the streams that still run are ready, says so, and then until it is told to stop.
fn hold(plan: &Plan, hold_seconds: Option<f64>) {
    let give_up = plan.start_ns + u64::try_from(plan.timeout.as_nanos()).unwrap_or(u64::MAX);
    while plan.ready.load(Relaxed) + plan.ended.load(Relaxed) < plan.streams
        && clock::monotonic_ns() < give_up
    {
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("{}", serde_json::json!({"ready": plan.ready.load(Relaxed)}));
    match hold_seconds {
        Some(seconds) => std::thread::sleep(Duration::from_secs_f64(seconds)),
        // The end of the input, or its failure, says the same as a line.
        None => drop(io::stdin().read_line(&mut String::new())),
    }
}

/// Runs every n-th stream of the plan on a runtime of its own.
fn core(thread: usize, plan: &Arc<Plan>, stopped: &watch::Receiver<bool>) -> io::Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    let tally = Rc::new(RefCell::new(Tally::default()));
    runtime.block_on(async {
        let tasks: Vec<_> = (thread..plan.streams)
            .step_by(plan.threads)
            .map(|index| {
                let (plan, tally) = (Arc::clone(plan), Rc::clone(&tally));
                tokio::task::spawn_local(guarded(index, plan, tally, stopped.clone()))
            })
            .collect();
        for task in tasks {
            task.await.map_err(io::Error::other)?;
        }
        io::Result::Ok(())
    })?;
    Ok(tally.take())
}

/// One stream, up to its end, the time-out or the order to stop.
async fn guarded(
    index: usize,
    plan: Arc<Plan>,
    tally: Rc<RefCell<Tally>>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut stream = Stream {
        due_ns: plan.start_ns + share(plan.ramp, index, plan.streams),
        ..Stream::default()
    };
    let end = tokio::select! {
        end = stream.run(index, &plan, &tally) => end,
        () = tokio::time::sleep(plan.timeout) => "late".to_owned(),
        // An error says that the sender is gone, which also means to stop.
        _ = stopped.wait_for(|stop| *stop) => "held".to_owned(),
    };
    Tally::count(&mut tally.borrow_mut().ends, &end);
    if !stream.ready {
        plan.ended.fetch_add(1, Relaxed);
    }
}

fn share(ramp: Duration, index: usize, streams: usize) -> u64 {
    (ramp.as_nanos() as f64 * index as f64 / streams.max(1) as f64) as u64
}

/// The state of one stream.
#[derive(Default)]
struct Stream {
    due_ns: u64,
    next: u64,
    deltas: u64,
    ready: bool,
    /// The finish reason, once the last line has come.
    done: Option<String>,
    /// Received and free of framing, up to the last whole line.
    lines: Vec<u8>,
}

impl Stream {
    /// Returns how it ended, for the report.
    async fn run(&mut self, index: usize, plan: &Plan, tally: &RefCell<Tally>) -> String {
        let wait = self.due_ns.saturating_sub(clock::monotonic_ns());
        tokio::time::sleep(Duration::from_nanos(wait)).await;
        let count = |name: &str| Tally::count(&mut tally.borrow_mut().answers, name);
        let Ok(mut io) = connect(index, plan).await else {
            count("connect");
            return "unanswered".to_owned();
        };
        let mut input = Vec::with_capacity(4096);
        let head = loop {
            if let Some(head) = wire::head(&input) {
                break head;
            }
            match io.read_buf(&mut input).await {
                Ok(1..) => {}
                _ => {
                    count("broken head");
                    return "unanswered".to_owned();
                }
            }
        };
        count(&head.second);
        if head.second != "200" {
            return "refused".to_owned();
        }
        input.drain(..head.bytes);
        match self.body(index, plan, tally, io, input).await {
            Ok(()) => self
                .done
                .take()
                .unwrap_or_else(|| "no last line".to_owned()),
            Err(_) if self.done.as_deref() == Some("error") => "error".to_owned(),
            Err(_) => "cut".to_owned(),
        }
    }

    /// Reads the chunked body; `Ok` when it ended as it should.
    async fn body(
        &mut self,
        index: usize,
        plan: &Plan,
        tally: &RefCell<Tally>,
        mut io: TcpStream,
        mut input: Vec<u8>,
    ) -> io::Result<()> {
        let mut framing = wire::Dechunk::default();
        loop {
            let now = clock::monotonic_ns();
            framing
                .feed(&input, &mut self.lines)
                .map_err(io::Error::other)?;
            input.clear();
            self.take_lines(plan, &mut tally.borrow_mut(), now);
            if framing.done() {
                return Ok(());
            }
            let read = if index < plan.slow {
                tokio::time::sleep(Duration::from_secs(1)).await;
                input.resize(plan.slow_bytes, 0);
                let read = io.read(&mut input).await?;
                input.truncate(read);
                read
            } else {
                io.read_buf(&mut input).await?
            };
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take_lines(&mut self, plan: &Plan, tally: &mut Tally, now: u64) {
        let mut from = 0;
        while let Some(len) = self.lines[from..].iter().position(|byte| *byte == b'\n') {
            let line = &self.lines[from..from + len];
            from += len + 1;
            if let Some(text) = frame::text_of(line, plan.sse) {
                if self.deltas == 0 {
                    tally.first_text(now.saturating_sub(self.due_ns));
                }
                self.deltas += 1;
                tally.delta(text, now, &mut self.next);
            } else if let Some(done) = done_of(line, plan.sse) {
                self.done = Some(done);
            }
        }
        self.lines.drain(..from);
        if !self.ready && self.deltas >= plan.ready_deltas {
            self.ready = true;
            plan.ready.fetch_add(1, Relaxed);
        }
    }
}

/// The finish reason of the last line; the provider's own stream just says `[DONE]`.
fn done_of(line: &[u8], sse: bool) -> Option<String> {
    if sse {
        return line.starts_with(b"data: [DONE]").then(|| "stop".to_owned());
    }
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    value["done"].as_str().map(str::to_owned)
}

/// Connects and sends the request.
async fn connect(index: usize, plan: &Plan) -> io::Result<TcpStream> {
    let socket = match plan.addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if index < plan.slow {
        // A slow reader's kernel should not read ahead for it.
        socket.set_recv_buffer_size(4096)?;
    }
    let mut io = socket.connect(plan.addr).await?;
    io.set_nodelay(true)?;
    let Plan {
        path, host, body, ..
    } = plan;
    // An address of its own, so that limits per client do not shape the measurement.
    let (a, b, c) = (index >> 16 & 255, index >> 8 & 255, index & 255);
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
         X-Forwarded-For: 10.{a}.{b}.{c}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    io.write_all(request.as_bytes()).await?;
    Ok(io)
}
