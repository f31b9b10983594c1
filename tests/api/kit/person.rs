//! Somebody with a browser and an address of their own: keeps every cookie.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::{Reply, Server};

/// A password that nobody refuses.
pub const PASSWORD: &str = "correct horse 1";

/// A client of the accounts.
pub struct Person<'a> {
    server: &'a Server,
    /// The address that the proxy in front reports.
    pub address: String,
    pub cookies: BTreeMap<String, String>,
}

impl<'a> Person<'a> {
    /// Somebody from an address that nobody had before.
    pub fn new(server: &'a Server) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            server,
            address: format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255),
            cookies: BTreeMap::new(),
        }
    }

    /// Somebody who has registered and logged in.
    pub fn logged_in(server: &'a Server, email: &str) -> Self {
        let mut person = Self::new(server);
        let reply = person.register(email);
        assert_eq!(reply.status, 201, "{}", reply.body);
        let reply = person.login(email, PASSWORD);
        assert_eq!(reply.status, 200, "{}", reply.body);
        person
    }

    /// Sends these bytes, with all cookies, and keeps those that come back.
    pub fn send(&mut self, line: &str, body: Option<&[u8]>) -> Reply {
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .map(|(n, v)| format!("{n}={v}"))
            .collect();
        let cookies = cookies.join("; ");
        let mut headers = vec![
            ("X-Forwarded-For", self.address.as_str()),
            ("User-Agent", "tests/1"),
        ];
        if body.is_some() {
            headers.push(("Content-Type", "application/json; charset=utf-8"));
        }
        if !cookies.is_empty() {
            headers.push(("Cookie", &cookies));
        }
        let reply = self.server.call(line, &headers, body);
        for set in reply.head.all("set-cookie") {
            let pair = set.split(';').next().unwrap_or_default();
            let (name, value) = pair.split_once('=').expect("a cookie has a value");
            match value {
                "" => self.cookies.remove(name),
                _ => self.cookies.insert(name.to_owned(), value.to_owned()),
            };
        }
        reply
    }

    pub fn post(&mut self, path: &str, body: &Value) -> Reply {
        self.send(&format!("POST {path}"), Some(body.to_string().as_bytes()))
    }

    pub fn get(&mut self, path: &str) -> Reply {
        self.send(&format!("GET {path}"), None)
    }

    pub fn register(&mut self, email: &str) -> Reply {
        self.post(
            "/auth/register",
            &json!({"email": email, "password": PASSWORD}),
        )
    }

    pub fn login(&mut self, identifier: &str, password: &str) -> Reply {
        let body = json!({"identifier": identifier, "password": password});
        self.post("/auth/login", &body)
    }

    /// The status of `/auth/me`.
    pub fn me(&mut self) -> u16 {
        self.get("/auth/me").status
    }
}

/// An error as `/auth/*` words it.
#[track_caller]
/// The answer to a new password that is weak.
pub fn is_weak(reply: &Reply, error: &str, reason: &str) {
    assert_eq!(
        (reply.status, reply.json()),
        (400, json!({"ok": false, "error": error, "reason": reason}))
    );
}

pub fn fails(reply: &Reply, status: u16, error: &str) {
    assert_eq!(
        (reply.status, reply.json()),
        (status, json!({"ok": false, "error": error}))
    );
}
