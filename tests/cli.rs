//! The program as it is called: commands, output, exit codes.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// Runs the program in an empty environment.
fn run(args: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let output = command(args, variables)
        .output()
        .expect("the program starts");
    split(output)
}

fn command(args: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloudchat"));
    command.args(args).env_clear().stdin(Stdio::null());
    command.envs(variables.iter().copied());
    command
}

fn split(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    let code = output.status.code().expect("ended by itself");
    (code, text(output.stdout), text(output.stderr))
}

#[test]
fn help_and_version() {
    let (code, out, err) = run(&["--version"], &[]);
    let version = format!("cloudchat {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((code, out, err.as_str()), (0, version, ""));
    let (code, out, _) = run(&["--help"], &[]);
    assert_eq!(code, 0);
    for command in ["serve", "check", "example-config", "demo", "user"] {
        assert!(out.contains(command), "{out}");
    }
    let (code, out, _) = run(&["serve", "--help"], &[]);
    assert!(
        code == 0 && out.contains("--listen") && out.contains("--data-dir"),
        "{out}"
    );
}

#[test]
fn wrong_arguments_end_with_2() {
    for args in [
        &[][..],
        &["fly"],
        &["serve", "--nope"],
        &["check", "--listen"],
    ] {
        let (code, out, err) = run(args, &[]);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}");
        assert!(!err.is_empty());
    }
    for command in ["check", "serve", "demo"] {
        let (code, out, err) = run(&[command, "--listen", "x"], &[]);
        let expected = "cloudchat: --listen: \"x\" is no address (host:port or unix:/path)\n";
        assert_eq!((code, out.as_str(), err.as_str()), (2, "", expected));
    }
}

#[test]
fn the_example_is_printed_and_accepted() {
    let (code, example, _) = run(&["example-config"], &[]);
    assert_eq!(
        (code, example.as_str()),
        (0, include_str!("../config.toml.example"))
    );
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(example.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    let (code, out, err) = run(&["check", "--config", path], &[]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
}

#[test]
fn check_tells_what_would_run() {
    let variables = [
        ("DEEPSEEK_API_KEY", "hidden"),
        ("STATE_DIRECTORY", "/var/lib/c"),
    ];
    let (code, out, err) = run(&["check", "--listen", "127.0.0.1:4999"], &variables);
    assert_eq!((code, err.as_str()), (0, ""));
    for part in [
        "would start",
        "127.0.0.1:4999",
        "/var/lib/c",
        "deepseek at https://api.deepseek.com:443/v1, model deepseek-flash, with a key",
        "streams_max",
        "connections_max",
        "prompt_bytes_max",
        "body_bytes_max",
        "answer_bytes_max_total",
        "long_lines_max",
        "stalled_max",
        "67,108,864",
        "remainder",
        "password hasher",
        "($argon2id$v=19$m=19456,t=2,p=1) on this machine",
        " ms each, ",
        " per second and thread",
        " s for auth.hash_queue_max = 32 of them",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(!out.contains("hidden"));
    assert!(!out.contains("guideMode"), "{out}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("site.md"), "public").expect("room for it");
    let guide = "chat.guide = [{ mode = \"public_site\", file = \"site.md\" }]";
    std::fs::write(path("config.toml"), guide).expect("room for it");
    let (code, out, _) = run(&["check", "--config", &path("config.toml")], &[]);
    let line = format!("\n  public_site: 6 bytes, {}\n", path("site.md"));
    assert!(code == 0 && out.contains(&line), "{out}");
    let (code, out, _) = run(&["check"], &[]);
    assert!(code == 0 && out.contains("no provider"), "{out}");
}

#[test]
fn mistakes_end_with_2_and_name_the_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"[limits]\nmemory = '4M'\n").unwrap();
    let path = file.path().to_str().unwrap();
    for command in ["check", "serve"] {
        let (code, out, err) = run(&[command, "--config", path], &[]);
        assert_eq!((code, out.as_str()), (2, ""));
        assert!(
            err.starts_with(&format!("cloudchat: {path}: limits.memory: ")),
            "{err}"
        );
        assert_eq!(err.lines().count(), 1);
    }
    let variables = [("MAX_HISTORY", "x"), ("COOKIE_SECURE", "x")];
    let (code, _, err) = run(&["check"], &variables);
    assert_eq!((code, err.lines().count()), (2, 2), "{err}");
}

#[test]
fn a_reader_that_left_is_no_crash() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = command(&["example-config"], &[]);
    let (code, _, err) = split(
        command
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap(),
    );
    assert_eq!(code, 1);
    assert!(err.starts_with("cloudchat: cannot print: "), "{err}");
}
