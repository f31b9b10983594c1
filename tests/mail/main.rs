//! Mails, from the request over HTTP to the mailbox: the real binary in front of a real Postfix.
//!
//! Needs the Debian package postfix and root, as whom Postfix runs. Each test starts a Postfix of
//! its own, on an address of its own; the system's is left alone.

#[expect(
    dead_code,
    unused_imports,
    reason = "the kit is that of the API's tests, which use all of it"
)]
#[path = "../api/kit/mod.rs"]
mod kit;

mod doctor;
mod letters;
mod login;
mod mailbox;
mod postfix;
#[expect(dead_code, reason = "nothing is killed here")]
#[path = "../services/services.rs"]
mod services;
mod site;
mod trouble;
