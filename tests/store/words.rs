//! Short words for calls to a store, whichever it is.

use cloudchat::store::{Begun, ChatKey, Found, Generation, HistoryLimits, Owner, Sessions, Turn};

/// Far enough from now that no sweep touches what a test makes (the year 2100).
pub const T0: i64 = 4_102_444_800_000;
pub const HOUR: i64 = 3_600_000;

pub fn ready(chat: Option<Found>) -> Begun {
    Begun::Ready { chat }
}

pub fn key(n: usize) -> ChatKey {
    ChatKey::of(&format!("cookie {n}"))
}

pub fn turn(chat: ChatKey, generation: Generation, question: &str) -> Turn {
    Turn {
        chat,
        generation,
        question_escaped: question.into(),
        answer_escaped: format!("a:{question}").into(),
        client: None,
        limits: HistoryLimits {
            exchanges_max: 6,
            bytes_max: 65_536,
        },
        ttl_ms: HOUR,
    }
}

pub async fn found(store: &Sessions, chat: ChatKey, owner: Owner) -> Option<Found> {
    match store.begin_chat(T0, Some(chat), owner, Vec::new()).await {
        Ok(Begun::Ready { chat }) => chat,
        other => panic!("{other:?}"),
    }
}

/// The texts of a chat's messages, with blanks between.
pub fn text(chat: &Option<Found>) -> String {
    let messages = chat.as_ref().map_or(&[][..], |chat| &chat.messages);
    let texts: Vec<String> = messages
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let message: serde_json::Value = serde_json::from_slice(line).unwrap();
            message["content"].as_str().unwrap().to_owned()
        })
        .collect();
    texts.join(" ")
}

/// The same numbers in every run (xorshift64*).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}
