//! Chromium without a window, driven by WebDriver (W3C).

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kit::nginx::NAME;
use crate::kit::server::free_port;
use crate::kit::until;

/// A command to the browser takes no longer; its start is the longest.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// A browser of its own; it ends with this.
pub struct Chromium {
    driver: Child,
    port: u16,
    session: String,
    profile: TempDir,
}

impl Chromium {
    /// Trusts every certificate, keeps to itself, and asks nobody for anything.
    pub fn start() -> Self {
        let port = free_port();
        let profile = tempfile::tempdir().expect("there is room for temporary files");
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .env("HOME", profile.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect(
                "Chromium is installed: run tests/run, or apt-get install chromium chromium-driver",
            );
        let mut browser = Self {
            driver,
            port,
            session: String::new(),
            profile,
        };
        until("chromedriver to listen", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        let folder = browser.profile.path().join("user-data");
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--host-resolver-rules=MAP {NAME} [::1]"),
            &format!("--user-data-dir={}", folder.display()),
        ];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "acceptInsecureCerts": true,
            "timeouts": {"script": 30_000, "pageLoad": 30_000},
            "goog:chromeOptions": {"args": arguments},
        }}});
        let made = browser.call("POST", "/session", &capabilities);
        let session = made["sessionId"].as_str();
        browser.session = session.unwrap_or_else(|| panic!("{made}")).to_owned();
        browser
    }

    /// Goes to this address.
    pub fn open(&mut self, url: &str) {
        let path = format!("/session/{}/url", self.session);
        let said = self.call("POST", &path, &json!({ "url": url }));
        assert_eq!(said, Value::Null, "{url}");
    }

    /// Runs a script in the page; gives what it passes to its last argument, a function.
    pub fn run(&mut self, script: &str, arguments: &Value) -> Value {
        let path = format!("/session/{}/execute/async", self.session);
        let body = json!({"script": script, "args": arguments});
        self.call("POST", &path, &body)
    }

    /// The value of a command's answer.
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.exchange(method, path, body);
        let answer = answer.unwrap_or_else(|error| panic!("chromedriver: {path}: {error}"));
        let mut answer: Value =
            serde_json::from_slice(&answer).expect("the driver answers with JSON");
        answer["value"].take()
    }

    fn exchange(&self, method: &str, path: &str, body: &Value) -> io::Result<Vec<u8>> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port))?;
        socket.set_read_timeout(Some(COMMAND_TIMEOUT))?;
        let body = body.to_string();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.port,
            body.len()
        );
        socket.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        // It keeps the connection, whatever it is asked for.
        let mut lines = BufReader::new(socket);
        lines.read_line(&mut String::new())?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            lines.read_line(&mut line)?;
            match line.trim_end().to_ascii_lowercase().split_once(':') {
                Some(("content-length", bytes)) => {
                    length = bytes.trim().parse().unwrap_or_default()
                }
                None => break,
                _ => {}
            }
        }
        let mut answer = vec![0; length];
        lines.read_exact(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // Without a session there is no browser yet; one that does not answer has ended by itself.
        if !self.session.is_empty() {
            let path = format!("/session/{}", self.session);
            let _ = self.exchange("DELETE", &path, &json!({}));
        }
        // Whatever else it has started: it has a process group of its own.
        #[expect(unsafe_code, reason = "kill(2) touches no memory of ours")]
        // SAFETY: the group is that of our own child, which has not been waited for.
        unsafe {
            libc::kill(-self.driver.id().cast_signed(), libc::SIGKILL);
        }
        let _ = self.driver.wait();
    }
}
