//! The fields of a request's JSON object, as `/auth/*` reads them: whatever is no such object is
//! an empty one, and no field can be of a type that surprises its endpoint.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Deepest nesting of a request's JSON.
const NESTING_MAX: usize = 128;

/// One field as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field<'a> {
    /// Not there.
    Missing,
    /// A text without NUL; borrowed from the body where it holds no escapes.
    Text(Cow<'a, str>),
    /// Anything else, also a text with a NUL or with half a surrogate pair.
    Other {
        /// `null`, `false`, 0, `[]` or `{}`, which the clients of the old service may send for
        /// "none".
        falsy: bool,
    },
}

impl Field<'_> {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Missing | Self::Other { .. } => None,
        }
    }

    /// Whether nothing was given: no field, no text, or a value that means none.
    pub fn is_none(&self) -> bool {
        match self {
            Self::Missing => true,
            Self::Text(text) => text.is_empty(),
            Self::Other { falsy } => *falsy,
        }
    }
}

/// The named fields of a body; all missing if it is not one JSON object in UTF-8. Of a field that
/// stands there twice the last counts.
pub fn read<'a, const N: usize>(body: &'a [u8], names: [&str; N]) -> [Field<'a>; N] {
    let fields = || {
        let text = std::str::from_utf8(body).ok()?;
        if is_deep(body) {
            return None;
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let fields = json.deserialize_map(Object { names: &names }).ok()?;
        json.end().ok()?;
        Some(fields)
    };
    fields().unwrap_or([const { Field::Missing }; N])
}

/// Whether arrays and objects are nested deeper than anybody needs.
pub fn is_deep(json: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    json.iter().any(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > NESTING_MAX
    })
}

struct Object<'n, const N: usize> {
    names: &'n [&'n str; N],
}

impl<'a, const N: usize> Visitor<'a> for Object<'_, N> {
    type Value = [Field<'a>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = [const { Field::Missing }; N];
        while let Some(at) = map.next_key_seed(Name { names: self.names })? {
            match at {
                Some(at) => fields[at] = field(map.next_value()?).map_err(A::Error::custom)?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(fields)
    }
}

/// Which of the names a key is, if any.
struct Name<'n> {
    names: &'n [&'n str],
}

impl<'a> DeserializeSeed<'a> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'a>>(self, key: D) -> Result<Self::Value, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.names.iter().position(|name| *name == key))
    }
}

/// A JSON string that is borrowed where it holds no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn field(raw: &RawValue) -> Result<Field<'_>, serde_json::Error> {
    let raw = raw.get();
    let falsy = match raw.as_bytes()[0] {
        b'"' => {
            // The only mistakes that are left in it are escapes that stand for no character.
            let text = serde_json::from_str(raw).ok();
            let text = text.filter(|Text(text)| !text.contains('\0'));
            return Ok(text.map_or(Field::Other { falsy: false }, |Text(text)| {
                Field::Text(text)
            }));
        }
        b'n' | b'f' => true,
        b'[' | b'{' => raw.len() == 2 || raw[1..raw.len() - 1].trim_ascii().is_empty(),
        b't' => false,
        _ => raw.parse() == Ok(0.0),
    };
    Ok(Field::Other { falsy })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FALSY: Field<'_> = Field::Other { falsy: true };
    const OTHER: Field<'_> = Field::Other { falsy: false };

    fn text(text: &str) -> Field<'_> {
        Field::Text(text.into())
    }

    #[test]
    fn a_field_is_a_text_or_something_else() {
        for (value, expect) in [
            (r#""a""#, text("a")),
            (r#""""#, text("")),
            (r#""\u0061\ud83d\ude00\n""#, text("a😀\n")),
            (r#""a\u0000""#, OTHER),
            (r#""\ud83d""#, OTHER),
            (r#""\ude00\ud83d""#, OTHER),
            (r#""\ud83d\u0061""#, OTHER),
            ("null", FALSY),
            ("false", FALSY),
            ("true", OTHER),
            ("0", FALSY),
            ("-0", FALSY),
            ("0.0e7", FALSY),
            ("1", OTHER),
            ("1e999", OTHER),
            ("-0.5", OTHER),
            ("[]", FALSY),
            ("[ ]", FALSY),
            ("[0]", OTHER),
            ("{}", FALSY),
            ("{ \n}", FALSY),
            (r#"{"a":1}"#, OTHER),
        ] {
            let body = format!(r#" {{"x":[1,{{"f":2}}],"f":{value},"g":"last"}} "#);
            let [f, g, h] = read(body.as_bytes(), ["f", "g", "h"]);
            assert_eq!(f, expect, "{value}");
            assert_eq!((g, h), (text("last"), Field::Missing), "{value}");
        }
    }

    #[test]
    fn texts_are_borrowed_and_the_last_of_a_name_counts() {
        let [f] = read(br#"{"f":"a","f":"b"}"#, ["f"]);
        assert!(matches!(f, Field::Text(Cow::Borrowed("b"))), "{f:?}");
        let [f] = read(br#"{"\u0066":"b\\"}"#, ["f"]);
        assert_eq!(f, text("b\\"));
    }

    #[test]
    fn whatever_is_no_object_is_an_empty_one() {
        let deep = format!(
            r#"{{"f":"a","x":{}{}}}"#,
            "[".repeat(10_000),
            "]".repeat(10_000)
        );
        let within = format!(r#"{{"x":{}{},"f":"a"}}"#, "[".repeat(99), "]".repeat(99));
        for (body, empty) in [
            (&b""[..], true),
            (b" ", true),
            (b"null", true),
            (br#"["a"]"#, true),
            (br#""f""#, true),
            (b"{", true),
            (br#"{"f":"a""#, true),
            (br#"{"f":"a"}x"#, true),
            (br#"{"f":"a",}"#, true),
            (br#"{"f":"a"}{}"#, true),
            (br#"{'f':'a'}"#, true),
            (b"{\"f\":\"a\",\"x\":\"\xff\"}", true),
            (b"{\"f\":\"a\0\"}", true),
            (br#"{"f":"a","x":tru}"#, true),
            (br#"{"f":"a","\ud83d":1}"#, true),
            (deep.as_bytes(), true),
            (within.as_bytes(), false),
            (br#"{"f":"a","x":"\ud83d"}"#, false),
        ] {
            let [f] = read(body, ["f"]);
            assert_eq!(f == Field::Missing, empty, "{:.40?}", body);
        }
    }
}
