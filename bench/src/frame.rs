//! The provider's events, and the stamp inside their text.
//!
//! A stamped text is `@IIIIIII.SSSSSSSS:NNNNNNNNNNNNNNNNN ` (stream, sequence number, nanoseconds of
//! `CLOCK_MONOTONIC`) and padding; it needs no JSON escape, so it passes unchanged through whatever
//! forwards the text. Fixed widths keep every event equally long, and a second `@` in one text shows
//! that deltas were merged.

use std::io::Write;

use memchr::{memchr, memchr2, memmem};

/// Bytes of a stamp.
pub const STAMP_BYTES: usize = 36;
/// Streams told apart; higher numbers wrap around.
pub const STREAMS_MAX: u64 = 10_000_000;
/// Deltas told apart in one stream; more are not sent.
pub const DELTAS_MAX: u64 = 100_000_000;

/// Where the numbers of a stamp stand in it.
const STREAM: std::ops::Range<usize> = 1..8;
const SEQUENCE: std::ops::Range<usize> = 9..17;
const TIME: std::ops::Range<usize> = 18..35;

const BEFORE: &[u8] = b"data: {\"id\":\"930c60df-bf64-41c9-a88e-3ec75f81e00e\",\"object\":\"chat.completion.chunk\",\"created\":1755047005,\"model\":\"deepseek-flash\",\"system_fingerprint\":\"fp_8802369eaa_prod0820_fp8\",\"choices\":[{\"index\":0,\"delta\":{";
const AFTER: &[u8] = b"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
const ROLE: &[u8] = b"\"role\":\"assistant\",\"content\":\"\"";
const FINISH: &[u8] = b"\"content\":\"\"},\"logprobs\":null,\"finish_reason\":\"";
const USAGE: &[u8] =
    b"\"}],\"usage\":{\"prompt_tokens\":17,\"completion_tokens\":9,\"total_tokens\":26}}\n\n";
const DONE: &[u8] = b"data: [DONE]\n\n";

/// Appends the opening event (role, no text) as one HTTP chunk.
pub fn write_role(out: &mut Vec<u8>) {
    write_chunk(out, &[BEFORE, ROLE, AFTER]);
}

/// The HTTP chunk of one stream's deltas, built once; only the stamp's numbers change.
#[derive(Debug)]
pub struct Delta {
    chunk: Vec<u8>,
    /// Where the stamp begins.
    stamp: Option<usize>,
}

impl Delta {
    /// Deltas of `bytes` bytes of text, or of a stamp if that is longer; `stamp` is the stream's number.
    pub fn new(bytes: usize, stamp: Option<u64>) -> Self {
        let mut text = Vec::with_capacity(bytes.max(STAMP_BYTES));
        if let Some(stream) = stamp {
            text.extend_from_slice(b"@0000000.00000000:00000000000000000 ");
            write_digits(&mut text[STREAM], stream);
        }
        while text.len() + 3 <= bytes {
            text.extend_from_slice("你".as_bytes());
        }
        let len = text.len().max(bytes);
        text.resize(len, b'x');
        let mut chunk = Vec::new();
        write_chunk(
            &mut chunk,
            &[BEFORE, b"\"content\":\"", &text, b"\"", AFTER],
        );
        let stamp = stamp.and_then(|_| memchr(b'@', &chunk));
        Self { chunk, stamp }
    }

    /// Bytes that one delta takes.
    pub fn bytes(&self) -> usize {
        self.chunk.len()
    }

    /// Appends one delta.
    pub fn write(&mut self, out: &mut Vec<u8>, sequence: u64, ns: u64) {
        if let Some(at) = self.stamp {
            let stamp = &mut self.chunk[at..at + STAMP_BYTES];
            write_digits(&mut stamp[SEQUENCE], sequence);
            write_digits(&mut stamp[TIME], ns);
        }
        out.extend_from_slice(&self.chunk);
    }
}

/// Decimal, with leading zeros; what does not fit is cut off at the left.
fn write_digits(place: &mut [u8], mut number: u64) {
    for byte in place.iter_mut().rev() {
        *byte = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Appends an error in the middle of a stream, as one HTTP chunk.
pub fn write_error(out: &mut Vec<u8>) {
    write_chunk(
        out,
        &[b"data: {\"error\":{\"message\":\"asked for\",\"type\":\"server_error\"}}\n\n"],
    );
}

/// Appends an event that is no JSON, as one HTTP chunk.
pub fn write_garbage(out: &mut Vec<u8>) {
    write_chunk(out, &[b"data: {\"choices\":[{\"delta\":\xff\x00]\n\n"]);
}

/// Appends the last event with its finish reason and, unless the stream is to end without, `[DONE]`.
pub fn write_end(out: &mut Vec<u8>, finish: &str, done: bool) {
    let done: &[u8] = if done { DONE } else { b"" };
    write_chunk(out, &[BEFORE, FINISH, finish.as_bytes(), USAGE, done]);
    out.extend_from_slice(b"0\r\n\r\n");
}

fn write_chunk(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    write!(out, "{len:x}\r\n").expect("a Vec takes every write");
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
}

/// What a stamp says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The stream's number, as asked for with `id=`.
    pub stream: u64,
    /// The delta's number in its stream, from 0.
    pub sequence: u64,
    /// When it was due or sent, see `simulate`; `CLOCK_MONOTONIC`.
    pub ns: u64,
}

/// The stamp at the start of a text; `None` if it carries none.
pub fn read_stamp(text: &[u8]) -> Option<Stamp> {
    let stamp = text.get(..STAMP_BYTES)?;
    if stamp[0] != b'@' || stamp[8] != b'.' || stamp[17] != b':' || stamp[35] != b' ' {
        return None;
    }
    Some(Stamp {
        stream: digits(&stamp[STREAM])?,
        sequence: digits(&stamp[SEQUENCE])?,
        ns: digits(&stamp[TIME])?,
    })
}

/// All stamps of a text: one, unless deltas were merged on their way.
pub fn stamps(text: &[u8]) -> impl Iterator<Item = Stamp> {
    memchr::memchr_iter(b'@', text).filter_map(|at| read_stamp(&text[at..]))
}

fn digits(text: &[u8]) -> Option<u64> {
    // At most 17 digits: it cannot overflow.
    text.iter().try_fold(0_u64, |sum, byte| {
        byte.is_ascii_digit()
            .then(|| sum * 10 + u64::from(byte - b'0'))
    })
}

/// The text of one line that the client received, still escaped; `None` if it carries none.
///
/// `sse`: the line is a provider's `data:` line, else one of our `{"text":"…"}`. Looks for the key
/// only: enough for what the simulator sends, and cheap, so that the client stays out of the way.
/// `hint` is where the key stood last time, which is where it stands again.
pub fn text_of<'a>(line: &'a [u8], sse: bool, hint: &mut usize) -> Option<&'a [u8]> {
    let key: &[u8] = if sse { b"\"content\":" } else { b"\"text\":" };
    if !line.get(*hint..).is_some_and(|rest| rest.starts_with(key)) {
        *hint = memmem::find(line, key)?;
    }
    let rest = line[*hint + key.len()..]
        .trim_ascii_start()
        .strip_prefix(b"\"")?;
    let mut end = 0;
    loop {
        end += memchr2(b'"', b'\\', rest.get(end..)?)?;
        if rest[end] == b'"' {
            return (end > 0).then(|| &rest[..end]);
        }
        end += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_the_event() {
        for bytes in [0, 40, 41, 300] {
            let mut delta = Delta::new(bytes, Some(17));
            for (sequence, ns) in [
                (0, 1),
                (12, 345_678_901_234),
                (DELTAS_MAX - 1, u64::MAX >> 8),
            ] {
                let mut out = Vec::new();
                delta.write(&mut out, sequence, ns);
                assert_eq!(out.len(), delta.bytes());
                let found = text_of(&out, true, &mut 0).unwrap();
                assert_eq!(found.len(), bytes.max(STAMP_BYTES));
                let expect = Stamp {
                    stream: 17,
                    sequence,
                    ns,
                };
                assert_eq!(read_stamp(found), Some(expect));
                assert_eq!(stamps(&found.repeat(3)).count(), 3);
            }
        }
    }

    #[test]
    fn what_is_no_stamp_is_none() {
        let good = b"@0000017.00000012:00000345678901234 x";
        assert!(read_stamp(good).is_some());
        assert_eq!(read_stamp(&good[..STAMP_BYTES - 1]), None);
        for at in 0..STAMP_BYTES {
            let mut bad = *good;
            bad[at] = b'?';
            assert_eq!(read_stamp(&bad), None, "{at}");
        }
        assert_eq!(stamps("hello 你好 a@b".as_bytes()).count(), 0);
    }

    #[test]
    fn a_default_event_is_as_long_as_deepseeks() {
        let event = Delta::new(6, None).bytes() - "114\r\n\r\n".len();
        assert!((270..=285).contains(&event), "{event}");
    }

    #[test]
    fn texts_are_found_and_empty_ones_are_none() {
        for (line, sse, expect) in [
            (&br#"{"text":"a\"b"}"#[..], false, Some(&br#"a\"b"#[..])),
            (br#"{"text": "x" }"#, false, Some(b"x")),
            (br#"{"done":"stop"}"#, false, None),
            (br#"data: {"delta":{"content":""}}"#, true, None),
            (br#"{"text":"cut"#, false, None),
            (br#"{"text":"cut\"#, false, None),
        ] {
            for mut hint in [0, 1, 16, 99] {
                assert_eq!(text_of(line, sse, &mut hint), expect);
            }
        }
    }
}
