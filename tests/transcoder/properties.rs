//! Generated streams against a reference that reads them whole, line by line, with
//! `serde_json::Value`.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;

use super::{End, joined, run};

/// What a plain reader makes of a stream: the text, and the end without the details of a fault.
fn reference(stream: &[u8]) -> (String, Result<String, ()>) {
    let mut text = String::new();
    let mut finish = None;
    for data in events(stream) {
        if data.trim_ascii() == b"[DONE]" {
            return (text, Ok(finish.unwrap_or("stop".to_owned())));
        }
        match read(&data) {
            Some((content, reason)) => {
                text.push_str(&content);
                finish = reason.or(finish);
            }
            None => return (text, Err(())),
        }
    }
    (text, finish.ok_or(()))
}

/// The data of each event.
fn events(stream: &[u8]) -> Vec<Vec<u8>> {
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
    for line in unified.split(|byte| *byte == b'\n').chain([&b""[..]]) {
        if let Some(value) = line.strip_prefix(b"data:") {
            lines.push(value.strip_prefix(b" ").unwrap_or(value));
            if lines.len() == 1 && lines[0].trim_ascii() == b"[DONE]" {
                events.push(b"[DONE]".to_vec());
            }
        } else if line == b"data" {
            lines.push(b"");
        } else if line.is_empty() && !lines.is_empty() {
            events.push(lines.join(&b'\n'));
            lines.clear();
        }
    }
    events
}

/// Text and finish reason of an event; `None` if it ends the stream.
fn read(data: &[u8]) -> Option<(String, Option<String>)> {
    let event: Value =
        serde_json::from_str(&without_surrogates(std::str::from_utf8(data).ok()?)).ok()?;
    let event = event.as_object()?;
    if event.get("error").is_some_and(|error| !error.is_null()) {
        return None;
    }
    let part = |value: Option<&Value>| value.cloned().filter(|value| !value.is_null());
    let choice = match part(event.get("choices")) {
        Some(choices) => part(choices.as_array()?.first()),
        None => None,
    };
    let choice = choice.unwrap_or(Value::Object(Default::default()));
    let delta = part(choice.as_object()?.get("delta"));
    let delta = delta.unwrap_or(Value::Object(Default::default()));
    let content = match part(delta.as_object()?.get("content")) {
        Some(content) => content.as_str()?.to_owned(),
        None => String::new(),
    };
    let reason = match part(choice.get("finish_reason")) {
        Some(reason) => Some(reason.as_str()?)
            .filter(|reason| !reason.is_empty())
            .map(word),
        None => None,
    };
    Some((content, reason))
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
fn without_surrogates(json: &str) -> String {
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

fn simplified((lines, end): (String, End)) -> (String, Result<String, ()>) {
    (joined(&without_surrogates(&lines)), end.map_err(drop))
}

/// The inside of a JSON string, with any escapes.
fn inside() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-z 你好😊é]{0,6}",
        1 => select(vec![
            r#"\"content\":\""#, r"\\", r#"\""#, r"\n", r"\/", r"\ud83d", r"\ude0a", r"\uD83D\uDE0A",
            r"\u0000", r"\u4f60", r"\\ud83d", "data: ", "[DONE]", r#"\"choices\":[{"#, "}]}", "\u{2028}",
        ]).prop_map(str::to_owned),
    ];
    proptest::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

/// Any JSON value; without surrogate escapes, which serde's readers treat differently from each
/// other where a text stands in the place of an object.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        select(vec!["null", "true", "0", "-1.5e3", "[]", "{}"]).prop_map(str::to_owned),
        inside().prop_map(|inside| format!("\"{}\"", without_surrogates(&inside))),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3)
                .prop_map(|v| format!("[{}]", v.join(","))),
            object(proptest::collection::vec((key(), inner), 0..3)),
        ]
    })
}

/// A key, often one that matters, sometimes escaped.
fn key() -> impl Strategy<Value = String> {
    select(vec![
        "choices",
        "delta",
        "content",
        "finish_reason",
        "reasoning_content",
        "usage",
        "id",
        "index",
        r"c\u006fntent",
        r"\u0063hoices",
        r"delt\u0061",
        "error_",
        "Content",
        "",
    ])
    .prop_map(str::to_owned)
}

fn object(members: impl Strategy<Value = Vec<(String, String)>>) -> impl Strategy<Value = String> {
    (members, select(vec!["", " ", " \t"])).prop_map(|(members, blank)| {
        let members = members.into_iter();
        let members =
            members.map(|(key, value)| format!("{blank}\"{key}\"{blank}:{blank}{value}{blank}"));
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    })
}

/// An object with one member in a place of its own among others; sometimes without it.
fn with_member(key: &'static str, value: BoxedStrategy<String>) -> BoxedStrategy<String> {
    let others = || proptest::collection::vec((self::key(), self::value()), 0..2);
    let member = prop_oneof![9 => value.prop_map(Some), 1 => Just(None)];
    let wild = proptest::bool::weighted(0.1);
    let all = (others(), member, others(), wild).prop_map(move |(before, member, after, wild)| {
        // Keys that matter are left to `member` most of the time, so that many events are good.
        let tame = |(other, _): &(String, String)| {
            wild || !(other.contains('\\') || other == key || other == "finish_reason")
        };
        let member = member.map(|value| (key.to_owned(), value));
        let before = before.into_iter().filter(tame);
        before
            .chain(member)
            .chain(after.into_iter().filter(tame))
            .collect()
    });
    object(all).boxed()
}

/// An event's JSON.
fn event() -> impl Strategy<Value = String> {
    let content = prop_oneof![8 => inside().prop_map(|inside| format!("\"{inside}\"")), 1 => Just("null".to_owned())];
    let delta = with_member("content", content.boxed());
    let choice = with_member("delta", delta);
    let reason = select(vec![
        "null",
        "null",
        "null",
        "null",
        "null",
        "null",
        "\"stop\"",
        "\"length\"",
        "\"\"",
        "7",
    ]);
    let choice = (choice, reason, any::<bool>()).prop_map(|(choice, reason, give)| {
        match choice.strip_suffix('}') {
            Some(start) if give && !start.trim().ends_with('{') => {
                format!("{start},\"finish_reason\":{reason}}}")
            }
            _ => choice,
        }
    });
    let choices = proptest::collection::vec(choice, 0..4)
        .prop_map(|choices| format!("[{}]", choices.join(",")));
    let good = with_member("choices", choices.boxed());
    let others = prop_oneof![
        value(),
        Just(r#"{"error":{"message":"x"}}"#.to_owned()),
        Just(r#"{"error":null,"choices":null}"#.to_owned()),
        Just(
            r#"{"id":"1","choices":[],"usage":{"prompt_tokens":12,"details":{"cached":0}}}"#
                .to_owned()
        ),
    ];
    prop_oneof![12 => good, 1 => others]
}

/// The lines of an event with their ends: comments and other fields around it, its data in one or
/// more lines.
fn block() -> impl Strategy<Value = String> {
    let line_end = || select(vec!["\n", "\n", "\r\n", "\r"]);
    let extra = prop_oneof![
        6 => Just(""),
        1 => select(vec![": keep-alive", ":", "event: x", "id: 1", "retry", "dat", "data:x".split_at(3).0]),
    ];
    let data = prop_oneof![12 => event(), 1 => Just("[DONE]".to_owned())];
    (
        data,
        extra,
        select(vec!["data: ", "data:"]),
        line_end(),
        line_end(),
        any::<u8>(),
    )
        .prop_map(|(json, extra, field, end, blank, split)| {
            let mut data = format!("{field}{json}");
            if split % 4 == 0 {
                // Between two tokens: a LF inside a string would be a raw control character.
                if let Some(at) = json
                    .find(',')
                    .filter(|at| json[..*at].matches('"').count() % 2 == 0)
                {
                    data = format!("{field}{}{end}{field}{}", &json[..=at], &json[at + 1..]);
                }
            }
            let extra = if extra.is_empty() {
                String::new()
            } else {
                format!("{extra}{end}")
            };
            // "\r" + "\n" would be one line end, not two.
            let blank = if end == "\r" && blank == "\n" {
                "\r"
            } else {
                blank
            };
            format!("{extra}{data}{end}{blank}")
        })
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let blocks = proptest::collection::vec(block(), 1..6);
    (
        blocks,
        any::<bool>(),
        select(vec!["data: [DONE]\n\n", "data: [DONE]", ""]),
    )
        .prop_map(|(blocks, mark, done)| {
            let mark = if mark { "\u{feff}" } else { "" };
            format!("{mark}{}{done}", blocks.concat()).into_bytes()
        })
}

/// Cuts a stream where the numbers say.
fn cut<'a>(stream: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    at.extend([0, stream.len()]);
    at.sort_unstable();
    at.windows(2)
        .map(|ends| &stream[ends[0]..ends[1]])
        .collect()
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(any::<usize>(), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn generated_streams_mean_what_the_reference_says(stream in stream(), cuts in cuts()) {
        let whole = run([&stream[..]]);
        prop_assert_eq!(&run(cut(&stream, &cuts)), &whole);
        prop_assert_eq!(&run(stream.chunks(1)), &whole);
        let shown = String::from_utf8_lossy(&stream);
        prop_assert_eq!(simplified(whole), reference(&stream), "{}", shown);
    }

    #[test]
    fn damaged_streams_do_not_depend_on_the_cuts(
        mut stream in stream(),
        damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
        cuts in cuts(),
    ) {
        for (at, byte) in damage {
            if !stream.is_empty() {
                let at = at % stream.len();
                stream[at] = byte;
            }
        }
        let whole = run([&stream[..]]);
        prop_assert_eq!(&run(cut(&stream, &cuts)), &whole);
        prop_assert_eq!(&run(stream.chunks(1)), &whole);
    }

    #[test]
    fn arbitrary_bytes_do_not_depend_on_the_cuts(
        stream in proptest::collection::vec(
            prop_oneof![any::<u8>(), select(b"\r\n: data[DONE]{}\"\\\xef\xbb\xbf".to_vec())], 0..300),
        cuts in cuts(),
    ) {
        let whole = run([&stream[..]]);
        prop_assert_eq!(&run(cut(&stream, &cuts)), &whole);
        prop_assert_eq!(&run(stream.chunks(1)), &whole);
    }
}

#[test]
fn most_generated_streams_carry_text() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let texts = (0..300).filter(|_| {
        let stream = stream()
            .new_tree(&mut runner)
            .expect("it can be generated")
            .current();
        !run([&stream[..]]).0.is_empty()
    });
    assert!(
        texts.count() > 150,
        "the generator has become too wild to test much"
    );
}
