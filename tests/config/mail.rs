//! The `[mail]` table and the variables that replace it.

use std::time::Duration;

use cloudchat::config::{Language, TlsMode};

use super::{check_mistake, load};

#[test]
fn without_a_host_nothing_is_sent() {
    let mail = load("", &[]).unwrap().mail;
    assert!(mail.server.is_none());
    assert_eq!(mail.site_name, "RendaZhang 网站");
    assert_eq!(mail.sender_name, mail.site_name);
    assert_eq!((mail.language, mail.queue_max), (Language::Zh, 1000));
}

#[test]
fn every_value_arrives() {
    let text = "[server]\nfrontend_base_url = 'https://a.example'\n\
                [mail]\nsmtp_host = 'Mail.Example.com'\nsmtp_port = 25\nsmtp_tls = false\n\
                smtp_user = 'u'\nsmtp_password_env = 'MY_PASS'\nfrom = 'no-reply@example.com'\n\
                sender_name = '张三'\nsite_name = 'Site'\nlanguage = 'en'\nqueue_max = 5\n\
                retry_seconds = 0.5\n";
    let config = load(text, &[("MY_PASS", "hidden"), ("SMTP_PASS", "other")]).unwrap();
    assert!(!format!("{config:?}").contains("hidden"));
    let mail = config.mail;
    let server = mail.server.unwrap();
    assert_eq!(
        (server.host.as_str(), server.port, server.tls),
        ("mail.example.com", 25, TlsMode::None)
    );
    assert_eq!(server.from, "no-reply@example.com");
    assert!(server.is_verified);
    let (user, password) = server.credentials.unwrap();
    assert_eq!((user.as_str(), password.0.as_str()), ("u", "hidden"));
    assert_eq!(
        (mail.sender_name.as_str(), mail.site_name.as_str()),
        ("张三", "Site")
    );
    assert_eq!(
        (mail.language, mail.queue_max, mail.retry),
        (Language::En, 5, Duration::from_millis(500))
    );
    let warnings = config.warnings.join("\n");
    assert!(warnings.contains("travels unencrypted"), "{warnings}");
}

#[test]
fn the_port_says_how_tls_begins() {
    for (port, tls, expected) in [
        ("465", "0", TlsMode::Implicit),
        ("465", "1", TlsMode::Implicit),
        ("80", "1", TlsMode::StartTls),
        ("587", "1", TlsMode::StartTls),
        ("25", "0", TlsMode::None),
    ] {
        let variables = [
            ("SMTP_HOST", "m"),
            ("SMTP_PORT", port),
            ("SMTP_TLS", tls),
            ("MAIL_FROM", "a@b.c"),
        ];
        let mail = load("", &variables).unwrap().mail;
        assert_eq!(mail.server.unwrap().tls, expected, "{port} {tls}");
    }
}

#[test]
fn tls_may_begin_the_connection_at_any_port() {
    let server = |text: &str, variables: &[(&str, &str)]| {
        let text = format!("[mail]\nsmtp_host = 'm'\nfrom = 'a@b.c'\n{text}");
        let server = load(&text, variables).unwrap().mail.server.unwrap();
        (server.port, server.tls)
    };
    let implicit = [("SMTP_TLS", "implicit")];
    assert_eq!(
        server("smtp_tls = 'implicit'", &[]),
        (465, TlsMode::Implicit)
    );
    assert_eq!(server("", &implicit), (465, TlsMode::Implicit));
    let elsewhere = "smtp_port = 2465";
    assert_eq!(server(elsewhere, &implicit), (2465, TlsMode::Implicit));
    assert_eq!(server(elsewhere, &[]), (2465, TlsMode::StartTls));
    assert_eq!(server("", &[("SMTP_TLS", "on")]), (587, TlsMode::StartTls));
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let warned = |variables: &[(&str, &str)], of: &str| {
        let host = [("SMTP_HOST", "m"), ("SMTP_USER", "a@b.c")];
        let config = load("", &[&host, variables].concat()).unwrap();
        assert_eq!(config.mail.server.unwrap().from, "a@b.c");
        config.warnings.iter().any(|line| line.contains(of))
    };
    let frontend = ("FRONTEND_BASE_URL", "https://a.example");
    let insecure = ("SMTP_TLS_INSECURE", "1");
    assert!(warned(&[insecure], "certificate is not verified"));
    assert!(!warned(&[], "certificate is not verified"));
    assert!(warned(&[], "SMTP_PASS is not"));
    assert!(!warned(&[("SMTP_PASS", "x")], "SMTP_PASS is not"));
    assert!(warned(&[], "frontend_base_url"));
    assert!(!warned(&[frontend], "frontend_base_url"));
}

#[test]
fn each_mistake_is_one_clear_line() {
    for (text, expected) in [
        (
            "[mail]\nsmtp_host = 'a b'",
            "FILE: mail.smtp_host: \"a b\" is no host name or address",
        ),
        (
            "[mail]\nsmtp_host = 'm'",
            "FILE: mail.from: is missing: the address that mails come from",
        ),
        (
            "[mail]\nsmtp_host = 'm'\nfrom = 'x'",
            "FILE: mail.from: \"x\" is no mail address (name@host)",
        ),
        (
            "[mail]\nfrom = \"a@b.c\\r\\nBcc: x@y.z\"",
            "FILE: mail.from: \"a@b.c\\r\\nBcc: x@y.z\" is no mail address (name@host)",
        ),
        (
            "[mail]\nsite_name = \"a\\nb\"",
            "FILE: mail.site_name: \"a\\nb\" is no name (1 to 80 characters, no control characters)",
        ),
        (
            "[mail]\nsmtp_password_env = 'my secret'",
            "FILE: mail.smtp_password_env: is no variable's name (A-Z a-z 0-9 _), or \"\" for none",
        ),
        (
            "[mail]\nlanguage = 'de'",
            "FILE: mail.language: \"de\" is not allowed; \"zh\" or \"en\"",
        ),
        (
            "[mail]\nsmtp_tls = 'starttls'",
            "FILE: mail.smtp_tls: \"starttls\" is not allowed; true, false or \"implicit\"",
        ),
        (
            "[mail]\nsmtp_password = 'x'",
            "FILE: mail.smtp_password: unknown key; did you mean smtp_password_env?",
        ),
    ] {
        check_mistake(text, expected);
    }
}
