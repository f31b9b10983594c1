//! A reader of streams that takes them whole, line by line, with `serde_json::Value`.

use serde_json::Value;

/// What a plain reader makes of a stream: the text, and the end without the details of a fault.
pub fn reference(stream: &[u8]) -> (String, Result<String, ()>) {
    let mut text = String::new();
    let mut finish = None;
    for (is_error, data) in events(stream) {
        let data = data.trim_ascii();
        if data.is_empty() {
            continue;
        }
        if data == b"[DONE]" && !is_error {
            return (text, finish.ok_or(()));
        }
        match read(data) {
            _ if is_error => return (text, Err(())),
            Read::Chunk(content, reason) => {
                text.push_str(&content);
                finish = reason.or(finish);
            }
            Read::Odd if finish.is_some() => {
                if data.eq_ignore_ascii_case(b"[done]") || data == b"\"[DONE]\"" {
                    break;
                }
            }
            Read::Odd | Read::Error => return (text, Err(())),
        }
    }
    (text, finish.ok_or(()))
}

/// Whether each event is named `error`, and its data.
fn events(stream: &[u8]) -> Vec<(bool, Vec<u8>)> {
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let mut unified = Vec::new();
    for (index, byte) in stream.iter().enumerate() {
        match byte {
            b'\r' => unified.push(b'\n'),
            b'\n' if index > 0 && stream[index - 1] == b'\r' => {}
            byte => unified.push(*byte),
        }
    }
    let mut events = Vec::new();
    let mut lines: Vec<&[u8]> = Vec::new();
    let mut name: &[u8] = b"";
    for line in unified.split(|byte| *byte == b'\n').chain([&b""[..]]) {
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => name = value,
            b"data" => {
                lines.push(value);
                if lines.len() == 1 && value.trim_ascii() == b"[DONE]" {
                    events.push((name == b"error", b"[DONE]".to_vec()));
                }
            }
            _ if line.is_empty() => {
                if !lines.is_empty() {
                    events.push((name == b"error", lines.join(&b'\n')));
                }
                lines.clear();
                name = b"";
            }
            _ => {}
        }
    }
    events
}

/// What an event is.
enum Read {
    /// Text and finish reason.
    Chunk(String, Option<String>),
    /// A failure that the provider reports.
    Error,
    /// Nothing that makes sense.
    Odd,
}

fn read(data: &[u8]) -> Read {
    let event = std::str::from_utf8(data).ok();
    let event = event.and_then(|event| serde_json::from_str(&without_surrogates(event)).ok());
    let Some(Value::Object(event)) = event else {
        return Read::Odd;
    };
    let is_said = |error: Option<&Value>| {
        error.is_some_and(|e| !matches!(e, Value::Null | Value::Bool(false)) && e != "")
    };
    let part = |value: Option<&Value>| value.cloned().filter(|value| !value.is_null());
    let is_text = |name| part(event.get(name)).is_some_and(|v| v.is_string() && v != "");
    let choices = part(event.get("choices"));
    let is_bare = event.get("object").is_some_and(|object| object == "error")
        || is_text("code") && is_text("message");
    if is_said(event.get("error")) || choices.is_none() && is_bare {
        return Read::Error;
    }
    let choice = match choices {
        Some(Value::Array(choices)) => part(choices.first()),
        Some(_) => return Read::Odd,
        None => None,
    };
    let choice = match choice.unwrap_or(Value::Object(Default::default())) {
        Value::Object(choice) => choice,
        _ => return Read::Odd,
    };
    let reason = part(choice.get("finish_reason"));
    if is_said(choice.get("error")) || reason.as_ref().is_some_and(|reason| reason == "error") {
        return Read::Error;
    }
    let reason = match reason {
        Some(Value::String(reason)) => Some(reason).filter(|r| !r.is_empty()).map(|r| word(&r)),
        Some(_) => return Read::Odd,
        None => None,
    };
    let delta = part(choice.get("delta")).or(part(choice.get("message")));
    let content = match delta {
        Some(Value::Object(delta)) => part(delta.get("content")),
        Some(_) => return Read::Odd,
        None => None,
    };
    match content {
        None => Read::Chunk(String::new(), reason),
        Some(Value::String(text)) => Read::Chunk(text, reason),
        Some(Value::Array(parts)) => match texts(&parts) {
            Some(text) => Read::Chunk(text, reason),
            None => Read::Odd,
        },
        Some(_) => Read::Odd,
    }
}

/// The text of a list of parts.
fn texts(parts: &[Value]) -> Option<String> {
    let mut all = String::new();
    for part in parts.iter().filter(|part| !part.is_null()) {
        let part = part.as_object()?;
        match part.get("text") {
            _ if part.get("type").is_none_or(|kind| kind != "text") => {}
            None | Some(Value::Null) => {}
            Some(text) => all.push_str(text.as_str()?),
        }
    }
    Some(all)
}

/// A finish reason as clients get it.
fn word(reason: &str) -> String {
    let plain = reason
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let word = if plain && reason.len() <= 32 {
        reason
    } else {
        "other"
    };
    word.to_owned()
}

/// `Value` refuses unpaired surrogates, which the transcoder forwards; both sides are compared
/// with every surrogate escape replaced.
pub fn without_surrogates(json: &str) -> String {
    let mut out = String::new();
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = rest.get(at..at + 6).unwrap_or("");
        let is_surrogate = u16::from_str_radix(escape.get(2..).unwrap_or(""), 16)
            .is_ok_and(|unit| (0xd800..0xe000).contains(&unit) && escape.starts_with("\\u"));
        let length = if is_surrogate { 6 } else { 2 };
        let escape = rest.get(at..at + length).unwrap_or(&rest[at..]);
        out.push_str(if is_surrogate { "\\ufffd" } else { escape });
        rest = &rest[at + escape.len()..];
    }
    out + rest
}
