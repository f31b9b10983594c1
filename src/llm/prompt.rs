//! The request to a provider: JSON, assembled from stored and escaped bytes without decoding them.
//!
//! What stays the same from turn to turn (model, system prompt, old messages) comes first, so that
//! providers can reuse what they have cached of the prefix.

use crate::llm::history;

/// What goes into a request.
#[derive(Debug, Clone, Copy)]
pub struct Prompt<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The system prompt; empty means none.
    pub system: &'a str,
    /// The stored chat, one message per line (see [`history`](crate::llm::history)); its last line may
    /// be a guide.
    pub history: &'a [u8],
    /// The inside of the JSON string with the new message.
    pub question_escaped: &'a [u8],
    /// Name of the end user, if the provider is to be told.
    pub user: Option<&'a str>,
    /// Further members: the inside of a JSON object; empty means none.
    pub extra: &'a str,
}

/// Appends the request's body to `out`, which grows once and by no more than is needed.
pub fn write(prompt: &Prompt<'_>, out: &mut Vec<u8>) {
    let mut length = 0;
    pieces(prompt, |piece| {
        length += match piece {
            Piece::Raw(bytes) => bytes.len(),
            Piece::Text(text) => escaped_length(text),
        }
    });
    out.reserve_exact(length);
    pieces(prompt, |piece| match piece {
        Piece::Raw(bytes) => out.extend_from_slice(bytes),
        Piece::Text(text) => escape_into(text, out),
    });
}

/// The inside of a JSON string that stands for `text` (RFC 8259, 7).
pub fn escape(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(escaped_length(text));
    escape_into(text, &mut out);
    out
}

/// Appends a text as a system message to the history that a prompt is made of, so that it stands directly
/// before the new message. The beginning of the prompt stays what providers have cached.
pub fn add_guide(text: &str, history: &mut Vec<u8>) {
    const BEHIND: &[u8] = b"\"}\n";
    history.reserve_exact(history::SYSTEM.len() + escaped_length(text) + BEHIND.len());
    history.extend_from_slice(history::SYSTEM);
    escape_into(text, history);
    history.extend_from_slice(BEHIND);
}

/// The bytes that [`add_guide`] adds for this text.
pub fn guide_bytes(text: &str) -> usize {
    let mut line = Vec::new();
    add_guide(text, &mut line);
    line.len()
}

enum Piece<'a> {
    Raw(&'a [u8]),
    Text(&'a str),
}

/// The request in order, piece by piece: once to measure it, once to write it.
fn pieces<'a>(prompt: &Prompt<'a>, mut put: impl FnMut(Piece<'a>)) {
    put(Piece::Raw(b"{\"model\":\""));
    put(Piece::Text(prompt.model));
    put(Piece::Raw(b"\",\"messages\":["));
    if !prompt.system.is_empty() {
        put(Piece::Raw(b"{\"role\":\"system\",\"content\":\""));
        put(Piece::Text(prompt.system));
        put(Piece::Raw(b"\"},"));
    }
    for message in history::messages_of(prompt.history) {
        put(Piece::Raw(message));
        put(Piece::Raw(b","));
    }
    put(Piece::Raw(b"{\"role\":\"user\",\"content\":\""));
    put(Piece::Raw(prompt.question_escaped));
    put(Piece::Raw(b"\"}],\"stream\":true"));
    if !prompt.extra.is_empty() {
        put(Piece::Raw(b","));
        put(Piece::Raw(prompt.extra.as_bytes()));
    }
    if let Some(user) = prompt.user {
        put(Piece::Raw(b",\"user\":\""));
        put(Piece::Text(user));
        put(Piece::Raw(b"\""));
    }
    put(Piece::Raw(b"}"));
}

/// How many bytes a text takes inside a JSON string.
fn escaped_length(text: &str) -> usize {
    text.bytes().map(byte_length).sum()
}

/// The same of one byte.
fn byte_length(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0x00..=0x1f => 6,
        _ => 1,
    }
}

fn escape_into(text: &str, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    loop {
        let plain = rest.iter().position(|byte| byte_length(*byte) > 1);
        let (plain, escaped) = rest.split_at(plain.unwrap_or(rest.len()));
        out.extend_from_slice(plain);
        let Some((byte, behind)) = escaped.split_first() else {
            return;
        };
        rest = behind;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => {
                let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[hex(byte >> 4), hex(byte & 15)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(prompt: &Prompt<'_>) -> String {
        let mut out = Vec::new();
        write(prompt, &mut out);
        assert_eq!(out.len(), out.capacity(), "the capacity is exact");
        String::from_utf8(out).expect("a prompt is UTF-8")
    }

    const PLAIN: Prompt<'_> = Prompt {
        model: "m",
        system: "你是\n\"R\"",
        history:
            b"{\"role\":\"user\",\"content\":\"a\"}\n{\"role\":\"assistant\",\"content\":\"b\"}\n",
        question_escaped: b"c\\n",
        user: None,
        extra: "\"temperature\":0.7,\"max_tokens\":2000",
    };

    #[test]
    fn a_request_is_written_as_providers_expect_it() {
        assert_eq!(
            written(&PLAIN),
            r#"{"model":"m","messages":[{"role":"system","content":"你是\n\"R\""},{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c\n"}],"stream":true,"temperature":0.7,"max_tokens":2000}"#
        );
    }

    #[test]
    fn parts_that_are_empty_leave_no_trace() {
        let bare = Prompt {
            system: "",
            history: b"",
            extra: "",
            user: Some("u\"1"),
            ..PLAIN
        };
        assert_eq!(
            written(&bare),
            r#"{"model":"m","messages":[{"role":"user","content":"c\n"}],"stream":true,"user":"u\"1"}"#
        );
    }

    #[test]
    fn a_guide_stands_directly_before_the_question() {
        let mut history = PLAIN.history.to_vec();
        add_guide("say \"x\"\n你", &mut history);
        assert_eq!(history.len(), history.capacity());
        let guided = Prompt {
            history: &history,
            ..PLAIN
        };
        let plain = written(&PLAIN);
        let (before, question) = plain.split_at(plain.rfind("{\"role\"").unwrap());
        let guide = r#"{"role":"system","content":"say \"x\"\n你"},"#;
        assert_eq!(written(&guided), format!("{before}{guide}{question}"));
    }

    proptest! {
        #[test]
        fn escapes_like_serde(text in "\\PC*|[\\x00-\\x7f]*|(?s:.)*") {
            let inside = serde_json::to_string(&text).expect("a text can be written");
            let escaped = escape(&text);
            prop_assert_eq!(escaped.capacity(), escaped.len());
            prop_assert_eq!(&inside.as_bytes()[1..inside.len() - 1], &escaped);
        }
    }
}
