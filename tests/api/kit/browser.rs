//! A client with a memory of its own: it keeps its chat cookie.

use super::reply::{Head, Reply, cookie_in};
use super::{Conn, Server};

/// A client that keeps its chat cookie, as a browser does.
pub struct Browser<'a> {
    server: &'a Server,
    pub cookie: Option<String>,
}

impl<'a> Browser<'a> {
    pub fn new(server: &'a Server) -> Self {
        Self {
            server,
            cookie: None,
        }
    }

    /// Opens a stream on a connection of its own.
    pub fn open(&self, message: &str) -> Conn {
        let mut conn = self.server.connect();
        match &self.cookie {
            Some(value) => conn.ask(message, &[("Cookie", &format!("cc_app={value}"))]),
            None => conn.ask(message, &[]),
        };
        conn
    }

    /// Asks and reads the whole answer.
    pub fn ask(&mut self, message: &str) -> Reply {
        let reply = self.open(message).reply();
        self.keep(&reply.head);
        reply
    }

    /// Keeps the cookie that this head sets.
    pub fn keep(&mut self, head: &Head) {
        if let Some(value) = cookie_in(head, "cc_app") {
            self.cookie = Some(value);
        }
    }

    /// Asks the server to forget.
    pub fn forget(&self) -> Reply {
        let cookie = format!("cc_app={}", self.cookie.as_deref().unwrap_or_default());
        self.server
            .call("POST /reset_chat", &[("Cookie", &cookie)], Some(b""))
    }
}
