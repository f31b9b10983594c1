//! The stores of production under what happens to them: killed, stopped, failing over, shared with
//! the service that CloudChat replaces.
//!
//! Each test starts PostgreSQL, PgBouncer and Redis of its own (`tests/services/run --serve`), because
//! it kills them.

#[expect(
    dead_code,
    unused_imports,
    reason = "the kit is that of the API's tests, which use all of it"
)]
#[path = "../api/kit/mod.rs"]
mod kit;

#[path = "../redis/cli.rs"]
mod cli;
mod commands;
mod failover;
mod load;
mod moving;
mod outages;
mod round_trips;
#[path = "../services/services.rs"]
mod services;
mod statements;
mod timing;
