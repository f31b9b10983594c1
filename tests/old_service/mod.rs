//! The service that CloudChat replaces, as its tables and its statements: see README.md.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// A path in this folder.
macro_rules! path {
    ($name:literal) => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/old_service/", $name)
    };
}

/// Its tables, without data.
pub const SCHEMA: &str = include_str!("schema.sql");

/// Makes its tables in an empty database, with so many ordinary users and all odd ones.
pub fn populate(psql: &str, url: &str, users: usize) {
    let done = Command::new(path!("populate.py"))
        .env("CLOUDCHAT_TEST_PSQL", psql)
        .args([url, &users.to_string()])
        .status()
        .expect("please install Python 3 (Debian: apt-get install python3)");
    assert!(done.success(), "{done}");
}

/// The password of the ordinary user `user<n>@example.org`, n from 1.
pub fn password_of(n: usize) -> String {
    format!("old password {:03}", (n - 1) % 200 + 1)
}

/// The first of the hashes that the ordinary users share.
pub fn hash_of_user_1() -> String {
    let text = fs::read_to_string(path!("hashes.txt")).expect("it is there");
    let line = text.lines().next().expect("it has lines");
    let (_, hash) = line.split_once('\t').expect("password and hash");
    hash.to_owned()
}

/// Its statements at work, in a process of its own that ends with this.
pub struct Service {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Service {
    /// `serve`, or `load` with its options.
    pub fn start(database: &str, redis: &str, args: &[&str]) -> Self {
        let mut child = Command::new(path!("run"))
            .args(args)
            .env(
                "DATABASE_URL",
                database.replacen("postgres://", "postgresql://", 1),
            )
            .env("REDIS_URL", redis)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("please install Python 3 (Debian: apt-get install python3)");
        Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().expect("it is piped")),
            child,
        }
    }

    /// One operation, as service.py describes it.
    pub fn ask(&mut self, operation: &Value) -> Value {
        self.say(&operation.to_string());
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{operation}: {error}: {line}"))
    }

    /// The same, which must not fail.
    pub fn done(&mut self, operation: &Value) -> Value {
        let answer = self.ask(operation);
        assert_eq!(answer["ok"], true, "{operation}: {answer}");
        answer
    }

    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it is piped");
        writeln!(input, "{line}").expect("it reads");
    }

    /// What it prints next.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it prints text");
        line.trim_end().to_owned()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.input = None;
        self.child.wait().expect("it is our child");
    }
}
