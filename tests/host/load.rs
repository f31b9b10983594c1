//! Clients that come all the time, as through Nginx and without it: requests at a fixed rate, and
//! streams that are always open. Any failure of theirs is a failure of the test.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cloudchat::clock;

use crate::kit::{Call, Conn, Provider, pass, request};
use crate::supervisor::Service;

/// Requests a second, of all clients together.
pub const RATE: u64 = 200;
pub const STREAMS: usize = 100;
const CLIENTS: u64 = 4;
/// Connections that a client with kept connections has.
const KEPT: usize = 8;
/// Between two texts of a stream.
const TEXT_PAUSE: f64 = 0.15;
/// Shortest and longest stream, in texts.
const TEXTS_MIN: usize = 6;
const TEXTS_MAX: usize = 30;

/// What has happened so far.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    requests: AtomicU64,
    /// The longest wait of a request, from when it was due, in microseconds.
    longest_us: AtomicU64,
    /// Streams that show texts now.
    open: AtomicUsize,
    streams: AtomicU64,
}

/// The clients at work.
pub struct Load {
    seen: Arc<Seen>,
    clients: Vec<JoinHandle<()>>,
    playing: JoinHandle<()>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub requests: u64,
    pub longest: Duration,
    pub streams: u64,
}

#[derive(Clone)]
struct Place {
    port: u16,
    socket: PathBuf,
}

impl Place {
    fn connect(&self, unix: bool) -> Conn {
        match unix {
            true => Conn::unix(&self.socket),
            false => Conn::tcp(self.port),
        }
    }
}

impl Load {
    /// Starts the clients; returns when all streams are open.
    pub fn start(service: &Service, provider: Provider) -> Self {
        let seen = Arc::new(Seen::default());
        let place = Place {
            port: service.port,
            socket: service.path("socket"),
        };
        let playing = {
            let seen = Arc::clone(&seen);
            thread::spawn(move || play(&provider, &seen))
        };
        let mut clients = Vec::new();
        for n in 0..CLIENTS {
            let (seen, place) = (Arc::clone(&seen), place.clone());
            clients.push(thread::spawn(move || ask(&place, &seen, n)));
        }
        for n in 0..STREAMS {
            let (seen, place) = (Arc::clone(&seen), place.clone());
            clients.push(thread::spawn(move || stream(&place, &seen, n)));
        }
        let load = Self {
            seen,
            clients,
            playing,
        };
        load.wait("all streams", |seen| {
            seen.open.load(Ordering::SeqCst) >= STREAMS
        });
        load
    }

    /// Waits until that many more requests have been answered, with most streams open again.
    pub fn requests(&self, n: u64) {
        let target = self.seen.requests.load(Ordering::SeqCst) + n;
        self.wait("requests to be answered", |seen| {
            seen.requests.load(Ordering::SeqCst) >= target
                && seen.open.load(Ordering::SeqCst) * 10 >= STREAMS * 9
        });
    }

    fn wait(&self, what: &str, done: impl Fn(&Seen) -> bool) {
        crate::kit::until(what, || {
            let failed = self.clients.iter().any(JoinHandle::is_finished);
            assert!(!failed, "a client has failed");
            done(&self.seen).then_some(())
        });
    }

    /// Ends the clients, each after what it has in hand.
    pub fn stop(self) -> Outcome {
        self.seen.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.join().expect("no client has failed");
        }
        self.playing.join().expect("the provider has not failed");
        Outcome {
            requests: self.seen.requests.load(Ordering::SeqCst),
            longest: Duration::from_micros(self.seen.longest_us.load(Ordering::SeqCst)),
            streams: self.seen.streams.load(Ordering::SeqCst),
        }
    }
}

/// One client: over TCP or the Unix socket, on kept connections or a new one for each request.
fn ask(place: &Place, seen: &Seen, n: u64) {
    let (unix, keeps) = (n % 2 == 1, n < 2);
    let mut kept: Vec<Option<Conn>> = (0..KEPT).map(|_| None).collect();
    let start = clock::now();
    for round in 0.. {
        if seen.stop.load(Ordering::SeqCst) {
            return;
        }
        let due = start + Duration::from_micros((round * CLIENTS + n) * 1_000_000 / RATE);
        pass(due.saturating_duration_since(clock::now()).as_secs_f64());
        let slot = &mut kept[round as usize % KEPT];
        let mut conn = slot.take().unwrap_or_else(|| place.connect(unix));
        let path = if round % 4 == 0 {
            "/auth/healthz"
        } else {
            "/test"
        };
        conn.send(&request(&format!("GET {path}"), &[], None));
        let reply = conn.reply();
        assert_eq!((reply.status, reply.whole), (200, true), "{path}");
        let is_last = reply.head.get("connection") == Some("close");
        if keeps && !is_last {
            *slot = Some(conn);
        }
        let waited = due.elapsed().as_micros() as u64;
        seen.longest_us.fetch_max(waited, Ordering::SeqCst);
        seen.requests.fetch_add(1, Ordering::SeqCst);
    }
}

/// One reader of streams, one after the other.
fn stream(place: &Place, seen: &Seen, n: usize) {
    for round in 0.. {
        if seen.stop.load(Ordering::SeqCst) {
            return;
        }
        let texts = TEXTS_MIN + (n * 7 + round * 11) % (TEXTS_MAX - TEXTS_MIN);
        let mut conn = place.connect(n % 2 == 1);
        conn.ask(&texts.to_string(), &[("X-Forwarded-For", "192.0.2.7")]);
        let head = conn.head();
        assert_eq!(head.status, 200);
        let mut lines = Vec::new();
        while let Some(line) = conn.next_line() {
            if lines.is_empty() {
                seen.open.fetch_add(1, Ordering::SeqCst);
            }
            lines.push(line);
        }
        seen.open.fetch_sub(1, Ordering::SeqCst);
        let mut expect: Vec<String> = (0..texts)
            .map(|n| format!("{{\"text\":\"{n} \"}}"))
            .collect();
        expect.push("{\"done\":\"stop\"}".to_owned());
        assert_eq!(lines, expect);
        assert!(conn.rest().1, "the body has its final chunk");
        seen.streams.fetch_add(1, Ordering::SeqCst);
    }
}

/// The provider: as many texts as the question says, at an even pace.
fn play(provider: &Provider, seen: &Seen) {
    let mut answers = Vec::new();
    loop {
        match provider.try_call() {
            Some(call) => answers.push(thread::spawn(move || answer(call))),
            None if seen.stop.load(Ordering::SeqCst) && seen.open.load(Ordering::SeqCst) == 0 => {
                break;
            }
            None => pass(0.001),
        }
    }
    for answer in answers {
        answer.join().expect("no answer has failed");
    }
}

fn answer(mut call: Call) {
    let talk = call.received.talk();
    let question = talk.last().expect("there is a question");
    let texts = question.strip_prefix("user: ").expect("it is the user's");
    call.accept();
    for n in 0..texts.parse().expect("it is a number") {
        call.text(&format!("{n} "));
        pass(TEXT_PAUSE);
    }
    call.finish("stop");
}
