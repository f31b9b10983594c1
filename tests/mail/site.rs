//! The server under test, set up to send its mails to a Postfix.

use serde_json::json;

use crate::kit::server::{no_rate_limit, run};
use crate::kit::{Person, Server};
use crate::postfix::{PLAIN, Postfix};

pub const USER: &str = "site@example.com";
pub const SECRET: &str = "s3cret of SMTP";

/// Settings for sending by this port of the Postfix, with a login unless the port is [`PLAIN`].
pub fn settings(postfix: &Postfix, port: u16) -> String {
    let file = postfix.ca_file();
    let user = if port == PLAIN {
        String::new()
    } else {
        format!("mail.smtp_user = {USER:?}")
    };
    format!(
        "server.workers = 2
server.frontend_base_url = \"https://www.example.com/app\"
upstream.ca_file = {file:?}
mail.smtp_host = {host:?}
mail.smtp_port = {port}
{user}
mail.from = \"noreply@example.com\"
mail.retry_seconds = 0.2
",
        host = postfix.host,
    )
}

/// Starts a server with these, and more of them.
pub fn server(postfix: &Postfix, port: u16, more: &str) -> Server {
    let config = settings(postfix, port) + more;
    Server::with(&no_rate_limit(&config), &[("SMTP_PASS", SECRET)])
}

pub fn register(server: &Server, email: &str) {
    let reply = Person::new(server).register(email);
    assert_eq!(reply.status, 201, "{}", reply.body);
}

pub fn forgot(server: &Server, identifier: &str) {
    let body = json!({"identifier": identifier});
    let reply = Person::new(server).post("/auth/password/forgot", &body);
    assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"ok":true}"#));
}

/// Replaces the password; the status.
pub fn reset(server: &Server, token: &str, password: &str) -> u16 {
    let body = json!({"token": token, "password": password});
    let reply = Person::new(server).post("/auth/password/reset", &body);
    reply.status
}

/// Runs `cloudchat user` on the server's store.
pub fn user(server: &Server, words: &[&str]) {
    let data = server.data();
    let data = data.to_str().expect("temporary names are UTF-8");
    let (code, _, errors) = run(&[&["user"], words, &["--data-dir", data]].concat(), &[]);
    assert_eq!(code, 0, "{errors}");
}

/// How many lines of its log hold all of these.
pub fn lines(server: &Server, parts: &[&str]) -> usize {
    let log = server.log();
    let is_meant = |line: &&str| parts.iter().all(|part| line.contains(part));
    log.lines().filter(is_meant).count()
}
