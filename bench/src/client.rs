//! One stream of the stream client: its requests, and what comes back.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

use crate::connection::Connection;
use crate::plan::Plan;
use crate::sequence::Sequence;
use crate::tally::{Received, Tally};
use crate::timer::Timers;
use crate::{clock, frame, wire};

/// Bytes read at once; one buffer serves all streams of a thread.
const READ_BYTES: usize = 64 << 10;

/// What the threads tell the one that waits for them.
#[derive(Debug, Default)]
pub struct Progress {
    /// Streams that have their deltas.
    pub ready: AtomicUsize,
    /// Streams that ended before.
    pub unready: AtomicUsize,
    /// Streams that ended.
    pub ended: AtomicUsize,
    /// Deltas received.
    pub deltas: AtomicU64,
}

/// What the streams of one thread share.
pub struct Thread {
    plan: Arc<Plan>,
    progress: Arc<Progress>,
    timers: Timers,
    tally: RefCell<Tally>,
    buffer: RefCell<Box<[u8]>>,
}

/// Runs every n-th stream of the plan on a runtime of its own.
pub fn run(
    thread: usize,
    plan: Arc<Plan>,
    progress: Arc<Progress>,
    stopped: &watch::Receiver<bool>,
) -> io::Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async {
        let shared = Rc::new(Thread {
            plan: Arc::clone(&plan),
            progress,
            timers: Timers::new()?,
            tally: RefCell::default(),
            buffer: RefCell::new(vec![0; READ_BYTES].into()),
        });
        let tasks: Vec<_> = (thread..plan.streams)
            .step_by(plan.threads)
            .map(|index| {
                let stream = Stream::new(index, Rc::clone(&shared));
                tokio::task::spawn_local(stream.run(stopped.clone()))
            })
            .collect();
        let all = async {
            for task in tasks {
                task.await.map_err(io::Error::other)?;
            }
            io::Result::Ok(())
        };
        tokio::select! {
            ended = all => ended?,
            ended = shared.timers.drive() => ended?,
        }
        Ok(shared.tally.take())
    })
}

/// The state of one stream.
struct Stream {
    index: usize,
    shared: Rc<Thread>,
    ready: bool,
    cookie: Option<String>,
    answer: Answer,
}

/// The state of one answer.
#[derive(Default)]
struct Answer {
    due_ns: u64,
    /// Delays are recorded of what was stamped from then on.
    record_from_ns: u64,
    stream: u64,
    sequence: Sequence,
    deltas: u64,
    framing: wire::Dechunk,
    /// Where the text stood in the last line.
    hint: usize,
    /// Received and free of framing, behind the last whole line.
    lines: Vec<u8>,
    /// The finish reason, once the last line has come.
    done: Option<String>,
}

impl Stream {
    fn new(index: usize, shared: Rc<Thread>) -> Self {
        Self {
            index,
            shared,
            ready: false,
            cookie: None,
            answer: Answer::default(),
        }
    }

    /// All turns, up to the order to stop.
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let shared = Rc::clone(&self.shared);
        let stop = async {
            // An error says that the sender is gone, which also means to stop.
            drop(stopped.wait_for(|stop| *stop).await);
        };
        let mut turn = None;
        tokio::select! {
            () = self.turns(&mut turn) => {}
            () = stop => {}
        }
        if turn.is_some() {
            // Closed in the middle of an answer.
            self.count("held");
        }
        if !self.ready {
            shared.progress.unready.fetch_add(1, Relaxed);
        }
        shared.progress.ended.fetch_add(1, Relaxed);
    }

    /// `running` is the turn that has begun and not ended.
    async fn turns(&mut self, running: &mut Option<usize>) {
        let shared = Rc::clone(&self.shared);
        let plan = &shared.plan;
        let mut io = None;
        for turn in 0..plan.turns {
            let due_ns = plan.schedule.due_ns(self.index, turn);
            shared.timers.until(due_ns).await;
            *running = Some(turn);
            let end = tokio::select! {
                end = self.turn(turn, due_ns, &mut io) => end,
                () = shared.timers.until(due_ns + plan.timeout_ns) => "late".to_owned(),
            };
            *running = None;
            if end != plan.asked.finish {
                io = None;
            }
            self.count(&end);
        }
    }

    /// Counts how a request ended. What this client closed itself, as it was told to, is no failure.
    fn count(&self, end: &str) {
        let tally = &mut *self.shared.tally.borrow_mut();
        Tally::count(&mut tally.ends, end);
        if end == self.shared.plan.asked.finish {
            tally.completed += 1;
            if self.shared.plan.asked.stamp {
                tally.lost += self
                    .answer
                    .sequence
                    .missing_at_end(self.shared.plan.asked.tokens);
            }
        } else if end != "held" && end != "aborted" {
            Tally::count(&mut tally.failed, end);
        }
    }

    /// One request and its answer; returns how it ended: a finish reason, or what went wrong.
    async fn turn(
        &mut self,
        turn: usize,
        due_ns: u64,
        io: &mut Option<Box<dyn Connection>>,
    ) -> String {
        let shared = Rc::clone(&self.shared);
        let plan = &shared.plan;
        let record_from_ns = plan.schedule.record_from_ns();
        let slow = self.index < plan.slow;
        self.answer = Answer {
            due_ns,
            record_from_ns: if slow { u64::MAX } else { record_from_ns },
            stream: plan.id(self.index, turn),
            ..Answer::default()
        };
        let late_ns = clock::monotonic_ns().saturating_sub(due_ns);
        if due_ns >= record_from_ns {
            shared.tally.borrow_mut().start_late(late_ns);
        }
        let answered = |how: &str| Tally::count(&mut shared.tally.borrow_mut().answers, how);
        let request = plan.request(self.index, turn, self.cookie.as_deref());
        if io.is_none() {
            match connect(plan, slow).await {
                Ok(made) => *io = Some(made),
                Err(_) => {
                    answered("connect");
                    return "connect".to_owned();
                }
            }
        }
        let Some(io) = io else {
            return "connect".to_owned();
        };
        let mut input = Vec::with_capacity(1024);
        let head = match ask(io, &request, &mut input).await {
            Ok(head) => head,
            Err(_) => {
                answered("broken head");
                return "broken head".to_owned();
            }
        };
        answered(&head.second);
        if head.second != "200" {
            return format!("status {}", head.second);
        }
        if let Some(cookie) = cookie(&input[..head.bytes]) {
            self.cookie = Some(cookie);
        }
        match self.body(io, &input[head.bytes..]).await {
            Ok(true) => "aborted".to_owned(),
            Ok(false) => self
                .answer
                .done
                .take()
                .unwrap_or_else(|| "no last line".to_owned()),
            Err(_) if self.answer.done.as_deref() == Some("error") => "error".to_owned(),
            Err(_) => "cut".to_owned(),
        }
    }

    /// Reads the chunked body to its end; `true` when it was closed from here, as planned.
    async fn body(&mut self, io: &mut Box<dyn Connection>, begun: &[u8]) -> io::Result<bool> {
        let shared = Rc::clone(&self.shared);
        let plan = &shared.plan;
        let slow = self.index < plan.slow;
        let abort = self.index + plan.abort >= plan.streams;
        let bytes = if slow {
            plan.slow_bytes.min(READ_BYTES)
        } else {
            READ_BYTES
        };
        self.take(begun)?;
        let mut next_ns = clock::monotonic_ns();
        while !self.answer.framing.done() {
            if abort && self.answer.deltas >= plan.abort_deltas {
                if plan.abort_reset {
                    io.reset_on_close()?;
                }
                return Ok(true);
            }
            if slow {
                next_ns += 1_000_000_000;
                shared.timers.until(next_ns).await;
            }
            poll_fn(|cx| {
                let mut buffer = shared.buffer.borrow_mut();
                let mut read = ReadBuf::new(&mut buffer[..bytes]);
                ready!(Pin::new(&mut *io).poll_read(cx, &mut read))?;
                if read.filled().is_empty() {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(self.take(read.filled()))
            })
            .await?;
        }
        Ok(false)
    }

    /// Takes what has just been received.
    fn take(&mut self, input: &[u8]) -> io::Result<()> {
        let shared = &*self.shared;
        let before = self.answer.deltas;
        self.answer
            .take(input, &shared.plan, &mut shared.tally.borrow_mut())?;
        let more = self.answer.deltas - before;
        shared.progress.deltas.fetch_add(more, Relaxed);
        if !self.ready && self.answer.deltas >= shared.plan.ready_deltas {
            self.ready = true;
            shared.progress.ready.fetch_add(1, Relaxed);
        }
        Ok(())
    }
}

impl Answer {
    fn take(&mut self, input: &[u8], plan: &Plan, tally: &mut Tally) -> io::Result<()> {
        let received = Received {
            ns: clock::monotonic_ns(),
            stream: self.stream,
            record_from_ns: self.record_from_ns,
        };
        self.framing
            .feed(input, &mut self.lines)
            .map_err(io::Error::other)?;
        let mut from = 0;
        while let Some(len) = memchr::memchr(b'\n', &self.lines[from..]) {
            let line = &self.lines[from..from + len];
            from += len + 1;
            if let Some(text) = frame::text_of(line, plan.sse, &mut self.hint) {
                if self.deltas == 0 && self.due_ns >= self.record_from_ns {
                    let waits = (plan.asked.head_ms + plan.asked.first_ms) * 1_000_000;
                    tally.first_text(received.ns.saturating_sub(self.due_ns + waits));
                }
                self.deltas += tally.text(text, received, &mut self.sequence);
            } else if let Some(done) = done_of(line, plan) {
                self.done = Some(done);
            }
        }
        self.lines.drain(..from);
        Ok(())
    }
}

/// The finish reason of the last line; the provider's own stream ends with `[DONE]`.
fn done_of(line: &[u8], plan: &Plan) -> Option<String> {
    if plan.sse {
        let done = line.starts_with(b"data: [DONE]");
        return done.then(|| plan.asked.finish.clone());
    }
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    value["done"].as_str().map(str::to_owned)
}

async fn connect(plan: &Plan, slow: bool) -> io::Result<Box<dyn Connection>> {
    let socket = match plan.addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if slow {
        // A slow reader's kernel should not read ahead for it.
        socket.set_recv_buffer_size(4096)?;
    }
    let io: TcpStream = socket.connect(plan.addr).await?;
    io.set_nodelay(true)?;
    Ok(match &plan.tls {
        None => Box::new(io),
        Some((connector, name)) => Box::new(connector.connect(name.clone(), io).await?),
    })
}

/// Sends a request and reads the head of its answer, and what comes with it.
async fn ask(
    io: &mut Box<dyn Connection>,
    request: &[u8],
    input: &mut Vec<u8>,
) -> io::Result<wire::Head> {
    io.write_all(request).await?;
    io.flush().await?;
    loop {
        if let Some(head) = wire::head(input) {
            return Ok(head);
        }
        if io.read_buf(input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The pair of a `Set-Cookie` field.
fn cookie(head: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(head);
    text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let pair = value.split(';').next()?.trim();
        name.eq_ignore_ascii_case("set-cookie")
            .then(|| pair.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_of_the_session_is_kept() {
        let head = b"HTTP/1.1 200 OK\r\nset-cookie: cc_app=abc; Max-Age=3600; Path=/\r\n\r\n";
        assert_eq!(cookie(head).as_deref(), Some("cc_app=abc"));
        assert_eq!(cookie(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    }
}
