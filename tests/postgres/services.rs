//! The servers, and what an administrator does to them.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

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

    /// Those that all tests use which do not harm them.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Services> = OnceLock::new();
        SHARED.get_or_init(|| Self::start("postgres,pgbouncer,pgbouncer-old,pgbouncer-zero"))
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

    /// Makes an empty database; its name.
    pub fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.psql("POSTGRES", "postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// What `psql` prints for some SQL, without headings and blanks.
    pub fn psql(&self, server: &str, database: &str, sql: &str) -> String {
        let url = format!("{}/{database}", self.address(server));
        let output = Command::new(self.address("PSQL"))
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", &url, "-c", sql])
            .output()
            .expect("tests/services/run has installed it");
        assert!(output.status.success(), "{sql}: {output:?}");
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
