//! Turns a provider's event stream into the text of an answer: the heart of the token path.
//!
//! A state machine over byte slices: the same output however the input is cut, and a verdict
//! ([`Finish`] or [`Fault`]) that stands once it has been given.

use std::fmt;
use std::sync::Arc;

use crate::limits::Pool;
use crate::llm::event::{self, Chunk, Finish, ProviderError, Rejected};
use crate::llm::sse::{self, Overrun, Splitter};
use crate::llm::template::Template;

/// Where the text goes.
pub trait Sink {
    /// One delta: the inside of the provider's JSON string, still escaped, never empty.
    fn text(&mut self, escaped: &[u8]);
}

/// What a call has brought, besides text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// An event with data was seen (comments do not count).
    pub events: bool,
    /// The answer is complete; whatever follows is ignored.
    pub done: Option<Finish>,
}

/// Why an answer ended before it was complete. `Display` is fit for clients: it holds nothing
/// that the provider wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An event was no JSON object.
    NotJson,
    /// An event had a text, finish reason or the like of a wrong type.
    BadContent,
    /// An event or line exceeded [`EVENT_BYTES_MAX`](crate::limits::EVENT_BYTES_MAX).
    TooLong,
    /// An event outgrew the carry while all long lines were lent out.
    NoLongLine,
    /// The provider reported an error inside the stream.
    Provider(ProviderError),
    /// The stream ended with neither `[DONE]` nor a finish reason.
    Cut,
    /// The stream ended without a single event, as a body that is no event stream does.
    NoEvents,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::NotJson | Fault::BadContent => "The model provider sent an invalid event",
            Fault::TooLong => "The model provider sent an event that is too long",
            Fault::NoLongLine => "Too many long events at once, try again",
            Fault::Provider(_) => "The model provider reported an error",
            Fault::Cut => "The model provider broke off the answer",
            Fault::NoEvents => "The model provider sent no events",
        })
    }
}

impl std::error::Error for Fault {}

/// The state of one answer. On the heap: at most
/// [`TEMPLATE_BYTES_MAX`](crate::llm::TEMPLATE_BYTES_MAX) from the first text on, and what
/// [`Transcoder::held`] says for an event that was cut.
#[derive(Debug)]
pub struct Transcoder {
    splitter: Splitter,
    template: Template,
    /// Whether any event has been seen.
    events: bool,
    /// The last finish reason seen.
    finish: Option<Finish>,
    verdict: Option<Result<Finish, Fault>>,
}

impl Transcoder {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self {
            splitter: Splitter::new(),
            template: Template::default(),
            events: false,
            finish: None,
            verdict: None,
        }
    }

    /// Takes bytes of the body (freed of HTTP framing) and hands their text to `sink`.
    /// `long_lines` lends buffers to events that outgrow
    /// [`CARRY_BYTES_MAX`](crate::limits::CARRY_BYTES_MAX).
    ///
    /// # Errors
    /// The [`Fault`] that ends the answer, again at each further call. Text before it has gone to
    /// `sink`.
    pub fn feed(
        &mut self,
        mut input: &[u8],
        long_lines: &Arc<Pool>,
        sink: &mut impl Sink,
    ) -> Result<Progress, Fault> {
        let mut progress = Progress::default();
        while self.verdict.is_none() {
            match self.splitter.next(&mut input, long_lines) {
                Ok(None) => return Ok(progress),
                Ok(Some(data)) => {
                    progress.events = true;
                    self.events = true;
                    self.verdict = take(data, &mut self.template, &mut self.finish, sink);
                }
                Err(Overrun::TooLong) => self.verdict = Some(Err(Fault::TooLong)),
                Err(Overrun::NoLongLine) => self.verdict = Some(Err(Fault::NoLongLine)),
            }
        }
        self.conclude(progress)
    }

    /// The provider has closed the stream, or the connection broke: an answer whose finish reason
    /// has been seen is complete even so. A last event may lack its blank line, a last line its
    /// end; one that is no JSON then was cut short and does not count.
    ///
    /// # Errors
    /// [`Fault::Cut`] and [`Fault::NoEvents`] for an answer that is not complete, and what the
    /// last event or an earlier call brought.
    pub fn end(&mut self, sink: &mut impl Sink) -> Result<Progress, Fault> {
        let mut progress = Progress::default();
        if self.verdict.is_none()
            && let Some((data, line_ended)) = self.splitter.end()
        {
            self.events = true;
            let verdict = take(data, &mut self.template, &mut self.finish, sink);
            if line_ended || verdict != Some(Err(Fault::NotJson)) {
                progress.events = true;
                self.verdict = verdict;
            }
        }
        let end = match self.finish {
            Some(finish) => Ok(finish),
            None if self.events => Err(Fault::Cut),
            None => Err(Fault::NoEvents),
        };
        self.verdict.get_or_insert(end);
        self.conclude(progress)
    }

    /// Bytes of memory held for an event that was cut.
    pub fn held(&self) -> usize {
        self.splitter.held()
    }

    /// Repeats the verdict that has been found, and lets go of all memory.
    fn conclude(&mut self, progress: Progress) -> Result<Progress, Fault> {
        self.splitter.close();
        self.template = Template::default();
        match &self.verdict {
            Some(Ok(finish)) => Ok(Progress {
                done: Some(*finish),
                ..progress
            }),
            Some(Err(fault)) => Err(fault.clone()),
            None => Ok(progress),
        }
    }
}

impl Default for Transcoder {
    fn default() -> Self {
        Self::new()
    }
}

/// What one event's data means for the answer; a verdict if it ends it.
fn take(
    data: &[u8],
    template: &mut Template,
    seen: &mut Option<Finish>,
    sink: &mut impl Sink,
) -> Option<Result<Finish, Fault>> {
    if let Some(text) = template.text(data) {
        if !text.is_empty() {
            sink.text(text);
        }
        return None;
    }
    if sse::is_done(data) {
        return Some(Ok(seen.unwrap_or_else(Finish::stop)));
    }
    match event::parse(data) {
        Ok(Chunk { text, finish }) => {
            *seen = finish.or(*seen);
            if !text.is_empty() {
                if finish.is_none() {
                    template.learn(data, text);
                }
                sink.text(text);
            }
            None
        }
        Err(Rejected::NotJson) => Some(Err(Fault::NotJson)),
        Err(Rejected::BadContent) => Some(Err(Fault::BadContent)),
        Err(Rejected::Provider(error)) => Some(Err(Fault::Provider(error))),
    }
}

/// Appends the line that a client gets for one delta; always shorter than the event it came from.
pub fn write_line(out: &mut Vec<u8>, escaped: &[u8]) {
    out.extend_from_slice(b"{\"text\":\"");
    out.extend_from_slice(escaped);
    out.extend_from_slice(b"\"}\n");
}
