//! The server as an operator runs it: sockets from systemd, what systemd is told, upgrades without
//! loss, backups. The tests play systemd: they hold the sockets and listen where sd_notify(3) speaks.

#[expect(
    dead_code,
    unused_imports,
    reason = "the kit is that of the API's tests, which use all of it"
)]
#[path = "../api/kit/mod.rs"]
mod kit;

mod activation;
mod backup;
mod load;
mod owner;
mod reload;
mod rollback;
mod signals;
mod stop;
mod stopped_reader;
mod supervisor;
mod systemd;
mod units;
mod upgrade;
mod upgrades;
