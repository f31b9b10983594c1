//! The servers, and what an administrator does to them.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// They end with this, or with the process.
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

    /// Kills (`kill`), stops, continues or starts one of them; returns when that is done.
    pub fn tell(&mut self, verb: &str, name: &str) {
        let input = self.input.as_mut().expect("it is piped");
        writeln!(input, "{verb} {name}").expect("it reads");
        assert_eq!(line(&mut self.output), "ok", "{verb} {name}");
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
