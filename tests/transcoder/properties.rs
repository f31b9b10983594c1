//! Generated streams against a reference that reads them whole, line by line, with
//! `serde_json::Value`.

use proptest::prelude::*;
use proptest::sample::select;

use super::reference::{reference, without_surrogates};
use super::{End, joined, run};

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
        "message",
        "code",
        "object",
        "text",
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
    let text = || inside().prop_map(|inside| format!("\"{inside}\""));
    let kind = select(vec![
        "\"text\"",
        "\"text\"",
        "\"thinking\"",
        "\"t\\u0065xt\"",
        "null",
        "5",
    ]);
    let part = (kind, with_member("text", text().boxed())).prop_map(|(kind, part)| {
        let members = part.trim_start_matches('{');
        let comma = if members.trim() == "}" { "" } else { "," };
        format!("{{\"type\":{kind}{comma}{members}")
    });
    let part = prop_oneof![9 => part, 1 => value()];
    let list = proptest::collection::vec(part, 0..4).prop_map(|p| format!("[{}]", p.join(",")));
    let content = prop_oneof![8 => text(), 1 => list, 1 => Just("null".to_owned())];
    let delta = with_member("content", content.boxed());
    let choice =
        prop_oneof![9 => with_member("delta", delta.clone()), 1 => with_member("message", delta)];
    let reason = select(vec![
        "null",
        "null",
        "null",
        "null",
        "null",
        "null",
        "\"stop\"",
        "\"length\"",
        "\"error\"",
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
        select(vec![
            r#"{"error":{"message":"x"}}"#,
            r#"{"error":"x","choices":[]}"#,
            r#"{"object":"error","message":"x"}"#,
            r#"{"code":"x","message":"x"}"#,
            r#"{"code":"x","message":"x","choices":[]}"#,
            r#"{"choices":[{"error":{"code":1}}]}"#,
        ])
        .prop_map(str::to_owned),
        Just(r#"{"error":null,"choices":null}"#.to_owned()),
        Just(
            r#"{"id":"1","choices":[],"usage":{"prompt_tokens":12,"details":{"cached":0}}}"#
                .to_owned()
        ),
    ];
    prop_oneof![24 => good, 1 => others]
}

/// The lines of an event with their ends: comments and other fields around it, its data in one or
/// more lines.
fn block() -> impl Strategy<Value = String> {
    let line_end = || select(vec!["\n", "\n", "\r\n", "\r"]);
    let extra = prop_oneof![
        24 => Just(""),
        3 => select(vec![": keep-alive", ":", "event: x", "id: 1", "retry", "dat", "even", "event: erro", "event"]),
        1 => select(vec!["event: error", "event:error", "event: error "]),
    ];
    let data = prop_oneof![
        60 => event(),
        1 => Just("[DONE]".to_owned()),
        1 => select(vec!["", " ", "\t", "[done]", "\"[DONE]\"", "<p>"]).prop_map(str::to_owned),
    ];
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
        select(vec![
            "data: [DONE]\n\n",
            "data: [DONE]",
            "",
            "event: error",
            "data:",
        ]),
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
