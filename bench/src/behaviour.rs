//! How the simulated provider answers one request.
//!
//! The last user message says it, as `sim: key=value key=value …` up to the end of the message;
//! what it leaves out comes from the command line. So one running simulator serves every
//! measurement, and the server under test needs no special configuration.

use crate::frame::{DELTAS_MAX, STREAMS_MAX};

/// What a stream looks like.
#[derive(Debug, Clone, PartialEq)]
pub struct Behaviour {
    /// Deltas with text before the end.
    pub tokens: u64,
    /// Deltas a second; 0 (or `flood=1`) is as fast as the reader takes them.
    pub rate: f64,
    /// Deltas sent together; the pauses between them grow accordingly.
    pub burst: u64,
    /// Bytes of text per delta.
    pub bytes: usize,
    /// Milliseconds between the request and the response head.
    pub head_ms: u64,
    /// Milliseconds between the response head and the first event.
    pub first_ms: u64,
    /// Each text starts with the stream's number, a sequence number and a monotonic time.
    pub stamp: bool,
    /// The stream's number in its stamps, so that the client knows its own.
    pub id: u64,
    /// After the last delta the stream stays open, silent, until the client closes it.
    pub hold: bool,
    /// What goes wrong, and after how many deltas; one thing per stream.
    pub fault: Option<(u64, Fault)>,
    /// Milliseconds after which a stalled stream goes on; 0 is never.
    pub stall_ms: u64,
    /// Bytes written at once, so that events arrive in pieces; 0 is whole events.
    pub split: usize,
    /// Finish reason of the last event.
    pub finish: String,
    /// The stream ends without `[DONE]`.
    pub no_end: bool,
    /// Status of the answer; anything but 200 comes with an error object and no stream.
    pub status: u16,
}

/// What can go wrong in the middle of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Silence, for `stall_ms`.
    Stall,
    /// The connection is closed in the middle of the body.
    Cut,
    /// The connection is reset.
    Reset,
    /// An error event, then the end.
    Error,
    /// An event that is no JSON, then the stream goes on.
    Garbage,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            tokens: 50,
            rate: 50.0,
            burst: 1,
            bytes: 6,
            head_ms: 0,
            first_ms: 0,
            stamp: false,
            id: 0,
            hold: false,
            fault: None,
            stall_ms: 0,
            split: 0,
            finish: "stop".to_owned(),
            no_end: false,
            status: 200,
        }
    }
}

impl Behaviour {
    /// These settings, changed by what the last message of a request body asks for.
    pub fn asked_by(&self, body: &[u8]) -> Result<Self, String> {
        const MARK: &[u8] = b"sim:";
        let mut behaviour = self.clone();
        // The question is the last message, and the history before it may hold older wishes.
        let Some(at) = memchr::memmem::rfind(body, MARK) else {
            return Ok(behaviour);
        };
        let rest = &body[at + MARK.len()..];
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'));
        let text = String::from_utf8_lossy(&rest[..end.unwrap_or(rest.len())]);
        behaviour.apply(&text)?;
        Ok(behaviour)
    }

    /// Applies `key=value` words.
    pub fn apply(&mut self, text: &str) -> Result<(), String> {
        for word in text.split_whitespace() {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| format!("{word}: no ="))?;
            match key {
                "tokens" => self.tokens = number::<u64>(word, value)?.min(DELTAS_MAX),
                "rate" => self.rate = rate(word, value)?,
                "flood" if value != "0" => self.rate = 0.0,
                "flood" => {}
                "burst" => self.burst = number::<u64>(word, value)?.max(1),
                "bytes" => self.bytes = number(word, value)?,
                "head_ms" => self.head_ms = number(word, value)?,
                "first_ms" => self.first_ms = number(word, value)?,
                "stamp" => self.stamp = value != "0",
                "hold" => self.hold = value != "0",
                "id" => self.id = number::<u64>(word, value)? % STREAMS_MAX,
                "stall_after" => self.fault = Some((number(word, value)?, Fault::Stall)),
                "cut_after" => self.fault = Some((number(word, value)?, Fault::Cut)),
                "reset_after" => self.fault = Some((number(word, value)?, Fault::Reset)),
                "error_after" => self.fault = Some((number(word, value)?, Fault::Error)),
                "garbage_after" => self.fault = Some((number(word, value)?, Fault::Garbage)),
                "stall_ms" => self.stall_ms = number(word, value)?,
                "split" => self.split = number(word, value)?,
                "finish" => self.finish = value.to_owned(),
                "no_end" => self.no_end = value != "0",
                "status" => self.status = number(word, value)?,
                _ => return Err(format!("{word}: unknown key")),
            }
        }
        Ok(())
    }
}

/// Deltas a second; a rate that is no finite number from 0 upwards has no schedule.
fn rate(word: &str, value: &str) -> Result<f64, String> {
    number(word, value).and_then(|rate: f64| {
        let fits = rate.is_finite() && rate >= 0.0;
        fits.then_some(rate)
            .ok_or_else(|| format!("{word}: no rate"))
    })
}

fn number<T: std::str::FromStr>(word: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{word}: no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_message_decides() {
        let body = br#"{"messages":[{"content":"sim: tokens=1 hold=1"},{"content":"x sim: tokens=7 flood=1"}],"stream":true}"#;
        let asked = Behaviour::default().asked_by(body).unwrap();
        let expect = Behaviour {
            tokens: 7,
            rate: 0.0,
            ..Behaviour::default()
        };
        assert_eq!(asked, expect);
        assert_eq!(
            Behaviour::default().asked_by(b"{}"),
            Ok(Behaviour::default())
        );
    }

    #[test]
    fn every_key_is_understood() {
        let text = "tokens=3 rate=2.5 burst=4 bytes=50 head_ms=1 first_ms=2 stamp=1 id=10000007 hold=1 \
                    stall_after=2 stall_ms=30 split=7 finish=length no_end=1 status=503";
        let mut asked = Behaviour::default();
        asked.apply(text).unwrap();
        let expect = Behaviour {
            tokens: 3,
            rate: 2.5,
            burst: 4,
            bytes: 50,
            head_ms: 1,
            first_ms: 2,
            stamp: true,
            id: 7,
            hold: true,
            fault: Some((2, Fault::Stall)),
            stall_ms: 30,
            split: 7,
            finish: "length".to_owned(),
            no_end: true,
            status: 503,
        };
        assert_eq!(asked, expect);
        for (word, fault) in [
            ("cut_after=1", Fault::Cut),
            ("reset_after=1", Fault::Reset),
            ("error_after=1", Fault::Error),
            ("garbage_after=1", Fault::Garbage),
        ] {
            asked.apply(word).unwrap();
            assert_eq!(asked.fault, Some((1, fault)));
        }
    }

    #[test]
    fn mistakes_are_named() {
        for text in [
            "tokens=x",
            "what=1",
            "tokens",
            "rate=-1",
            "rate=inf",
            "rate=NaN",
            "status=70000",
        ] {
            let body = format!("sim: stamp=1 {text}");
            let mistake = Behaviour::default().asked_by(body.as_bytes()).unwrap_err();
            assert!(mistake.starts_with(text), "{mistake}");
        }
    }
}
