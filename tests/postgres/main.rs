//! The accounts in PostgreSQL: the same stories as on SQLite, on every way to the server, and what only
//! a server can do. The servers are started by `tests/services/run`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::duplicate_mod, reason = "the same stories, on every way")]

mod direct;
mod migration;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "../old_service/mod.rs"]
mod old_service;
mod old_tables;
mod outages;
mod pgbouncer;
mod pgbouncer_old;
mod pgbouncer_zero;
#[path = "../services/services.rs"]
mod services;
mod sharing;
mod sql;
mod support;
mod tls;
