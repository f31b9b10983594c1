//! The server inside the test, with one worker, and a provider that the test plays.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloudchat::budget::Budget;
use cloudchat::config::{Config, Listen, Sources};
use cloudchat::{log, serve};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;
use tempfile::TempDir;

use crate::client::Client;

/// How long anything may take before it counts as hanging.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The counters belong to the process: one server at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub struct Rig {
    pub provider: Provider,
    port: u16,
    running: serve::Running,
    /// For looking whether the worker has done all it had to do.
    pinging: Client,
    folder: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Rig {
    /// A server whose provider speaks plain HTTP, or TLS.
    pub fn start(tls: bool) -> Self {
        let alone = ONE_AT_A_TIME.lock();
        let alone = alone.unwrap_or_else(PoisonError::into_inner);
        log::hide_info();
        let folder = tempfile::tempdir().expect("there is room");
        let (provider, pem) = Provider::start(tls);
        let config = configure(&folder, &provider, &pem);
        let budget = Budget::new(&config).expect("the default memory is enough");
        let running = serve::start(config, &budget).expect("it starts");
        // The server's own hook hides what a failed assertion says.
        drop(std::panic::take_hook());
        let port = match running.addresses.as_slice() {
            [Listen::Tcp(address)] => address.port(),
            other => panic!("listens on {other:?}"),
        };
        provider.list_models();
        let mut pinging = Client::connect(port);
        pinging.ping();
        Self {
            provider,
            port,
            running,
            pinging,
            folder,
            _alone: alone,
        }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.port)
    }

    /// Returns when the worker has done what was ready before: its tasks take turns.
    pub fn settle(&mut self) {
        self.pinging.ping();
    }

    /// Ends the server, so that it does not disturb the next test's counts.
    pub fn stop(self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("there are resources");
        runtime
            .block_on(self.running.stop(Duration::ZERO))
            .expect("it ends well");
        drop(self.folder);
    }
}

fn configure(folder: &TempDir, provider: &Provider, pem: &str) -> Config {
    let file = folder.path().join("config.toml");
    let roots = folder.path().join("ca.pem");
    fs::write(&roots, pem).expect("it is writable");
    let (scheme, roots) = match pem {
        "" => ("http", String::new()),
        _ => ("https", format!("upstream.ca_file = {roots:?}\n")),
    };
    let port = provider.port();
    // The mail sender's look at the outbox allocates, and is none of a stream's. What is counted for the
    // operator must not.
    let settings = format!(
        "metrics.listen = \"127.0.0.1:0\"\nmail.look_seconds = 3600\nserver.workers = 1\nchat.rate_per_minute = 0\nchat.streams_per_client_max = 1000\nchat.break_seconds = 10\n{roots}\
         [[provider]]\nname = \"played\"\nbase_url = \"{scheme}://127.0.0.1:{port}/v1\"\n\
         model = \"m-1\"\nkey_env = \"\"\n"
    );
    fs::write(&file, settings).expect("it is writable");
    Config::load(Sources {
        file: Some(&file),
        listen: &["127.0.0.1:0".to_owned()],
        data_dir: Some(&folder.path().join("data")),
        ..Sources::default()
    })
    .expect("the settings are good")
}

pub struct Provider {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
}

/// A connection from the server.
pub struct Peer {
    wire: Box<dyn Wire>,
    /// The same connection, for its settings.
    socket: TcpStream,
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

impl Provider {
    /// With the certificate to trust, in PEM; empty without TLS.
    fn start(tls: bool) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        SockRef::from(&listener)
            .set_read_timeout(Some(PATIENCE))
            .expect("accepting has a time-out");
        // Accepted sockets inherit it; a stall shows the sooner.
        SockRef::from(&listener)
            .set_send_buffer_size(32 * 1024)
            .expect("it can be set");
        let (tls, pem) = match tls {
            true => identity(),
            false => (None, String::new()),
        };
        (Self { listener, tls }, pem)
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().expect("it is bound").port()
    }

    /// The server's next connection.
    pub fn accept(&self) -> Peer {
        let (socket, _) = self.listener.accept().expect("the server connects");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a time-out can be set");
        socket.set_nodelay(true).expect("TCP_NODELAY can be set");
        let wire = socket.try_clone().expect("it can be cloned");
        let wire: Box<dyn Wire> = match &self.tls {
            None => Box::new(wire),
            Some(config) => Box::new(encrypted(config, wire)),
        };
        Peer { wire, socket }
    }

    /// Answers the question that a server asks when it starts.
    fn list_models(&self) {
        let mut peer = self.accept();
        peer.request();
        let list = r#"{"data":[{"id":"m-1"}]}"#;
        let length = list.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        peer.send(format!("{head}{list}").as_bytes());
    }
}

fn encrypted(
    config: &Arc<ServerConfig>,
    socket: TcpStream,
) -> StreamOwned<ServerConnection, TcpStream> {
    let session = ServerConnection::new(Arc::clone(config)).expect("a valid configuration");
    StreamOwned::new(session, socket)
}

/// A configuration for 127.0.0.1 and its certificate, self-signed, in PEM.
fn identity() -> (Option<Arc<ServerConfig>>, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("they match");
    (Some(Arc::new(config)), made.cert.pem())
}

impl Peer {
    /// Reads a whole request.
    pub fn request(&mut self) {
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            let n = self.wire.read(&mut piece).expect("the server asks");
            assert!(n > 0, "the server left in the middle of its request");
            bytes.extend_from_slice(&piece[..n]);
            let text = String::from_utf8_lossy(&bytes);
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let length = head.lines().find_map(|line| {
                let length = line.strip_prefix("Content-Length: ")?;
                Some(length.parse::<usize>().expect("a length"))
            });
            if body.len() >= length.unwrap_or(0) {
                return;
            }
        }
    }

    /// Reads a request and accepts it.
    pub fn begin(&mut self) {
        self.request();
        self.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
              Transfer-Encoding: chunked\r\n\r\n",
        );
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.wire.write_all(bytes).expect("the server reads");
        self.wire.flush().expect("the server reads");
    }

    /// Sends these bytes over and over until the server has not read on for a moment.
    pub fn flood(&mut self, bytes: &[u8]) {
        let moment = Some(Duration::from_millis(50));
        let socket = SockRef::from(&self.socket);
        socket
            .set_write_timeout(moment)
            .expect("a time-out can be set");
        // rustls also looks for what the other side says.
        socket
            .set_read_timeout(moment)
            .expect("a time-out can be set");
        let mut at = 0;
        while let Ok(n) = self.wire.write(&bytes[at..]) {
            at = (at + n) % bytes.len();
        }
    }

    /// The end of a stream; the connection can be used again.
    pub fn finish(&mut self) {
        let end =
            "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        self.send(&[chunk(end).as_slice(), b"0\r\n\r\n"].concat());
    }
}

/// One HTTP chunk.
pub fn chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
}

/// An event as DeepSeek sends it, as a chunk.
pub fn event(text: &str) -> Vec<u8> {
    chunk(&format!(
        "data: {{\"id\":\"930c60df-bf64-41c9-a88e-3ec75f81e00e\",\"object\":\
         \"chat.completion.chunk\",\"created\":1755047005,\"model\":\"deepseek-flash\",\
         \"system_fingerprint\":\"fp_8802369eaa\",\"choices\":[{{\"index\":0,\"delta\":\
         {{\"content\":\"{text}\"}},\"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
    ))
}
