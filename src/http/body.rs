//! The one response body: nothing, a reply written beforehand, or a stream.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::clock;
use crate::http::request::{Record, RequestId, StreamRecord};
use crate::http::wire::Busy;
use crate::limits::PIECE_BYTES_MAX;
use crate::metrics;

/// Bytes on their way to hyper, which copies them into its write buffer at once.
#[derive(Debug)]
pub struct Chunk {
    bytes: Bytes,
    /// How many have been taken.
    at: usize,
    /// How many there were. hyper asks for it several times.
    len: usize,
}

#[derive(Debug)]
enum Bytes {
    Static(&'static [u8]),
    Owned(Vec<u8>),
    Lent(Lent),
}

impl Chunk {
    fn new(bytes: Bytes, len: usize) -> Self {
        Self { bytes, at: 0, len }
    }

    /// Bytes that are part of the program.
    pub fn fixed(bytes: &'static [u8]) -> Self {
        Self::new(Bytes::Static(bytes), bytes.len())
    }

    /// Bytes written for this one answer.
    pub fn owned(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self::new(Bytes::Owned(bytes), len)
    }

    /// The core's own buffer, which goes back when the chunk is dropped.
    pub fn lent(bytes: Lent) -> Self {
        let len = bytes.bytes.len();
        Self::new(Bytes::Lent(bytes), len)
    }

    /// Takes the next piece off bytes that are part of the program and too long for hyper's buffer.
    fn split(&mut self) -> Option<Self> {
        match self.bytes {
            Bytes::Static(bytes) if self.remaining() > PIECE_BYTES_MAX => {
                let at = self.at;
                self.at += PIECE_BYTES_MAX;
                Some(Self::fixed(&bytes[at..self.at]))
            }
            _ => None,
        }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.len - self.at
    }

    fn chunk(&self) -> &[u8] {
        let all = match &self.bytes {
            Bytes::Static(bytes) => bytes,
            Bytes::Owned(bytes) => &bytes[..],
            Bytes::Lent(bytes) => &bytes.bytes,
        };
        &all[self.at..]
    }

    fn advance(&mut self, n: usize) {
        assert!(n <= self.remaining(), "advanced beyond the end");
        self.at += n;
    }
}

/// A core's buffer for lines on their way out. Every stream of the core uses the same one, since
/// hyper has copied one stream's lines before it asks the next stream for its own.
#[derive(Debug, Default)]
pub struct Scratch(Rc<RefCell<Vec<u8>>>);

impl Scratch {
    /// The buffer, empty. While it is out a second caller gets a fresh one.
    pub fn lend(&self) -> Lent {
        let mut bytes = self.0.take(); // empty while it is out
        bytes.clear();
        Lent {
            bytes,
            home: Rc::clone(&self.0),
        }
    }
}

/// A [`Scratch`] buffer in use; goes home when dropped.
#[derive(Debug)]
pub struct Lent {
    /// What is to be sent.
    pub bytes: Vec<u8>,
    home: Rc<RefCell<Vec<u8>>>,
}

impl Lent {
    /// Most bytes of capacity that are worth keeping between uses.
    const KEPT_MAX: usize = 16 * 1024;
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.bytes.capacity() <= Self::KEPT_MAX {
            *self.home.borrow_mut() = std::mem::take(&mut self.bytes);
        }
    }
}

/// A stream that ends without its final chunk, so that the client sees a broken transfer.
#[derive(Debug)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stream was ended on purpose")
    }
}

impl std::error::Error for Broken {}

/// Something that produces a body while it is being sent.
pub trait Source {
    /// The next bytes, the end, or an end that the client must notice.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Chunk, Broken>>>;

    /// The body that takes this one's place when the source has said [`Broken`], and breaks later:
    /// the source is dropped before, and its log line written. By default the break comes at once.
    fn linger(&self) -> Option<Body> {
        None
    }

    /// How it went, for the log line that is written when the stream is dropped, if one is.
    fn report(&self) -> StreamRecord {
        StreamRecord::default()
    }
}

/// The body of every response. Small, because hyper hands it on by value several times.
pub struct Body(Kind);

enum Kind {
    Whole(Option<Chunk>),
    Stream(Box<Stream<dyn Source>>),
}

/// A body that is made while it is sent.
struct Stream<S: Source + ?Sized> {
    /// The request's log line, which is written at the end.
    record: Option<Record>,
    /// Keeps the connection marked as busy while the stream is sent.
    _busy: Option<Busy>,
    source: S,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

impl Body {
    /// No body at all.
    pub fn empty() -> Self {
        Self(Kind::Whole(None))
    }

    /// A body that is known in whole.
    pub fn whole(chunk: Chunk) -> Self {
        Self(Kind::Whole(Some(chunk)))
    }

    /// A body that is made while it is sent.
    pub fn stream(source: impl Source + 'static) -> Self {
        Self(Kind::Stream(Box::new(Stream {
            record: None,
            _busy: None,
            source,
        })))
    }

    /// Ties the end of this body to its connection and its log line. A body that is known in whole
    /// is logged now, a stream when it ends. Gives back the request's id.
    #[inline]
    pub fn attach(&mut self, busy: Busy, record: Record, now: Instant) -> RequestId {
        match &mut self.0 {
            Kind::Stream(stream) => {
                metrics::stream_started();
                let id = record.id.clone();
                stream.record = Some(record);
                stream._busy = Some(busy);
                id
            }
            Kind::Whole(_) => {
                record.write(now, None);
                busy.ends_about(now);
                record.id
            }
        }
    }
}

impl Body {
    /// Breaks a stream that has failed, at once or when what takes its place breaks, which is asked in the
    /// core's next turn.
    #[cold]
    fn break_off(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Chunk>, Broken>>> {
        let Kind::Stream(stream) = &mut self.0 else {
            return Poll::Ready(Some(Err(Broken)));
        };
        let Some(mut rest) = stream.source.linger() else {
            return Poll::Ready(Some(Err(Broken)));
        };
        if let Kind::Stream(rest) = &mut rest.0 {
            rest._busy = stream._busy.take();
        }
        *self = rest;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: Source + ?Sized> Drop for Stream<S> {
    fn drop(&mut self) {
        if let Some(record) = &self.record {
            let report = self.source.report();
            metrics::stream_ended(report.end);
            record.write(clock::now(), Some(&report));
        }
    }
}

impl HttpBody for Body {
    type Data = Chunk;
    type Error = Broken;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, Broken>>> {
        let body = self.get_mut();
        match &mut body.0 {
            Kind::Whole(chunk) => {
                let piece = chunk.as_mut().and_then(Chunk::split);
                let piece = piece.or_else(|| chunk.take());
                Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
            }
            Kind::Stream(stream) => match ready!(stream.source.poll_chunk(cx)) {
                None => Poll::Ready(None),
                Some(Ok(chunk)) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
                Some(Err(Broken)) => body.break_off(cx),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(None) => SizeHint::with_exact(0),
            Kind::Whole(Some(chunk)) => SizeHint::with_exact(chunk.remaining() as u64),
            Kind::Stream(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scratch_buffer_comes_home_unless_it_has_grown() {
        let scratch = Scratch::default();
        let mut lent = scratch.lend();
        lent.bytes.extend_from_slice(&[7; 100]);
        let home = lent.bytes.as_ptr();
        let mut chunk = Chunk::lent(lent);
        assert_eq!(scratch.lend().bytes.capacity(), 0, "a second one is fresh");
        chunk.advance(60);
        assert_eq!((chunk.remaining(), chunk.chunk()), (40, &[7; 40][..]));
        drop(chunk);
        let mut again = scratch.lend();
        assert_eq!((again.bytes.as_ptr(), again.bytes.len()), (home, 0));
        again.bytes.reserve(1 << 20);
        drop(again);
        assert_eq!(scratch.lend().bytes.capacity(), 0, "a grown one is freed");
    }
}
