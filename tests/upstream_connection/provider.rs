//! A scripted provider on a loopback port: each connection gets a thread that runs the script.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use cloudchat::clock;
use cloudchat::config;
use cloudchat::upstream::{Exchange, Failure, Shared, Upstream, Visitor};

pub const STREAM: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
pub const HELLO: &str = "5\r\nhello\r\n0\r\n\r\n";

/// Longest wait for anything that is expected to happen.
pub const PATIENCE: Duration = Duration::from_secs(5);

pub struct Fake {
    pub port: u16,
    accepted: Arc<AtomicUsize>,
}

impl Fake {
    /// Runs `script` with the number and the socket of each connection.
    pub fn start(script: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("is bound").port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (count, script) = (Arc::clone(&accepted), Arc::new(script));
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let (n, script) = (count.fetch_add(1, Ordering::SeqCst), Arc::clone(&script));
                socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
                socket.set_nodelay(true).expect("is TCP");
                std::thread::spawn(move || script(n, socket));
            }
        });
        Self { port, accepted }
    }

    /// Answers the first request of each connection with `response`, then closes.
    pub fn once(response: impl Into<Vec<u8>>) -> Self {
        let response = response.into();
        Self::start(move |_, mut socket| {
            request(&mut socket);
            socket.write_all(&response).expect("the client reads");
            socket.shutdown(Shutdown::Write).expect("is open");
            ended(&mut socket);
        })
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// Reads one request with its body; empty if the client closed instead.
pub fn request(socket: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        match socket.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            _ => return String::new(),
        }
    }
    let head = String::from_utf8(bytes).expect("ASCII");
    let length = head.split("Content-Length: ").nth(1).map_or(0, |rest| {
        let digits = rest.split("\r\n").next().expect("has a line");
        digits.parse().expect("a number")
    });
    let mut body = vec![0; length];
    socket.read_exact(&mut body).expect("the body follows");
    head + &String::from_utf8(body).expect("UTF-8")
}

/// Waits until the client has closed; the moment it did.
pub fn ended(socket: &mut TcpStream) -> Instant {
    let mut bytes = [0; 4096];
    loop {
        match socket.read(&mut bytes) {
            Ok(1..) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the client did not close")
            }
            Ok(0) | Err(_) => return clock::now().into_std(),
        }
    }
}

/// A channel between a test and its provider's threads; receiving blocks, so only for events that
/// need nothing from the client meanwhile.
pub fn signal<T>() -> (Sender<T>, Receiver<T>) {
    channel()
}

pub fn settings() -> config::Upstream {
    config::Upstream {
        connect_timeout: Duration::from_secs(2),
        first_event_timeout: PATIENCE,
        between_events_timeout: PATIENCE,
        breaker_failures_max: 0,
        breaker_open: Duration::from_millis(100),
        idle_max: 4,
        idle_timeout: Duration::from_secs(55),
        roots: config::Roots::BuiltIn,
        ca_file: None,
        receive_buffer_bytes: 8192,
        socket_buffer_bytes: 8192,
    }
}

pub fn row(port: u16) -> config::Provider {
    config::Provider {
        name: "fake".to_owned(),
        tls: false,
        host: "127.0.0.1".to_owned(),
        port,
        path: "/v1".to_owned(),
        model: "m-1".to_owned(),
        key: Some(config::Secret("sk-1".to_owned())),
        headers: Vec::new(),
        send_user: false,
        done_is_complete: false,
        extra: String::new(),
    }
}

pub fn upstream(settings: &config::Upstream, row: config::Provider) -> Rc<Upstream> {
    Upstream::new(Shared::new(settings, &[row]).expect("a valid row"))
}

pub fn client(fake: &Fake) -> Rc<Upstream> {
    upstream(&settings(), row(fake.port))
}

/// Runs a test like a core does: on one thread, with local tasks.
pub fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("a runtime")
        .block_on(test);
}

/// Sends `{}`.
pub async fn send(upstream: &Rc<Upstream>) -> Result<Exchange, Failure> {
    let ticket = upstream
        .admit(0, clock::now())
        .expect("the breaker is closed");
    upstream
        .send(ticket, Visitor::default(), b"{}", clock::now() + PATIENCE)
        .await
}

pub async fn read(exchange: &mut Exchange, buf: &mut [u8]) -> Result<usize, Failure> {
    std::future::poll_fn(|cx| exchange.poll_read(cx, buf)).await
}

/// The whole body, read in pieces of at most `step` bytes, and how it ended.
pub async fn body(exchange: &mut Exchange, step: usize) -> (Vec<u8>, Result<(), Failure>) {
    let (mut body, mut buf) = (Vec::new(), vec![0; step]);
    loop {
        match read(exchange, &mut buf).await {
            Ok(0) => return (body, Ok(())),
            Ok(n) => body.extend_from_slice(&buf[..n]),
            Err(failure) => return (body, Err(failure)),
        }
    }
}
