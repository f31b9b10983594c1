//! What a line says of a key.

use std::fmt::Display;
use std::time::Duration;

/// What stands behind a key.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// A text.
    Str(&'a str),
    /// A text that is known to need neither quotes nor escapes, such as a name of our own.
    Word(&'a str),
    /// A count, a size in bytes, a status.
    U64(u64),
    /// A span of time, written as milliseconds with one decimal.
    Millis(Duration),
    /// Yes or no.
    Bool(bool),
    /// Anything else that can show itself; written as a text.
    Display(&'a dyn Display),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::Str(text)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Value::Str(text)
    }
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Value::U64(number)
    }
}

impl From<usize> for Value<'_> {
    fn from(number: usize) -> Self {
        Value::U64(number as u64)
    }
}

impl From<u16> for Value<'_> {
    fn from(number: u16) -> Self {
        Value::U64(number.into())
    }
}

impl From<bool> for Value<'_> {
    fn from(yes: bool) -> Self {
        Value::Bool(yes)
    }
}

impl From<Duration> for Value<'_> {
    fn from(span: Duration) -> Self {
        Value::Millis(span)
    }
}
