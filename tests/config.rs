//! The configuration as an operator meets it: defaults, merging, and one clear line per mistake.

#[path = "config/environment.rs"]
mod environment;
#[path = "config/guides.rs"]
mod guides;
#[path = "config/mail.rs"]
mod mail;
#[path = "config/providers.rs"]
mod providers;
#[path = "config/stores.rs"]
mod stores;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use cloudchat::budget::Budget;
use cloudchat::config::{Config, EXAMPLE, Listen, LogFormat, Roots, Sources};

/// Loads a file with this text and these variables; mistakes without the file's name.
fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    load_with(text, variables, &[])
}

fn load_with(
    text: &str,
    variables: &[(&str, &str)],
    listen: &[&str],
) -> Result<Config, Vec<String>> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("room for it");
    let env = |name: &str| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| (*value).to_string())
    };
    let listen: Vec<String> = listen.iter().map(ToString::to_string).collect();
    let names: Vec<String> = variables
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let sources = Sources {
        file: Some(file.path()),
        env: &env,
        names: &names,
        listen: &listen,
        data_dir: None,
    };
    let name = file.path().display().to_string();
    Config::load(sources).map_err(|mistakes| {
        let mistakes = mistakes.into_iter();
        mistakes.map(|line| line.replace(&name, "FILE")).collect()
    })
}

/// One row per mistake: the text of the file, and its single line.
#[track_caller]
fn check_mistake(text: &str, expected: &str) {
    let mistakes = load(text, &[]).expect_err(text);
    assert_eq!(mistakes, [expected], "{text}");
}

#[test]
fn the_example_is_the_default() {
    let default = Config::load(Sources::default()).unwrap();
    let example = load(EXAMPLE, &[]).unwrap();
    assert_eq!(format!("{default:?}"), format!("{example:?}"));
    assert!(Budget::new(&default).unwrap().streams_max >= 1000);
    assert_eq!(default.memory, 64 << 20);
    assert!(default.server.workers >= 1);
    assert_eq!(
        default.warnings.len(),
        1,
        "no provider: {:?}",
        default.warnings
    );
}

#[test]
fn the_command_line_beats_the_environment_beats_the_file() {
    let text = "[server]\nlisten = ['127.0.0.1:1', '[::1]:2']\ncookie_secure = true\n\
                [chat]\nhistory_max = 3\nsession_seconds = 0.2\nsystem_prompt = 'file'\n";
    let file = load(text, &[]).unwrap();
    assert_eq!(
        (file.chat.history_max, file.chat.system_prompt.as_str()),
        (3, "file")
    );
    assert_eq!(file.chat.session_ttl, Duration::from_millis(200));
    assert_eq!(file.server.listen.len(), 2);

    let variables = [
        ("MAX_HISTORY", "9"),
        ("SYSTEM_PROMPT", ""),
        ("COOKIE_SECURE", "0"),
        ("SESSION_EXPIRE", "7200"),
    ];
    let merged = load_with(text, &variables, &["localhost:4", "unix:/run/c.sock"]).unwrap();
    assert_eq!(
        (merged.chat.history_max, merged.chat.system_prompt.as_str()),
        (9, "file")
    );
    assert_eq!(merged.chat.session_ttl, Duration::from_secs(7200));
    assert!(!merged.server.cookie_secure);
    let address: SocketAddr = "127.0.0.1:4".parse().unwrap();
    assert_eq!(
        merged.server.listen,
        [Listen::Tcp(address), Listen::Unix("/run/c.sock".into())]
    );
}

#[test]
fn every_value_arrives() {
    let text = r#"
        [server]
        workers = 3
        prefix = "/cloudchat"
        origins = ["HTTPS://Chat.Example.com:443", "http://127.0.0.1:8080"]
        trusted_proxies = ["10.1.2.3/8"]
        frontend_base_url = "https://www.example.com/app/"
        head_seconds = 0.5
        socket_buffer_bytes = 4096
        app_cookie = "app"
        data_dir = "/var/lib/x"
        [log]
        format = "json"
        [limits]
        memory = "1G"
        [upstream]
        roots = "system"
        [store]
        disk_bytes_max = "2G"
    "#;
    let config = load(text, &[("STATE_DIRECTORY", "/s")]).unwrap();
    let server = &config.server;
    assert_eq!((server.workers, server.prefix.as_str()), (3, "/cloudchat"));
    assert_eq!(
        server.origins,
        [
            "https://chat.example.com",
            "http://127.0.0.1:8080",
            "https://www.example.com"
        ]
    );
    assert_eq!(server.trusted_proxies, ["10.0.0.0/8".parse().unwrap()]);
    assert!(!server.trust_unix);
    let frontend = server.frontend_base_url.as_deref();
    assert_eq!(frontend, Some("https://www.example.com/app"));
    assert_eq!(server.head_timeout, Duration::from_millis(500));
    assert_eq!(config.upstream.socket_buffer_bytes, 4096);
    assert_eq!(
        (config.log.format, config.upstream.roots),
        (LogFormat::Json, Roots::System)
    );
    assert_eq!(
        (config.memory, config.store.disk_bytes_max),
        (1 << 30, 2 << 30)
    );
    assert_eq!(config.store.dir, Path::new("/var/lib/x"));
}

#[test]
fn the_data_folder_is_found() {
    let dir = |variables: &[(&str, &str)]| load("", variables).unwrap().store.dir;
    let home = ("HOME", "/home/u");
    let data = ("XDG_DATA_HOME", "/data");
    assert_eq!(dir(&[]), Path::new("data"));
    assert_eq!(dir(&[home]), Path::new("/home/u/.local/share/cloudchat"));
    assert_eq!(dir(&[home, data]), Path::new("/data/cloudchat"));
    assert_eq!(
        dir(&[home, data, ("STATE_DIRECTORY", "/s/a:/s/b")]),
        Path::new("/s/a")
    );
}

#[test]
fn each_mistake_is_one_clear_line() {
    for (text, expected) in [
        (
            "[server]\nlisten = ['x']",
            "FILE: server.listen[0]: \"x\" is no address (host:port or unix:/path)",
        ),
        (
            "[server]\nlisten = []",
            "FILE: server.listen: at least one address is needed",
        ),
        (
            "[server]\nlisten = ['127.0.0.1:1', '127.0.0.1:1']",
            "FILE: server.listen: 127.0.0.1:1 is listed twice",
        ),
        (
            "[server]\nlisten = 'x:1'",
            "FILE: server.listen: \"x:1\" is no list, such as [\"…\"]",
        ),
        (
            "[server]\norigins = [1]",
            "FILE: server.origins[0]: 1 is no text (in quotes)",
        ),
        (
            "[server]\nworkers = 65",
            "FILE: server.workers: 65 is not allowed; a whole number from 0 to 64",
        ),
        (
            "[server]\nworkers = -1",
            "FILE: server.workers: -1 is not allowed; a whole number from 0 to 64",
        ),
        (
            "[server]\ncookie_secure = 1",
            "FILE: server.cookie_secure: 1 is not allowed; true or false",
        ),
        (
            "[server]\nauth_cookie = 'cc_app'",
            "FILE: server.app_cookie: must differ from auth_cookie",
        ),
        (
            "[server]\nauth_cookie = 'cc_dev'",
            "FILE: server.auth_cookie: cc_dev is another cookie's name",
        ),
        (
            "[server]\nlisen = []",
            "FILE: server.lisen: unknown key; did you mean listen?",
        ),
        (
            "[serve]",
            "FILE: serve: unknown section; did you mean server?",
        ),
        (
            "[log]\nlevel = 1",
            "FILE: log.level: unknown key; known are format, client_address, memory, memory_seconds",
        ),
        (
            "[log]\nformat = 'xml'",
            "FILE: log.format: \"xml\" is not allowed; \"logfmt\" or \"json\"",
        ),
        ("log = 1", "FILE: log: must be a table: [log]"),
        (
            "provider = 1",
            "FILE: provider: must be tables: [[provider]]",
        ),
        (
            "[limits]\nmemory = '64m'",
            "FILE: limits.memory: \"64m\" is not allowed; a size from \"1M\" to \"1024G\", such as 65536 or \"64K\"",
        ),
        (
            "[chat]\nheartbeat_seconds = 0",
            "FILE: chat.heartbeat_seconds: 0 is not allowed; seconds from 0.05 to 300",
        ),
        (
            "[chat]\nbreak_seconds = 11",
            "FILE: chat.break_seconds: 11 is not allowed; seconds from 0 to 10",
        ),
        (
            "[chat]\nheartbeat_seconds = nan",
            "FILE: chat.heartbeat_seconds: nan is not allowed; seconds from 0.05 to 300",
        ),
        (
            "[chat]\nhistory_bytes_max = '8K'",
            "FILE: chat.history_bytes_max: must be at least chat.answer_bytes_max, or no long answer is remembered",
        ),
        (
            "[upstream]\nca_file = '/nowhere'",
            "FILE: upstream.ca_file: \"/nowhere\" cannot be opened: No such file or directory (os error 2)",
        ),
        (
            "[[provider]]\nname = 'x'\nbase_url = 'http://a'",
            "FILE: provider[0].model: is missing (only deepseek, dashscope and openai need none)",
        ),
        (
            "[[provider]]\nname = 'openai'\n[[provider]]\nname = 'openai'",
            "FILE: provider[1].name: \"openai\" is the name of an earlier row too",
        ),
        (
            "[[provider]]\nname = 'openai'\nbase_url = 'http://u:secret@a'",
            "FILE: provider[0].base_url: is no URL of the form http(s)://host[:port][/path] (no user, query or fragment)",
        ),
        (
            "[[provider]]\nname = 'openai'\nkey_env = 'sk-secret'",
            "FILE: provider[0].key_env: is no variable's name (A-Z a-z 0-9 _), or \"\" for no key",
        ),
        (
            "[[provider]]\nname = 'openai'\nextra = { stream = false }",
            "FILE: provider[0].extra: stream is set by the server and not allowed here",
        ),
        (
            "[[provider]]\nname = 'openai'\nextra = { x = [inf] }",
            "FILE: provider[0].extra: inf cannot be written as JSON",
        ),
        (
            "[[provider]]\nname = 'openai'\nmodle = 'x'",
            "FILE: provider[0].modle: unknown key; did you mean model?",
        ),
    ] {
        check_mistake(text, expected);
    }
}

#[test]
fn syntax_errors_have_line_and_column() {
    let mistakes = load("[server]\nworkers = \n", &[]).unwrap_err();
    assert_eq!(mistakes.len(), 1);
    assert!(
        mistakes[0].starts_with("FILE:2:11: no TOML: "),
        "{mistakes:?}"
    );
    let twice = load("[log]\n[log]\n", &[]).unwrap_err();
    assert!(twice[0].starts_with("FILE:2:"), "{twice:?}");
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let text = "[server]\nworkers = 'x'\nnope = 1\n[chat]\nrate_per_minute = -1\n[strange]\n";
    let variables = [
        ("MAX_HISTORY", "many"),
        ("SESSION_EXPIRE", "1h"),
        ("COOKIE_SECURE", "maybe"),
    ];
    let mistakes = load_with(text, &variables, &["nowhere"]).unwrap_err();
    for start in [
        "FILE: server.workers: ",
        "FILE: server.nope: ",
        "FILE: chat.rate_per_minute: ",
        "FILE: strange: ",
        "environment: MAX_HISTORY: \"many\" is not allowed; a whole number from 1 to 1000",
        "environment: SESSION_EXPIRE: ",
        "environment: COOKIE_SECURE: \"maybe\" is not allowed; 1 or 0",
        "--listen: \"nowhere\" is no address",
    ] {
        let found = mistakes.iter().filter(|line| line.starts_with(start));
        assert_eq!(found.count(), 1, "{start}: {mistakes:#?}");
    }
    assert_eq!(mistakes.len(), 8, "{mistakes:#?}");
    assert!(mistakes.iter().all(|line| !line.contains('\n')));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let sources = Sources {
        file: Some(Path::new("/nowhere/c.toml")),
        ..Sources::default()
    };
    let mistakes = Config::load(sources).unwrap_err();
    assert_eq!(
        mistakes,
        ["/nowhere/c.toml: cannot be read: No such file or directory (os error 2)"]
    );
}

#[test]
fn too_little_memory_names_the_least() {
    let config = load("[limits]\nmemory = '8M'\n[server]\nworkers = 1\n", &[]).unwrap();
    let mistake = Budget::new(&config).unwrap_err();
    let least = mistake.split('"').nth(1).unwrap();
    assert!(mistake.starts_with("limits.memory: "), "{mistake}");
    let text = |memory: &str| format!("[limits]\nmemory = '{memory}'\n[server]\nworkers = 1\n");
    assert!(
        Budget::new(&load(&text(least), &[]).unwrap()).is_ok(),
        "{mistake}"
    );
}
