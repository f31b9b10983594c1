//! CloudChat: accounts and a streaming AI chat behind a web site, in one small process.
//!
//! It is made of two crates: `src/base.rs` names the modules that each request and each token passes, `src/service.rs`
//! all others. ARCHITECTURE.md walks one request through them.

pub use cloudchat_base::{
    budget, clock, config, connection, entropy, error, http, limits, llm, log, memory, metrics,
    model, upstream,
};
pub use cloudchat_service::{
    accounts, app, chat, cli, demo, doctor, handlers, hasher, mail, router, saver, scrape, serve,
    store, worker,
};
