//! The stores: reachable, of a version that will do, and set as CloudChat needs them.

use super::Report;
use crate::config::{Statements, Store};
use crate::store::{Backend, PostgresFacts, RedisFacts, inspect_postgres, inspect_redis};

/// Oldest PostgreSQL that is still looked after (`server_version_num`).
const POSTGRES_MIN: i32 = 130_000;
/// Oldest Redis with all that we use.
const REDIS_MIN: (u32, u32) = (6, 2);
/// Share of `maxmemory` above which a Redis is as good as full.
const FULL: f64 = 0.95;

pub fn check(report: &mut Report, store: &Store) {
    if store.database.is_none() {
        let dir = store.dir.display();
        report.expect(
            "data folder",
            Backend::is_made(store),
            format!(
                "{dir} holds no accounts: the server has never been started, or works elsewhere"
            ),
            "systemctl start cloudchat, or --config and --data-dir as the server has them",
        );
    }
    if let Some(database) = &store.database {
        match inspect_postgres(database) {
            Ok(facts) => postgres(report, &facts, database.statements, store),
            Err(why) => {
                let fix = match is_handshake(&why) {
                    true => {
                        "sslmode=… and sslrootcert=… in DATABASE_URL, as the server's certificate needs them; sslmode=disable if it has none"
                    }
                    false => {
                        "DATABASE_URL=postgres://… of a server that runs: systemctl status postgresql pgbouncer"
                    }
                };
                report.check("database", Err((why, fix.into())));
            }
        }
    }
    if let Some(redis) = &store.redis {
        match inspect_redis(redis) {
            Ok(facts) => self::redis(report, &facts),
            Err(why) => {
                // One that speaks no TLS waits for the end of what it takes for a line.
                let fix = match is_handshake(&why) || redis.tls && why.contains("time") {
                    true => {
                        "rediss:// with the address and port that Redis has as tls-port, the name in its certificate, and redis.ca_file if its authority is your own"
                    }
                    false => {
                        "REDIS_HOST=… and REDIS_PASSWORD=… of a server that runs: systemctl status redis-server"
                    }
                };
                report.check("redis", Err((why, fix.into())));
            }
        }
    }
}

/// Whether these are the words of a TLS handshake that failed.
fn is_handshake(why: &str) -> bool {
    let words = [
        "TLS",
        "handshake",
        "certificate",
        "InvalidCertificate",
        "InvalidMessage",
        "AlertReceived",
    ];
    words.iter().any(|word| why.contains(word))
}

fn postgres(report: &mut Report, facts: &PostgresFacts, statements: Statements, store: &Store) {
    report.expect(
        "database version",
        facts.version >= POSTGRES_MIN,
        format!(
            "PostgreSQL {} is not looked after any more",
            facts.version / 10_000
        ),
        "upgrade PostgreSQL to 13 or later",
    );
    report.check(
        "database schema",
        facts
            .schema
            .clone()
            .map_err(|what| (what, "cloudchat migrate".to_owned())),
    );
    let narrow = facts.narrow_encoding.as_ref().map(|encoding| {
        (
            format!("the database is encoded in {encoding}: who writes any other character, such as an emoji, gets 503"),
            "createdb -E UTF8 -T template0 …; pg_dump … | psql …; the new name in DATABASE_URL".to_owned(),
        )
    });
    report.check("database encoding", narrow.map_or(Ok(()), Err));
    report.expect(
        "database writes",
        facts.takes_writes,
        "PostgreSQL takes no writes (a standby, or default_transaction_read_only): logins get 503",
        "name the primary in DATABASE_URL (several hosts: target_session_attrs=read-write); or \
         ALTER DATABASE … SET default_transaction_read_only = off",
    );
    if facts.is_pooled {
        report.expect(
            "pgbouncer",
            facts.is_by_transaction,
            "PgBouncer keeps a server connection for each of ours (pool_mode = session)",
            "pool_mode = transaction",
        );
        report.expect(
            "pgbouncer",
            facts.has_transactions,
            "PgBouncer refuses transactions (pool_mode = statement): what takes one gets 503",
            "pool_mode = transaction",
        );
        report.expect(
            "pgbouncer",
            facts.keeps_statements || !facts.is_by_transaction || statements == Statements::Unnamed,
            "PgBouncer does not keep prepared statements: PostgreSQL plans each call anew",
            "max_prepared_statements = 200 in pgbouncer.ini; database.statements = \"unnamed\" before PgBouncer 1.21",
        );
    } else {
        let ours = store
            .database
            .as_ref()
            .map_or(0, |database| database.connections_per_core);
        report.expect(
            "database connections",
            i64::from(facts.connections_max) > ours as i64 + 3,
            format!(
                "PostgreSQL takes {} connections, each core of ours wants {ours}",
                facts.connections_max
            ),
            format!(
                "max_connections = {} or a smaller database.pool_size",
                4 * ours + 10
            ),
        );
    }
}

fn redis(report: &mut Report, facts: &RedisFacts) {
    report.expect(
        "redis version",
        facts.version >= REDIS_MIN,
        format!("Redis {}.{} is too old", facts.version.0, facts.version.1),
        "upgrade Redis to 6.2 or later",
    );
    report.expect(
        "redis role",
        !facts.is_replica,
        "Redis is a replica, which takes no writes: logins and chats get 503",
        "name its master in redis.url, or the sentinels (redis-sentinel://); or redis-cli REPLICAOF NO ONE",
    );
    report.expect(
        "redis memory",
        facts.memory_max > 0,
        "Redis has no maxmemory: it grows until the kernel ends something",
        "maxmemory 64mb",
    );
    let is_full =
        facts.memory_max > 0 && facts.memory_used as f64 >= FULL * facts.memory_max as f64;
    if let Some(policy) = facts.policy.as_deref() {
        let what = match policy {
            "noeviction" if is_full => Some(
                "Redis is full and evicts nothing (noeviction): logins and chats get 503"
                    .to_owned(),
            ),
            "noeviction" => Some(
                "Redis evicts nothing (noeviction): when it is full, logins and chats get 503"
                    .to_owned(),
            ),
            "volatile-ttl" => None,
            other => Some(format!(
                "Redis evicts by {other}: logins may go before chats and limits"
            )),
        };
        let fix = "redis-cli CONFIG SET maxmemory-policy volatile-ttl; the same in redis.conf";
        report.check(
            "redis eviction",
            what.map_or(Ok(()), |what| Err((what, fix.to_owned()))),
        );
    }
    let is_evicting = is_full && facts.policy.as_deref() != Some("noeviction");
    let full = is_evicting.then(|| match facts.keys_for_ever {
        0 => (
            "Redis is full: limits and chats go before their time, then logins".to_owned(),
            "a larger maxmemory: redis-cli CONFIG SET maxmemory …; the same in redis.conf"
                .to_owned(),
        ),
        keys => (
            format!(
                "Redis is full, and {keys} of its keys never expire: what goes are limits, chats and logins"
            ),
            "a Redis of CloudChat's own, or an expiry for those keys and a larger maxmemory"
                .to_owned(),
        ),
    });
    report.check("redis memory", full.map_or(Ok(()), Err));
    if let Some(persists) = facts.persists {
        report.expect(
            "redis persistence",
            persists,
            "Redis writes nothing down: a restart logs everybody out",
            "appendonly yes",
        );
    }
    report.expect(
        "redis persistence",
        facts.writes_well,
        "Redis's last attempt to write its data down failed",
        "df -h, and Redis's log, say why",
    );
}
