//! The HTTP contract, spoken to the real binary over real sockets.
//!
//! Every test starts a server of its own on a free port with a data folder of its own, in front of
//! a provider that the test plays. Run one module with `cargo test --test api history::`.

mod kit;

mod address;
mod ask;
mod asked;
mod auth_chat;
mod auth_credentials;
mod auth_forms;
mod auth_login;
mod auth_password;
mod auth_races;
mod auth_register;
mod auth_session;
mod auth_storm;
mod auth_table;
mod auth_timing;
mod behind_nginx;
mod breaker;
mod broken_off;
mod cancel;
mod common;
mod context;
mod cookies;
mod cross_site;
mod demo;
mod doctor;
mod doctor_proxies;
mod doctor_reach;
mod drain;
mod durable;
mod embedded;
mod failover;
mod failures;
mod files;
mod guide;
mod history;
mod limits;
mod lingering;
mod log;
mod memory;
mod metrics;
mod nginx_limits;
mod openapi;
mod process;
mod shares;
mod side_by_side;
mod site;
mod slow;
mod stream;
mod unended;
mod validation;
