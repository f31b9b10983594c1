//! One event of a chat completion stream: finds the text, the finish reason or the error in its
//! JSON, borrowing from the bytes.
//!
//! Keys may come in any order and any escaping, a repeated key counts by its last value, only the
//! first choice counts, and unknown members are skipped without recursion: depth is bounded by
//! the input's length alone. The whole event must be valid JSON before any part of it counts.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::llm::shape::{Key, Part, Shape};

/// What an event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// The inside of the JSON string `choices[0].delta.content`, still escaped; may be empty. A
    /// server that ignores `stream` sends a `message` in place of the `delta`.
    pub text: &'a [u8],
    /// What stands in place of a string there: a list of parts (Mistral).
    pub parts: Option<Parts<'a>>,
    /// `choices[0].finish_reason`.
    pub finish: Option<Finish>,
}

/// A list such as `[{"type":"text","text":"…"}]`, known to be good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a>(&'a str);

impl<'a> Parts<'a> {
    /// Hands out the texts one by one: the insides of the JSON strings `text` of the parts whose
    /// `type` is `text`, in their order, still escaped and never empty. Other parts (`thinking`) are
    /// no text.
    pub fn each(self, take: impl FnMut(&'a [u8])) {
        let read = read_parts(self.0, take);
        debug_assert!(read.is_ok(), "it was read before");
    }
}

/// Why an event ends its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejected {
    /// No JSON (RFC 8259), no UTF-8, or no object.
    NotJson,
    /// A part of it that matters has a type that it must not have.
    BadContent,
    /// It reports a failure.
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProviderError(Box<str>);

impl ProviderError {
    const CHARS_MAX: usize = 64;

    /// The code.
    pub fn code(&self) -> &str {
        &self.0
    }

    /// What an event that is named `error` says: an error object, or an object that holds one as
    /// its `error`, or anything else.
    pub fn of_event(data: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Holder<'a> {
            #[serde(borrow)]
            error: &'a RawValue,
        }
        let text = std::str::from_utf8(data).unwrap_or_default();
        let held: Option<Holder<'_>> = serde_json::from_str(text).ok();
        Self::named_in(held.map_or(text, |held| held.error.get()))
    }

    /// What this JSON text names.
    fn named_in(error: &str) -> Self {
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
        let named: Option<Named<'_>> = serde_json::from_str(error).ok();
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
/// [`Rejected`]; a reported failure outranks a wrong type, which outranks nothing.
pub fn parse(data: &[u8]) -> Result<Chunk<'_>, Rejected> {
    let text = std::str::from_utf8(data).map_err(|_| Rejected::NotJson)?;
    let Shape::Is(event) =
        serde_json::from_str::<Shape<Event<'_>>>(text).map_err(|_| Rejected::NotJson)?
    else {
        return Err(Rejected::NotJson);
    };
    if let Some(error) = event.error.filter(|error| is_said(error)) {
        return Err(Rejected::Provider(ProviderError::named_in(error.get())));
    }
    let Some(choices) = or_reject(event.choices)? else {
        return without_choices(text);
    };
    let choice = or_reject(choices.first)?.unwrap_or_default();
    if let Some(error) = choice.error.filter(|error| is_said(error)) {
        return Err(Rejected::Provider(ProviderError::named_in(error.get())));
    }
    let reason = inside(choice.finish);
    let finish = match reason {
        Ok(Some(reason)) => finish_reason(reason)?,
        Ok(None) | Err(_) => None,
    };
    reason?;
    let delta = match choice.delta {
        Shape::None => choice.message,
        delta => delta,
    };
    let content = or_reject(delta)?.unwrap_or_default().content;
    let (text, parts) = match content.map(RawValue::get) {
        Some(list) if list.starts_with('[') => {
            read_parts(list, |_| {})?;
            ("", Some(Parts(list)))
        }
        _ => (inside(content)?.unwrap_or_default(), None),
    };
    Ok(Chunk {
        text: text.as_bytes(),
        parts,
        finish,
    })
}

/// An event without choices says nothing, or reports a failure.
fn without_choices(event: &str) -> Result<Chunk<'_>, Rejected> {
    let Ok(Shape::Is(bare)) = serde_json::from_str::<Shape<Bare<'_>>>(event) else {
        return Err(Rejected::NotJson);
    };
    // vLLM: {"object":"error","message":…}
    let is_object = is_word(bare.object, "error");
    // DashScope's own form: {"code":"Throttling","message":…}
    let is_text = |value| matches!(inside(value), Ok(Some(text)) if !text.is_empty());
    if is_object || is_text(bare.code) && is_text(bare.message) {
        return Err(Rejected::Provider(ProviderError::named_in(event)));
    }
    Ok(Chunk {
        text: b"",
        parts: None,
        finish: None,
    })
}

/// Whether the value of `error` means that there is one.
fn is_said(error: &RawValue) -> bool {
    !matches!(error.get(), "null" | "false" | "\"\"")
}

fn or_reject<T>(shape: Shape<T>) -> Result<Option<T>, Rejected> {
    match shape {
        Shape::None => Ok(None),
        Shape::Is(part) => Ok(Some(part)),
        Shape::Wrong => Err(Rejected::BadContent),
    }
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
fn decoded(escaped: &str) -> Option<String> {
    serde_json::from_str(&format!("\"{escaped}\"")).ok()
}

/// The reason `error` is a failure.
fn finish_reason(escaped: &str) -> Result<Option<Finish>, Rejected> {
    let finish = match escaped.contains('\\') {
        false => Finish::new(escaped),
        true => Finish::new(decoded(escaped).as_deref().unwrap_or("\\")),
    };
    match finish {
        Some(finish) if finish.as_str() == "error" => {
            Err(Rejected::Provider(ProviderError::default()))
        }
        finish => Ok(finish),
    }
}

/// Whether the value is that string.
fn is_word(value: Option<&RawValue>, word: &str) -> bool {
    match inside(value) {
        Ok(Some(text)) if text.contains('\\') => decoded(text).as_deref() == Some(word),
        Ok(text) => text == Some(word),
        Err(_) => false,
    }
}

/// Hands out the texts of a list of parts, which must be valid JSON.
fn read_parts<'a>(list: &'a str, take: impl FnMut(&'a [u8])) -> Result<(), Rejected> {
    let mut json = serde_json::Deserializer::from_str(list);
    let read = List(take).deserialize(&mut json);
    read.unwrap_or(Err(Rejected::NotJson))
}

/// Reads a list of parts as it goes; nothing of it is kept.
struct List<F>(F);

impl<'de, F: FnMut(&'de [u8])> DeserializeSeed<'de> for List<F> {
    type Value = Result<(), Rejected>;

    fn deserialize<D: Deserializer<'de>>(self, list: D) -> Result<Self::Value, D::Error> {
        list.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(&'de [u8])> Visitor<'de> for List<F> {
    type Value = Result<(), Rejected>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut read = Ok(());
        while let Some(part) = list.next_element::<Shape<TextPart<'de>>>()? {
            let text = match part {
                Shape::Is(part) if is_word(part.kind, "text") => inside(part.text),
                Shape::Is(_) | Shape::None => Ok(None),
                Shape::Wrong => Err(Rejected::BadContent),
            };
            match text {
                Ok(Some(text)) if !text.is_empty() => (self.0)(text.as_bytes()),
                Ok(_) => {}
                Err(rejected) => read = Err(rejected),
            }
        }
        Ok(read)
    }
}

#[derive(Default)]
struct Event<'de> {
    choices: Shape<Choices<'de>>,
    error: Option<&'de RawValue>,
}

/// What an event without choices may be.
#[derive(Default)]
struct Bare<'de> {
    object: Option<&'de RawValue>,
    code: Option<&'de RawValue>,
    message: Option<&'de RawValue>,
}

#[derive(Default)]
struct Choices<'de> {
    first: Shape<Choice<'de>>,
}

#[derive(Default)]
struct Choice<'de> {
    delta: Shape<Delta<'de>>,
    message: Shape<Delta<'de>>,
    finish: Option<&'de RawValue>,
    error: Option<&'de RawValue>,
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

impl<'de> Part<'de> for Bare<'de> {
    const IS_OBJECT: bool = true;

    fn member<A: MapAccess<'de>>(&mut self, key: Key, map: &mut A) -> Result<(), A::Error> {
        match key {
            Key::Object => self.object = Some(map.next_value()?),
            Key::Code => self.code = Some(map.next_value()?),
            Key::Message => self.message = Some(map.next_value()?),
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
            Key::Message => self.message = map.next_value()?,
            Key::FinishReason => self.finish = Some(map.next_value()?),
            Key::Error => self.error = Some(map.next_value()?),
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

/// One of a list that stands in place of a text.
#[derive(Default)]
struct TextPart<'de> {
    kind: Option<&'de RawValue>,
    text: Option<&'de RawValue>,
}

impl<'de> Part<'de> for TextPart<'de> {
    const IS_OBJECT: bool = true;

    fn member<A: MapAccess<'de>>(&mut self, key: Key, map: &mut A) -> Result<(), A::Error> {
        match key {
            Key::Type => self.kind = Some(map.next_value()?),
            Key::Text => self.text = Some(map.next_value()?),
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}
