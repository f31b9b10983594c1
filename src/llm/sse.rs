//! Splits a byte stream into server-sent events, however the network cut it (WHATWG HTML, 9.2).
//!
//! Only `data` matters, and whether the event is named `error`: comments and all other fields are
//! skipped without being kept. An event that lies whole in the input is handed out in place; only
//! one that was cut, is named `error`, or has several `data` lines, is copied: into the carry, or,
//! if it outgrows that, into a borrowed [`LongLine`].

use std::sync::Arc;

use memchr::memchr2;

use crate::limits::{CARRY_BYTES_MAX, EVENT_BYTES_MAX, LongLine, Pool};

/// The data of the event that ends a stream.
const DONE: &[u8] = b"[DONE]";
/// Longest first line that is compared with [`DONE`] at its own end; looking at whole events there
/// would cost quadratic time on many lines of blanks.
const DONE_LINE_MAX: usize = 16;
const BOM: &[u8] = b"\xef\xbb\xbf";
const FIELD: &[u8] = b"data";
/// The field that names an event, with its colon.
const NAME_FIELD: &[u8] = b"event:";
/// The only name that matters.
const ERROR: &[u8] = b"error";

/// An event that has a `data` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its `data` lines, joined with LF.
    pub data: &'a [u8],
    /// It is named `error`.
    pub is_error: bool,
}

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overrun {
    /// The data of an event, or a comment or other line, exceeds [`EVENT_BYTES_MAX`].
    TooLong,
    /// The event needs a long line and none is free.
    NoLongLine,
}

/// How much of the current line has been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// That many bytes of the byte-order mark; only at the start of the stream.
    Mark(usize),
    /// That many bytes of `data`; 0 is the start of a line.
    Name(usize),
    /// `data:`; one blank may follow.
    Colon,
    /// Inside the value of `data`.
    Value,
    /// That many bytes of `event:`; behind the colon one blank may follow.
    EventField(usize),
    /// That many bytes of `error` as the value of `event`.
    EventName(usize),
    /// That many bytes of a comment or of a field that does not matter.
    Skipped(usize),
}

/// The state between two pieces of input.
#[derive(Debug)]
pub struct Splitter {
    line: Line,
    /// The last byte was a CR, so a LF that follows belongs to it.
    after_cr: bool,
    /// The current event has a `data` line, maybe an unfinished one.
    has_data: bool,
    /// The current event is named `error`.
    is_error: bool,
    /// The kept data was handed out and goes before anything else happens.
    handed_out: bool,
    /// Data of a cut event. Capacity never above [`CARRY_BYTES_MAX`]; empty while `long` is used.
    carry: Vec<u8>,
    long: Option<LongLine>,
}

impl Splitter {
    /// At the start of a stream; allocates nothing.
    pub fn new() -> Self {
        Self {
            line: Line::Mark(0),
            after_cr: false,
            has_data: false,
            is_error: false,
            handed_out: false,
            carry: Vec::new(),
            long: None,
        }
    }

    /// Takes bytes off `input` up to the end of an event and gives that event; `None` when the input
    /// is used up.
    ///
    /// A first line that [`is_done`] counts as an event at its own end: nobody has to wait for the
    /// blank line behind it.
    ///
    /// # Errors
    /// [`Overrun`]; the stream cannot be read on.
    #[inline]
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i [u8],
        long_lines: &Arc<Pool>,
    ) -> Result<Option<Event<'a>>, Overrun> {
        if self.handed_out {
            self.forget_what_was_handed_out();
        }
        while let Some(&first) = input.first() {
            if self.after_cr {
                self.after_cr = false;
                if first == b'\n' {
                    *input = &input[1..];
                    continue;
                }
            }
            if self.line == Line::Name(0)
                && !self.has_data
                && !self.is_error
                && let Some((data, rest)) = whole_event(input)
            {
                *input = rest;
                return if data.len() > EVENT_BYTES_MAX {
                    Err(Overrun::TooLong)
                } else {
                    let is_error = false;
                    Ok(Some(Event { data, is_error }))
                };
            }
            if self.step(input, long_lines)? {
                self.handed_out = true;
                return Ok(Some(self.kept_event()));
            }
        }
        Ok(None)
    }

    /// The stream is over: an event that still waits for its blank line, and whether its last line
    /// of data had an end.
    pub fn end(&mut self) -> Option<(Event<'_>, bool)> {
        self.forget_what_was_handed_out();
        let ended = !matches!(self.line, Line::Colon | Line::Value);
        self.end_name();
        self.has_data.then(|| (self.kept_event(), ended))
    }

    /// Gives all memory back: nothing more will be read.
    pub fn close(&mut self) {
        self.long = None;
        self.carry = Vec::new();
        self.has_data = false;
        self.handed_out = false;
    }

    /// Bytes of memory held for a cut event.
    pub fn held(&self) -> usize {
        self.carry.capacity() + self.long.as_ref().map_or(0, |long| long.bytes.capacity())
    }

    /// One transition, on at most one line of `input`; `true` when an event is complete.
    fn step(&mut self, input: &mut &[u8], long_lines: &Arc<Pool>) -> Result<bool, Overrun> {
        let byte = input[0];
        match self.line {
            Line::Mark(seen) if byte == BOM[seen] => {
                *input = &input[1..];
                self.line = match seen + 1 {
                    3 => Line::Name(0),
                    seen => Line::Mark(seen),
                };
            }
            Line::Mark(0) => self.line = Line::Name(0),
            Line::Mark(seen) => self.line = Line::Skipped(seen),
            Line::Name(seen) if FIELD.get(seen) == Some(&byte) => {
                *input = &input[1..];
                self.line = Line::Name(seen + 1);
            }
            Line::Name(4) if byte == b':' => {
                *input = &input[1..];
                self.begin_data(long_lines)?;
                self.line = Line::Colon;
            }
            Line::Name(0) if byte == NAME_FIELD[0] => self.line = Line::EventField(0),
            Line::Name(seen) if !is_line_end(byte) => self.line = Line::Skipped(seen),
            Line::Name(0) => {
                self.end_line(input);
                self.is_error &= self.has_data;
                return Ok(self.has_data);
            }
            Line::Name(seen) => {
                self.end_line(input);
                if seen == FIELD.len() {
                    self.begin_data(long_lines)?;
                }
            }
            Line::Colon => {
                if byte == b' ' {
                    *input = &input[1..];
                }
                self.line = Line::Value;
            }
            Line::Value => {
                let (value, ends) = take_line(input);
                self.keep(value, long_lines)?;
                if ends {
                    self.end_line(input);
                    return Ok(self.kept().len() <= DONE_LINE_MAX && is_done(self.kept()));
                }
            }
            Line::EventField(_) | Line::EventName(_) if is_line_end(byte) => {
                self.end_name();
                self.end_line(input);
            }
            Line::EventField(seen) if NAME_FIELD.get(seen) == Some(&byte) => {
                *input = &input[1..];
                self.line = Line::EventField(seen + 1);
            }
            Line::EventField(seen) if seen == NAME_FIELD.len() => {
                if byte == b' ' {
                    *input = &input[1..];
                }
                self.line = Line::EventName(0);
            }
            Line::EventField(seen) => self.line = Line::Skipped(seen),
            Line::EventName(seen) if ERROR.get(seen) == Some(&byte) => {
                *input = &input[1..];
                self.line = Line::EventName(seen + 1);
            }
            Line::EventName(seen) => {
                self.is_error = false;
                self.line = Line::Skipped(NAME_FIELD.len() + seen);
            }
            Line::Skipped(seen) => {
                let (skipped, ends) = take_line(input);
                if seen + skipped.len() > EVENT_BYTES_MAX {
                    return Err(Overrun::TooLong);
                }
                self.line = Line::Skipped(seen + skipped.len());
                if ends {
                    self.end_line(input);
                }
            }
        }
        Ok(false)
    }

    /// The line that names the event is over, if this is one.
    fn end_name(&mut self) {
        match self.line {
            Line::EventName(seen) => self.is_error = seen == ERROR.len(),
            // With nothing behind the colon, or no colon, the name is empty.
            Line::EventField(seen) => self.is_error &= seen + 1 < NAME_FIELD.len(),
            _ => {}
        }
    }

    /// Takes the CR or LF that `input` starts with.
    fn end_line(&mut self, input: &mut &[u8]) {
        self.after_cr = input[0] == b'\r';
        self.line = Line::Name(0);
        *input = &input[1..];
    }

    fn begin_data(&mut self, long_lines: &Arc<Pool>) -> Result<(), Overrun> {
        if std::mem::replace(&mut self.has_data, true) {
            self.keep(b"\n", long_lines)?;
        }
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8], long_lines: &Arc<Pool>) -> Result<(), Overrun> {
        let length = self.kept().len() + bytes.len();
        if length > EVENT_BYTES_MAX {
            return Err(Overrun::TooLong);
        }
        if self.long.is_none() && length > CARRY_BYTES_MAX {
            let mut long = LongLine::borrow(long_lines).ok_or(Overrun::NoLongLine)?;
            grow(&mut long.bytes, length, EVENT_BYTES_MAX);
            long.bytes.extend_from_slice(&self.carry);
            self.carry.clear();
            self.long = Some(long);
        }
        let (kept, max) = match &mut self.long {
            Some(long) => (&mut long.bytes, EVENT_BYTES_MAX),
            None => (&mut self.carry, CARRY_BYTES_MAX),
        };
        grow(kept, length, max);
        kept.extend_from_slice(bytes);
        Ok(())
    }

    fn kept(&self) -> &[u8] {
        self.long.as_ref().map_or(&self.carry, |long| &long.bytes)
    }

    fn kept_event(&self) -> Event<'_> {
        Event {
            data: self.kept(),
            is_error: self.is_error,
        }
    }

    fn forget_what_was_handed_out(&mut self) {
        if std::mem::take(&mut self.handed_out) {
            self.long = None;
            self.carry.clear();
            self.has_data = false;
            self.is_error = false;
        }
    }
}

impl Default for Splitter {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether this is the data of the event that ends a stream.
pub fn is_done(data: &[u8]) -> bool {
    data.trim_ascii() == DONE
}

/// Whether this was meant to be that event's data: `"[DONE]"`, `[done]`.
pub fn is_like_done(data: &[u8]) -> bool {
    let data = data.trim_ascii();
    let inside = data.strip_prefix(b"\"").and_then(|d| d.strip_suffix(b"\""));
    inside.unwrap_or(data).eq_ignore_ascii_case(DONE)
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// Makes room for `length` bytes by doubling, so that long events cost linear time, but never
/// beyond `max`.
fn grow(bytes: &mut Vec<u8>, length: usize, max: usize) {
    if length > bytes.capacity() {
        let capacity = length.next_power_of_two().clamp(256, max);
        bytes.reserve_exact(capacity - bytes.len());
    }
}

/// Takes everything before the next line end off `input`; `true` if there is one.
fn take_line<'i>(input: &mut &'i [u8]) -> (&'i [u8], bool) {
    let end = memchr2(b'\n', b'\r', input);
    let (line, rest) = input.split_at(end.unwrap_or(input.len()));
    *input = rest;
    (line, end.is_some())
}

/// The data of an event of one line with its blank line, if that is what `input` starts with.
/// A lone CR is left to [`Splitter::step`].
fn whole_event(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let value = input.strip_prefix(b"data:")?;
    let value = value.strip_prefix(b" ").unwrap_or(value);
    let (data, end) = value.split_at(memchr2(b'\n', b'\r', value)?);
    let rest = end
        .strip_prefix(b"\n\n")
        .or_else(|| end.strip_prefix(b"\r\n\r\n"))?;
    Some((data, rest))
}
