//! A simulated model provider: OpenAI-compatible, HTTP/1.1, plain or TLS.
//!
//! `POST …/chat/completions` streams DeepSeek-like events; the last message of the request says
//! how (`sim: tokens=100 rate=50 stamp=1`, see `behaviour.rs`), the command line gives the
//! defaults. `GET …/models` lists the model, `GET /sim/stats` counts. Written on plain tokio, one
//! current-thread runtime per core, so that it is never what a measurement is waiting for.
//!
//! ```text
//! cargo run -p bench --bin provider -- --listen 127.0.0.1:9000
//! curl -N http://127.0.0.1:9000/v1/chat/completions -d '{"messages":[{"role":"user","content":"sim: tokens=5 rate=2"}]}'
//! ```

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use bench::args::{Args, fail};
use bench::behaviour::Behaviour;
use bench::{clock, frame, listen, wire};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;

const USAGE: &str =
    "provider [--listen 127.0.0.1:0] [--threads N] [--sim 'key=value …'] [--tls --ca-file FILE]
prints its address as http://… or https://…";

/// Longest request taken; a prompt of the server is at most a few hundred KiB.
const REQUEST_BYTES_MAX: usize = 8 << 20;
/// Bytes written at once when flooding.
const FLOOD_BYTES: usize = 16 << 10;

struct Shared {
    defaults: Behaviour,
    tls: Option<TlsAcceptor>,
    stats: Stats,
}

#[derive(Default)]
struct Stats {
    connections: AtomicU64,
    requests: AtomicU64,
    deltas: AtomicU64,
    /// Streams running now.
    open: AtomicI64,
    /// Streams whose client closed before the end.
    gone: AtomicU64,
}

fn main() {
    let args = Args::read(USAGE, &["listen", "threads", "sim", "ca-file"], &["tls"]);
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
        tls_acceptor(file.unwrap_or_else(|| fail("--tls needs --ca-file FILE")))
    });
    listen::raise_open_files();
    let shared = Arc::new(Shared {
        defaults,
        tls,
        stats: Stats::default(),
    });
    if let Err(error) = run(addr, args.number("threads", listen::cores()), &shared) {
        fail(&format!("provider: {error}"));
    }
}

fn run(addr: SocketAddr, threads: usize, shared: &Arc<Shared>) -> io::Result<()> {
    let (addr, sockets) = listen::bind_shared(addr, threads)?;
    let listening = Arc::new(Barrier::new(sockets.len() + 1));
    let mut running = Vec::new();
    for socket in sockets {
        let (shared, listening) = (Arc::clone(shared), Arc::clone(&listening));
        running.push(std::thread::spawn(move || core(socket, shared, &listening)));
    }
    listening.wait();
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

/// A certificate authority and a server certificate made for this run; the authority's PEM goes to `file`.
fn tls_acceptor(file: &str) -> TlsAcceptor {
    let made = make_certificate().unwrap_or_else(|error| fail(&format!("certificate: {error}")));
    let (pem, chain, key) = made;
    if let Err(error) = std::fs::write(file, pem) {
        fail(&format!("--ca-file {file}: {error}"));
    }
    let key = rustls::pki_types::PrivateKeyDer::try_from(key)
        .expect("rcgen writes keys that rustls reads");
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the certificate was made for this key");
    TlsAcceptor::from(Arc::new(config))
}

type Made = (
    String,
    Vec<rustls::pki_types::CertificateDer<'static>>,
    Vec<u8>,
);

fn make_certificate() -> Result<Made, rcgen::Error> {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // With rcgen's default for both, the leaf would pass for self-signed.
    let names = &mut authority.distinguished_name;
    names.push(DnType::CommonName, "bench provider authority");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let names = [
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    let leaf = CertificateParams::new(names)?.signed_by(&key, &authority)?;
    Ok((
        authority.pem(),
        vec![leaf.der().clone()],
        key.serialize_der(),
    ))
}

fn core(socket: TcpSocket, shared: Arc<Shared>, listening: &Barrier) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = socket.listen(4096)?;
        listening.wait();
        accept(&listener, &shared).await
    })
}

async fn accept(listener: &TcpListener, shared: &Arc<Shared>) -> io::Result<()> {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors; some will be closed soon.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        stream.set_nodelay(true)?;
        tokio::spawn(handshake(stream, Arc::clone(shared)));
    }
}

async fn handshake(stream: TcpStream, shared: Arc<Shared>) {
    shared.stats.connections.fetch_add(1, Relaxed);
    match &shared.tls {
        None => connection(stream, &shared).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                connection(stream, &shared).await;
            }
        }
    }
}

/// Serves requests until either side closes; an error of the socket is the client's leaving.
async fn connection<S: AsyncRead + AsyncWrite + Unpin>(mut io: S, shared: &Shared) {
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
        shared.stats.requests.fetch_add(1, Relaxed);
        match answer(&mut io, &mut input, &head, &body, shared).await {
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

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    input: &mut Vec<u8>,
    head: &wire::Head,
    body: &[u8],
    shared: &Shared,
) -> io::Result<()> {
    let json = match (head.first.as_str(), head.second.as_str()) {
        ("POST", target) if target.ends_with("/chat/completions") => {
            match shared.defaults.asked_by(body) {
                Ok(asked) if asked.status == 200 => {
                    shared.stats.open.fetch_add(1, Relaxed);
                    let end = stream(io, input, &asked, &shared.stats).await;
                    shared.stats.open.fetch_sub(1, Relaxed);
                    if end.is_err() {
                        shared.stats.gone.fetch_add(1, Relaxed);
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
        ("GET", "/sim/stats") => (200, shared.stats.json()),
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

impl Stats {
    fn json(&self) -> String {
        serde_json::json!({
            "connections": self.connections.load(Relaxed),
            "requests": self.requests.load(Relaxed),
            "deltas": self.deltas.load(Relaxed),
            "open": self.open.load(Relaxed),
            "gone": self.gone.load(Relaxed),
        })
        .to_string()
    }
}

/// Streams one answer. `Ok` leaves the connection ready for the next request.
async fn stream<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    input: &mut Vec<u8>,
    asked: &Behaviour,
    stats: &Stats,
) -> io::Result<()> {
    let mut timer = pin!(tokio::time::sleep(Duration::from_millis(asked.first_ms)));
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n");
    if asked.first_ms > 0 {
        send(io, &mut out).await?;
        wait(io, input, timer.as_mut()).await?;
    }
    frame::write_role(&mut out);
    let start = clock::now();
    let (mut text, mut sent) = (Vec::new(), 0);
    while sent < asked.tokens {
        if asked.rate > 0.0 {
            let due = Duration::from_secs_f64(sent as f64 / asked.rate);
            send(io, &mut out).await?;
            timer.as_mut().reset(start + due);
            wait(io, input, timer.as_mut()).await?;
        }
        let more = batch(asked, sent, &mut out, &mut text);
        send(io, &mut out).await?;
        stats.deltas.fetch_add(more, Relaxed);
        sent += more;
        if asked.stall_after == Some(sent) {
            return until_gone(io, input).await;
        }
        if asked.cut_after == Some(sent) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    }
    send(io, &mut out).await?;
    if asked.hold {
        return until_gone(io, input).await;
    }
    frame::write_end(&mut out);
    send(io, &mut out).await
}

/// Appends the deltas that are due together, and says how many: a burst, or a buffer full when flooding.
fn batch(asked: &Behaviour, sent: u64, out: &mut Vec<u8>, text: &mut Vec<u8>) -> u64 {
    let now = clock::monotonic_ns();
    let mut more = 0;
    loop {
        let stamp = asked.stamp.then_some((sent + more, now));
        frame::fill_text(text, asked.bytes, stamp);
        frame::write_delta(out, text);
        more += 1;
        let stop = Some(sent + more);
        let full = if asked.rate > 0.0 {
            more >= asked.burst
        } else {
            out.len() + text.len() + 300 > FLOOD_BYTES
        };
        if full
            || sent + more >= asked.tokens
            || stop == asked.stall_after
            || stop == asked.cut_after
        {
            return more;
        }
    }
}

async fn send<S: AsyncWrite + Unpin>(io: &mut S, out: &mut Vec<u8>) -> io::Result<()> {
    if !out.is_empty() {
        io.write_all(out).await?;
        io.flush().await?;
        out.clear();
    }
    Ok(())
}

/// Waits for the timer; an error when the client closes before.
async fn wait<S: AsyncRead + Unpin>(
    io: &mut S,
    input: &mut Vec<u8>,
    mut timer: std::pin::Pin<&mut tokio::time::Sleep>,
) -> io::Result<()> {
    loop {
        tokio::select! {
            biased;
            () = timer.as_mut() => return Ok(()),
            read = io.read_buf(input) => check_open(read, input)?,
        }
    }
}

async fn until_gone<S: AsyncRead + Unpin>(io: &mut S, input: &mut Vec<u8>) -> io::Result<()> {
    loop {
        check_open(io.read_buf(input).await, input)?;
    }
}

/// A pipelined request may arrive while a stream runs; it waits in `input`.
fn check_open(read: io::Result<usize>, input: &[u8]) -> io::Result<()> {
    if read? == 0 || input.len() > REQUEST_BYTES_MAX {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(())
}
