//! A raw HTTP/1.1 client that shows what is really on the wire: pieces as they come, and whether
//! the body ended with its final chunk.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::reply::{Head, Reply};
use super::{PATIENCE, nginx};

enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// How the body of the response being read ends.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Framing {
    Length(usize),
    Chunked,
    Close,
}

/// Header lines: names and values.
pub type Headers<'a> = &'a [(&'a str, &'a str)];

/// One connection to the server.
pub struct Conn {
    wire: Wire,
    /// Received, not yet looked at.
    raw: Vec<u8>,
    /// Body bytes freed from their framing, not yet handed out.
    body: Vec<u8>,
    framing: Framing,
    ended: Option<bool>,
    /// Where the server is published at this port.
    prefix: &'static str,
}

/// A request's bytes. `line` is for instance `GET /test`; a body brings its `Content-Length`.
pub fn request(line: &str, headers: Headers<'_>, body: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = format!("{line} HTTP/1.1\r\n").into_bytes();
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"))
    {
        bytes.extend(b"Host: chat.test\r\n");
    }
    for (name, value) in headers {
        bytes.extend(format!("{name}: {value}\r\n").bytes());
    }
    if let Some(body) = body {
        bytes.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body.unwrap_or_default());
    bytes
}

/// The body of a chat request.
pub fn question(message: &str) -> Vec<u8> {
    serde_json::json!({ "message": message })
        .to_string()
        .into_bytes()
}

impl Conn {
    pub fn tcp(port: u16) -> Self {
        Self::from(IpAddr::from([127, 0, 0, 1]), port)
    }

    /// Connects from that loopback address.
    pub fn from(source: IpAddr, port: u16) -> Self {
        let socket = Socket::new(
            Domain::for_address(SocketAddr::new(source, 0)),
            Type::STREAM,
            None,
        )
        .expect("a socket can be made");
        socket
            .bind(&SocketAddr::new(source, 0).into())
            .expect("the source address is ours");
        let server = if source.is_ipv6() {
            source
        } else {
            IpAddr::from([127, 0, 0, 1])
        };
        socket
            .connect(&SocketAddr::new(server, port).into())
            .expect("the server accepts");
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        Self::new(Wire::Tcp(stream), nginx::prefix_at(port))
    }

    /// Connects with a receive buffer of that many bytes: a reader that is slow from the start.
    pub fn narrow(port: u16, buffer: usize) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
        socket
            .set_recv_buffer_size(buffer)
            .expect("SO_RCVBUF can be set");
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        socket.connect(&server.into()).expect("the server accepts");
        Self::new(Wire::Tcp(TcpStream::from(socket)), nginx::prefix_at(port))
    }

    pub fn unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the server accepts");
        Self::new(Wire::Unix(stream), "")
    }

    fn new(wire: Wire, prefix: &'static str) -> Self {
        let conn = Self {
            wire,
            raw: Vec::new(),
            body: Vec::new(),
            framing: Framing::Close,
            ended: None,
            prefix,
        };
        conn.set_patience(PATIENCE);
        conn
    }

    fn set_patience(&self, patience: Duration) {
        match &self.wire {
            Wire::Tcp(s) => s.set_read_timeout(Some(patience)),
            Wire::Unix(s) => s.set_read_timeout(Some(patience)),
        }
        .expect("a time-out can be set");
    }

    /// Sends bytes; a server that has closed already is no failure: what it said before counts.
    pub fn send(&mut self, bytes: &[u8]) -> &mut Self {
        let prefixed = with_prefix(bytes, self.prefix);
        let bytes = prefixed.as_slice();
        let sent = match &mut self.wire {
            Wire::Tcp(s) => s.write_all(bytes),
            Wire::Unix(s) => s.write_all(bytes),
        };
        if let Err(e) = sent {
            let closed = matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
            assert!(closed, "sending failed: {e}");
        }
        self
    }

    /// Asks a question as the old front end does.
    pub fn ask(&mut self, message: &str, headers: Headers<'_>) -> &mut Self {
        let mut all = vec![("Content-Type", "application/json")];
        all.extend(headers);
        self.send(&request(
            "POST /deepseek_chat",
            &all,
            Some(&question(message)),
        ))
    }

    /// Takes what the server sent next; 0 = the connection is closed or reset.
    fn receive(&mut self) -> usize {
        self.receive_at_most(65536)
    }

    /// Takes at most `n` bytes off the socket.
    pub fn receive_at_most(&mut self, n: usize) -> usize {
        let mut piece = vec![0; n];
        let got = match &mut self.wire {
            Wire::Tcp(s) => s.read(&mut piece),
            Wire::Unix(s) => s.read(&mut piece),
        };
        match got {
            Ok(n) => {
                self.raw.extend(&piece[..n]);
                n
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => 0,
            Err(e) => panic!(
                "the server neither sent nor closed: {e}; had {:?}",
                self.seen()
            ),
        }
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.raw[..self.raw.len().min(300)]).into_owned()
    }

    /// The head of the next response, or nothing if the connection was closed before it.
    pub fn try_head(&mut self) -> Option<Head> {
        let end = loop {
            if let Some(at) = find(&self.raw, b"\r\n\r\n") {
                break at;
            }
            if self.receive() == 0 {
                assert!(
                    self.raw.is_empty(),
                    "closed within a head: {:?}",
                    self.seen()
                );
                return None;
            }
        };
        let text = String::from_utf8(self.raw.drain(..end + 4).collect()).expect("heads are ASCII");
        let mut lines = text.trim_end().split("\r\n");
        let status = lines
            .next()?
            .split(' ')
            .nth(1)?
            .parse()
            .expect("a status is a number");
        let headers = lines
            .map(|line| line.split_once(':').expect("a header has a colon"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let head = Head { status, headers };
        self.body.clear();
        self.ended = None;
        self.framing = match head.get("content-length") {
            _ if matches!(status, 204 | 304) => Framing::Length(0),
            Some(n) => Framing::Length(n.parse().expect("a length is a number")),
            None if head.get("transfer-encoding") == Some("chunked") => Framing::Chunked,
            None => Framing::Close,
        };
        Some(head)
    }

    /// The head of the next response.
    pub fn head(&mut self) -> Head {
        self.try_head()
            .expect("the server answers before it closes")
    }

    /// Moves what has arrived from `raw` to `body`.
    fn unframe(&mut self) {
        loop {
            match self.framing {
                Framing::Close => self.body.append(&mut self.raw),
                Framing::Length(left) => {
                    let n = left.min(self.raw.len());
                    self.body.extend(self.raw.drain(..n));
                    self.framing = Framing::Length(left - n);
                    if left == n {
                        self.ended = Some(true);
                    }
                }
                Framing::Chunked => {
                    let Some(at) = find(&self.raw, b"\r\n") else {
                        return;
                    };
                    let size = std::str::from_utf8(&self.raw[..at]).expect("a chunk size is text");
                    let size =
                        usize::from_str_radix(size, 16).expect("a chunk size is hexadecimal");
                    if self.raw.len() < at + 2 + size + 2 {
                        return;
                    }
                    self.body.extend(&self.raw[at + 2..at + 2 + size]);
                    self.raw.drain(..at + 2 + size + 2);
                    if size > 0 {
                        continue;
                    }
                    self.ended = Some(true);
                }
            }
            return;
        }
    }

    /// Waits for more of the body; `false` when it has ended.
    fn more(&mut self) -> bool {
        let before = self.body.len();
        while self.ended.is_none() && self.body.len() == before {
            self.unframe();
            if self.body.len() > before || self.ended.is_some() {
                break;
            }
            if self.receive() == 0 {
                self.ended = Some(self.framing == Framing::Close);
            }
        }
        self.body.len() > before
    }

    /// The next line of the body without its line end, or nothing when the body has ended.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.body.iter().position(|b| *b == b'\n') {
                let line = self.body.drain(..=at).collect::<Vec<u8>>();
                return Some(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if !self.more() {
                assert!(self.body.is_empty(), "half a line: {:?}", self.body);
                return None;
            }
        }
    }

    /// The next line that is not a heartbeat.
    pub fn next_line(&mut self) -> Option<String> {
        loop {
            match self.line() {
                Some(line) if line.is_empty() => {}
                other => return other,
            }
        }
    }

    /// The rest of the body, and whether it ended as HTTP wants it.
    pub fn rest(&mut self) -> (String, bool) {
        while self.more() {}
        let body = String::from_utf8_lossy(&std::mem::take(&mut self.body)).into_owned();
        (body, self.ended == Some(true))
    }

    /// Head and body of the next response.
    pub fn reply(&mut self) -> Reply {
        let head = self.head();
        let (body, whole) = self.rest();
        Reply {
            status: head.status,
            head,
            body,
            whole,
        }
    }

    /// The response to a HEAD request, which has no body.
    pub fn reply_without_body(&mut self) -> Reply {
        let head = self.head();
        self.ended = Some(true);
        Reply {
            status: head.status,
            head,
            body: String::new(),
            whole: true,
        }
    }

    /// Whether something can be read (or the connection was closed); does not wait.
    pub fn is_readable(&self) -> bool {
        let peeked = match &self.wire {
            Wire::Tcp(s) => {
                s.set_nonblocking(true).expect("it can be set");
                let peeked = s.peek(&mut [0; 1]);
                s.set_nonblocking(false).expect("it can be set");
                peeked
            }
            Wire::Unix(_) => panic!("only asked of TCP connections"),
        };
        !matches!(peeked, Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    /// Waits until the server closes this connection without saying anything more.
    pub fn closed(&mut self) -> bool {
        self.raw.is_empty() && self.receive() == 0
    }

    /// Leaves with a reset instead of a FIN.
    pub fn reset(self) {
        match self.wire {
            Wire::Tcp(s) => Socket::from(s)
                .set_linger(Some(Duration::ZERO))
                .expect("SO_LINGER can be set"),
            Wire::Unix(_) => panic!("a Unix socket cannot be reset"),
        }
    }
}

/// A request's bytes with the prefix before its path; others as they are.
fn with_prefix(bytes: &[u8], prefix: &str) -> Vec<u8> {
    let method = bytes.iter().take_while(|b| b.is_ascii_uppercase()).count();
    match method > 0 && bytes[method..].starts_with(b" /") {
        true => [&bytes[..=method], prefix.as_bytes(), &bytes[method + 1..]].concat(),
        false => bytes.to_vec(),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
