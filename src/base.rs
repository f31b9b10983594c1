//! What each request and each token passes: a client's connection, HTTP, the way to the provider and its protocol,
//! and the words that all else is written in. Compiled for speed, and apart from the rest, so that the rest can be
//! small (`Cargo.toml`, the profiles).
//!
//! The modules form bands; each uses only what stands below it in this list (`tests/tidy.rs` enforces it).

// HTTP: one connection, whoever answers its requests.
pub mod connection;

// Outside: the door to the providers.
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
