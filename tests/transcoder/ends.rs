//! The rules 8 and 9: how a stream ends, well or badly. Every row is also cut at every offset.

use cloudchat::limits::Pool;
use cloudchat::llm::transcoder::Transcoder;

use super::table::{END, STOP, check, check_bytes, check_data, delta};
use super::{Lines, run};

#[test]
fn rule_8_the_end_is_done_or_a_finish_reason() {
    let (a, b) = (delta("a"), delta("b"));
    let reason = |reason: &str| format!("data: {{\"choices\":[{{\"finish_reason\":{reason}}}]}}");
    let stop = reason("\"stop\"");
    check(&[
        (&format!("{a}\n\n{END}{b}\n\n"), "a", STOP),
        (&format!("{a}\n\n{stop}\n\ndata: [DONE]"), "a", STOP),
        (&format!("{a}\n\ndata: [DON"), "a", Err("Cut")),
        (
            &format!("{a}\n\n{stop}\n\ndata:  [DONE] \t\n{b}\n\n"),
            "a",
            STOP,
        ),
        (&format!("{a}\n\n{stop}\n\n{b}\n\n"), "a|b", STOP),
        (&format!("{a}\n\n{stop}\n"), "a", STOP),
        (&format!("{a}\n\n{stop}"), "a", STOP),
        (&format!("{a}\n\n{stop}\n\ndata: {{\"usa"), "a", STOP),
        (
            &format!("{a}\n\n{}", &stop[..stop.len() - 1]),
            "a",
            Err("Cut"),
        ),
        (&format!("{a}\n\n{b}"), "a|b", Err("Cut")),
        (&format!("{a}\n\ndata: <p>\n"), "a", Err("NotJson")),
        (&a[..a.len() - 1], "", Err("Cut")),
        ("", "", Err("NoEvents")),
        ("<html>\n<body>data: x</body>\n", "", Err("NoEvents")),
        ("{\"error\":{\"message\":\"x\"}}", "", Err("NoEvents")),
    ]);
    let long = format!("\"{}\"", "r".repeat(33));
    for (given, end) in [
        ("\"length\"", "length"),
        ("\"content_filter\"", "content_filter"),
        ("\"tool_calls\"", "tool_calls"),
        (
            "\"insufficient_system_resource\"",
            "insufficient_system_resource",
        ),
        ("\"l\\u0065ngth\"", "length"),
        (&long[1..], "other"),
        ("\"a b\"", "other"),
        ("\"\\\"}\"", "other"),
        ("\"\\ud83d\"", "other"),
        ("\"停\"", "other"),
    ] {
        let given = if given.starts_with('"') {
            given.to_owned()
        } else {
            format!("\"{given}")
        };
        check(&[(&format!("{a}\n\n{}\n\n", reason(&given)), "a", Ok(end))]);
    }
    check(&[
        (&format!("{a}\n\n{}\n\n", reason("\"\"")), "a", Err("Cut")),
        (
            &format!(
                "{}\n\n{}\n\ndata: [DONE]",
                reason("\"stop\""),
                reason("\"length\"")
            ),
            "",
            Ok("length"),
        ),
        (
            &format!(
                "{}\n\n{}\n\ndata: [DONE]",
                reason("\"length\""),
                reason("null")
            ),
            "",
            Ok("length"),
        ),
    ]);
}

#[test]
fn rule_8_done_without_a_finish_reason_ends_a_cut_answer() {
    let a = delta("a");
    for done in ["data: [DONE]\n\n", "data:[DONE]", "data:  [DONE]\r"] {
        let rows = [format!("{a}\n\n{done}"), done.to_owned()];
        for (stream, text) in rows.iter().zip(["a", ""]) {
            check(&[(stream, text, Err("Cut"))]);
            let mut lenient = Transcoder::new().done_is_complete(true);
            let (pool, mut lines) = (Pool::new(0), Lines::default());
            let progress = lenient.feed(format!("{stream}\n").as_bytes(), &pool, &mut lines);
            let done = progress.expect("a gateway of that kind says so").done;
            assert_eq!(done.map(|done| done.as_str() == "stop"), Some(true));
        }
    }
    check(&[(
        &format!("{a}\n\ndata: {{\"choices\":[{{\"finish_reason\":\"\"}}]}}\n\ndata: [DONE]\n\n"),
        "a",
        Err("Cut"),
    )]);
}

#[test]
fn rule_8_nothing_odd_behind_a_finish_reason_spoils_the_answer() {
    let a = delta("a");
    let stop = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}";
    let b = delta("b");
    let long = format!(":{}", "x".repeat(1 << 20));
    for odd in [
        "data: \"[DONE]\"",
        "data: [done]",
        "data:",
        "data: <html>",
        "data: bye\ndata: bye",
        "data: {\"choices\":7}",
        "data: {\"choices\":[{\"delta\":{\"content\":7}}]}",
        "data: {\"choices\":[],\"usage\":{\"total_tokens\":1}}",
        "data: {\"choices\":null,\"error\":null}",
        ": ping",
        "event: done\ndata: done",
    ] {
        for end in ["", "\n", "\n\n", "\n\ndata: [DONE]\n\n"] {
            check(&[(&format!("{a}\n\n{stop}\n\n{odd}{end}"), "a", STOP)]);
        }
        if !odd.to_ascii_lowercase().contains("[done]") {
            let late = format!("{a}\n\n{stop}\n\n{odd}\n\n{b}\n\n{END}");
            check(&[(&late, "a|b", STOP)]);
        }
    }
    let (out, end) = run(format!("{a}\n\n{stop}\n\n{long}\n\n")
        .as_bytes()
        .chunks(4096));
    assert_eq!(
        (out.as_str(), end.as_deref()),
        ("{\"text\":\"a\"}\n", Ok("stop"))
    );
    // An error is none of these.
    for error in [
        "data: {\"error\":\"late\"}",
        "event: error\ndata: late",
        "data: {\"object\":\"error\"}",
    ] {
        let stream = format!("{a}\n\n{stop}\n\n{error}\n\ndata: [DONE]\n\n");
        check(&[(&stream, "a", Err("Provider(ProviderError(\"\"))"))]);
    }
}

#[test]
fn a_finish_reason_makes_an_answer_complete() {
    let mut transcoder = Transcoder::new();
    let (pool, mut lines) = (Pool::new(0), Lines::default());
    let stream = format!("{}\n\n{END}", delta("a"));
    let (before, done) = stream.split_at(stream.find("data: [").expect("it is there"));
    for (at, byte) in before.bytes().enumerate() {
        assert!(!transcoder.is_complete(), "at {at}");
        let progress = transcoder.feed(&[byte], &pool, &mut lines);
        assert_eq!(progress.expect("it is good").done, None);
    }
    assert!(transcoder.is_complete(), "with the blank line");
    let progress = transcoder.feed(done.as_bytes(), &pool, &mut lines);
    assert!(progress.expect("it is good").done.is_some());
}

#[test]
fn rule_9_errors_and_invalid_events_end_the_stream() {
    let error = |code: &str| format!("Provider(ProviderError(\"{code}\"))");
    let long = format!(r#"{{"error":{{"code":"{}"}}}}"#, "c".repeat(65));
    for (data, code) in [
        (
            r#"{"error":{"message":"m","type":"t","code":"c-1_2.3"}}"#,
            "c-1_2.3",
        ),
        (r#"{"error":{"message":"m","type":"t","code":null}}"#, "t"),
        (
            r#"{"error":{"message":"m","type":"t","code":{"x":1}}}"#,
            "t",
        ),
        (
            r#"{"error":{"code":503},"choices":[{"delta":{"content":"no"}}]}"#,
            "503",
        ),
        (r#"{"error":{"code":"a b\n<c>"}}"#, "abnc"),
        (r#"{"choices":7,"error":"broken"}"#, ""),
        (r#"{"error":{"code":1,"code":2}}"#, ""),
        (r#"{"error":{}}"#, ""),
        (&long, &"c".repeat(64)),
        // vLLM
        (
            r#"{"object":"error","message":"m","type":"BadRequestError","param":null,"code":400}"#,
            "400",
        ),
        (r#"{"object":"\u0065rror","type":"t"}"#, "t"),
        // DashScope's own form
        (
            r#"{"code":"Throttling.RateQuota","message":"m","request_id":"1"}"#,
            "Throttling.RateQuota",
        ),
        (r#"{"code":"c","message":"m","choices":null}"#, "c"),
        // OpenRouter
        (
            r#"{"choices":[{"delta":{"content":"no"},"finish_reason":"error","error":{"code":502}}]}"#,
            "502",
        ),
        (
            r#"{"choices":[{"delta":5,"finish_reason":"\u0065rror"}]}"#,
            "",
        ),
        (
            r#"{"choices":[{"delta":{"content":"no"},"finish_reason":null,"error":{"code":"c"}}]}"#,
            "c",
        ),
    ] {
        check_data(&[(data, "a", Err(&error(code)))]);
    }
    check_data(&[
        (
            r#"{"error":null,"choices":[{"delta":{"content":"x"}}]}"#,
            "a|x|b",
            STOP,
        ),
        (
            r#"{"error":"","choices":[{"delta":{"content":"x"},"error":false}]}"#,
            "a|x|b",
            STOP,
        ),
        (r#"{"code":0,"message":"m"}"#, "a|b", STOP),
        (r#"{"code":"","message":"m"}"#, "a|b", STOP),
        (r#"{"code":"c"}"#, "a|b", STOP),
        (
            r#"{"code":"c","message":"m","choices":[{"delta":{"content":"x"}}]}"#,
            "a|x|b",
            STOP,
        ),
        (
            r#"{"object":"chat.completion.chunk","error":null}"#,
            "a|b",
            STOP,
        ),
        ("<html>", "a", Err("NotJson")),
        ("5", "a", Err("NotJson")),
        ("null", "a", Err("NotJson")),
        ("[]", "a", Err("NotJson")),
        ("\"x\"", "a", Err("NotJson")),
        ("{} {}", "a", Err("NotJson")),
        (
            r#"{"choices":[{"delta":{"content":"x"}}]"#,
            "a",
            Err("NotJson"),
        ),
        (
            r#"{"choices":[{"delta":{"content":"x"}}],}"#,
            "a",
            Err("NotJson"),
        ),
        (
            r#"{"choices":[{"delta":{"content":"\x"}}]}"#,
            "a",
            Err("NotJson"),
        ),
        (
            r#"{"choices":[{"delta":{"content":"\u12"}}]}"#,
            "a",
            Err("NotJson"),
        ),
        (
            "{\"choices\":[{\"delta\":{\"content\":\"\t\"}}]}",
            "a",
            Err("NotJson"),
        ),
        (
            "{\"choices\":[{\"delta\":{\"content\":\"\0\"}}]}",
            "a",
            Err("NotJson"),
        ),
        (r#"{"choices":{}}"#, "a", Err("BadContent")),
        (r#"{"choices":"x"}"#, "a", Err("BadContent")),
        (r#"{"choices":1}"#, "a", Err("BadContent")),
        (r#"{"choices":-1.5}"#, "a", Err("BadContent")),
        (r#"{"choices":true}"#, "a", Err("BadContent")),
        (r#"{"choices":[5]}"#, "a", Err("BadContent")),
        (
            r#"{"choices":[[{"delta":{"content":"x"}}]]}"#,
            "a",
            Err("BadContent"),
        ),
        (r#"{"choices":[{"delta":"x"}]}"#, "a", Err("BadContent")),
        (r#"{"choices":[{"delta":["x"]}]}"#, "a", Err("BadContent")),
        (
            r#"{"choices":[{"delta":{"content":5}}]}"#,
            "a",
            Err("BadContent"),
        ),
        (
            r#"{"choices":[{"delta":{"content":["x"]}}]}"#,
            "a",
            Err("BadContent"),
        ),
        (
            r#"{"choices":[{"delta":{"content":{"x":"y"}}}]}"#,
            "a",
            Err("BadContent"),
        ),
        (
            r#"{"choices":[{"delta":{"content":[{"type":"text","text":"no"},{"type":"text","text":5}]}}]}"#,
            "a",
            Err("BadContent"),
        ),
        (r#"{"choices":[{"message":"x"}]}"#, "a", Err("BadContent")),
        (
            r#"{"choices":[{"delta":{},"finish_reason":false}]}"#,
            "a",
            Err("BadContent"),
        ),
    ]);
    check_bytes(
        b"data: {\"choices\":[{\"delta\":{\"content\":\"\xff\"}}]}\n\n",
        "",
        Err("NotJson"),
    );
    check_bytes(b"data: {\"id\":\"\xc3\"}\n\n", "", Err("NotJson"));
}

#[test]
fn rule_9_an_event_named_error_is_one_whatever_it_holds() {
    let (a, b) = (delta("a"), delta("b"));
    let rest = format!("{b}\n\n{END}");
    for (event, code) in [
        ("event: error\ndata: {\"code\":\"c\"}", "c"),
        ("event:error\ndata:{\"error\":{\"type\":\"t\"}}", "t"),
        (
            "event: error\r\nid: 1\r\n: 429\r\ndata: {\"code\":1,\r\ndata: \"x\":2}\r",
            "1",
        ),
        ("event: error\ndata: too many requests", ""),
        ("event: error\ndata: [DONE]", ""),
        (
            "event: error\ndata: {\"choices\":[{\"delta\":{\"content\":\"no\"}}]}",
            "",
        ),
        ("data: x\nevent: error", ""),
        ("event: x\nevent: error\ndata: x", ""),
    ] {
        let error = format!("Provider(ProviderError(\"{code}\"))");
        check(&[
            (&format!("{a}\n\n{event}\n\n{rest}"), "a", Err(&error)),
            (&format!("{a}\n\n{event}"), "a", Err(&error)),
            (&format!("{event}\n\n{rest}"), "", Err(&error)),
        ]);
    }
    // Other names are none, and a name counts for its own event only.
    for name in [
        "event: errors",
        "event: erro",
        "event:  error",
        "event",
        "event:",
        "events: error",
        "event: error\n",
        "event: error\nevent: x",
        "event: error\nevent",
        "event: error\nevent:",
        ": error",
        "even: error",
    ] {
        check(&[(&format!("{a}\n\n{name}\n{rest}"), "a|b", STOP)]);
    }
    check(&[
        (&format!("event: error\ndata:\n\n{a}\n\n{END}"), "a", STOP),
        (&format!("{a}\n\nevent: error\n\n{END}"), "a", STOP),
        (
            &format!(
                "{a}\n\n{}\n\nevent: error",
                &END.replace("data: [DONE]\n\n", "")
            ),
            "a",
            STOP,
        ),
    ]);
    check_bytes(
        b"event: error\ndata: \xff\n\n",
        "",
        Err("Provider(ProviderError(\"\"))"),
    );
}
