//! What the measuring programs share. They never become part of the server: this is a workspace
//! member of its own, and nothing depends on it.
//!
//! - `provider`: a model provider that sends realistic, stamped streams, as told by each request;
//! - `streams`: a client that opens many streams and measures what arrives;
//! - `hello`: the bare hyper server that `/test` is compared with;
//! - `bench/run` (Python) starts them beside the server and judges what they measure by budget.toml.

pub mod args;
pub mod behaviour;
pub mod clock;
pub mod frame;
pub mod listen;
pub mod tally;
pub mod wire;
