//! One provider's answer as it comes in: bytes are read, transcoded and remembered in one step,
//! in the core's own buffers.

use std::cell::RefMut;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::budget::ANSWER_BYTES_FIRST;
use crate::clock;
use crate::config::Provider;
use crate::limits::{Permit, Pool};
use crate::llm::Finish;
use crate::llm::transcoder::{Fault, Progress, Sink, Transcoder, write_line};
use crate::metrics;
use crate::upstream::trouble::Trouble;
use crate::upstream::{Exchange, Visitor};

/// How long an answer goes on behind its finish reason without any text: many gateways send no
/// `[DONE]` and keep the connection open.
const AFTER_FINISH: Duration = Duration::from_secs(1);

/// What came of reading on.
#[derive(Debug)]
pub enum Step {
    /// There are lines to send.
    Lines,
    /// The answer is complete.
    Done(Finish),
    /// It is not, and will not be.
    Failed(Trouble),
}

/// What all answers of a core are read with.
#[derive(Debug)]
pub struct Reading<'a> {
    /// Where bytes lie from the socket to the transcoder.
    pub buffer: RefMut<'a, [u8]>,
    /// Lends memory to events that outgrow their answer's carry.
    pub long_lines: &'a Arc<Pool>,
}

/// An answer being read.
#[derive(Debug)]
pub struct Reader {
    exchange: Exchange,
    transcoder: Transcoder,
    /// The text so far.
    pub answer: Answer,
    /// A step that waits until the lines before it have been sent.
    next: Option<Step>,
    /// When the finish reason came, or the last text behind it.
    complete_since: Option<Instant>,
    /// An event has been seen.
    pub has_event: bool,
    /// Bytes have come since this was last cleared.
    pub heard: bool,
}

impl Reader {
    /// Reads from an exchange that has just begun, with the provider of `row`.
    pub fn new(exchange: Exchange, row: &Provider, answer: Answer) -> Self {
        Self {
            exchange,
            transcoder: Transcoder::new().done_is_complete(row.done_is_complete),
            answer,
            next: None,
            complete_since: None,
            has_event: false,
            heard: false,
        }
    }

    /// Which provider this is.
    pub fn provider(&self) -> usize {
        self.exchange.provider()
    }

    /// Appends the lines that are there to `out`, which is empty. Pending means that the provider
    /// has sent nothing that matters yet.
    pub fn poll_lines(
        &mut self,
        Reading {
            mut buffer,
            long_lines,
        }: Reading<'_>,
        cx: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Step> {
        if let Some(step) = self.next.take() {
            return Poll::Ready(step);
        }
        loop {
            let read = ready!(self.exchange.poll_read(cx, &mut buffer));
            self.heard = true;
            let sink = &mut Lines {
                out,
                answer: &mut self.answer,
            };
            let progress = match read {
                Ok(0) => self.transcoder.end(sink),
                Ok(n) => self.transcoder.feed(&buffer[..n], long_lines, sink),
                // An answer whose finish reason has been seen is complete even so.
                Err(failure) => match self.transcoder.end(sink) {
                    Ok(progress) => Ok(progress),
                    Err(_) => return Poll::Ready(Step::Failed(Trouble::Provider(failure))),
                },
            };
            // As nearly always: an event among others.
            let is_plain = matches!(progress, Ok(Progress { done: None, .. }));
            if !(is_plain && self.has_event && !self.transcoder.is_complete()) {
                self.judge(progress, out);
            }
            if !out.is_empty() {
                return Poll::Ready(Step::Lines);
            }
            if let Some(step) = self.next.take() {
                return Poll::Ready(step);
            }
        }
    }

    /// Notes what the last bytes have brought besides these lines.
    fn judge(&mut self, progress: Result<Progress, Fault>, out: &[u8]) {
        match progress {
            Ok(progress) => {
                if progress.events && !self.has_event {
                    self.has_event = true;
                    self.exchange.succeeded();
                }
                self.next = progress.done.map(Step::Done);
            }
            Err(fault) => self.next = Some(Step::Failed(Trouble::Stream(fault))),
        }
        if self.transcoder.is_complete() && (self.complete_since.is_none() || !out.is_empty()) {
            self.complete_since = Some(clock::now());
        }
    }

    /// When the answer is over although its provider does not say so: once its finish reason has
    /// come. Comments and events without text do not put it off.
    #[inline]
    pub fn over_at(&self) -> Option<Instant> {
        self.complete_since.map(|since| since + AFTER_FINISH)
    }

    /// It is over. Appends the line of a last event that lacks its end to `out`, which is empty.
    pub fn conclude(&mut self, out: &mut Vec<u8>) -> Step {
        let progress = self.transcoder.end(&mut Lines {
            out,
            answer: &mut self.answer,
        });
        self.judge(progress, out);
        match out.is_empty() {
            // The transcoder's end is always a verdict.
            true => self.next.take().expect("a verdict is a step"),
            false => Step::Lines,
        }
    }

    /// The answer is complete: the connection may serve again.
    pub fn finish(self) -> Answer {
        self.exchange.finish();
        self.answer
    }

    /// The provider let this visitor wait for too long.
    pub fn silent(&mut self, visitor: Visitor) {
        self.exchange.failed(visitor);
    }
}

/// The part of an answer that will be remembered, as the inside of a JSON string.
#[derive(Debug)]
pub struct Answer {
    /// Whole deltas, up to the maximum.
    pub text: Vec<u8>,
    /// Deltas forwarded, remembered or not.
    pub deltas: u64,
    bytes_max: usize,
    /// Something did not fit, so nothing more is added.
    is_full: bool,
    permit: Permit,
}

impl Answer {
    /// An empty one of at most `bytes_max`; `permit` is of zero units from the pool of answer bytes.
    pub fn new(bytes_max: usize, permit: Permit) -> Self {
        Self {
            text: Vec::new(),
            deltas: 0,
            bytes_max,
            is_full: false,
            permit,
        }
    }

    /// The text and the permit for its memory.
    pub fn into_parts(self) -> (Vec<u8>, Permit) {
        (self.text, self.permit)
    }

    fn add(&mut self, delta: &[u8]) {
        self.deltas += 1;
        if self.is_full {
            return;
        }
        let needed = self.text.len() + delta.len();
        if needed > self.text.capacity() && !self.grow(needed) {
            self.is_full = true;
            return;
        }
        self.text.extend_from_slice(delta);
    }

    fn grow(&mut self, needed: usize) -> bool {
        if needed > self.bytes_max {
            return false;
        }
        let twice = (2 * self.text.capacity()).max(1024);
        let capacity = needed.max(twice).min(self.bytes_max);
        if !self
            .permit
            .resize(capacity.saturating_sub(ANSWER_BYTES_FIRST))
        {
            return false;
        }
        self.text.reserve_exact(capacity - self.text.len());
        true
    }
}

/// Each delta goes to the client and to memory.
struct Lines<'a> {
    out: &'a mut Vec<u8>,
    answer: &'a mut Answer,
}

impl Sink for Lines<'_> {
    fn text(&mut self, escaped: &[u8]) {
        write_line(self.out, escaped);
        metrics::text();
        self.answer.add(escaped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_remembers_whole_deltas_up_to_its_maximum_and_the_pools() {
        // Without the pool there are the first bytes, as far as they hold whole deltas.
        let first = ANSWER_BYTES_FIRST / 30 * 30;
        for (bytes_max, pool, expect) in [(100, 0, 90), (10_000, 0, first), (10_000, 100_000, 9990)]
        {
            let pool = Pool::new(pool);
            let mut answer = Answer::new(bytes_max, pool.take(0).unwrap());
            for _ in 0..1000 {
                answer.add(&[b'x'; 30]);
            }
            assert_eq!(answer.text.len(), expect, "{bytes_max} {pool:?}");
            assert!(answer.text.capacity() <= bytes_max && answer.deltas == 1000);
            drop(answer);
            assert_eq!(pool.used(), 0);
        }
    }
}
