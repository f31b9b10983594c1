//! `cloudchat demo`: what a stranger sees first, and that what it says to try works.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use crate::kit::server::{BINARY, free_port};
use crate::kit::{Conn, request, until};

/// The demonstration, killed when dropped.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_conversation_is_shown_and_the_lines_to_try_work() {
    let folder = tempfile::tempdir().expect("there is room");
    let [shown, logged] = ["stdout", "stderr"].map(|name| folder.path().join(name));
    let port = free_port();
    let child = Command::new(BINARY)
        .args(["demo", "--listen", &format!("127.0.0.1:{port}")])
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(File::create(&shown).expect("it is writable"))
        .stderr(File::create(&logged).expect("it is writable"))
        .spawn();
    let mut demo = Demo(child.expect("the binary starts"));
    let shown = until("the conversation to be over", || {
        let shown = fs::read_to_string(&shown).expect("it is text");
        shown.contains("Ctrl-C ends it").then_some(shown)
    });
    let answers: Vec<&str> = shown.lines().filter(|l| l.starts_with("bot> ")).collect();
    assert!(
        answers[0].contains("simulation") && answers[1].contains("Your name is Ada"),
        "the second answer refers to the first question: {shown}"
    );
    let start = format!("http://127.0.0.1:{port}/");
    let lines = shown.lines().filter(|line| line.starts_with("curl "));
    let mut cookie = String::new();
    let mut texts = Vec::new();
    for line in lines {
        let (_, rest) = line.split_once(&start).expect("it names this server");
        let path = rest.split(' ').next().expect("a path follows");
        let body = rest.split_once("-d '").map_or("", |(_, body)| {
            body.strip_suffix('\'').expect("it is quoted")
        });
        let headers = [
            ("Content-Type", "application/json"),
            ("Cookie", cookie.as_str()),
        ];
        let mut conn = Conn::tcp(port);
        let post = format!("POST /{path}");
        conn.send(&request(&post, &headers, Some(body.as_bytes())));
        let reply = conn.reply();
        assert_eq!(reply.status, 200, "{line}: {}", reply.body);
        texts.push(reply.text());
        if let Some(value) = reply.cookie("cc_app") {
            let set = reply.get("set-cookie").expect("it was just read");
            assert!(!set.contains("Secure"), "curl keeps it over HTTP: {set}");
            cookie = format!("cc_app={value}");
        }
    }
    assert_eq!(texts.len(), 3, "{shown}");
    assert!(texts[1].contains("Bob"), "{}", texts[1]);
    assert!(demo.0.try_wait().expect("it is our child").is_none());
    let logged = fs::read_to_string(&logged).expect("it is text");
    assert_eq!(logged, "", "nothing stands in the middle of the talk");
}
