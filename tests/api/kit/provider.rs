//! The model provider, played by the test: a real HTTP server on a loopback port.
//!
//! [`Provider::played`] hands every request to the test as a [`Call`], which the test answers step
//! by step; [`Provider::answering`] answers by itself. `GET …/models` is answered in both, and the doctor's own
//! question in the first.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cloudchat::clock;
use serde_json::{Value, json};
use socket2::Socket;
use tokio::time::Instant;

use super::PATIENCE;
pub use super::answer::{Answer, STREAM_HEAD, chunk, delta, finish, recorded};

/// A request as the provider got it.
#[derive(Debug, Clone)]
pub struct Received {
    /// Request line and headers.
    pub head: String,
    pub body: Value,
}

impl Received {
    /// `role: content` of the messages after the system prompt, the question included.
    pub fn talk(&self) -> Vec<String> {
        let messages = self.body["messages"]
            .as_array()
            .expect("there are messages");
        let text = |value: &Value| value.as_str().expect("it is a text").to_owned();
        let talk = messages
            .iter()
            .map(|m| format!("{}: {}", text(&m["role"]), text(&m["content"])));
        talk.skip(1).collect()
    }
}

/// Answers by the number of the request, starting at 0.
type Script = Box<dyn Fn(usize, &Received) -> Answer + Send + Sync>;

/// What the doctor asks each provider.
const DOCTORS_QUESTION: &str = "Say OK and nothing else.";

struct Shared {
    /// The rows of its list of models.
    models: Mutex<Value>,
    script: Option<Script>,
    calls: Sender<Call>,
    received: Mutex<Vec<Received>>,
    connections: AtomicUsize,
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// The provider's listener and what it has seen.
pub struct Provider {
    pub port: u16,
    shared: Arc<Shared>,
    calls: Receiver<Call>,
}

/// One request that waits for the test to answer it. Dropping it closes the connection.
pub struct Call {
    pub received: Received,
    socket: TcpStream,
    keep: Sender<()>,
}

impl Provider {
    /// Every request becomes a [`Call`].
    pub fn played() -> Self {
        Self::start(None, None)
    }

    /// Every request is answered by `script`.
    pub fn answering(script: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(Some(Box::new(script)), None)
    }

    /// Every request is answered with a short text that ends well.
    pub fn friendly() -> Self {
        Self::answering(|_, _| Answer::texts(&["Hello", " you"]))
    }

    /// As `answering`, over TLS.
    pub fn encrypted(
        tls: Arc<rustls::ServerConfig>,
        script: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(Box::new(script)), Some(tls))
    }

    fn start(script: Option<Script>, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let (sender, calls) = mpsc::channel();
        let shared = Arc::new(Shared {
            models: Mutex::new(json!([{"id": "m-1", "object": "model"}])),
            script,
            calls: sender,
            received: Mutex::default(),
            connections: AtomicUsize::new(0),
            tls,
        });
        let to_serve = Arc::clone(&shared);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let shared = Arc::clone(&to_serve);
                shared.connections.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || serve(&shared, socket));
            }
        });
        Self {
            port,
            shared,
            calls,
        }
    }

    /// From now on these are the rows of its list of models.
    pub fn lists(&self, models: Value) {
        *self.shared.models.lock().expect("no holder panics") = models;
    }

    /// The next request; waits for it.
    pub fn call(&self) -> Call {
        self.calls
            .recv_timeout(PATIENCE)
            .expect("the server asks the provider")
    }

    /// Whether a request has arrived that was not taken yet.
    pub fn try_call(&self) -> Option<Call> {
        self.calls.try_recv().ok()
    }

    /// All chat requests so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared
            .received
            .lock()
            .expect("no holder panics")
            .clone()
    }

    /// The last chat request.
    pub fn last(&self) -> Received {
        self.received().pop().expect("there was a request")
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// A provider row of the configuration that points here.
    pub fn row(&self) -> String {
        self.row_named("scripted")
    }

    /// A provider row with that name.
    pub fn row_named(&self, name: &str) -> String {
        let scheme = if self.shared.tls.is_some() {
            "https://localhost"
        } else {
            "http://127.0.0.1"
        };
        row(name, &format!("{scheme}:{}/v1", self.port))
    }
}

/// A provider row of the configuration.
pub fn row(name: &str, base_url: &str) -> String {
    format!(
        "\n[[provider]]\nname = \"{name}\"\nbase_url = \"{base_url}\"\nmodel = \"m-1\"\nkey_env = \"TEST_KEY\"\n"
    )
}

fn serve(shared: &Shared, mut socket: TcpStream) {
    socket.set_nodelay(true).expect("TCP_NODELAY can be set");
    match &shared.tls {
        None => {
            let copy = socket.try_clone().expect("it can be cloned");
            while let Some(received) = read_request(&mut socket) {
                if !answer(shared, received, &mut socket, Some(&copy)) {
                    return;
                }
            }
        }
        Some(config) => {
            let session =
                rustls::ServerConnection::new(Arc::clone(config)).expect("the settings fit");
            let mut stream = rustls::StreamOwned::new(session, socket);
            while let Some(received) = read_request(&mut stream) {
                if !answer(shared, received, &mut stream, None) {
                    return;
                }
            }
        }
    }
}

/// Answers one request; `false` when the connection is to be closed.
fn answer(
    shared: &Shared,
    received: Received,
    wire: &mut impl Write,
    socket: Option<&TcpStream>,
) -> bool {
    if received.head.starts_with("GET ") {
        let rows = shared.models.lock().expect("no holder panics").clone();
        let models = json!({"object": "list", "data": rows});
        let models = Answer::status(
            200,
            "Content-Type: application/json\r\n",
            &models.to_string(),
        );
        return wire.write_all(&models.bytes).is_ok();
    }
    let asks = received.body["messages"].as_array();
    let is_doctors = asks.is_some_and(|asks| asks.iter().any(|m| m["content"] == DOCTORS_QUESTION));
    if is_doctors && shared.script.is_none() {
        return wire.write_all(&Answer::texts(&["OK"]).bytes).is_ok();
    }
    let number = {
        let mut all = shared.received.lock().expect("no holder panics");
        all.push(received.clone());
        all.len() - 1
    };
    if let Some(script) = &shared.script {
        let answer = script(number, &received);
        return wire
            .write_all(&answer.bytes)
            .and_then(|()| wire.flush())
            .is_ok()
            && answer.keep;
    }
    let (keep, kept) = mpsc::channel();
    let socket = socket.expect("played providers speak plain TCP");
    let socket = socket.try_clone().expect("it can be cloned");
    // The test may be over; then nobody waits for the call.
    let _ = shared.calls.send(Call {
        received,
        socket,
        keep,
    });
    kept.recv().is_ok()
}

fn read_request(wire: &mut impl Read) -> Option<Received> {
    let mut bytes = Vec::new();
    let mut piece = [0; 16384];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        match wire.read(&mut piece) {
            Ok(n) if n > 0 => bytes.extend(&piece[..n]),
            _ => return None,
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).expect("heads are text");
    let length = head.to_ascii_lowercase().lines().find_map(|line| {
        line.strip_prefix("content-length:")
            .map(|n| n.trim().parse::<usize>().expect("a number"))
    });
    let length = length.unwrap_or(0);
    while bytes.len() < end + 4 + length {
        match wire.read(&mut piece) {
            Ok(n) if n > 0 => bytes.extend(&piece[..n]),
            _ => return None,
        }
    }
    assert_eq!(
        bytes.len(),
        end + 4 + length,
        "nothing is pipelined to a provider"
    );
    let body = serde_json::from_slice(&bytes[end + 4..]).unwrap_or(Value::Null);
    Some(Received { head, body })
}

impl Call {
    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.socket
            .write_all(bytes)
            .expect("the server still reads");
        self
    }

    /// Sends bytes as they are; `false` when the peer is gone.
    pub fn try_raw(&mut self, bytes: &[u8]) -> bool {
        !self.is_closed() && self.socket.write_all(bytes).is_ok()
    }

    /// Accepts: the head of a stream in chunks.
    pub fn accept(&mut self) -> &mut Self {
        self.raw(STREAM_HEAD)
    }

    /// Sends bytes of the stream as one chunk.
    pub fn chunk(&mut self, data: &str) -> &mut Self {
        self.raw(&chunk(data.as_bytes()))
    }

    /// Sends one delta, the inside of a JSON string.
    pub fn text(&mut self, escaped: &str) -> &mut Self {
        self.chunk(&delta(escaped))
    }

    /// Sends the last events and the last chunk; the connection stays open for the next request.
    pub fn finish(mut self, reason: &str) {
        self.chunk(&finish(reason));
        self.raw(b"0\r\n\r\n");
        self.keep.send(()).expect("the connection's thread waits");
    }

    /// Answers as a whole; the connection stays open if the answer says so.
    pub fn answer(mut self, answer: &Answer) {
        self.raw(&answer.bytes);
        if answer.keep {
            self.keep.send(()).expect("the connection's thread waits");
        }
    }

    /// Writes without end until the peer stops reading or leaves; returns the bytes written.
    pub fn flood(&mut self, piece: &[u8]) -> usize {
        let mut written = 0;
        while let Ok(n) = self.socket.write(piece) {
            written += n;
        }
        written
    }

    /// Whether the peer has closed; does not wait.
    pub fn is_closed(&self) -> bool {
        self.socket.set_nonblocking(true).expect("it can be set");
        let got = (&self.socket).read(&mut [0; 1]);
        self.socket.set_nonblocking(false).expect("it can be set");
        !matches!(got, Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    /// Waits until the peer closes or resets its socket; the moment when that was seen.
    pub fn closed_at(self) -> Instant {
        self.socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a time-out can be set");
        match (&self.socket).read(&mut [0; 64]) {
            Ok(0) => clock::now(),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => clock::now(),
            other => panic!("the server did not close: {other:?}"),
        }
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        let socket = Socket::from(self.socket.try_clone().expect("it can be cloned"));
        // The reset goes out when the connection's thread drops the last copy of the socket.
        socket
            .set_linger(Some(Duration::ZERO))
            .expect("SO_LINGER can be set");
    }
}
