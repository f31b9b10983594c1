//! How the simulated provider answers one request.
//!
//! The last user message says it, as `sim: key=value key=value …` up to the end of the message;
//! what it leaves out comes from the command line. So one running simulator serves every
//! measurement, and the server under test needs no special configuration.

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
    /// Milliseconds between the response head and the first event.
    pub first_ms: u64,
    /// Each text starts with a sequence number and a monotonic time.
    pub stamp: bool,
    /// After the last delta the stream stays open, silent, until the client closes it.
    pub hold: bool,
    /// Deltas after which the stream falls silent for ever.
    pub stall_after: Option<u64>,
    /// Deltas after which the connection is closed in the middle of the body.
    pub cut_after: Option<u64>,
    /// Status of the answer; anything but 200 comes with an error object and no stream.
    pub status: u16,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            tokens: 50,
            rate: 50.0,
            burst: 1,
            bytes: 6,
            first_ms: 0,
            stamp: false,
            hold: false,
            stall_after: None,
            cut_after: None,
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
        let Some(at) = body.windows(MARK.len()).rposition(|bytes| bytes == MARK) else {
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
                "tokens" => self.tokens = number(word, value)?,
                "rate" => self.rate = number(word, value)?,
                "flood" if value != "0" => self.rate = 0.0,
                "flood" => {}
                "burst" => self.burst = number::<u64>(word, value)?.max(1),
                "bytes" => self.bytes = number(word, value)?,
                "first_ms" => self.first_ms = number(word, value)?,
                "stamp" => self.stamp = value != "0",
                "hold" => self.hold = value != "0",
                "stall_after" => self.stall_after = Some(number(word, value)?),
                "cut_after" => self.cut_after = Some(number(word, value)?),
                "status" => self.status = number(word, value)?,
                _ => return Err(format!("{word}: unknown key")),
            }
        }
        Ok(())
    }
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
        assert!(Behaviour::default().asked_by(b"sim: tokens=x").is_err());
        assert!(Behaviour::default().asked_by(b"sim: what=1").is_err());
    }
}
