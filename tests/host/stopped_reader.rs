//! A reader of the log that stops: whoever reads standard error sleeps, and nothing but lines is lost.

use std::io::{PipeReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::kit::server::{BINARY, free_port, run};
use crate::kit::{Conn, seconds, until};
use crate::supervisor::{Service, adopt_orphans, send, test, try_wait};

/// More lines than the pipe (64 KiB) and the queue (as much) hold, at some 110 bytes each.
const REQUESTS: usize = 3_000;
/// No answer may take longer beside a stopped reader.
const ANSWER_SECONDS_MAX: f64 = 1.0;

/// A process that is killed when dropped, unless it has been waited for.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        drop(self.0.wait());
    }
}

/// A server whose standard error is a pipe, and the other end of that.
fn start(folder: &Path, port: u16) -> (Killed, PipeReader) {
    let (reader, writer) = std::io::pipe().expect("there are pipes");
    let child = command(folder, port)
        .stderr(writer)
        .spawn()
        .expect("the binary starts");
    until("the server to listen", || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    (Killed(child), reader)
}

fn command(folder: &Path, port: u16) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(["serve", "--listen", &format!("127.0.0.1:{port}")])
        .arg("--data-dir")
        .arg(folder)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Asks over several connections, so that every core has something to say.
fn ask_often(port: u16) {
    let mut conns: Vec<Conn> = (0..16).map(|_| Conn::tcp(port)).collect();
    for n in 0..REQUESTS {
        let conn = &mut conns[n % 16];
        let took = seconds(|| assert_eq!(test(conn).status, 200));
        assert!(took < ANSWER_SECONDS_MAX, "request {n} took {took} s");
    }
}

/// Reads on until a line holds `what`; all that was read.
fn read_until(reader: &mut PipeReader, what: &str) -> String {
    let mut text = Vec::new();
    let mut some = [0; 65_536];
    loop {
        let n = reader.read(&mut some).expect("it is a pipe");
        text.extend_from_slice(&some[..n]);
        let text = String::from_utf8_lossy(&text);
        if text.contains(what) && text.ends_with('\n') {
            return text.into_owned();
        }
        assert!(n > 0, "{what} never came:\n{text}");
    }
}

fn dropped(log: &str) -> usize {
    let counts = log.lines().filter_map(|line| line.split_once(" dropped="));
    counts
        .map(|(_, n)| n.parse::<usize>().expect("it is a number"))
        .sum()
}

#[test]
fn requests_are_answered_and_lines_that_do_not_fit_are_counted() {
    let (folder, port) = (tempfile::tempdir().expect("there is room"), free_port());
    let (mut server, mut reader) = start(folder.path(), port);
    ask_often(port);
    let mut log = read_until(&mut reader, " dropped=");
    let lines = |log: &str| log.matches("event=request ").count();
    assert!(
        log.lines().all(|line| line.starts_with("ts=")),
        "no line is torn"
    );
    // What came last is written, too, at the end at the latest.
    send(server.0.id() as i32, libc::SIGTERM);
    reader.read_to_string(&mut log).expect("lines are UTF-8");
    assert!(log.ends_with("event=stopped\n"), "{log}");
    assert_eq!(lines(&log) + dropped(&log), REQUESTS);
    assert!(server.0.wait().expect("it is ours").success());
}

#[test]
fn it_can_be_reloaded_and_stopped() {
    adopt_orphans();
    let (folder, port) = (tempfile::tempdir().expect("there is room"), free_port());
    let (mut server, _reader) = start(folder.path(), port);
    ask_often(port);
    let pid = server.0.id().to_string();
    let (code, said, errors) = run(&["reload", "--pid", &pid], &[]);
    assert_eq!(code, 0, "{errors}");
    let new = said.split_whitespace().find_map(|word| word.parse().ok());
    let new: i32 = new.expect("it tells the new process");
    assert!(server.0.wait().expect("it is ours").success());
    ask_often(port);
    send(new, libc::SIGTERM);
    let mut code = None;
    let took = seconds(|| code = Some(until("the server to end", || try_wait(new))));
    // The last lines wait for a second.
    assert!(code == Some(0) && took < 3.0, "{code:?} after {took} s");
    assert!(!Service::runs(new));
}

#[test]
fn a_start_that_fails_ends_and_says_why_to_whoever_reads() {
    let folder = tempfile::tempdir().expect("there is room");
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = held.local_addr().expect("it is bound").port();
    let (mut reader, mut writer) = std::io::pipe().expect("there are pipes");
    writer.write_all(&[b'x'; 65_536]).expect("so much fits");
    let start = || {
        let stderr = writer.try_clone().expect("there are numbers");
        let mut child = command(folder.path(), port).stderr(stderr).spawn();
        let child = child.as_mut().expect("the binary starts");
        until("the program to end", || {
            child.try_wait().expect("it is ours")
        })
    };
    assert_eq!(start().code(), Some(1), "beside a full pipe");
    let drain = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("lines are UTF-8");
        text
    });
    assert_eq!(start().code(), Some(1));
    drop(writer);
    let text = drain.join().expect("it reads");
    let says = text
        .trim_start_matches('x')
        .lines()
        .filter(|line| line.contains("in use"));
    assert_eq!(says.count(), 1, "{text}");
}
