//! The sessions in Redis: the same stories as in SQLite, on every kind of Redis, and what only a server
//! can do. The servers are started by `tests/services/run`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::duplicate_mod, reason = "the same stories, on every kind")]

mod cli;
mod cluster;
mod outages;
mod refusals;
mod sentinel;
#[path = "../services/services.rs"]
mod services;
mod set_back;
mod single;
mod support;
mod sweep;
mod tls;
#[path = "../store/words.rs"]
mod words;
