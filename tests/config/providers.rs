//! Where the providers come from, and that a malformed key never shows itself.

use super::*;

#[test]
fn providers_come_from_rows_or_from_the_environment() {
    let local = load("", &[("DEEPSEEK_BASE_URL", "http://127.0.0.1:11434/v1")]).unwrap();
    let [provider] = &local.providers[..] else {
        panic!("one provider: {:?}", local.providers);
    };
    assert_eq!(
        (provider.tls, provider.host.as_str(), provider.port),
        (false, "127.0.0.1", 11434)
    );
    assert_eq!(
        (provider.model.as_str(), &provider.key),
        ("deepseek-flash", &None)
    );
    assert_eq!(provider.extra, r#""max_tokens":2000,"temperature":0.7"#);
    assert_eq!(local.warnings, [""; 0]);

    let text = r#"
        [[provider]]
        name = "dashscope"
        extra = { enable_thinking = false, temperature = 1, stream_options = { include_usage = true } }
        [[provider]]
        name = "mine"
        base_url = "http://[fd00::1]:80/api/v1/"
        model = "m"
        key_env = "MINE"
        send_user = true
        done_is_complete = true
        max_tokens = 0
    "#;
    let variables = [
        ("DEEPSEEK_API_KEY", "unused"),
        ("QWEN_MODEL", "qwen-turbo"),
        ("DASHSCOPE_API_KEY", "key"),
        ("MINE", "key"),
    ];
    let config = load(text, &variables).unwrap();
    let [qwen, mine] = &config.providers[..] else {
        panic!("two providers: {:?}", config.providers);
    };
    assert_eq!(
        (qwen.model.as_str(), qwen.tls, qwen.key.is_some()),
        ("qwen-turbo", true, true)
    );
    assert_eq!(
        qwen.extra,
        r#""enable_thinking":false,"max_tokens":2000,"stream_options":{"include_usage":true},"temperature":1"#
    );
    assert_eq!(
        (mine.host.as_str(), mine.path.as_str(), mine.send_user),
        ("fd00::1", "/api/v1", true)
    );
    assert_eq!(
        (qwen.done_is_complete, mine.done_is_complete),
        (false, true)
    );
    assert_eq!(
        (mine.extra.as_str(), mine.base_url().as_str()),
        (r#""temperature":0.7"#, "http://[fd00::1]:80/api/v1")
    );
    assert_eq!(
        config.warnings,
        ["provider mine: the key travels unencrypted (http://)"]
    );
}

#[test]
fn a_malformed_key_is_a_mistake_that_does_not_show_it() {
    for key in ["hid den", "hidden\u{fffd}", "hid\nden"] {
        let mistakes = load("", &[("DEEPSEEK_API_KEY", key)]).unwrap_err();
        assert_eq!(
            mistakes,
            ["environment: DEEPSEEK_API_KEY: is no key (up to 4096 visible ASCII characters)"]
        );
    }
    let url = load("", &[("DEEPSEEK_BASE_URL", "https://u:hidden@a")]).unwrap_err();
    assert!(
        url.len() == 1 && url[0].starts_with("environment: DEEPSEEK_BASE_URL: is no URL"),
        "{url:?}"
    );
    assert!(!url[0].contains("hidden"));
}

/// A row with these header fields.
fn with_headers(fields: &str) -> String {
    let row = "name = 'mine'\nbase_url = 'http://127.0.0.1/v1'\nmodel = 'm'\nkey_env = 'MINE'";
    format!("[[provider]]\n{row}\nheaders = {fields}\n")
}

#[test]
fn header_fields_of_a_row() {
    let longest = "x".repeat(4096 - "X-A".len() - 4);
    let row = with_headers(&format!("{{ 'X-A' = '{longest}' }}"));
    let config = load(&row, &[]).unwrap();
    let (name, value) = &config.providers[0].headers[0];
    assert_eq!((name.as_str(), &value.0), ("X-A", &longest));
    assert!(!format!("{config:?}").contains("xxx"), "values are hidden");
    let row = with_headers(
        "{ x-b = \"hid\\tden 1\", Authorization = 'Basic hidden', HTTP-Referer = 'a' }",
    );
    let config = load(&row, &[]).unwrap();
    let names: Vec<&str> = config.providers[0]
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["Authorization", "HTTP-Referer", "x-b"]);
    assert!(!format!("{config:?}").contains("hid"), "values are hidden");
}

#[test]
fn header_fields_that_a_row_may_not_have() {
    let check = |fields: &str, expected: &str| {
        let mistakes = load(&with_headers(fields), &[("MINE", "key")]).expect_err(fields);
        assert_eq!(mistakes, [format!("FILE: provider[0].headers: {expected}")]);
    };
    check(
        "'hidden'",
        "must be a table, such as { \"X-Title\" = \"chat\" }",
    );
    for name in ["", "a b", "a:", "a\u{301}", "(a)"] {
        check(
            &format!("{{ '{name}' = 'hidden' }}"),
            &format!("{name:?} is no field's name (A-Z a-z 0-9 and !#$%&'*+-.^_`|~)"),
        );
    }
    for value in [
        "''",
        "' hidden'",
        "'hidden\t'",
        "'hiddén'",
        "\"hidden\\r\\nHost: a\"",
        "\"hid\\u0000\"",
        "1",
        "['hidden']",
    ] {
        check(
            &format!("{{ a = {value} }}"),
            "the value of \"a\" must be visible ASCII characters, in quotes; spaces and tabs between them",
        );
    }
    for name in [
        "HOST",
        "Content-Length",
        "transfer-encoding",
        "TE",
        "Proxy-Authorization",
        "User-Agent",
    ] {
        check(
            &format!("{{ {name} = 'hidden' }}"),
            &format!("{name} is set by the server and not allowed here"),
        );
    }
    check(
        "{ authorization = 'hidden' }",
        "authorization carries the key already; key_env = \"\" leaves it to headers",
    );
    check(
        "{ X-A = 'hidden', x-a = 'hidden' }",
        "\"x-a\" stands there twice",
    );
    let many: Vec<String> = (0..17).map(|n| format!("a{n} = 'hidden'")).collect();
    check(
        &format!("{{ {} }}", many.join(", ")),
        "at most 16 are allowed",
    );
    check(
        &format!("{{ a = '{}', b = 'c' }}", "x".repeat(4087)),
        "at most 4096 bytes are allowed, these are 4098",
    );
}
