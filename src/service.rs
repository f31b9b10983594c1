//! Everything that a request passes seldom or once: start and stop, commands, rules, stores. Compiled for little
//! size; `base` below it, which each byte passes, for speed.
//!
//! The modules form bands; each uses only what stands below it in this list and then in that of `src/base.rs`
//! (`tests/tidy.rs` enforces it).

// Entry: start, stop, one core, one connection.
pub mod cli;
pub mod demo;
pub mod doctor;
pub mod serve;
pub mod worker;

pub mod scrape;

// HTTP: name the handler; HTTP in, HTTP out.
pub mod router;

pub mod handlers;

// Rules: what CloudChat promises its users.
pub mod accounts;
pub mod chat;

// Outside: the doors to everything that is not this process.
pub mod app;
pub mod saver;

pub mod hasher;
pub mod mail;
pub mod store;

use cloudchat_base::{
    budget, clock, config, connection, entropy, error, http, limits, llm, log, memory, metrics,
    model, upstream,
};
