//! The rules 1 to 7 of the providers' streams, one table each. Every row is also cut at every offset.

use cloudchat::limits::Pool;
use cloudchat::llm::transcoder::Transcoder;

use super::table::{END, STOP, check, check_bytes, check_data, delta};
use super::{Lines, joined, run};

#[test]
fn rule_1_lines_end_in_three_ways_and_only_data_counts() {
    let (a, b) = (delta("a"), delta("b"));
    for end in ["\n", "\r\n", "\r"] {
        let stream = format!("{a}{end}{end}{b}{end}{end}{}", END.replace('\n', end));
        check(&[(&stream, "a|b", STOP)]);
    }
    let (json_a, bare_b) = (&a["data: ".len()..], b.replace("data: ", "data:"));
    let bare_end = END.replace("data: ", "data:");
    let (head, tail) = json_a.split_at(json_a.find("\"delta").expect("it has one"));
    check(&[
        (&format!("{a}\r\n\n{b}\r\r\n{bare_end}"), "a|b", STOP),
        (
            &format!("\u{feff}{a}\n\n{bare_b}\n\n{bare_end}"),
            "a|b",
            STOP,
        ),
        (&format!("\u{feff}\u{feff}{a}\n\n{b}\n\n{END}"), "b", STOP),
        (&format!("\n\n\r\r\n{a}\n\n\u{feff}{b}\n\n{END}"), "a", STOP),
        (
            &format!("event: x\n{a}\nid: 1\nretry: 5\nfoo\n\n{END}"),
            "a",
            STOP,
        ),
        (&format!("data: {head}\ndata: {tail}\n\n{END}"), "a", STOP),
        (
            &format!("data: {head}\n: comment\ndata:{tail}\n\n{END}"),
            "a",
            STOP,
        ),
        (&format!("data\n{a}\ndata:\ndata\n\n{END}"), "a", STOP),
        (&format!("{a}\n{b}\n\n{END}"), "", Err("NotJson")),
        (
            &format!("{a}\n\n data:x\nDATA:x\nDaTa: x\n\n{END}"),
            "a",
            STOP,
        ),
        (
            &format!("datax: x\ndata : x\ndat: x\nx: data: x\n\n{a}\n\n{END}"),
            "a",
            STOP,
        ),
    ]);
    // Half a byte-order mark makes the line one of an unknown field.
    for half in [&b"\xef\xbbdata: x\n\n"[..], b"\xef\n"] {
        check_bytes(&[half, END.as_bytes()].concat(), "", STOP);
    }
}

#[test]
fn rule_2_comments_are_no_events() {
    let a = delta("a");
    check(&[
        (
            &format!(": keep-alive\n\n:\n\n:data: x\r\n\r\n{a}\n\n{END}"),
            "a",
            STOP,
        ),
        (": keep-alive\n\n", "", Err("NoEvents")),
        // Data of blanks is a heartbeat, whatever the event is named.
        (
            &format!("data:\n\n{a}\n\nevent: error\ndata: \n\ndata\n\ndata: \t\ndata:\n\n{END}"),
            "a",
            STOP,
        ),
        (&format!("{a}\n\ndata:\n\n"), "a", Err("Cut")),
        ("data:\n\nevent: ping\ndata: \n\ndata", "", Err("NoEvents")),
    ]);
    let mut transcoder = Transcoder::new();
    let (pool, mut lines) = (Pool::new(0), Lines::default());
    let mut events = |bytes: &str| {
        let progress = transcoder.feed(bytes.as_bytes(), &pool, &mut lines);
        progress.expect("the stream is good").events
    };
    assert!(!events(": keep-alive\n\nevent: x\n\n"));
    assert!(!events(
        "data:\n\nevent: error\ndata: \n\ndata\n\ndata: \t \n\n"
    ));
    assert!(!events(&format!("{a}\n")), "not before its blank line");
    assert!(events("\n") && !events("\n"));
    assert!(events("data: {}\n\n"), "an event without text counts, too");
}

#[test]
fn rule_4_order_and_look_alikes_do_not_matter() {
    check_data(&[
        (
            r#"{"choices":[{"finish_reason":null,"delta":{"content":"x"},"index":0}],"id":"1"}"#,
            "a|x|b",
            STOP,
        ),
        (
            r#"{"id":"\"content\":\"no\"","choices":[{"delta":{"x":"\"content\":\"no\"","content":"x"}}]}"#,
            "a|x|b",
            STOP,
        ),
        (
            r#"{"content":"no","delta":{"content":"no"},"choices":[{"content":"no","delta":{"content":"x","more":{"content":"no"}}}]}"#,
            "a|x|b",
            STOP,
        ),
        (
            r#"{"\u0063hoices":[{"d\u0065lta":{"c\u006fntent":"x"}}]}"#,
            "a|x|b",
            STOP,
        ),
        (
            r#"{"choices":5,"choices":[{"delta":0,"delta":{"content":1,"content":"no","content":"x"}}]}"#,
            "a|x|b",
            STOP,
        ),
        (
            " \t{ \"choices\" : [ { \"delta\" : { \"content\" : \"x\" } } ] } \t",
            "a|x|b",
            STOP,
        ),
        (
            r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"length"}]}"#,
            "a|x|b",
            STOP,
        ),
    ]);
}

#[test]
fn rule_5_only_the_first_choice_counts_and_anything_may_be_missing() {
    check_data(&[
        (
            r#"{"choices":[{"index":1,"delta":{"content":"x"}},{"index":0,"delta":{"content":"no"}}]}"#,
            "a|x|b",
            STOP,
        ),
        (
            r#"{"choices":[{"delta":{}},{"delta":{"content":"no"},"finish_reason":"length"}]}"#,
            "a|b",
            STOP,
        ),
        (r#"{"choices":[{},5,"x",null,[]]}"#, "a|b", STOP),
        ("{}", "a|b", STOP),
        (r#"{"choices":null}"#, "a|b", STOP),
        (r#"{"choices":[]}"#, "a|b", STOP),
        (r#"{"choices":[null]}"#, "a|b", STOP),
        (
            r#"{"choices":[{"delta":null,"finish_reason":null}]}"#,
            "a|b",
            STOP,
        ),
        (r#"{"choices":[{"delta":{"content":null}}]}"#, "a|b", STOP),
        (r#"{"choices":[{"delta":{"content":""}}]}"#, "a|b", STOP),
    ]);
}

#[test]
fn rules_6_and_7_thinking_is_dropped_and_escapes_stay_as_they_are() {
    check_data(&[
        (
            r#"{"choices":[{"delta":{"reasoning_content":"no","content":null}}]}"#,
            "a|b",
            STOP,
        ),
        (
            r#"{"choices":[{"delta":{"reasoning_content":"no","content":"\ud83d"}}]}"#,
            r"a|\ud83d|b",
            STOP,
        ),
        (
            r#"{"choices":[{"delta":{"content":"\ude0a\uD83D\u00e9\/\\\"\n"}}]}"#,
            r#"a|\ude0a\uD83D\u00e9\/\\\"\n|b"#,
            STOP,
        ),
        (
            r#"{"id":"\ud83d","choices":[{"delta":{"content":"x","name":"\udead"}}]}"#,
            "a|x|b",
            STOP,
        ),
        (
            r#"{"choices":[{"delta":{"content":"😊\u2028"}}]}"#,
            r"a|😊\u2028|b",
            STOP,
        ),
    ]);
    let halves = format!("{}\n\n{}\n\n{END}", delta("\\ud83d"), delta("\\ude0a"));
    assert_eq!(joined(&run([halves.as_bytes()]).0), "😊");
}

#[test]
fn a_text_may_be_a_list_of_parts_or_stand_in_a_whole_message() {
    check_data(&[
        (
            r#"{"choices":[{"delta":{"content":[{"type":"text","text":"x"}]}}]}"#,
            "a|x|b",
            STOP,
        ),
        (
            concat!(
                r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"no"}]},"#,
                r#"{"type":"text","text":""},{"text":"\ud83d\"","type":"t\u0065xt"},null,{"type":"image_url"},"#,
                r#"{"text":"no"},{"type":"text","text":null},{"type":"text","text":"你"}]}}]}"#
            ),
            r#"a|\ud83d\"|你|b"#,
            STOP,
        ),
        (r#"{"choices":[{"delta":{"content":[]}}]}"#, "a|b", STOP),
        (
            r#"{"choices":[{"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}"#,
            "a|x|b",
            STOP,
        ),
        (
            r#"{"choices":[{"message":{"content":[{"type":"text","text":"x"}]},"delta":null}]}"#,
            "a|x|b",
            STOP,
        ),
        (
            r#"{"choices":[{"message":{"content":"no"},"delta":{}}]}"#,
            "a|b",
            STOP,
        ),
        (
            r#"{"message":{"content":"no"},"choices":[{"message":"no","delta":{"content":"x"}}]}"#,
            "a|x|b",
            STOP,
        ),
    ]);
    // Alike events, which need not be read in full, and look-alikes.
    let list = |inside: &str| {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":[{{\"type\":\"text\",\"text\":\"{inside}\"}}]}}}}]}}\n\n"
        )
    };
    let second = r#"x"},{"type":"text","text":"y"#;
    for (inside, texts) in [("x", "a|x|b"), ("", "a|b"), (second, "a|x|y|b")] {
        let stream = list("a") + &list(inside) + &list("b") + END;
        check(&[(&stream, texts, STOP)]);
    }
}
