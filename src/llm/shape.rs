//! JSON values of which only some parts matter, read without building anything and without
//! recursion into what is skipped.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A value of which only one JSON type is of use.
#[derive(Default)]
pub enum Shape<T> {
    /// Missing or null.
    #[default]
    None,
    /// Of that type.
    Is(T),
    /// Of another type; what it held has been skipped.
    Wrong,
}

/// A JSON object or array whose parts matter; each kind implements the one it is.
pub trait Part<'de>: Default {
    /// Whether it is an object.
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

/// The keys that matter, on whichever level.
pub enum Key {
    Choices,
    Code,
    Content,
    Delta,
    Error,
    FinishReason,
    Message,
    Object,
    Text,
    Type,
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
                    "code" => Key::Code,
                    "content" => Key::Content,
                    "delta" => Key::Delta,
                    "error" => Key::Error,
                    "finish_reason" => Key::FinishReason,
                    "message" => Key::Message,
                    "object" => Key::Object,
                    "text" => Key::Text,
                    "type" => Key::Type,
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
