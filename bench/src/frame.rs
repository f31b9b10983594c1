//! The provider's events, and the stamp inside their text.
//!
//! A stamped text is `@SSSSSSS:NNNNNNNNNNNNNNNNNNN ` (sequence number, nanoseconds of
//! `CLOCK_MONOTONIC`) and padding; it needs no JSON escape. Fixed widths keep every event equally
//! long, and a second `@` in one text shows that deltas were merged.

use std::io::Write;

/// Bytes of a stamp.
pub const STAMP_BYTES: usize = 29;

const BEFORE: &[u8] = b"data: {\"id\":\"930c60df-bf64-41c9-a88e-3ec75f81e00e\",\"object\":\"chat.completion.chunk\",\"created\":1755047005,\"model\":\"deepseek-flash\",\"system_fingerprint\":\"fp_8802369eaa_prod0820_fp8\",\"choices\":[{\"index\":0,\"delta\":{";
const AFTER: &[u8] = b"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
const ROLE: &[u8] = b"\"role\":\"assistant\",\"content\":\"\"";
const LAST: &[u8] = b"\"content\":\"\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":17,\"completion_tokens\":9,\"total_tokens\":26}}\n\ndata: [DONE]\n\n";

/// Appends the opening event (role, no text) as one HTTP chunk.
pub fn write_role(out: &mut Vec<u8>) {
    write_chunk(out, &[BEFORE, ROLE, AFTER]);
}

/// Appends the event of one delta as one HTTP chunk; `text` must need no JSON escape.
pub fn write_delta(out: &mut Vec<u8>, text: &[u8]) {
    write_chunk(out, &[BEFORE, b"\"content\":\"", text, b"\"", AFTER]);
}

/// Appends the last event, `[DONE]` and the end of the chunked body.
pub fn write_end(out: &mut Vec<u8>) {
    write_chunk(out, &[BEFORE, LAST]);
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

/// Replaces `text` with a delta of `bytes` bytes, or of a stamp if that is longer.
pub fn fill_text(text: &mut Vec<u8>, bytes: usize, stamp: Option<(u64, u64)>) {
    text.clear();
    if let Some((sequence, ns)) = stamp {
        write!(text, "@{sequence:07}:{ns:019} ").expect("a Vec takes every write");
    }
    while text.len() + 3 <= bytes {
        text.extend_from_slice("你".as_bytes());
    }
    let len = text.len().max(bytes);
    text.resize(len, b'x');
}

/// Sequence number and time at the start of a text; `None` if it carries no stamp.
pub fn read_stamp(text: &[u8]) -> Option<(u64, u64)> {
    let stamp = text.get(..STAMP_BYTES)?;
    if stamp[0] != b'@' || stamp[8] != b':' || stamp[28] != b' ' {
        return None;
    }
    Some((digits(&stamp[1..8])?, digits(&stamp[9..28])?))
}

fn digits(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0_u64, |sum, byte| {
        byte.is_ascii_digit()
            .then(|| sum.wrapping_mul(10) + u64::from(byte - b'0'))
    })
}

/// The text of one line that the client received, still escaped; `None` if it carries none.
///
/// `sse`: the line is a provider's `data:` line, else one of our `{"text":"…"}`. Looks for the key
/// only: enough for what the simulator sends, and cheap, so that the client stays out of the way.
pub fn text_of(line: &[u8], sse: bool) -> Option<&[u8]> {
    let key: &[u8] = if sse { b"\"content\":" } else { b"\"text\":" };
    let at = line.windows(key.len()).position(|bytes| bytes == key)?;
    let rest = line[at + key.len()..]
        .trim_ascii_start()
        .strip_prefix(b"\"")?;
    let mut end = 0;
    while rest.get(end)? != &b'"' {
        end += if rest[end] == b'\\' { 2 } else { 1 };
    }
    (end > 0).then(|| &rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_the_event() {
        let (mut text, mut out) = (Vec::new(), Vec::new());
        fill_text(&mut text, 40, Some((12, 345_678_901_234)));
        assert_eq!(text.len(), 40);
        write_delta(&mut out, &text);
        let found = text_of(&out, true).unwrap();
        assert_eq!(found, text);
        assert_eq!(read_stamp(found), Some((12, 345_678_901_234)));
        assert_eq!(read_stamp(b"hello"), None);
    }

    #[test]
    fn a_default_event_is_as_long_as_deepseeks() {
        let (mut text, mut out) = (Vec::new(), Vec::new());
        fill_text(&mut text, 6, None);
        write_delta(&mut out, &text);
        let event = out.len() - "114\r\n\r\n".len();
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
        ] {
            assert_eq!(text_of(line, sse), expect);
        }
    }
}
