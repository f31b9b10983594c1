//! A browser with one connection.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use socket2::SockRef;

use crate::rig::PATIENCE;

pub struct Client {
    read: BufReader<TcpStream>,
    /// `Cookie` header, once the server has set one.
    cookie: String,
}

impl Client {
    pub fn connect(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a time-out can be set");
        socket.set_nodelay(true).expect("TCP_NODELAY can be set");
        // Otherwise a client that stalls goes on taking megabytes for a while.
        SockRef::from(&socket)
            .set_recv_buffer_size(16 * 1024)
            .expect("it can be set");
        Self {
            read: BufReader::new(socket),
            cookie: String::new(),
        }
    }

    /// Sends a question; the head is there when the provider has sent the first text.
    pub fn ask(&mut self) {
        let body = r#"{"message":"What is the heap?"}"#;
        let (length, cookie) = (body.len(), &self.cookie);
        let request = format!(
            "POST /deepseek_chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             {cookie}Content-Length: {length}\r\n\r\n{body}"
        );
        self.send(&request);
    }

    /// One round trip without a model behind it.
    pub fn ping(&mut self) {
        self.get("/test", "");
    }

    /// Asks for something and reads the answer.
    pub fn get(&mut self, path: &str, headers: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"));
        let length = self.head();
        let length = length.expect("the length of the answer is known");
        self.read
            .read_exact(&mut vec![0; length])
            .expect("the answer is whole");
    }

    fn send(&mut self, request: &str) {
        let mut socket = self.read.get_ref();
        socket
            .write_all(request.as_bytes())
            .expect("the server reads");
    }

    /// Reads the head of a 200; the body's length if it has one.
    pub fn head(&mut self) -> Option<usize> {
        assert_eq!(self.text_line(), "HTTP/1.1 200 OK");
        let mut length = None;
        loop {
            let line = self.text_line();
            let Some((name, value)) = line.split_once(": ") else {
                return length;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().ok(),
                "set-cookie" => {
                    let pair = value.split(';').next().expect("it has a value");
                    self.cookie = format!("Cookie: {pair}\r\n");
                }
                _ => {}
            }
        }
    }

    fn text_line(&mut self) -> String {
        let mut line = String::new();
        self.read.read_line(&mut line).expect("heads are text");
        line.trim_end().to_owned()
    }

    /// The next chunk of a body, empty at its end.
    pub fn chunk(&mut self) -> Vec<u8> {
        let length = usize::from_str_radix(&self.text_line(), 16).expect("a chunk's length");
        let mut data = vec![0; length + 2];
        self.read.read_exact(&mut data).expect("chunks are whole");
        data.truncate(length);
        data
    }

    /// Reads on to the end; the number of lines.
    pub fn rest(&mut self) -> usize {
        let mut lines = 0;
        loop {
            let chunk = self.chunk();
            if chunk.is_empty() {
                return lines;
            }
            lines += chunk.iter().filter(|byte| **byte == b'\n').count();
        }
    }
}
