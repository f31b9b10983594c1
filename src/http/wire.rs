//! A client's connection as hyper sees it: the socket with the time limits that hyper does not
//! keep, and a small record that the connection's task shares with the answer being written.
//!
//! Three limits apply in turn: an idle connection ends after `idle`, a request head must be
//! complete `head` after its first byte, and a client must take a byte of its answer every
//! `write`. A connection whose client has stalled holds a permit, because it costs full socket
//! buffers; without a permit to be had it gets [`STALL_WITHOUT_PERMIT`] only.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use crate::clock::{self, Timer};
use crate::limits::{Key, Permit, Pool};
use crate::metrics;

/// How long a client may stall when the budget's share of stalled clients is used up.
const STALL_WITHOUT_PERMIT: Duration = Duration::from_secs(1);

/// A connected client.
#[derive(Debug)]
pub enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// The time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For a request head, from its first byte on.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// For a client to take any byte of its answer.
    pub write: Duration,
}

/// What the connection's task and the answer tell each other.
#[derive(Debug)]
pub struct Wire {
    /// A request is being answered.
    busy: Cell<bool>,
    /// The first bytes of a head have come.
    in_head: Cell<bool>,
    /// Since when a connection that is not busy waits for the rest of a head, or for anything; set
    /// when it first waits.
    waits_since: Cell<Option<Instant>>,
    /// hyper has looked for a request while another was being answered. It does not look again by itself, so
    /// the limits begin when the answer has been handed over.
    looked_ahead: Cell<bool>,
    /// Permits that the client takes when it stalls, by the buffers behind its answer.
    stall_permits: Cell<usize>,
    /// Something was handed to hyper that has not reached the kernel yet.
    unflushed: Cell<bool>,
    flush_waker: RefCell<Option<Waker>>,
    /// The connection is to end, in favour of another.
    is_unwanted: Cell<bool>,
    /// When the oldest bytes were read whose lines have not reached the kernel yet; only if that counts.
    read_at: Cell<Option<Instant>>,
}

impl Wire {
    /// The record of a fresh connection.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            busy: Cell::new(false),
            in_head: Cell::new(false),
            waits_since: Cell::new(None),
            looked_ahead: Cell::new(false),
            stall_permits: Cell::new(1),
            unflushed: Cell::new(false),
            flush_waker: RefCell::new(None),
            is_unwanted: Cell::new(false),
            read_at: Cell::new(None),
        })
    }

    /// Marks a request as being answered until the guard is dropped.
    pub fn begin(self: &Rc<Self>) -> Busy {
        self.busy.set(true);
        self.in_head.set(false);
        self.waits_since.set(None);
        self.stall_permits.set(1);
        Busy(Rc::clone(self))
    }

    /// Since when the connection waits for a request, or for the rest of its head; none while one is under way, or
    /// once it is to end.
    pub fn idle_since(&self) -> Option<Instant> {
        let is_idle = !self.busy.get() && !self.is_unwanted.get();
        is_idle.then(|| self.waits_since.get()).flatten()
    }

    /// Has the connection end, unless a request comes first.
    pub fn end(&self) {
        self.is_unwanted.set(true);
    }

    /// Whether it is to end now.
    pub fn is_ended(&self) -> bool {
        self.is_unwanted.get() && !self.busy.get()
    }

    /// Says how much the answer being written will cost if its client stalls.
    pub fn set_stall_permits(&self, n: usize) {
        self.stall_permits.set(n);
    }

    /// Says that lines are about to be handed to hyper whose bytes were read at that time.
    pub fn sends_what_was_read_at(&self, at: Instant) {
        self.read_at.set(Some(self.read_at.get().unwrap_or(at)));
    }

    /// Says that bytes are about to be handed to hyper whose arrival matters.
    pub fn expect_flush(&self) {
        self.unflushed.set(true);
    }

    /// Ready once everything handed to hyper before has reached the kernel.
    pub fn poll_flushed(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.unflushed.get() {
            return Poll::Ready(());
        }
        *self.flush_waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    fn flushed(&self) {
        if self.unflushed.replace(false)
            && let Some(waker) = self.flush_waker.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

/// A request is being answered for as long as this lives.
#[derive(Debug)]
pub struct Busy(Rc<Wire>);

impl Busy {
    /// The answer is known in whole: waiting for the next request begins about now.
    pub fn ends_about(&self, now: Instant) {
        self.0.waits_since.set(Some(now));
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(false);
    }
}

/// The socket with its limits; wrap it in `TokioIo` for hyper.
#[derive(Debug)]
pub struct ClientIo {
    socket: Socket,
    wire: Rc<Wire>,
    timeouts: Timeouts,
    /// Where permits come from, and whose share of them they are.
    stalled: (Arc<Pool>, Option<Key>),
    /// Since when the client takes nothing, and the permit for it.
    stall: Option<(Instant, Option<Permit>)>,
    /// One timer for whichever limit comes first.
    timer: Timer,
}

impl ClientIo {
    /// Puts the limits around a socket. `stalled` counts clients that take nothing, and says which one this is.
    pub fn new(
        socket: Socket,
        wire: Rc<Wire>,
        timeouts: Timeouts,
        stalled: (Arc<Pool>, Option<Key>),
    ) -> Self {
        let timer = Timer::new(clock::now() + timeouts.idle);
        Self {
            socket,
            wire,
            timeouts,
            stalled,
            stall: None,
            timer,
        }
    }

    fn poll_read_limits(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = &self.wire;
        if wire.busy.get() {
            wire.looked_ahead.set(true);
            return Poll::Pending;
        }
        let since = wire.waits_since.get().unwrap_or_else(clock::now);
        wire.waits_since.set(Some(since));
        if wire.in_head.get() {
            let over = self.timer.poll(cx, since + self.timeouts.head);
            return over.map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        // As if the client had closed: hyper then ends the connection in peace.
        self.timer.poll(cx, since + self.timeouts.idle).map(Ok)
    }

    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let n = self.wire.stall_permits.get();
        let (since, permit) = self
            .stall
            .get_or_insert_with(|| (clock::now(), self.stalled.0.take_for(self.stalled.1, n)));
        let allowed = match permit {
            Some(_) => self.timeouts.write,
            None => self.timeouts.write.min(STALL_WITHOUT_PERMIT),
        };
        let deadline = *since + allowed;
        self.timer
            .poll(cx, deadline)
            .map(|()| io::ErrorKind::TimedOut.into())
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = match &mut this.socket {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Socket::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        };
        match read {
            Poll::Pending => this.poll_read_limits(cx),
            Poll::Ready(Ok(())) => {
                let wire = &this.wire;
                if !wire.busy.get() && !wire.in_head.get() && buf.filled().len() > before {
                    wire.in_head.set(true);
                    wire.waits_since.set(None);
                }
                Poll::Ready(Ok(()))
            }
            failed => failed,
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.socket {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Socket::Unix(unix) => Pin::new(unix).poll_write(cx, bytes),
        };
        if written.is_pending() {
            return this.poll_stall(cx).map(Err);
        }
        if this.stall.is_some() {
            this.stall = None;
        }
        if let Some(read_at) = this.wire.read_at.take() {
            metrics::added_delay(clock::now() - read_at);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes its socket only when its own buffer is empty.
        ready!(match &mut this.socket {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Socket::Unix(unix) => Pin::new(unix).poll_flush(cx),
        })?;
        this.wire.flushed();
        if !this.wire.busy.get() && this.wire.looked_ahead.take() {
            // Over already: hyper finds out when it looks.
            if this.poll_read_limits(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Socket::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}
