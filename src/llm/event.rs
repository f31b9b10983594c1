//! One event of a chat completion stream: finds the text, the finish reason or the error in its
//! JSON, borrowing from the bytes.
//!
//! Keys may come in any order and any escaping, a repeated key counts by its last value, only the
//! first choice counts, and unknown members are skipped without recursion: depth is bounded by
//! the input's length alone. The whole event must be valid JSON before any part of it counts.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// What an event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// The inside of the JSON string `choices[0].delta.content`, still escaped; may be empty.
    pub text: &'a [u8],
    /// `choices[0].finish_reason`.
    pub finish: Option<Finish>,
}

/// Why an event ends its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejected {
    /// No JSON (RFC 8259), no UTF-8, or no object.
    NotJson,
    /// A part of it that matters has a type that it must not have.
    BadContent,
    /// It holds an `error` member.
    Provider(ProviderError),
}

/// Why the model stopped: a word of at most 32 bytes of `[A-Za-z0-9_-]`, such as `stop`, `length`
/// or `content_filter`. Safe inside a JSON string.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Finish {
    /// Holds the word in its first `length` bytes, then zeros.
    bytes: [u8; Finish::BYTES_MAX],
    length: u8,
}

impl Finish {
    const BYTES_MAX: usize = 32;

    /// The model came to an end by itself.
    pub fn stop() -> Self {
        Self::word("stop").expect("it is a short word")
    }

    /// What the provider said, if it is a word as described above; `other` if it said something
    /// else: claiming `stop` would hide an answer that was broken off. Nothing for an empty text,
    /// which some providers send in place of `null`.
    fn new(reason: &str) -> Option<Self> {
        let other = || Self::word("other").expect("it is a short word");
        (!reason.is_empty()).then(|| Self::word(reason).unwrap_or_else(other))
    }

    fn word(word: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        let mut bytes = [0; Self::BYTES_MAX];
        bytes
            .get_mut(..word.len())?
            .copy_from_slice(word.as_bytes());
        word.bytes().all(plain).then_some(Self {
            bytes,
            length: word.len() as u8, // at most BYTES_MAX
        })
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).expect("it is ASCII")
    }
}

impl fmt::Debug for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Finish({})", self.as_str())
    }
}

/// What a provider's error object names as its `code`, or else its `type`: at most 64 characters
/// of `[A-Za-z0-9_.-]`, for the log. Empty if it names neither. Its message is never kept: it can
/// quote what the user wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderError(Box<str>);

impl ProviderError {
    const CHARS_MAX: usize = 64;

    /// The code.
    pub fn code(&self) -> &str {
        &self.0
    }

    fn new(error: &RawValue) -> Self {
        #[derive(Deserialize)]
        struct Named<'a> {
            #[serde(borrow)]
            code: Option<&'a RawValue>,
            #[serde(borrow)]
            r#type: Option<&'a RawValue>,
        }
        let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let code = |value: &RawValue| -> Option<Box<str>> {
            let value = value.get();
            let nested = value.starts_with(['{', '[']) || value == "null";
            let code: String = value.chars().filter(plain).take(Self::CHARS_MAX).collect();
            (!nested && !code.is_empty()).then(|| code.into())
        };
        let named: Option<Named<'_>> = serde_json::from_str(error.get()).ok();
        let code = named.and_then(|named| {
            let code_of = |value: Option<&RawValue>| value.and_then(code);
            code_of(named.code).or_else(|| code_of(named.r#type))
        });
        Self(code.unwrap_or_default())
    }
}

/// Reads one event's data.
///
/// # Errors
/// [`Rejected`]; an error member outranks a wrong type, which outranks nothing.
pub fn parse(data: &[u8]) -> Result<Chunk<'_>, Rejected> {
    let event = std::str::from_utf8(data).map_err(|_| Rejected::NotJson)?;
    let Shape::Is(event) = serde_json::from_str(event).map_err(|_| Rejected::NotJson)? else {
        return Err(Rejected::NotJson);
    };
    let Event { choices, error } = event;
    if let Some(error) = error.filter(|error| error.get() != "null") {
        return Err(Rejected::Provider(ProviderError::new(error)));
    }
    let first = choices.or_reject()?.unwrap_or_default().first;
    let Choice { delta, finish } = first.or_reject()?.unwrap_or_default();
    let content = delta.or_reject()?.unwrap_or_default().content;
    Ok(Chunk {
        text: inside(content)?.unwrap_or_default().as_bytes(),
        finish: match inside(finish)? {
            Some(reason) => finish_reason(reason)?,
            None => None,
        },
    })
}

/// The inside of a JSON string; `None` for null.
fn inside(value: Option<&RawValue>) -> Result<Option<&str>, Rejected> {
    match value.map(RawValue::get) {
        None | Some("null") => Ok(None),
        Some(value) => value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'))
            .map(Some)
            .ok_or(Rejected::BadContent),
    }
}

/// Words need no escapes, so this only decodes what somebody wrote in an unusual way.
fn finish_reason(escaped: &str) -> Result<Option<Finish>, Rejected> {
    if !escaped.contains('\\') {
        return Ok(Finish::new(escaped));
    }
    let decoded = serde_json::from_str::<String>(&format!("\"{escaped}\""));
    Ok(Finish::new(decoded.as_deref().unwrap_or("\\")))
}

/// A value of which only one JSON type is of use.
#[derive(Default)]
enum Shape<T> {
    /// Missing or null.
    #[default]
    None,
    Is(T),
    /// Of another type; what it held has been skipped.
    Wrong,
}

impl<T> Shape<T> {
    fn or_reject(self) -> Result<Option<T>, Rejected> {
        match self {
            Shape::None => Ok(None),
            Shape::Is(part) => Ok(Some(part)),
            Shape::Wrong => Err(Rejected::BadContent),
        }
    }
}

/// A JSON object or array whose parts matter; each kind implements the one it is.
trait Part<'de>: Default {
    const IS_OBJECT: bool;

    /// Reads or skips the value of one member.
    fn member<A: MapAccess<'de>>(&mut self, key: Key, map: &mut A) -> Result<(), A::Error> {
        let _: (Key, IgnoredAny) = (key, map.next_value()?);
        Ok(())
    }

    /// Reads the elements; what it leaves is skipped.
    fn elements<A: SeqAccess<'de>>(&mut self, _seq: &mut A) -> Result<(), A::Error> {
        Ok(())
    }
}

#[derive(Default)]
struct Event<'de> {
    choices: Shape<Choices<'de>>,
    error: Option<&'de RawValue>,
}

#[derive(Default)]
struct Choices<'de> {
    first: Shape<Choice<'de>>,
}

#[derive(Default)]
struct Choice<'de> {
    delta: Shape<Delta<'de>>,
    finish: Option<&'de RawValue>,
}

#[derive(Default)]
struct Delta<'de> {
    content: Option<&'de RawValue>,
}

impl<'de> Part<'de> for Event<'de> {
    const IS_OBJECT: bool = true;

    fn member<A: MapAccess<'de>>(&mut self, key: Key, map: &mut A) -> Result<(), A::Error> {
        match key {
            Key::Choices => self.choices = map.next_value()?,
            Key::Error => self.error = Some(map.next_value()?),
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

impl<'de> Part<'de> for Choices<'de> {
    const IS_OBJECT: bool = false;

    fn elements<A: SeqAccess<'de>>(&mut self, seq: &mut A) -> Result<(), A::Error> {
        self.first = seq.next_element()?.unwrap_or_default();
        Ok(())
    }
}

impl<'de> Part<'de> for Choice<'de> {
    const IS_OBJECT: bool = true;

    fn member<A: MapAccess<'de>>(&mut self, key: Key, map: &mut A) -> Result<(), A::Error> {
        match key {
            Key::Delta => self.delta = map.next_value()?,
            Key::FinishReason => self.finish = Some(map.next_value()?),
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

impl<'de> Part<'de> for Delta<'de> {
    const IS_OBJECT: bool = true;

    fn member<A: MapAccess<'de>>(&mut self, key: Key, map: &mut A) -> Result<(), A::Error> {
        match key {
            Key::Content => self.content = Some(map.next_value()?),
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

/// The keys that matter, on whichever level.
enum Key {
    Choices,
    Error,
    Delta,
    FinishReason,
    Content,
    Other,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, name: &str) -> Result<Key, E> {
                Ok(match name {
                    "choices" => Key::Choices,
                    "error" => Key::Error,
                    "delta" => Key::Delta,
                    "finish_reason" => Key::FinishReason,
                    "content" => Key::Content,
                    _ => Key::Other,
                })
            }
        }
        deserializer.deserialize_str(Name)
    }
}

impl<'de, T: Part<'de>> Deserialize<'de> for Shape<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyShape(PhantomData))
    }
}

/// Accepts every JSON value, so that a wrong type is told apart from wrong JSON.
struct AnyShape<T>(PhantomData<T>);

impl<'de, T: Part<'de>> Visitor<'de> for AnyShape<T> {
    type Value = Shape<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Shape<T>, E> {
        Ok(Shape::None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape<T>, E> {
        Ok(Shape::Wrong)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape<T>, E> {
        Ok(Shape::Wrong)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Shape<T>, E> {
        Ok(Shape::Wrong)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape<T>, E> {
        Ok(Shape::Wrong)
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape<T>, E> {
        Ok(Shape::Wrong)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape<T>, A::Error> {
        let mut part = T::default();
        while let Some(key) = map.next_key()? {
            let key = if T::IS_OBJECT { key } else { Key::Other };
            part.member(key, &mut map)?;
        }
        Ok(if T::IS_OBJECT {
            Shape::Is(part)
        } else {
            Shape::Wrong
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape<T>, A::Error> {
        let mut part = T::default();
        part.elements(&mut seq)?;
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(if T::IS_OBJECT {
            Shape::Wrong
        } else {
            Shape::Is(part)
        })
    }
}
