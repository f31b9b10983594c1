//! The rules 8 and 9: how a stream ends, well or badly. Every row is also cut at every offset.

use super::table::{STOP, check, check_bytes, check_data, delta};

#[test]
fn rule_8_the_end_is_done_or_a_finish_reason() {
    let (a, b) = (delta("a"), delta("b"));
    let reason = |reason: &str| format!("data: {{\"choices\":[{{\"finish_reason\":{reason}}}]}}");
    let stop = reason("\"stop\"");
    check(&[
        (&format!("{a}\n\ndata: [DONE]\n\n{b}\n\n"), "a", STOP),
        (&format!("{a}\n\ndata: [DONE]"), "a", STOP),
        (&format!("{a}\n\ndata: [DON"), "a", Err("Cut")),
        (&format!("{a}\n\ndata:  [DONE] \t\n{b}\n\n"), "a", STOP),
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
    ] {
        check_data(&[(data, "a", Err(&error(code)))]);
    }
    check_data(&[
        (
            r#"{"error":null,"choices":[{"delta":{"content":"x"}}]}"#,
            "a|x|b",
            STOP,
        ),
        ("<html>", "a", Err("NotJson")),
        ("", "a", Err("NotJson")),
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
