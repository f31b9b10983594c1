//! CloudChat: accounts and a streaming AI chat behind a web site, in one small process.
//!
//! The modules form bands; each uses only what stands below it in this list
//! (`tests/tidy.rs` enforces it). ARCHITECTURE.md walks one request through them.

// Entry: start, stop, one core, one connection.
pub mod cli;
pub mod demo;
pub mod doctor;
pub mod serve;
pub mod worker;

pub mod scrape;

// HTTP: name the handler; HTTP in, HTTP out.
pub mod connection;

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
pub mod upstream;

// Vocabulary: plain types, pure protocol code, limits.
pub mod budget;
pub mod http;

pub mod config;
pub mod llm;

pub mod error;
pub mod log;
pub mod model;

pub mod limits;
pub mod metrics;

// The doors to time, chance and the allocator, which everything may stand on.
pub mod clock;
pub mod entropy;
pub mod memory;
