//! Turns a provider's event stream into the text of an answer: the heart of the token path.
//!
//! A state machine over byte slices: the same output however the input is cut, and a verdict
//! ([`Finish`] or [`Fault`]) that stands once it has been given.

use std::fmt;
use std::sync::Arc;

use crate::limits::Pool;
use crate::llm::event::{self, Chunk, Finish, ProviderError, Rejected};
use crate::llm::sse::{self, Event, Overrun, Splitter};
use crate::llm::template::Template;

/// Where the text goes.
pub trait Sink {
    /// One delta: the inside of the provider's JSON string, still escaped, never empty.
    fn text(&mut self, escaped: &[u8]);
}

/// What a call has brought, besides text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// An event with data was seen (comments and blank data do not count).
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
    /// The stream ended without a finish reason, with `[DONE]` or not.
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
    reading: Reading,
    verdict: Option<Verdict>,
}

type Verdict = Result<Finish, Fault>;

/// What the events so far mean for those that come.
#[derive(Debug)]
struct Reading {
    template: Template,
    /// Whether any event has been seen.
    has_events: bool,
    /// The last finish reason seen. From the first one on the answer is complete, and nothing
    /// that makes no sense can spoil it.
    finish: Option<Finish>,
    /// See [`Transcoder::done_is_complete`].
    done_is_complete: bool,
}

/// What an event was.
enum Taken {
    /// A sign of life, without data.
    Blank,
    /// One of several.
    Event,
    /// The last.
    End(Verdict),
}

impl Transcoder {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self {
            splitter: Splitter::new(),
            reading: Reading {
                template: Template::default(),
                has_events: false,
                finish: None,
                done_is_complete: false,
            },
            verdict: None,
        }
    }

    /// Says what `[DONE]` without a finish reason before it means: the end of a complete answer, from
    /// a gateway that never sends a reason, or, as it does unless this is said, of one that was cut.
    pub fn done_is_complete(mut self, is_complete: bool) -> Self {
        self.reading.done_is_complete = is_complete;
        self
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
            let fault = match self.splitter.next(&mut input, long_lines) {
                Ok(None) => return Ok(progress),
                Ok(Some(event)) => {
                    match self.reading.take(event, sink) {
                        Taken::Blank => continue,
                        Taken::Event => {}
                        Taken::End(verdict) => self.verdict = Some(verdict),
                    }
                    progress.events = true;
                    continue;
                }
                Err(Overrun::TooLong) => Fault::TooLong,
                Err(Overrun::NoLongLine) => Fault::NoLongLine,
            };
            self.verdict = Some(self.reading.finish.ok_or(fault));
        }
        self.conclude(progress)
    }

    /// The provider has closed the stream, or the connection broke, or nothing that matters has come
    /// for so long that nothing will: an answer whose finish reason has been seen is complete even
    /// so. A last event may lack its blank line, a last line its end; one that is no JSON then was
    /// cut short and does not count.
    ///
    /// # Errors
    /// [`Fault::Cut`] and [`Fault::NoEvents`] for an answer that is not complete, and what the
    /// last event or an earlier call brought.
    pub fn end(&mut self, sink: &mut impl Sink) -> Result<Progress, Fault> {
        let mut progress = Progress::default();
        if self.verdict.is_none()
            && let Some((event, line_ended)) = self.splitter.end()
        {
            match self.reading.take(event, sink) {
                Taken::Blank => {}
                Taken::End(Err(Fault::NotJson)) if !line_ended => {}
                Taken::Event => progress.events = true,
                Taken::End(verdict) => {
                    progress.events = true;
                    self.verdict = Some(verdict);
                }
            }
        }
        let end = match self.reading.finish {
            Some(finish) => Ok(finish),
            None if self.reading.has_events => Err(Fault::Cut),
            None => Err(Fault::NoEvents),
        };
        self.verdict.get_or_insert(end);
        self.conclude(progress)
    }

    /// Whether a finish reason has been seen: the answer is complete, whether or not the provider
    /// says so with `[DONE]` or by closing the stream. Text may still come.
    pub fn is_complete(&self) -> bool {
        self.reading.finish.is_some()
    }

    /// Bytes of memory held for an event that was cut.
    pub fn held(&self) -> usize {
        self.splitter.held()
    }

    /// Repeats the verdict that has been found, and lets go of all memory.
    fn conclude(&mut self, progress: Progress) -> Result<Progress, Fault> {
        self.splitter.close();
        self.reading.template = Template::default();
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

impl Reading {
    /// What one event means for the answer.
    fn take(&mut self, event: Event<'_>, sink: &mut impl Sink) -> Taken {
        let Event { data, is_error } = event;
        if !is_error && let Some(text) = self.template.text(data) {
            if !text.is_empty() {
                sink.text(text);
            }
            return Taken::Event;
        }
        // As all but few do.
        let is_object = data.first() == Some(&b'{');
        if !is_object && data.trim_ascii().is_empty() {
            return Taken::Blank;
        }
        self.has_events = true;
        if is_error {
            return Taken::End(Err(Fault::Provider(ProviderError::of_event(data))));
        }
        if !is_object && sse::is_done(data) {
            return Taken::End(match self.finish {
                Some(finish) => Ok(finish),
                None if self.done_is_complete => Ok(Finish::stop()),
                None => Err(Fault::Cut),
            });
        }
        let fault = match event::parse(data) {
            Ok(chunk) => {
                self.say(data, chunk, sink);
                return Taken::Event;
            }
            Err(Rejected::Provider(error)) => {
                return Taken::End(Err(Fault::Provider(error)));
            }
            Err(Rejected::NotJson) => Fault::NotJson,
            Err(Rejected::BadContent) => Fault::BadContent,
        };
        match self.finish {
            Some(finish) if sse::is_like_done(data) => Taken::End(Ok(finish)),
            Some(_) => Taken::Event,
            None => Taken::End(Err(fault)),
        }
    }

    /// Hands on the text of a good event. The texts of a list go out one by one.
    fn say(&mut self, data: &[u8], chunk: Chunk<'_>, sink: &mut impl Sink) {
        self.finish = chunk.finish.or(self.finish);
        let (mut texts, mut last) = (0, chunk.text);
        let mut say = |text| {
            (texts, last) = (texts + 1, text);
            sink.text(text);
        };
        match chunk.parts {
            Some(parts) => parts.each(say),
            None if chunk.text.is_empty() => {}
            None => say(chunk.text),
        }
        if texts == 1 && chunk.finish.is_none() {
            self.template.learn(data, last);
        }
    }
}

/// Appends the line that a client gets for one delta; always shorter than the event it came from.
pub fn write_line(out: &mut Vec<u8>, escaped: &[u8]) {
    out.extend_from_slice(b"{\"text\":\"");
    out.extend_from_slice(escaped);
    out.extend_from_slice(b"\"}\n");
}
