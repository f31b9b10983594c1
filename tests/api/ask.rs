//! `cloudchat check --ask` and `cloudchat doctor` ask each provider one real question, and say what came of it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use cloudchat::clock;
use serde_json::{Value, json};

use crate::kit::Doctor;
use crate::kit::provider::{Answer, Provider, delta, finish, row};
use crate::kit::server::{free_port, run};

/// What `check` with these arguments says of a configuration: exit code and output.
fn check(config: &str, args: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("config.toml");
    fs::write(&file, config).expect("it is writable");
    let file = file.to_str().expect("its name is UTF-8");
    let args = [&["check", "--config", file], args].concat();
    let (code, out, errors) = run(&args, &[("TEST_KEY", "a-key")]);
    assert_eq!(errors, "");
    (code, out)
}

fn doctor(config: &str) -> Doctor<'_> {
    let env = &[];
    Doctor {
        config,
        env,
        url: None,
    }
}

/// The only finding of the doctor, and that `check --ask` says the same.
#[track_caller]
fn finds(config: &str, what: &str, fix: &str) {
    doctor(config).finds(what, fix);
    let (code, out) = check(config, &["--ask"]);
    assert!(
        code == 1 && out.contains(what) && out.contains(fix),
        "{out}"
    );
    assert!(out.contains("\n1 finding in "), "{out}");
}

/// A provider row that points to a server with this answer to every request, but for questions to a model
/// that it serves or not.
fn models(status: u16, headers: &str, ids: &[&str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let has_model = ids.contains(&"m-1");
    let ids: Vec<Value> = ids.iter().map(|id| serde_json::json!({"id": id})).collect();
    let body = serde_json::json!({"object": "list", "data": ids}).to_string();
    let reply = |status: u16, headers: &str, body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    };
    let list = reply(status, headers, &body);
    let answer = match (status, has_model) {
        (200, true) => {
            let events = delta("OK") + &finish("stop");
            reply(200, "Content-Type: text/event-stream\r\n", &events)
        }
        (200, false) => reply(404, "", r#"{"error":{"code":"model_not_found"}}"#),
        _ => list.clone(),
    };
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut head: Vec<u8> = Vec::new();
            let mut piece = [0; 1024];
            while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                match socket.read(&mut piece) {
                    Ok(n) if n > 0 => head.extend(&piece[..n]),
                    _ => break,
                }
            }
            let reply = if head.starts_with(b"GET ") {
                &list
            } else {
                &answer
            };
            // A peer that has gone away needs no answer.
            let _ = socket.write_all(reply.as_bytes());
        }
    });
    row("scripted", &format!("http://127.0.0.1:{port}/v1"))
}

fn http_date(shift: i64) -> String {
    let now = i64::try_from(clock::since_epoch().as_secs()).expect("the year is near");
    let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs((now + shift).unsigned_abs());
    let text = humantime::format_rfc3339_seconds(then).to_string();
    let (date, time) = text.split_once('T').expect("it is RFC 3339");
    let mut parts = date.split('-');
    let mut part = || parts.next().expect("a date has three parts").to_owned();
    let (year, month, day) = (part(), part(), part());
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = months[month.parse::<usize>().expect("a number") - 1];
    format!("Date: Mon, {day} {month} {year} {} GMT\r\n", &time[..8])
}

#[test]
fn check_asks_nobody_unless_it_is_told_to() {
    let provider = Provider::friendly();
    let (code, out) = check(&provider.row(), &[]);
    assert_eq!((code, provider.connections()), (0, 0), "{out}");
    assert!(!out.contains("asked"), "{out}");
    let settings = "send_user = true\nextra = { top_k = 5 }\nheaders = { X-Title = \"hidden\" }\n";
    let (code, out) = check(&(provider.row() + settings), &["--ask"]);
    assert!(
        code == 0 && out.contains("\nscripted: ok, the first text after "),
        "{out}"
    );
    assert!(
        out.contains(", with a key, headers X-Title\n") && !out.contains("hidden"),
        "{out}"
    );
    let asked = provider.last();
    assert_eq!(provider.received().len(), 1);
    assert!(
        asked.head.contains("\r\nX-Title: hidden\r\n"),
        "{}",
        asked.head
    );
    assert_eq!(asked.body["top_k"], 5);
    assert_eq!(
        (&asked.body["stream"], &asked.body["max_tokens"]),
        (&json!(true), &json!(2000))
    );
}

#[test]
fn each_row_is_asked() {
    let good = Provider::friendly();
    let bad = Provider::answering(|_, _| {
        Answer::status(
            401,
            "",
            r#"{"error":{"message":"a-key","code":"invalid_api_key"}}"#,
        )
    });
    let rows = bad.row_named("bad") + &good.row_named("good");
    let (code, out) = check(&rows, &["--ask"]);
    assert_eq!(
        (code, good.received().len(), bad.received().len()),
        (1, 1, 1),
        "{out}"
    );
    assert!(out.contains("\ngood: ok, the first text after "), "{out}");
    assert!(!out.contains("a-key"), "{out}");
    let refused = "provider key: bad: The model provider refused the request (status 401), code invalid_api_key";
    finds(&rows, refused, "put a valid key");
}

#[test]
fn what_questions_show() {
    let check = |answer: Answer, what: &str, fix: &str| {
        let provider = Provider::answering(move |_, _| answer.clone());
        finds(&provider.row(), what, fix);
    };
    check(
        Answer::status(503, "", r#"{"error":{"code":"busy"}}"#),
        "provider: scripted: The model provider is overloaded (status 503), code busy",
        "/chat/completions shows why",
    );
    check(
        Answer::status(200, "Content-Type: text/html\r\n", "<html>"),
        "The model provider sent no event stream",
        "/chat/completions shows why",
    );
    check(
        Answer::events(b"data: {\"error\":{\"code\":\"no_gpu\"}}\n\n"),
        "The model provider reported an error, code no_gpu",
        "/chat/completions shows why",
    );
    let only_done = delta("OK") + "data: [DONE]\n\n";
    check(
        Answer::events(only_done.as_bytes()),
        "The model provider broke off the answer",
        "done_is_complete = true",
    );
    check(
        Answer::events(finish("length").as_bytes()),
        "The answer is empty (length)",
        "larger max_tokens",
    );
    finds(
        &row("gone", &format!("http://127.0.0.1:{}/v1", free_port())),
        "gone cannot be reached",
        "curl -v",
    );
    finds("", "no model provider is configured", "DEEPSEEK_API_KEY");
}

#[test]
fn a_model_without_room_for_its_answer() {
    let provider = Provider::friendly();
    let row = provider.row() + "max_tokens = 4096\n";
    for (models, context) in [
        (json!([{"id": "m-1", "max_model_len": 4096}]), 4096),
        (
            json!([{"id": "x.gguf", "aliases": ["m-1"], "meta": {"n_ctx": 2048, "n_ctx_train": 8192}}]),
            2048,
        ),
        (
            json!([{"id": "m-0"}, {"id": "m-1", "context_length": 1024}]),
            1024,
        ),
    ] {
        provider.lists(models);
        let what =
            format!("max_tokens 4096 leaves no room in the model's context of {context} tokens");
        finds(
            &row,
            &what,
            &format!("max_tokens = {} in the row", context / 4),
        );
    }
    // One more is enough to say no more; without max_tokens there is nothing to compare.
    provider.lists(json!([{"id": "m-1", "meta": {"n_ctx_train": 4097}}]));
    assert_eq!(check(&row, &["--ask"]).0, 0);
    provider.lists(json!([{"id": "m-1", "max_model_len": 16}]));
    assert_eq!(
        check(&(provider.row() + "max_tokens = 0\n"), &["--ask"]).0,
        0
    );
    // A list that does not name the model is not believed while the model answers.
    provider.lists(json!([{"id": "models/m-1"}]));
    assert_eq!(check(&row, &["--ask"]).0, 0);
}

#[test]
fn the_provider_and_the_clock() {
    let right = models(200, &http_date(0), &["m-0", "m-1"]);
    let found = doctor(&right).look();
    assert_eq!((found.code, found.findings), (0, Vec::new()));
    doctor(&models(401, "", &[])).finds(
        "provider key: scripted: The model provider refused the request (status 401)",
        "DEEPSEEK_API_KEY",
    );
    doctor(&models(200, "", &["m-2", "m-3"])).finds(
        "does not serve the model \"m-1\": Model not served (status 404)",
        "one of: m-2, m-3",
    );
    for (shift, what) in [
        (300, "s behind that of scripted"),
        (-300, "s ahead of that of scripted"),
    ] {
        doctor(&models(200, &http_date(shift), &["m-1"])).finds(what, "timedatectl set-ntp true");
    }
}
