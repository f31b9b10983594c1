//! Servers of a test's own, which it may kill, stop and start again.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::kit::stores::{Accounts, Pair};

/// They end with this.
pub struct Services {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    addresses: HashMap<String, String>,
}

impl Services {
    /// Starts these, by the names that `tests/services/run --only` knows.
    pub fn start(names: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/services/run");
        let mut child = Command::new(script)
            .args(["--only", names, "--serve"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("please install Python 3 (Debian: apt-get install python3)");
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut addresses = HashMap::new();
        loop {
            let line = line(&mut output);
            match line.split_once('=') {
                Some((name, value)) => addresses.insert(name.to_owned(), value.to_owned()),
                None if line == "ready" => break,
                None => panic!("{names} could not be started, see above: {line}"),
            };
        }
        Self {
            child,
            input,
            output,
            addresses,
        }
    }

    /// An address, by the end of its variable's name.
    pub fn address(&self, name: &str) -> &str {
        &self.addresses[&format!("CLOUDCHAT_TEST_{name}")]
    }

    /// Where servers of ours keep accounts and sessions.
    pub fn pair(&self, accounts: &str, sessions: &str) -> Pair {
        let accounts = Accounts::new(self.address(accounts), self.address("POSTGRES"));
        Pair {
            accounts: Some(accounts),
            sessions: Some(self.address(sessions).to_owned()),
            is_shared: false,
        }
    }

    /// Kills (`kill`), stops, continues or starts one of them; returns when that is done.
    pub fn tell(&mut self, verb: &str, name: &str) {
        let input = self.input.as_mut().expect("it is piped");
        writeln!(input, "{verb} {name}").expect("it reads");
        let answer = line(&mut self.output);
        assert_eq!(answer, "ok", "{verb} {name}");
    }

    /// What `redis-cli` prints for a command to the Redis at this `redis://:PASSWORD@HOST:PORT`.
    pub fn redis(&self, command: &[&str]) -> String {
        let url = self.address("REDIS");
        let output = Command::new("redis-cli")
            .args(["--no-auth-warning", "-u", url])
            .args(command)
            .output()
            .expect("tests/services/run has installed it");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("it is text");
        text.trim_end().to_owned()
    }
}

/// The next line, or nothing at the end.
fn line(output: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    output.read_line(&mut line).expect("it prints text");
    line.trim_end().to_owned()
}

impl Drop for Services {
    fn drop(&mut self) {
        // The end of its input ends it, and what it has started.
        self.input = None;
        self.child.wait().expect("it is our child");
    }
}
