//! What the measuring programs share. They never become part of the server: this is a workspace
//! member of its own, and nothing depends on it.
//!
//! - `provider`: a model provider that sends realistic, stamped streams, as told by each request;
//! - `streams`: a client that opens many streams and measures what arrives;
//! - `hello`: the bare hyper server that `/test` is compared with;
//! - `me`: the minimal server with Redis and PostgreSQL that `/auth/me` is compared with;
//! - `bench/run` (Python) starts them beside the server and judges what they measure by budget.toml.

pub mod args;
pub mod behaviour;
pub mod certificate;
pub mod client;
pub mod clock;
pub mod connection;
pub mod cpu;
pub mod drain;
pub mod frame;
pub mod histogram;
pub mod listen;
pub mod plan;
pub mod sequence;
pub mod server;
pub mod simulate;
pub mod stats;
pub mod tally;
pub mod timer;
pub mod wire;
