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
