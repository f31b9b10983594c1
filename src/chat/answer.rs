//! The body of a chat's response: hyper asks for bytes, this asks the provider.
//!
//! ```text
//! Opening ──first text──▶ Sending ⇄ Streaming ──end, trouble──▶ Storing ──▶ Last ──▶ Over, Broken
//! ```
//! Nothing runs between polls, so a slow reader slows the provider, and a reader that leaves drops
//! the provider's connection with this value.

use std::cell::LazyCell;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::chat::limits::Places;
use crate::chat::linger::Linger;
use crate::chat::open::{self, Opened, Question};
use crate::chat::unsent::Unsent;
use crate::clock::{self, Timer};
use crate::http::body::{Body, Broken, Chunk, Lent, Source};
use crate::http::request::StreamRecord;
use crate::http::wire::Wire;
use crate::limits::{PIECE_BYTES_MAX, Permit};
use crate::llm::Finish;
use crate::llm::transcoder::Fault;
use crate::metrics;
use crate::saver::Finished;
use crate::store::{HistoryLimits, Turn, client_tag};
use crate::upstream::reader::{Answer, Reader, Step};
use crate::upstream::trouble::Trouble;

/// A question that has not had its first text yet.
pub type Opening = Pin<Box<dyn Future<Output = Result<Opened, Trouble>>>>;

/// What an answer holds until it is over: its slot, and its place among the client's streams.
#[derive(Debug)]
pub struct Slot {
    /// One of the process's streams.
    pub stream: Permit,
    /// Those of the client's.
    pub client: Places,
}

/// An answer on its way to the client.
pub struct Stream {
    question: Rc<Question>,
    state: State,
    wire: Rc<Wire>,
    slot: Option<Slot>,
    timer: Timer,
    /// Since when the client has been sent nothing; unset right after something was, so that the
    /// time of a client that has stalled does not count.
    idle_since: Option<Instant>,
    /// Since when the provider has sent nothing, likewise.
    silent_since: Option<Instant>,
    record: Record,
}

/// What will be told of the answer, until it is over.
struct Record {
    end: &'static str,
    /// By its place in the configuration: a name would be one more for each stream.
    provider: Option<u16>,
    bytes: u64,
    deltas: u64,
    first_text: Option<Duration>,
}

enum State {
    Opening(Opening),
    Sending(Unsent, Reader),
    Streaming(Reader),
    Storing(oneshot::Receiver<bool>, End),
    Last(End, bool),
    Broken,
    Over,
}

/// What a client or a provider cannot be kept waiting beyond.
enum Limit {
    /// The client needs a sign of life.
    Heartbeat,
    /// The answer is complete, and nothing more comes.
    Over,
    Failed(Trouble),
}

/// How an answer ends.
enum End {
    Done(Finish),
    Failed(Trouble),
}

impl Stream {
    /// An answer that has not begun although its client already waits for the body: the heartbeat
    /// was first.
    pub fn opening(question: Rc<Question>, opening: Opening, wire: Rc<Wire>, slot: Slot) -> Self {
        let received = question.received;
        let mut stream = Self::new(question, State::Opening(opening), wire, slot);
        stream.idle_since = Some(received);
        stream
    }

    /// An answer whose first lines are there.
    pub fn opened(question: Rc<Question>, opened: Opened, wire: Rc<Wire>, slot: Slot) -> Self {
        let mut stream = Self::new(question, State::Over, wire, slot);
        stream.start(opened);
        stream
    }

    fn new(question: Rc<Question>, state: State, wire: Rc<Wire>, slot: Slot) -> Self {
        let timer = Timer::new(clock::now() + question.app.shared.config.chat.heartbeat);
        Self {
            question,
            state,
            wire,
            slot: Some(slot),
            timer,
            idle_since: None,
            silent_since: None,
            record: Record {
                end: "gone",
                provider: None,
                bytes: 0,
                deltas: 0,
                first_text: None,
            },
        }
    }

    /// The first text has come, or an end without any.
    fn start(&mut self, opened: Opened) {
        let Opened { reader, lines, end } = opened;
        self.record.provider = u16::try_from(reader.provider()).ok();
        match end {
            Some(step) => self.end(reader, step),
            None => {
                let took = clock::now() - self.question.received;
                self.record.first_text = Some(took);
                metrics::first_text(took);
                self.send_in_pieces(lines, reader);
            }
        }
    }

    fn send_in_pieces(&mut self, lines: Vec<u8>, reader: Reader) {
        let long_lines = &self.question.app.shared.pools.long_lines;
        let long = (lines.len() > PIECE_BYTES_MAX).then(|| long_lines.take(1));
        self.state = match long {
            Some(None) => {
                let fault = Trouble::Stream(Fault::NoLongLine);
                return self.finish(reader, End::Failed(fault));
            }
            long => State::Sending(Unsent::new(lines, long.flatten()), reader),
        };
    }

    fn end(&mut self, reader: Reader, step: Step) {
        match step {
            Step::Done(finish) => self.finish(reader, End::Done(finish)),
            Step::Failed(trouble) => self.finish(reader, End::Failed(trouble)),
            Step::Lines => self.state = State::Streaming(reader),
        }
    }

    /// No more text will come: the provider is let go, and what came is stored before the last line.
    fn finish(&mut self, reader: Reader, end: End) {
        self.record.deltas = reader.answer.deltas;
        if let End::Failed(trouble) = &end
            && !matches!(trouble, Trouble::Restarting)
        {
            open::log_failure(&self.question, reader.provider(), trouble);
        }
        let answer = match end {
            End::Done(_) => reader.finish(),
            End::Failed(_) => reader.answer,
        };
        self.state = match self.save(answer) {
            Saving::Nothing => State::Last(end, true),
            Saving::Nowhere => State::Last(end, false),
            Saving::Waiting(stored) => State::Storing(stored, end),
        };
    }

    fn save(&mut self, answer: Answer) -> Saving {
        let (text, memory) = answer.into_parts();
        if text.is_empty() {
            return Saving::Nothing;
        }
        let Some(chat) = self.question.chat.get() else {
            return Saving::Nowhere;
        };
        let key = self.question.app.stores.accounts.hmac_key();
        let client = self.question.client();
        let client = client.map(|client| client_tag(key, &client));
        let prompt = self.question.memory.take();
        let slot = self.slot.take().map(|slot| slot.stream);
        let held = [Some(memory), prompt, slot].into_iter().flatten().collect();
        let config = &self.question.app.shared.config.chat;
        Saving::Waiting(self.question.app.saver.save(Finished {
            turn: Turn {
                chat: chat.key,
                generation: chat.generation,
                question_escaped: self.question.text.take(),
                answer_escaped: text,
                client,
                limits: HistoryLimits {
                    exchanges_max: self.question.exchanges_max.get() as usize,
                    bytes_max: config.history_bytes_max,
                },
                ttl_ms: config.stored_ms(),
            },
            id: self.question.id.clone(),
            held,
        }))
    }

    /// The drain time is over.
    fn stop(&mut self) {
        let restarting = End::Failed(Trouble::Restarting);
        match mem::replace(&mut self.state, State::Over) {
            State::Opening(_) => self.state = State::Last(restarting, true),
            State::Streaming(mut reader) if reader.over_at().is_some() => {
                let mut out = self.question.app.out.lend();
                let step = reader.conclude(&mut out.bytes);
                self.go_on(reader, step, &mut out);
            }
            State::Sending(_, reader) | State::Streaming(reader) => self.finish(reader, restarting),
            other => self.state = other,
        }
    }

    /// Everything that leaves passes here.
    fn send(&mut self, chunk: Chunk) -> Poll<Option<Result<Chunk, Broken>>> {
        self.record.bytes += bytes::Buf::remaining(&chunk) as u64;
        self.idle_since = None;
        Poll::Ready(Some(Ok(chunk)))
    }

    /// Ready when the client has waited so long that it needs a sign of life.
    fn poll_heartbeat(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.idle_since.get_or_insert_with(clock::now);
        let heartbeat = self.question.app.shared.config.chat.heartbeat;
        self.timer.poll(cx, since + heartbeat)
    }

    /// Ready when, with nothing to read, one of the limits is met. `over_at` is when the answer is
    /// over, if its finish reason has come.
    fn poll_limits(&mut self, cx: &mut Context<'_>, over_at: Option<Instant>) -> Poll<Limit> {
        let config = &self.question.app.shared.config;
        // Each text begins both anew.
        let now = LazyCell::new(clock::now);
        let idle_since = *self.idle_since.get_or_insert_with(|| *now);
        let silent_since = *self.silent_since.get_or_insert_with(|| *now);
        let heartbeat = idle_since + config.chat.heartbeat;
        let silent = silent_since + config.upstream.between_events_timeout;
        let end = self.question.received + config.chat.stream_max;
        let last = silent.min(end);
        let last = over_at.map_or(last, |over_at| over_at.min(last));
        self.timer.poll(cx, heartbeat.min(last)).map(|()| {
            if heartbeat < last {
                Limit::Heartbeat
            } else if over_at.is_some() {
                Limit::Over
            } else if last == end {
                Limit::Failed(Trouble::TooLong)
            } else {
                Limit::Failed(Trouble::Silent)
            }
        })
    }

    /// Reads on; ready with what to send, or without anything when the state has changed.
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        let State::Streaming(reader) = &mut self.state else {
            return Poll::Ready(None);
        };
        let app = &self.question.app;
        let mut out = app.out.lend();
        let read_at = metrics::is_on().then(clock::now);
        let step = reader.poll_lines(app.reading(), cx, &mut out.bytes);
        if mem::take(&mut reader.heard) {
            self.silent_since = None;
        }
        let step = match step {
            Poll::Ready(Step::Lines) if out.bytes.len() <= PIECE_BYTES_MAX => {
                if let Some(read_at) = read_at {
                    self.wire.sends_what_was_read_at(read_at);
                }
                return Poll::Ready(Some(Chunk::lent(out)));
            }
            Poll::Ready(step) => Some(step),
            Poll::Pending => {
                let over_at = reader.over_at();
                match self.poll_limits(cx, over_at) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Limit::Heartbeat) => {
                        return Poll::Ready(Some(Chunk::fixed(b"\n")));
                    }
                    Poll::Ready(Limit::Over) => None,
                    Poll::Ready(Limit::Failed(trouble)) => Some(Step::Failed(trouble)),
                }
            }
        };
        if let State::Streaming(mut reader) = mem::replace(&mut self.state, State::Over) {
            let step = step.unwrap_or_else(|| reader.conclude(&mut out.bytes));
            self.go_on(reader, step, &mut out);
        }
        Poll::Ready(None)
    }

    /// Sends lines in pieces, or ends.
    fn go_on(&mut self, reader: Reader, step: Step, out: &mut Lent) {
        match step {
            Step::Lines => self.send_in_pieces(mem::take(&mut out.bytes), reader),
            step => self.end(reader, step),
        }
    }

    /// The error line is about to leave: nothing is held any more for what comes behind it.
    fn fail(&mut self) {
        self.slot = None;
        self.question.text.take();
        self.question.memory.take();
        if !self.question.ends_cleanly {
            self.wire.expect_flush();
            self.state = State::Broken;
        }
    }

    /// The terminal line.
    fn last_line(&mut self, end: &End, stored: bool) -> Chunk {
        Chunk::owned(match end {
            End::Done(finish) => {
                self.record.end = "done";
                let saved = if stored { "" } else { r#","saved":false"# };
                format!("{{\"done\":\"{}\"{saved}}}\n", finish.as_str()).into_bytes()
            }
            End::Failed(trouble) => {
                self.record.end = match trouble {
                    Trouble::Restarting => "restarting",
                    _ => "error",
                };
                let message = serde_json::Value::from(trouble.message());
                format!("{{\"error\":{message},\"done\":\"error\"}}\n").into_bytes()
            }
        })
    }
}

enum Saving {
    Nothing,
    Nowhere,
    Waiting(oneshot::Receiver<bool>),
}

impl Source for Stream {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, Broken>>> {
        if self.question.app.is_ending() {
            self.stop();
        }
        loop {
            match &mut self.state {
                State::Opening(opening) => match opening.as_mut().poll(cx) {
                    Poll::Ready(Ok(opened)) => self.start(opened),
                    Poll::Ready(Err(trouble)) => {
                        self.state = State::Last(End::Failed(trouble), true);
                    }
                    Poll::Pending => {
                        return match self.poll_heartbeat(cx) {
                            Poll::Ready(()) => self.send(Chunk::fixed(b"\n")),
                            Poll::Pending => Poll::Pending,
                        };
                    }
                },
                State::Sending(unsent, _) => match unsent.next(&self.question.app.out) {
                    Some(chunk) => return self.send(chunk),
                    None => {
                        if let State::Sending(_, reader) =
                            mem::replace(&mut self.state, State::Over)
                        {
                            self.state = State::Streaming(reader);
                        }
                    }
                },
                State::Streaming(_) => match self.poll_stream(cx) {
                    Poll::Ready(Some(chunk)) => return self.send(chunk),
                    Poll::Ready(None) => {}
                    Poll::Pending => return Poll::Pending,
                },
                State::Storing(stored, _) => match Pin::new(stored).poll(cx) {
                    Poll::Ready(stored) => {
                        if let State::Storing(_, end) = mem::replace(&mut self.state, State::Over) {
                            self.state = State::Last(end, stored.unwrap_or(false));
                        }
                    }
                    Poll::Pending => return Poll::Pending,
                },
                State::Last(..) => {
                    if let State::Last(end, stored) = mem::replace(&mut self.state, State::Over) {
                        let line = self.last_line(&end, stored);
                        if let End::Failed(_) = end {
                            self.fail();
                        }
                        return self.send(line);
                    }
                }
                State::Broken => return Poll::Ready(Some(Err(Broken))),
                State::Over => return Poll::Ready(None),
            }
        }
    }

    fn linger(&self) -> Option<Body> {
        let (app, wire) = (Rc::clone(&self.question.app), Rc::clone(&self.wire));
        Some(Body::stream(Linger::new(app, wire)))
    }

    fn report(&self) -> StreamRecord {
        let record = &self.record;
        let providers = self.question.app.upstream.providers();
        let provider = record.provider.map(|place| &providers[usize::from(place)]);
        StreamRecord {
            end: record.end,
            provider: provider.map(|row| row.name.clone()),
            bytes: record.bytes,
            deltas: match &self.state {
                State::Streaming(reader) | State::Sending(_, reader) => reader.answer.deltas,
                _ => record.deltas,
            },
            first_text: record.first_text,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let State::Streaming(reader) | State::Sending(_, reader) =
            mem::replace(&mut self.state, State::Over)
        {
            // The client has gone; what it has seen is remembered all the same.
            self.save(reader.answer);
        }
    }
}
