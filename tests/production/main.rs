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
mod evicted;
mod failover;
mod last_version;
mod load;
mod migration_under_load;
mod moving;
#[expect(dead_code, reason = "other tests use the rest of it")]
#[path = "../old_service/mod.rs"]
mod old_service;
mod outages;
mod round_trips;
#[path = "../services/services.rs"]
mod services;
#[path = "../postgres/sql.rs"]
mod sql;
mod statements;
mod timing;
mod turned;
