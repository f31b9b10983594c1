//! Commands to Redis as values, so that several travel in one round trip, and their answers.
//!
//! Scripts travel as text each time: they need no round trip of their own and no second try after a
//! failover, and Redis compiles each once. All keys of one command are in one slot of a cluster.

use bytes::Bytes;
use fred::bytes_utils::Str;
use fred::error::Error;
use fred::interfaces::KeysInterface;
use fred::types::{CustomCommand, Expiration, Value};
use fred::util::redis_keyslot;

/// One command.
#[derive(Debug)]
pub(super) enum Ask {
    /// The value of a key.
    Get(String),
    /// The values of two keys in one slot.
    GetBoth([String; 2]),
    /// A value that ends after so many milliseconds.
    Set(String, String, i64),
    /// Any other: fred sends these one by one, while those above travel with whatever else waits.
    Other {
        name: &'static str,
        /// Of a cluster: where its keys are.
        slot: u16,
        arguments: Vec<Value>,
    },
}

/// A script's first key stands behind its text and the number of its keys.
const SCRIPT_KEY: usize = 2;

impl Ask {
    fn new(name: &'static str, key: usize, arguments: Vec<Value>) -> Self {
        // fred looks at the first argument of a command that it does not know by itself.
        let slot = match arguments.get(key) {
            Some(Value::String(key)) => redis_keyslot(key.as_bytes()),
            _ => 0,
        };
        Self::Other {
            name,
            slot,
            arguments,
        }
    }

    fn of_key(name: &'static str, arguments: Vec<Value>) -> Self {
        Self::new(name, 0, arguments)
    }

    pub fn get(key: String) -> Self {
        Self::Get(key)
    }

    /// Of keys in one slot.
    pub fn get_both(keys: [String; 2]) -> Self {
        Self::GetBoth(keys)
    }

    pub fn set(key: String, value: String, life_ms: i64) -> Self {
        Self::Set(key, value, life_ms.max(1))
    }

    /// Changes a value without changing when it ends; does not make one.
    pub fn replace(key: String, value: String) -> Self {
        let arguments = vec![key.into(), value.into(), "XX".into(), "KEEPTTL".into()];
        Self::of_key("SET", arguments)
    }

    pub fn delete(key: String) -> Self {
        Self::of_key("DEL", vec![key.into()])
    }

    /// Milliseconds until a key ends; negative if it does not or is not there.
    pub fn life_ms(key: String) -> Self {
        Self::of_key("PTTL", vec![key.into()])
    }

    /// Some fields of a hash.
    pub fn fields(key: String, names: &[&'static str]) -> Self {
        let names = names.iter().map(|name| Value::from_static_str(name));
        Self::of_key("HMGET", std::iter::once(key.into()).chain(names).collect())
    }

    pub fn field(key: String, name: String) -> Self {
        Self::of_key("HGET", vec![key.into(), name.into()])
    }

    /// All names and values of a hash, in turn.
    pub fn all_fields(key: String) -> Self {
        Self::of_key("HGETALL", vec![key.into()])
    }

    pub fn delete_fields(key: String, names: Vec<String>) -> Self {
        let names = names.into_iter().map(Value::from);
        Self::of_key("HDEL", std::iter::once(key.into()).chain(names).collect())
    }

    /// The values of any number of keys, in one slot.
    pub fn get_all(keys: &[String]) -> Self {
        Self::of_key("MGET", keys.iter().map(|key| key.clone().into()).collect())
    }

    /// Some of the keys with such names, after a place, and the next place: `0` at either end.
    pub fn scan(place: String, names: String, count: i64) -> Self {
        let [place, names] = [place, names].map(Value::from);
        let arguments = vec![place, "MATCH".into(), names, "COUNT".into(), count.into()];
        Self::of_key("SCAN", arguments)
    }

    /// A script on keys in one slot.
    pub fn script<const KEYS: usize>(
        script: &'static str,
        keys: [String; KEYS],
        arguments: impl IntoIterator<Item = Value>,
    ) -> Self {
        let head = [
            Value::from_static_str(script),
            Value::Integer(KEYS.try_into().unwrap_or(i64::MAX)),
        ];
        let keys = keys.into_iter().map(Value::from);
        let arguments = head.into_iter().chain(keys).chain(arguments).collect();
        Self::new("EVAL", SCRIPT_KEY, arguments)
    }

    /// Asks, or adds this to a pipeline.
    pub async fn send(self, client: &impl KeysInterface) -> Result<Value, Error> {
        match self {
            Self::Get(key) => client.get(key).await,
            Self::GetBoth([one, other]) => client.mget(vec![one, other]).await,
            Self::Set(key, value, life_ms) => {
                let life = Some(Expiration::PX(life_ms));
                client.set(key, value, life, None, false).await
            }
            Self::Other {
                name,
                slot,
                arguments,
            } => {
                let command = CustomCommand::new_static(name, slot, false);
                client.custom(command, arguments).await
            }
        }
    }
}

/// Bytes as an argument.
pub(super) fn bytes(value: impl Into<Vec<u8>>) -> Value {
    Value::Bytes(Bytes::from(value.into()))
}

/// A text; `None` for nothing and for what is no UTF-8, which we never write.
pub(super) fn text(value: Value) -> Option<Str> {
    match value {
        Value::String(text) => Some(text),
        Value::Bytes(bytes) => Str::from_inner(bytes).ok(),
        _ => None,
    }
}

/// The bytes of a value, texts included.
pub(super) fn raw(value: Value) -> Option<Bytes> {
    match value {
        Value::String(text) => Some(text.into_inner()),
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

/// A number, also one that is stored as text.
pub(super) fn number(value: Value) -> Option<i64> {
    match value {
        Value::Integer(number) => Some(number),
        other => text(other)?.parse().ok(),
    }
}

/// The elements of an array; none of anything else.
pub(super) fn elements(value: Value) -> Vec<Value> {
    match value {
        Value::Array(elements) => elements,
        _ => Vec::new(),
    }
}

/// The texts of an array.
pub(super) fn texts(value: Value) -> Vec<String> {
    let texts = elements(value).into_iter().filter_map(text);
    texts.map(|text| text.to_string()).collect()
}
