//! The quick way to an event's text: events of one stream mostly differ in nothing else.
//!
//! What stands before and after the text of an event that was read in full is remembered. An event
//! with the same bytes around a middle that is itself the inside of a JSON string has the same
//! tokens but for that one string, so it means the same but for its text. Everything else is read
//! in full again.

/// Longest surroundings that are remembered; the memory is taken once per stream.
pub const TEMPLATE_BYTES_MAX: usize = 512;

/// The surroundings of the last text.
#[derive(Debug, Default)]
pub struct Template {
    /// Empty, or what stood before the text and then what stood after it. Either end is at a
    /// quote, so it cuts no UTF-8 character.
    around: Vec<u8>,
    /// How much of it stood before.
    before: usize,
}

impl Template {
    /// The text of an event that differs from the remembered one in nothing else; it is a valid
    /// inside of a JSON string, in UTF-8, and may be empty.
    #[inline]
    pub fn text<'a>(&self, data: &'a [u8]) -> Option<&'a [u8]> {
        if self.around.is_empty() {
            return None;
        }
        let (before, after) = self.around.split_at(self.before);
        let text = data.strip_prefix(before)?.strip_suffix(after)?;
        is_inside_of_string(text).then_some(text)
    }

    /// Remembers what surrounds `text`, which must be the text of the valid event `data`, and lie
    /// in it; the event must hold nothing else of use.
    pub fn learn(&mut self, data: &[u8], text: &[u8]) {
        let before = text.as_ptr().addr().wrapping_sub(data.as_ptr().addr());
        let after = before.wrapping_add(text.len());
        self.around.clear();
        if let (Some(before), Some(after)) = (data.get(..before), data.get(after..))
            && before.len() + after.len() <= TEMPLATE_BYTES_MAX
        {
            self.around.reserve_exact(TEMPLATE_BYTES_MAX);
            self.around.extend_from_slice(before);
            self.around.extend_from_slice(after);
            self.before = before.len();
        }
    }
}

/// Whether the bytes may stand between the quotes of a JSON string (RFC 8259, 7).
#[inline]
fn is_inside_of_string(text: &[u8]) -> bool {
    let mut length = 0;
    loop {
        length += plain_length(&text[length..]);
        match text.get(length) {
            None => return std::str::from_utf8(text).is_ok(),
            Some(b'\\') => match escape_length(&text[length..]) {
                Some(escape) => length += escape,
                None => return false,
            },
            Some(_) => return false,
        }
    }
}

/// How many bytes come before the first quote, backslash or control character.
///
/// Looks at eight bytes at once: a byte below `n` borrows into its top bit when `n` is taken from
/// it. A borrow can spread to the bytes above, but the lowest hit is always a true one.
fn plain_length(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let below = |word: u64, n: u8| word.wrapping_sub(ONES * u64::from(n)) & !word;
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        let hits = (below(word, 0x20) | quote | backslash) & (ONES * 0x80);
        if hits != 0 {
            return index * 8 + hits.trailing_zeros() as usize / 8;
        }
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    bytes.len() - tail.len() + tail.iter().position(special).unwrap_or(tail.len())
}

/// Length of the escape that `bytes` starts with, if it is one (RFC 8259, 7).
fn escape_length(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'\\', b'u', hex @ ..] => {
            let hex = hex.get(..4)?;
            hex.iter().all(u8::is_ascii_hexdigit).then_some(6)
        }
        [
            b'\\',
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
            ..,
        ] => Some(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::event::{Chunk, parse};
    use super::*;

    #[test]
    fn plain_bytes_are_counted_one_by_one_and_by_the_word() {
        for special in (0..0x20).chain([b'"', b'\\']) {
            for at in 0..20 {
                for plain in [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xa2, 0xdc, 0xff] {
                    let mut bytes = [plain; 20];
                    assert_eq!(plain_length(&bytes[..at]), at);
                    bytes[at] = special;
                    assert_eq!(plain_length(&bytes), at, "{special} among {plain}");
                }
            }
        }
    }

    #[test]
    fn only_the_text_may_differ() {
        let event = |id: &str, text: &str| {
            format!("{{\"id\":{id},\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}")
        };
        let (first, mut template) = (event("1", "a"), Template::default());
        assert_eq!(template.text(first.as_bytes()), None);
        let text = parse(first.as_bytes()).expect("it is valid").text;
        template.learn(first.as_bytes(), text);
        for text in ["", "a", "\\n\\ud83d\\\\", "你好"] {
            assert_eq!(
                template.text(event("1", text).as_bytes()),
                Some(text.as_bytes())
            );
            assert_eq!(template.text(event("2", text).as_bytes()), None);
        }
        for text in ["\"", "\\", "\\x", "\\u12g4", "\t", "a\",\"content\":\"b"] {
            assert_eq!(template.text(event("1", text).as_bytes()), None, "{text}");
        }
        assert_eq!(template.text(&first.as_bytes()[..first.len() - 1]), None);
        let long = event(&"1".repeat(TEMPLATE_BYTES_MAX), "a");
        template.learn(
            long.as_bytes(),
            parse(long.as_bytes()).expect("it is valid").text,
        );
        assert_eq!(
            template.text(long.as_bytes()),
            None,
            "too long to be remembered"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_it_finds_the_full_reader_finds(
            surroundings in select(vec![
                ("{\"choices\":[{\"delta\":{\"content\":\"", "\"}}]}"),
                ("{\"choices\":[{\"delta\":{\"content\":\"x\",\"content\":\"", "\"},\"finish_reason\":null}]}"),
                ("{\"choices\":[{\"delta\":{\"content\":\"", "\",\"a\":\"\"}}],\"content\":\"y\"}"),
            ]),
            first in "[a-z你]{1,3}",
            text in proptest::collection::vec(
                prop_oneof![any::<u8>(), select(b"\"\\nu00dD8,:{}[]\x00\x1f\xc3\xa9".to_vec())], 0..14),
        ) {
            let event = |text: &[u8]| [surroundings.0.as_bytes(), text, surroundings.1.as_bytes()].concat();
            let (first, second) = (event(first.as_bytes()), event(&text));
            let mut template = Template::default();
            template.learn(&first, parse(&first).expect("it is valid").text);
            let found = template.text(&second).map(|text| Ok(Chunk { text, parts: None, finish: None }));
            let read = parse(&second);
            prop_assert_eq!(found.is_some(), read.is_ok() && read.as_ref().ok().map(|chunk| chunk.text) == Some(&text[..]));
            if let Some(found) = found {
                prop_assert_eq!(found, read);
            }
        }
    }
}
