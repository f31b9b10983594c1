//! What a chat remembers: one JSON message per line, question and answer in turn.
//!
//! ```text
//! {"role":"user","content":"…"}
//! {"role":"assistant","content":"…"}
//! ```
//!
//! The contents keep the escaped form in which they arrived, so a stored chat becomes part of the
//! next request by putting commas between its lines.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter};
use serde::Deserialize;

const USER: &[u8] = b"{\"role\":\"user\",\"content\":\"";
const ASSISTANT: &[u8] = b"{\"role\":\"assistant\",\"content\":\"";
/// The beginning of a guide's line ([`add_guide`](crate::llm::prompt::add_guide)).
pub(super) const SYSTEM: &[u8] = b"{\"role\":\"system\",\"content\":\"";
const END: &[u8] = b"\"}\n";

/// The stored chat with one more exchange, trimmed.
///
/// - With 1.5 × `exchanges_max` exchanges it is cut back to `exchanges_max` at once: between such
///   cuts its beginning stays the same, which providers cache.
/// - Over `bytes_max` the oldest exchanges go first, whole. If the newest one alone is too large
///   its answer is shortened, at a whole character; if not even a character of the answer fits,
///   the exchange is not stored and everything older stays as it is.
/// - Unpaired surrogate escapes become `\ufffd`, since strict providers refuse them.
///
/// A `stored` that does not consist of whole exchanges counts as empty.
pub fn append(
    stored: &[u8],
    question_escaped: &[u8],
    answer_escaped: &[u8],
    exchanges_max: usize,
    bytes_max: usize,
) -> Vec<u8> {
    let question = pair_surrogates(question_escaped);
    let answer = pair_surrogates(answer_escaped);
    let frame = USER.len() + question.len() + END.len() + ASSISTANT.len() + END.len();
    let room = bytes_max.saturating_sub(frame);
    let answer = &answer[..whole_characters(&answer, room)];
    if exchanges_max == 0 {
        return Vec::new();
    }
    if answer.is_empty() {
        return newest(stored, usize::MAX, bytes_max).to_vec();
    }
    let length = frame + answer.len();
    let is_full = 2 * (exchanges(stored) + 1) >= exchanges_max.saturating_mul(3);
    let before = if is_full {
        exchanges_max - 1
    } else {
        usize::MAX
    };
    let kept = newest(stored, before, bytes_max - length);
    let mut chat = Vec::with_capacity(kept.len() + length);
    for part in [kept, USER, &question, END, ASSISTANT, answer, END] {
        chat.extend_from_slice(part);
    }
    chat
}

/// Whether a stored chat is what [`append`] writes: whole exchanges of valid JSON, each message
/// with its role and a content without unpaired surrogates. An empty one is.
pub fn check(stored: &[u8]) -> bool {
    let beginnings = [USER, ASSISTANT].into_iter().cycle();
    let mut messages = messages_of(stored).zip(beginnings);
    let is_whole = stored.is_empty() || exchanges(stored) > 0;
    is_whole && messages.all(|(message, beginning)| is_message(message, beginning))
}

/// The lines of a stored chat without their ends; not what stands behind the last end.
pub fn messages_of(stored: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    memchr_iter(b'\n', stored).map(move |end| {
        let line = &stored[start..end];
        start = end + 1;
        line
    })
}

/// Whether a message begins like this and its content is a valid JSON string, without unpaired
/// surrogates: decoding it is what finds them.
fn is_message(message: &[u8], beginning: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Content<'a> {
        #[serde(borrow)]
        _decoded: Cow<'a, str>,
    }
    let content = message
        .strip_suffix(b"}")
        .filter(|message| message.starts_with(beginning))
        .map(|message| &message[beginning.len() - 1..]);
    content.is_some_and(|quoted| serde_json::from_slice::<Content<'_>>(quoted).is_ok())
}

/// How many exchanges there are before a guide, which may be the last line.
pub fn exchanges_before_guide(messages: &[u8]) -> usize {
    messages_of(messages)
        .filter(|line| !line.starts_with(SYSTEM))
        .count()
        / 2
}

/// Where the newest `kept` exchanges begin; at most as many as there are.
pub fn newest_exchanges(messages: &[u8], kept: usize) -> usize {
    let left_out = exchanges_before_guide(messages).saturating_sub(kept);
    let lines = messages_of(messages).take(2 * left_out);
    lines.map(|line| line.len() + 1).sum()
}

/// How many exchanges there are; 0 if they are not whole.
fn exchanges(stored: &[u8]) -> usize {
    let lines = memchr_iter(b'\n', stored).count();
    if stored.ends_with(b"\n") && lines.is_multiple_of(2) {
        lines / 2
    } else {
        0
    }
}

/// The newest exchanges that keep to both limits.
fn newest(stored: &[u8], exchanges_max: usize, bytes_max: usize) -> &[u8] {
    let count = exchanges(stored);
    let ends = memchr_iter(b'\n', stored).skip(1).step_by(2);
    let starts = std::iter::once(0).chain(ends.map(|end| end + 1));
    let start = starts
        .take(count)
        .enumerate()
        .find(|(index, start)| count - index <= exchanges_max && stored.len() - start <= bytes_max);
    start.map_or(&[], |(_, start)| &stored[start..])
}

/// Replaces each `\ud800`–`\udfff` that is not part of a pair by `\ufffd`. Runs over the whole
/// text, so a pair may have been formed by two deltas.
fn pair_surrogates(escaped: &[u8]) -> Cow<'_, [u8]> {
    let mut text = Cow::Borrowed(escaped);
    let mut at = 0;
    while let Some(offset) = memchr(b'\\', &escaped[at..]) {
        at += offset;
        at += match (
            surrogate(&escaped[at..]),
            surrogate(escaped.get(at + 6..).unwrap_or(&[])),
        ) {
            (Some(Half::High), Some(Half::Low)) => 12,
            (Some(_), _) => {
                text.to_mut()[at..at + 6].copy_from_slice(b"\\ufffd");
                6
            }
            // The escaped character is skipped too: it may be a backslash.
            (None, _) => 2.min(escaped.len() - at),
        };
    }
    text
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    High,
    Low,
}

/// Which half of a surrogate pair the escape stands for that `escaped` starts with.
fn surrogate(escaped: &[u8]) -> Option<Half> {
    let [b'\\', b'u', b'd' | b'D', kind, a, b, ..] = escaped else {
        return None;
    };
    if !(a.is_ascii_hexdigit() && b.is_ascii_hexdigit()) {
        return None;
    }
    match kind {
        b'8' | b'9' | b'a' | b'b' | b'A' | b'B' => Some(Half::High),
        b'c'..=b'f' | b'C'..=b'F' => Some(Half::Low),
        _ => None,
    }
}

/// Length of the longest beginning of at most `max` bytes that cuts no UTF-8 character, escape or
/// pair of escapes.
fn whole_characters(escaped: &[u8], max: usize) -> usize {
    if escaped.len() <= max {
        return escaped.len();
    }
    let mut end = 0;
    while end < escaped.len() {
        let length = match &escaped[end..] {
            [b'\\', b'u', ..] if surrogate(&escaped[end..]).is_some() => 12,
            [b'\\', b'u', ..] => 6,
            [b'\\', ..] => 2,
            [0xf0..=0xff, ..] => 4,
            [0xe0..=0xef, ..] => 3,
            [0xc0..=0xdf, ..] => 2,
            _ => 1,
        };
        if end + length > max {
            break;
        }
        end += length;
    }
    end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_newest_exchanges_and_a_guide() {
        let messages = chat(&[("q0", "a0"), ("q1", "a1"), ("q2", "a2")]);
        for with_guide in [false, true] {
            let mut messages = messages.clone();
            if with_guide {
                crate::llm::prompt::add_guide("Be kind", &mut messages);
            }
            assert_eq!(exchanges_before_guide(&messages), 3);
            let rest = |kept: usize| &messages[newest_exchanges(&messages, kept)..];
            assert_eq!(rest(3), messages);
            assert_eq!(rest(9), messages);
            assert!(rest(1).starts_with(&chat(&[("q2", "a2")])));
            assert_eq!(messages_of(rest(0)).count(), usize::from(with_guide));
        }
        assert_eq!(newest_exchanges(b"", 0), 0);
    }

    fn chat(exchanges: &[(&str, &str)]) -> Vec<u8> {
        let lines = exchanges.iter().map(|(question, answer)| {
            format!(
                "{{\"role\":\"user\",\"content\":\"{question}\"}}\n\
                 {{\"role\":\"assistant\",\"content\":\"{answer}\"}}\n"
            )
        });
        lines.collect::<String>().into_bytes()
    }

    fn numbered(numbers: std::ops::RangeInclusive<u32>) -> Vec<u8> {
        numbers
            .flat_map(|n| chat(&[(&format!("q{n}"), &format!("a{n}"))]))
            .collect()
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).expect("a history is UTF-8")
    }

    /// Appends the exchanges 1 to `n`.
    fn after(n: u32, exchanges_max: usize, bytes_max: usize) -> Vec<u8> {
        (1..=n).fold(Vec::new(), |stored, n| {
            let (question, answer) = (format!("q{n}"), format!("a{n}"));
            let (question, answer) = (question.as_bytes(), answer.as_bytes());
            append(&stored, question, answer, exchanges_max, bytes_max)
        })
    }

    #[test]
    fn one_and_a_half_times_the_maximum_is_cut_back_to_the_maximum() {
        let rows = [
            (6, 1, 1..=1),
            (6, 8, 1..=8),
            (6, 9, 4..=9),
            (6, 11, 4..=11),
            (6, 12, 7..=12),
            (5, 7, 1..=7),
            (5, 8, 4..=8),
            (2, 2, 1..=2),
            (2, 3, 2..=3),
            (1, 1, 1..=1),
            (1, 2, 2..=2),
        ];
        for (max, turns, left) in rows {
            let chat = after(turns, max, 10_000);
            assert_eq!(
                text(&chat),
                text(&numbered(left)),
                "{turns} turns, maximum {max}"
            );
        }
        assert_eq!(after(3, 0, 10_000), b"");
        assert_eq!(after(3, usize::MAX, 10_000), numbered(1..=3));
    }

    #[test]
    fn over_the_bytes_the_oldest_go_first_and_whole() {
        let one = numbered(1..=1).len();
        for (bytes_max, left) in [(3 * one, 3..=5), (3 * one - 1, 4..=5), (one, 5..=5)] {
            assert_eq!(
                text(&after(5, 6, bytes_max)),
                text(&numbered(left)),
                "{bytes_max} bytes"
            );
        }
    }

    #[test]
    fn an_exchange_that_is_too_large_by_itself_loses_the_end_of_its_answer() {
        let empty = chat(&[("q", "")]).len();
        let rows = [
            ("abcdef", 3, "abc"),
            ("a你好", 6, "a你"),
            ("a你好", 7, "a你好"),
            ("a😊", 4, "a"),
            ("é!", 1, ""),
            ("a\\n\\n", 4, "a\\n"),
            ("\\\\\\\"", 3, "\\\\"),
            ("\\u4f60\\u597d", 11, "\\u4f60"),
            ("\\ud83d\\ude0a.", 12, "\\ud83d\\ude0a"),
            ("\\ud83d\\ude0a.", 11, ""),
            ("\\ud83d.", 6, "\\ufffd"),
        ];
        for (answer, room, left) in rows {
            let chat_left = append(b"", b"q", answer.as_bytes(), 6, empty + room);
            let expected = match left {
                "" => Vec::new(),
                left => chat(&[("q", left)]),
            };
            assert_eq!(text(&chat_left), text(&expected), "{answer} in {room}");
        }
    }

    #[test]
    fn an_exchange_without_room_or_text_leaves_the_rest_as_it_is() {
        let stored = numbered(1..=2);
        let long = [b'q'; 300];
        assert_eq!(append(&stored, &long, b"a", 6, 250), stored);
        assert_eq!(append(&stored, b"q", b"", 6, 250), stored);
        assert_eq!(
            append(&stored, b"q", b"", 6, stored.len() - 1),
            numbered(2..=2)
        );
        assert_eq!(append(&stored, b"q", b"a", 6, 0), b"");
    }

    #[test]
    fn unpaired_surrogates_are_replaced() {
        let rows = [
            ("\\ud83d\\ude0a", "\\ud83d\\ude0a"),
            ("\\uD83D\\uDE0A", "\\uD83D\\uDE0A"),
            ("\\uD83d\\uDe0A", "\\uD83d\\uDe0A"),
            ("\\ud83d", "\\ufffd"),
            ("\\ude0a", "\\ufffd"),
            ("\\ude0a\\ud83d", "\\ufffd\\ufffd"),
            ("\\ud83d\\ud83d\\ude0a", "\\ufffd\\ud83d\\ude0a"),
            ("\\ud83d\\ude0a\\ude0a", "\\ud83d\\ude0a\\ufffd"),
            ("\\ud83d \\ude0a", "\\ufffd \\ufffd"),
            ("\\ud83d\\n\\ude0a", "\\ufffd\\n\\ufffd"),
            ("\\\\ud83d", "\\\\ud83d"),
            ("\\\\\\ud83d", "\\\\\\ufffd"),
            ("\\ud83d\\\\ude0a", "\\ufffd\\\\ude0a"),
            ("\\ud7ff\\ue000\\ufffd", "\\ud7ff\\ue000\\ufffd"),
            ("ud83d \\\"", "ud83d \\\""),
        ];
        for (escaped, expected) in rows {
            let pairs = pair_surrogates(escaped.as_bytes());
            assert_eq!(text(&pairs), expected, "{escaped}");
            let chat = append(b"", escaped.as_bytes(), escaped.as_bytes(), 6, 1000);
            assert!(check(&chat), "{escaped}");
        }
    }

    #[test]
    fn only_whole_exchanges_pass_the_check() {
        assert!(check(b"") && check(&numbered(1..=3)));
        let rows: [&[u8]; 12] = [
            b"\n",
            b"\n\n",
            b"nonsense\nnonsense\n",
            b"{\"role\":\"user\",\"content\":\"a\"}\n",
            b"{\"role\":\"user\",\"content\":\"a\"}\n{\"role\":\"assistant\",\"content\":\"b\"}",
            b"{\"role\":\"assistant\",\"content\":\"a\"}\n{\"role\":\"user\",\"content\":\"b\"}\n",
            b"{\"role\":\"user\",\"content\":\"a\"}\n{\"role\":\"user\",\"content\":\"b\"}\n",
            b"{\"role\":\"user\",\"content\":1}\n{\"role\":\"assistant\",\"content\":\"b\"}\n",
            b"{\"role\":\"user\",\"content\":\"a\",\"x\":1}\n{\"role\":\"assistant\",\"content\":\"b\"}\n",
            b"{\"role\":\"user\",\"content\":\"\\ud83d\"}\n{\"role\":\"assistant\",\"content\":\"b\"}\n",
            b"{\"role\":\"user\",\"content\":\"\xff\"}\n{\"role\":\"assistant\",\"content\":\"b\"}\n",
            b"{\"role\":\"user\",\"content\":\"a\"},\n{\"role\":\"assistant\",\"content\":\"b\"}\n",
        ];
        for stored in rows {
            assert!(!check(stored), "{}", String::from_utf8_lossy(stored));
        }
    }

    #[test]
    fn what_does_not_consist_of_exchanges_counts_as_empty() {
        for stored in [&b"x"[..], b"x\n", b"x\ny", b"x\ny\nz"] {
            assert_eq!(append(stored, b"q1", b"a1", 6, 1000), numbered(1..=1));
        }
    }

    proptest! {
        #[test]
        fn a_history_stays_valid_and_within_its_limits(
            turns in proptest::collection::vec(("(a|你|😊|\\\\n|\\\\\\\\|\\\\u[dD][8-9a-fA-F][0-9a-f]{2}){0,9}",
                                                "(b|é|\\\\\"|\\\\\\\\|\\\\u[dD][8-9a-fA-F][0-9a-f]{2}){0,30}"), 0..20),
            exchanges_max in 0..8_usize,
            bytes_max in 0..900_usize,
        ) {
            let mut stored = Vec::new();
            for (question, answer) in &turns {
                let (question, answer) = (question.as_bytes(), answer.as_bytes());
                stored = append(&stored, question, answer, exchanges_max, bytes_max);
                prop_assert!(check(&stored));
                prop_assert!(stored.len() <= bytes_max);
                prop_assert_eq!(stored.capacity(), stored.len());
                prop_assert!(exchanges(&stored) * 2 <= exchanges_max * 3);
            }
        }
    }
}
