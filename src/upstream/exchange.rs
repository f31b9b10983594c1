//! A response's body on its connection, and the [`Exchange`] that hands a chat's body out.

use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::time::{Instant, timeout_at};

use super::Upstream;
use super::breaker::{Ticket, Visitor};
use super::chunked::{Decoder, NotChunked};
use super::connection::Connection;
use super::failure::Failure;
use super::head::BodyLength;
use super::request::Answer;
use crate::clock;
use crate::limits::READ_BYTES;

/// Bytes read at once, and how often, when the rest of a body is looked for without waiting.
const REST_BYTES: usize = 512;
const REST_READS: usize = 4;

/// Where the body ends.
enum Framing {
    Chunked(Decoder),
    /// Bytes still to come, at least one.
    Length(u64),
    UntilClose,
    Ended,
    Broken,
}

/// What is left of a body, as far as can be told without waiting.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// It has ended and the connection may be used again.
    Reusable,
    /// It has not ended yet.
    Open,
    /// The connection is of no further use.
    Useless,
}

/// A body and the connection it comes from.
pub(super) struct Body {
    connection: Connection,
    framing: Framing,
    /// Bytes that came with the head, not yet handed out; empty afterwards.
    early: Box<[u8]>,
    /// How many of `early` have been handed out.
    early_read: usize,
    /// Whether the connection may be used again once the body has ended.
    keep: bool,
}

impl Body {
    /// The body behind `answer`'s head.
    pub fn new(connection: Connection, answer: Answer) -> Self {
        let (mut early, mut surplus) = (answer.early, false);
        let framing = match answer.head.length {
            BodyLength::Chunked => Framing::Chunked(Decoder::new()),
            BodyLength::UntilClose => Framing::UntilClose,
            BodyLength::Known(length) => {
                let length_here = usize::try_from(length).unwrap_or(usize::MAX);
                if early.len() > length_here {
                    surplus = true;
                    early = early[..length_here].into();
                }
                if length == 0 {
                    Framing::Ended
                } else {
                    Framing::Length(length)
                }
            }
        };
        Self {
            connection,
            framing,
            early,
            early_read: 0,
            keep: answer.head.keep_alive && answer.sent && !surplus,
        }
    }

    /// Decoded bytes into the front of `buf`, which must not be empty; `Ok(0)` is the clean end.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<usize, Failure>> {
        debug_assert!(!buf.is_empty(), "an empty buffer would look like the end");
        loop {
            let room = match self.framing {
                Framing::Ended => return Poll::Ready(Ok(0)),
                Framing::Broken => return Poll::Ready(Err(Failure::Cut)),
                Framing::Length(left) => usize::try_from(left).unwrap_or(usize::MAX).min(buf.len()),
                Framing::Chunked(_) | Framing::UntilClose => buf.len(),
            };
            let raw = &mut buf[..room];
            let n = match self.take_early(raw) {
                0 => ready!(self.connection.poll_read(cx, raw)).ok(),
                n => Some(n),
            };
            match n.and_then(|n| self.decode(&mut raw[..n])) {
                // Framing only: more may be there.
                Some(0) => {}
                Some(n) => return Poll::Ready(Ok(n)),
                None => self.framing = Framing::Broken,
            }
        }
    }

    fn take_early(&mut self, buf: &mut [u8]) -> usize {
        let early = &self.early[self.early_read..];
        let n = early.len().min(buf.len());
        buf[..n].copy_from_slice(&early[..n]);
        self.early_read += n;
        if n > 0 && self.early_read == self.early.len() {
            (self.early, self.early_read) = (Box::default(), 0);
        }
        n
    }

    /// Decodes what was read, in place; nothing read is the connection's end. `None` = broken.
    fn decode(&mut self, raw: &mut [u8]) -> Option<usize> {
        let n = raw.len();
        match &mut self.framing {
            Framing::UntilClose if n == 0 => self.framing = Framing::Ended,
            _ if n == 0 => return None,
            Framing::Length(left) => {
                *left -= n as u64;
                if *left == 0 {
                    self.framing = Framing::Ended;
                }
            }
            Framing::Chunked(decoder) => {
                let decoded = match decoder.decode(raw) {
                    Ok(decoded) => decoded,
                    // What came before the fault still counts.
                    Err(NotChunked { written }) => {
                        self.framing = Framing::Broken;
                        return (written > 0).then_some(written);
                    }
                };
                self.keep &= decoded.consumed == n;
                if decoder.is_done() {
                    self.keep &= self.early.is_empty();
                    self.framing = Framing::Ended;
                }
                return Some(decoded.written);
            }
            Framing::UntilClose | Framing::Ended | Framing::Broken => {}
        }
        Some(n)
    }

    /// Reads the rest of the body, as far as it is here.
    pub fn look_for_end(&mut self) -> Rest {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..REST_READS {
            if !self.keep {
                return Rest::Useless;
            }
            match self.poll_read(&mut cx, &mut [0; REST_BYTES]) {
                Poll::Ready(Ok(0)) if self.keep => return Rest::Reusable,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Rest::Useless,
                Poll::Pending => return Rest::Open,
            }
        }
        Rest::Useless // more than an end
    }

    /// The connection, for the next request.
    pub fn into_connection(self) -> Connection {
        self.connection
    }

    /// Up to `max` bytes of the body; fewer if it ends or breaks before. The flag says whether
    /// that was all within the time, that is, before `until`.
    pub async fn read_up_to(&mut self, max: usize, until: Instant) -> (Vec<u8>, bool) {
        let mut read = Vec::new();
        while read.len() < max {
            let before = read.len();
            read.resize(max.min(before + READ_BYTES), 0);
            let next = poll_fn(|cx| self.poll_read(cx, &mut read[before..]));
            let next = timeout_at(until, next).await;
            let n = next.as_ref().map_or(0, |read| *read.as_ref().unwrap_or(&0));
            read.truncate(before + n);
            if n == 0 {
                return (read, next.is_ok());
            }
        }
        (read, true)
    }
}

/// A chat's response: status 200 and an event stream. It owns its connection; dropping it closes
/// the socket at once.
pub struct Exchange {
    upstream: Rc<Upstream>,
    ticket: Ticket,
    body: Body,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exchange with provider {}", self.provider())
    }
}

impl Exchange {
    pub(super) fn new(upstream: Rc<Upstream>, ticket: Ticket, body: Body) -> Self {
        Self {
            upstream,
            ticket,
            body,
        }
    }

    /// Sets the kernel's receive buffer (`SO_RCVBUF`, as asked for in bytes) for this answer; it
    /// does not become larger than it was when connecting.
    pub fn set_receive_bytes(&mut self, bytes: usize) {
        self.body.connection.set_receive_bytes(bytes);
    }

    /// Decoded body bytes into the front of `buf`, which must not be empty; `Ok(0)` is the body's
    /// clean end. Allocates nothing over plain TCP. The waker is woken when more may be there.
    ///
    /// # Errors
    /// [`Failure::Cut`] when the connection or its framing broke, and ever after.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<usize, Failure>> {
        self.body.poll_read(cx, buf)
    }

    /// Tells the breaker that the provider works; only the first verdict counts.
    pub fn succeeded(&mut self) {
        self.ticket.succeeded();
    }

    /// Tells the breaker that the provider did not work for this visitor (a time-out); only the
    /// first verdict counts.
    pub fn failed(&mut self, visitor: Visitor) {
        self.ticket.failed(visitor, clock::now());
    }

    /// Index of the provider.
    pub fn provider(&self) -> usize {
        self.ticket.provider()
    }

    /// The answer is complete (which is a success for the breaker): the connection is kept warm
    /// if its body ends cleanly within a moment, else closed. Never waits.
    pub fn finish(mut self) {
        self.succeeded();
        self.upstream.idle.park(self.ticket.provider(), self.body);
    }
}
