//! A browser's part in the demonstration: asks our own server over HTTP, keeps the cookie, and
//! prints the answer as it comes.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::upstream::chunked::Decoder;

/// Longest pause in an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest response head.
const HEAD_BYTES_MAX: usize = 8192;

/// A conversation with the server.
#[derive(Debug)]
pub struct Client {
    server: SocketAddr,
    cookie: Option<String>,
}

impl Client {
    /// A visitor without a cookie.
    pub fn new(server: SocketAddr) -> Self {
        Self {
            server,
            cookie: None,
        }
    }

    /// Asks, and writes the text to `out` as it comes.
    ///
    /// # Errors
    /// One line on what went wrong.
    pub fn ask(&mut self, question: &str, out: &mut impl io::Write) -> Result<(), String> {
        self.exchange(question, out).map_err(|e| e.to_string())
    }

    fn exchange(&mut self, question: &str, out: &mut impl io::Write) -> io::Result<()> {
        let mut socket = TcpStream::connect(self.server)?;
        socket.set_read_timeout(Some(READ_TIMEOUT))?;
        let body = json!({ "message": question }).to_string();
        let cookie = self.cookie.as_deref().unwrap_or_default();
        write!(
            socket,
            "POST /deepseek_chat HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Cookie: {cookie}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.server,
            body.len()
        )?;
        let mut bytes = Vec::new();
        let chunked = loop {
            if let Some((used, chunked)) = self.parse_head(&bytes)? {
                bytes.drain(..used);
                break chunked;
            }
            if bytes.len() > HEAD_BYTES_MAX || read_more(&mut socket, &mut bytes)? == 0 {
                return Err(io::Error::other("no answer"));
            }
        };
        let mut decoder = chunked.then(Decoder::new);
        let mut lines = Vec::new();
        loop {
            let length = match &mut decoder {
                None => bytes.len(),
                Some(decoder) => {
                    let decoded = decoder.decode(&mut bytes);
                    decoded
                        .map_err(|_| io::Error::other("broken transfer"))?
                        .written
                }
            };
            lines.extend_from_slice(&bytes[..length]);
            print_lines(&mut lines, out)?;
            bytes.clear();
            let done = decoder.as_ref().is_some_and(Decoder::is_done);
            if done || read_more(&mut socket, &mut bytes)? == 0 {
                print_line(&lines, out)?;
                return writeln!(out);
            }
        }
    }

    /// The head's length, and whether the body is chunked; keeps the cookie.
    fn parse_head(&mut self, bytes: &[u8]) -> io::Result<Option<(usize, bool)>> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(used) = head.parse(bytes).map_err(io::Error::other)? else {
            return Ok(None);
        };
        let mut chunked = false;
        for header in head.headers {
            chunked |= header.name.eq_ignore_ascii_case("transfer-encoding");
            if header.name.eq_ignore_ascii_case("set-cookie") {
                let cookie = String::from_utf8_lossy(header.value);
                self.cookie = cookie.split(';').next().map(str::to_string);
            }
        }
        Ok(Some((used, chunked)))
    }
}

fn read_more(socket: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; 2048];
    let read = socket.read(&mut buffer)?;
    bytes.extend_from_slice(&buffer[..read]);
    Ok(read)
}

fn print_lines(lines: &mut Vec<u8>, out: &mut impl io::Write) -> io::Result<()> {
    while let Some(end) = lines.iter().position(|b| *b == b'\n') {
        print_line(&lines[..end], out)?;
        lines.drain(..=end);
    }
    Ok(())
}

fn print_line(line: &[u8], out: &mut impl io::Write) -> io::Result<()> {
    let Ok(line) = serde_json::from_slice::<Value>(line) else {
        return Ok(());
    };
    for key in ["text", "error"] {
        if let Some(text) = line.get(key).and_then(Value::as_str) {
            write!(out, "{text}")?;
        }
    }
    out.flush()
}
