//! Variables: those of the replaced service, and what environments hold besides.

use std::time::Duration;

use cloudchat::config::TlsMode;

use super::load;

#[test]
fn returning_reset_tokens_is_refused_beside_secure_cookies() {
    let refused = "lets anybody replace anybody's password: remove it, or, for tests without HTTPS, \
                   also set server.cookie_secure = false (COOKIE_SECURE=0)";
    let in_file = "[auth]\ndebug_return_reset_token = true\n";
    let in_env = ("DEBUG_RETURN_RESET_TOKEN", "1");
    for (text, variables, place) in [
        (in_file, &[][..], "FILE: auth.debug_return_reset_token"),
        ("", &[in_env], "environment: DEBUG_RETURN_RESET_TOKEN"),
        (in_file, &[in_env], "environment: DEBUG_RETURN_RESET_TOKEN"),
        (
            "server.cookie_secure = false",
            &[in_env, ("COOKIE_SECURE", "1")],
            "environment: DEBUG_RETURN_RESET_TOKEN",
        ),
    ] {
        let mistakes = load(text, variables).expect_err(place);
        assert_eq!(mistakes, [format!("{place}: {refused}")]);
    }
    let tests = load(in_file, &[("COOKIE_SECURE", "0")]).unwrap();
    assert!(tests.auth.debug_return_reset_token);
    let warns = |line: &String| line.contains("debug_return_reset_token");
    assert!(tests.warnings.iter().any(warns), "{:?}", tests.warnings);
}

#[test]
fn the_old_service_s_variables_load() {
    let variables = [
        ("REDIS_HOST", "127.0.0.1"),
        ("REDIS_PORT", "6379"),
        ("REDIS_DB", "0"),
        ("REDIS_PASSWORD", "hidden-1"),
        ("REDIS_TIMEOUT", "5"),
        (
            "DATABASE_URL",
            "postgresql+psycopg2://u:hidden-2@127.0.0.1:6432/cloudchat",
        ),
        ("AUTH_COOKIE_NAME", "cc_auth"),
        ("APP_SESSION_COOKIE_NAME", "cc_app"),
        ("COOKIE_SECURE", "1"),
        ("SESSION_TTL_SECONDS", "604800"),
        ("SESSION_EXPIRE", "3600"),
        ("PWRESET_TOKEN_TTL", "900"),
        ("PWRESET_REVOKE_SESSIONS", "1"),
        ("DEBUG_RETURN_RESET_TOKEN", "0"),
        ("SMTP_HOST", "smtpdm.aliyun.com"),
        ("SMTP_PORT", "80"),
        ("SMTP_USER", "noreply@example.com"),
        ("SMTP_PASS", "hidden-3"),
        ("SMTP_TLS", "1"),
        ("MAIL_FROM", "noreply@example.com"),
        ("MAIL_SENDER_NAME", "RendaZhang"),
        ("FRONTEND_BASE_URL", "https://www.rendazhang.com"),
        ("SYSTEM_PROMPT", "You are Renda."),
        ("DEEPSEEK_API_KEY", "hidden-4"),
        ("DEEPSEEK_MODEL", "deepseek-chat"),
        ("DEEPSEEK_BASE_URL", "https://api.deepseek.com"),
        ("DASHSCOPE_API_KEY", "hidden-5"),
        ("OPENAI_API_KEY", "hidden-6"),
        ("QWEN_MODEL", "qwen-turbo"),
        ("MAX_HISTORY", "6"),
        ("ENABLE_SCHEDULER", "1"),
        ("FLASK_SECRET_KEY", "hidden-7"),
        ("PATH", "/usr/bin"),
    ];
    let config = load("", &variables).unwrap();
    assert_eq!(config.server.origins, ["https://www.rendazhang.com"]);
    let server = config.mail.server.as_ref().unwrap();
    assert_eq!(
        (server.host.as_str(), server.port, server.tls),
        ("smtpdm.aliyun.com", 80, TlsMode::StartTls)
    );
    let (user, password) = server.credentials.as_ref().unwrap();
    assert_eq!(
        (user.as_str(), password.0.as_str()),
        ("noreply@example.com", "hidden-3")
    );
    assert_eq!(config.mail.sender_name, "RendaZhang");
    assert_eq!(config.chat.system_prompt, "You are Renda.");
    let [provider] = &config.providers[..] else {
        panic!("one provider: {:?}", config.providers);
    };
    assert_eq!(
        (provider.base_url().as_str(), provider.path.as_str()),
        ("https://api.deepseek.com:443", "")
    );
    assert_eq!(provider.key.as_ref().unwrap().0, "hidden-4");
    let warnings = config.warnings.join("\n");
    assert!(warnings.contains("deepseek-chat is no longer served"));
    let minute = Duration::from_secs(60);
    assert_eq!(config.log.memory_every, Some(minute));
    let database = config.store.database.as_ref().unwrap();
    assert_eq!(database.hosts, [("127.0.0.1".to_owned(), 6432)]);
    assert_eq!(
        (database.user.as_str(), database.name.as_str()),
        ("u", "cloudchat")
    );
    let redis = config.store.redis.as_ref().unwrap();
    assert_eq!(redis.hosts, [("127.0.0.1".to_owned(), 6379)]);
    assert_eq!(redis.password.as_ref().unwrap().0, "hidden-1");
    assert_eq!(redis.timeout, Duration::from_secs(5));
    assert!(!format!("{config:?}").contains("hidden"));
}

#[test]
fn quotes_around_a_value_are_no_part_of_it() {
    let variables = [
        ("DEEPSEEK_API_KEY", "\"sk-abc\""),
        ("REDIS_HOST", "'cache'"),
        ("REDIS_PORT", "\"6380\" "),
        ("COOKIE_SECURE", "'0'"),
        ("MAIL_SENDER_NAME", "\"\""),
        ("SMTP_PASS", "\"p'"),
        ("SMTP_USER", "a@b.c"),
        ("SMTP_HOST", "\"mail.example.com\""),
    ];
    let config = load("", &variables).unwrap();
    assert_eq!(config.providers[0].key.as_ref().unwrap().0, "sk-abc");
    let redis = config.store.redis.unwrap();
    assert_eq!(redis.hosts, [("cache".to_owned(), 6380)]);
    assert!(!config.server.cookie_secure);
    assert_eq!(config.mail.sender_name, config.mail.site_name);
    let (_, password) = config.mail.server.unwrap().credentials.unwrap();
    assert_eq!(password.0, "\"p'");
}

#[test]
fn what_a_container_link_has_set_is_not_used() {
    let port = ("REDIS_PORT", "tcp://10.43.1.2:6379");
    let warning = "REDIS_PORT is not used: \"tcp://10.43.1.2:6379\" is a container link's \
                   (Kubernetes, Docker)";
    let key = ("DEEPSEEK_API_KEY", "sk-abc");
    let embedded = load("", &[key, port]).unwrap();
    assert_eq!(embedded.warnings, [warning]);
    assert!(embedded.store.redis.is_none());
    let redis = load("", &[key, port, ("REDIS_HOST", "redis")]).unwrap();
    assert_eq!(redis.warnings, [warning]);
    let hosts = redis.store.redis.unwrap().hosts;
    assert_eq!(hosts, [("redis".to_owned(), 6379)]);
    let name = ("MAIL_SENDER_NAME", "/cloudchat/mail-sender");
    let mail = load("", &[key, name]).unwrap();
    assert_eq!(mail.mail.sender_name, mail.mail.site_name);
    assert_eq!(mail.warnings.len(), 1, "{:?}", mail.warnings);
}

#[test]
fn a_name_that_is_nearly_ours_gets_a_hint_and_others_do_not() {
    let key = ("DEEPSEEK_API_KEY", "hidden-1");
    let warnings = |name: &str| load("", &[key, (name, "hidden-2")]).unwrap().warnings;
    for (name, ours) in [
        ("DASHSCOPE_API", "DASHSCOPE_API_KEY"),
        ("DEEPSEEK_MODLE", "DEEPSEEK_MODEL"),
        ("SMTP_PASSWORD", "SMTP_PASS"),
        ("session_expire", "SESSION_EXPIRE"),
    ] {
        let hint = format!("the variable {name:?} means nothing; did you mean {ours}?");
        assert_eq!(warnings(name), [hint]);
    }
    for name in [
        // What is set already was not meant.
        "DEEPSEEK_API",
        "API_KEY",
        "APP_NAME",
        "APP_ENV",
        "ANTHROPIC_API_KEY",
        "AWS_SESSION_TOKEN",
        "DB_HOST",
        "DEBUG",
        "FLASK_SECRET_KEY",
        "GEMINI_API_KEY",
        "HOME",
        "HOSTNAME",
        "IMAP_HOST",
        "IMAP_PASS",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "LANG",
        "LDAP_PORT",
        "LISTEN_FDNAMES",
        "LOGNAME",
        "MAIL",
        "MAIL_HOST",
        "MAIL_PORT",
        "MAILER_URL",
        "OPENAI_BASE_URL",
        "OPENAI_MODEL",
        "OPENAI_ORG_ID",
        "PATH",
        "POSTGRES_PASSWORD",
        "REDIS_NAME",
        "REDIS_PORT_6379_TCP",
        "REDIS_PORT_6379_TCP_ADDR",
        "REDIS_SERVICE_HOST",
        "REDIS_SERVICE_PORT",
        "REDIS_URL",
        "SESSION_MANAGER",
        "SESSION_SECRET",
        "SFTP_HOST",
        "SFTP_USER",
        "SMTP_SERVICE_HOST",
        "STATE_DIRECTORY",
        "SYSTEMD_EXEC_PID",
        "XAI_API_KEY",
        "XDG_DATA_HOME",
        "XDG_DATA_DIRS",
    ] {
        assert_eq!(warnings(name), [""; 0], "{name}");
    }
}

#[test]
fn a_switch_names_what_may_stand_there() {
    for variable in ["COOKIE_SECURE", "PWRESET_REVOKE_SESSIONS"] {
        let mistakes = load("", &[(variable, "x")]).expect_err(variable);
        let expected = format!("environment: {variable}: \"x\" is not allowed; 1 or 0");
        assert_eq!(mistakes, [expected]);
    }
}
