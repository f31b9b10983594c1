//! One simulated answer: its schedule, its stamps and its faults.
//!
//! The schedule is fixed when the stream starts and never waits for the reader: what could not go
//! out on time goes out as soon as it can. A stamp is the moment a delta left on its due time's
//! timer; if it was already due before (the reader was slow, or this process) it is the due time, so
//! that what kept it back counts as delay and does not vanish from the figures.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::behaviour::{Behaviour, Fault};
use crate::connection::Connection;
use crate::stats::Core;
use crate::timer::Timers;
use crate::{clock, frame};

/// Most bytes kept of a request that is sent while a stream runs.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;
/// Bytes written at once when flooding.
const FLOOD_BYTES: usize = 16 << 10;
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";

/// When the deltas of a stream are due.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    /// When the first is; `CLOCK_MONOTONIC`.
    start_ns: u64,
    rate: f64,
}

impl Schedule {
    fn due_ns(self, sequence: u64) -> u64 {
        self.start_ns + (sequence as f64 * 1e9 / self.rate) as u64
    }
}

/// The time that a delta due at `due_ns` is stamped with, when it is written at `now_ns`.
fn stamp_ns(due_ns: u64, now_ns: u64, waited: bool) -> u64 {
    if waited { now_ns } else { due_ns }
}

/// A stream's connection, and what serves all streams of its thread.
struct Stream<'a, S> {
    io: &'a mut S,
    /// What the client sends meanwhile: the next request.
    input: &'a mut Vec<u8>,
    timers: &'a Timers,
    core: &'a Core,
    asked: &'a Behaviour,
    out: Vec<u8>,
    /// The reader has not taken the last write at once.
    blocked: bool,
}

/// Streams one answer. `Ok` leaves the connection ready for the next request.
pub async fn stream<S: Connection>(
    io: &mut S,
    input: &mut Vec<u8>,
    asked: &Behaviour,
    timers: &Timers,
    core: &Core,
) -> io::Result<()> {
    let mut stream = Stream {
        io,
        input,
        timers,
        core,
        asked,
        out: Vec::with_capacity(512),
        blocked: false,
    };
    stream.run(clock::monotonic_ns()).await
}

impl<S: Connection> Stream<'_, S> {
    async fn run(&mut self, asked_ns: u64) -> io::Result<()> {
        let asked = self.asked;
        let head_ns = asked_ns + asked.head_ms * 1_000_000;
        self.wait(head_ns).await?;
        self.out.extend_from_slice(HEAD);
        let mut schedule = Schedule {
            start_ns: head_ns + asked.first_ms * 1_000_000,
            rate: asked.rate,
        };
        if asked.first_ms > 0 {
            self.send().await?;
            self.wait(schedule.start_ns).await?;
        }
        frame::write_role(&mut self.out);
        let mut delta = frame::Delta::new(asked.bytes, asked.stamp.then_some(asked.id));
        let mut sent = 0;
        while sent < asked.tokens {
            let ns = self.due(schedule, sent).await?;
            let more = self.batch(&mut delta, sent, ns);
            self.send().await?;
            self.core.deltas.fetch_add(more, Relaxed);
            sent += more;
            if let Some((after, fault)) = asked.fault
                && after == sent
            {
                let begun = clock::monotonic_ns();
                if self.fail(fault).await? {
                    return Ok(());
                }
                // What was not due during a stall is not late after it.
                schedule.start_ns += clock::monotonic_ns() - begun;
            }
        }
        self.send().await?;
        if asked.hold {
            return self.until_gone().await;
        }
        frame::write_end(&mut self.out, &asked.finish, !asked.no_end);
        self.send().await
    }

    /// Waits until the next delta is due; returns the time it is to be stamped with.
    async fn due(&mut self, schedule: Schedule, sent: u64) -> io::Result<u64> {
        if schedule.rate == 0.0 {
            return Ok(clock::monotonic_ns());
        }
        self.send().await?;
        let due_ns = schedule.due_ns(sent);
        let waited = self.wait(due_ns).await?;
        let now_ns = clock::monotonic_ns();
        if !waited && self.blocked {
            self.core.blocked.fetch_add(1, Relaxed);
        } else {
            self.core.late(now_ns - due_ns);
        }
        Ok(stamp_ns(due_ns, now_ns, waited))
    }

    /// Appends the deltas that go out together, and says how many: a burst, or a buffer full when flooding.
    fn batch(&mut self, delta: &mut frame::Delta, sent: u64, ns: u64) -> u64 {
        let asked = self.asked;
        let fits = if asked.rate > 0.0 {
            asked.burst
        } else {
            (FLOOD_BYTES / delta.bytes()) as u64
        };
        let mut more = fits.clamp(1, asked.tokens - sent);
        if let Some((after, _)) = asked.fault
            && after > sent
        {
            more = more.min(after - sent);
        }
        for sequence in sent..sent + more {
            delta.write(&mut self.out, sequence, ns);
        }
        more
    }

    /// Lets happen what was asked for; `true` when the stream is over, an error when the connection is.
    async fn fail(&mut self, fault: Fault) -> io::Result<bool> {
        match fault {
            Fault::Stall if self.asked.stall_ms == 0 => self.until_gone().await?,
            Fault::Stall => {
                let until = clock::monotonic_ns() + self.asked.stall_ms * 1_000_000;
                self.wait(until).await?;
                return Ok(false);
            }
            Fault::Cut => return Err(io::ErrorKind::ConnectionAborted.into()),
            Fault::Reset => {
                self.io.reset_on_close()?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Fault::Error => {
                frame::write_error(&mut self.out);
                self.out.extend_from_slice(b"0\r\n\r\n");
                self.send().await?;
            }
            Fault::Garbage => {
                frame::write_garbage(&mut self.out);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes all of `out`, in pieces if that was asked for.
    async fn send(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.blocked = false;
        let piece = match self.asked.split {
            0 => self.out.len(),
            split => split,
        };
        for piece in self.out.chunks(piece) {
            self.blocked |= write_all(self.io, piece).await?;
        }
        self.out.clear();
        Ok(())
    }

    /// Waits for a time, and says whether it was still to come; an error when the client closes before.
    async fn wait(&mut self, due_ns: u64) -> io::Result<bool> {
        if clock::monotonic_ns() >= due_ns {
            return Ok(false);
        }
        let mut timer = pin!(self.timers.until(due_ns));
        loop {
            tokio::select! {
                biased;
                () = timer.as_mut() => return Ok(true),
                read = self.io.read_buf(self.input) => check_open(read, self.input)?,
            }
        }
    }

    async fn until_gone(&mut self) -> io::Result<()> {
        loop {
            check_open(self.io.read_buf(self.input).await, self.input)?;
        }
    }
}

/// A pipelined request may arrive while a stream runs; it waits in `input`.
fn check_open(read: io::Result<usize>, input: &[u8]) -> io::Result<()> {
    if read? == 0 || input.len() > REQUEST_BYTES_MAX {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(())
}

/// Writes and flushes; `true` when the kernel did not take it at once.
async fn write_all<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    bytes: &[u8],
) -> io::Result<bool> {
    let (mut from, mut blocked) = (0, false);
    let mut write = pin!(poll_fn(|cx| {
        while from < bytes.len() {
            match ready!(Pin::new(&mut *io).poll_write(cx, &bytes[from..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => from += len,
            }
        }
        Pin::new(&mut *io).poll_flush(cx)
    }));
    poll_fn(|cx| {
        let state = write.as_mut().poll(cx);
        blocked |= state.is_pending();
        state
    })
    .await?;
    Ok(blocked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_does_not_drift() {
        let schedule = Schedule {
            start_ns: 1_000,
            rate: 3.0,
        };
        assert_eq!(schedule.due_ns(0), 1_000);
        assert_eq!(schedule.due_ns(1), 333_334_333);
        assert_eq!(schedule.due_ns(300_000), 100_000_000_001_000);
    }

    #[test]
    fn what_was_kept_back_is_stamped_with_its_due_time() {
        assert_eq!(stamp_ns(100, 130, true), 130);
        assert_eq!(stamp_ns(100, 9_000, false), 100);
    }
}
