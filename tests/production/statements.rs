//! Prepared statements through PgBouncer in transaction mode, as PostgreSQL's log shows them.

use std::collections::HashMap;
use std::fs;
use std::sync::mpsc;
use std::thread;

use crate::kit::stores::{connect, runtime};
use crate::kit::{Person, Provider, Server, request};
use crate::services::Services;

const CLIENTS: usize = 200;
const REQUESTS: usize = 20_000;
/// `default_pool_size` of the PgBouncers in `tests/services/servers.py`.
const SERVER_CONNECTIONS: usize = 5;

/// Many clients ask for their own account, each on a connection of its own; all are answered. They come
/// one after the other, because each new connection to PgBouncer costs both sides thousands of hashes.
fn all_are_answered(server: &Server, clients: usize, requests: usize) {
    let alice = Person::logged_in(server, "alice@b.c");
    let cookie = format!("cc_auth={}", alice.cookies["cc_auth"]);
    thread::scope(|scope| {
        for _ in 0..clients {
            let mut conn = server.connect();
            let (cookie, (came, comes)) = (&cookie, mpsc::channel());
            scope.spawn(move || {
                for _ in 0..requests / clients {
                    conn.send(&request("GET /auth/me", &[("Cookie", cookie)], None));
                    let reply = conn.reply();
                    assert_eq!(reply.status, 200, "{}", reply.body);
                    // Only the first one is waited for.
                    came.send(()).unwrap_or_default();
                }
            });
            comes.recv().expect("it was answered");
        }
    });
}

/// Lines of the server's log with this word.
fn lines(server: &Server, word: &str) -> Vec<String> {
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains(word));
    lines.map(str::to_owned).collect()
}

#[test]
fn named_ones_are_parsed_once_per_server_connection() {
    let services = Services::start("postgres,pgbouncer,redis");
    let admin = connect(&format!("{}/postgres", services.address("POSTGRES_ADMIN")));
    let log_all = "ALTER ROLE cloudchat SET log_min_duration_statement = 0";
    runtime()
        .block_on(admin.batch_execute(log_all))
        .expect("the administrator may");
    let pair = services.pair("PGBOUNCER", "REDIS");
    let settings = format!("database.statements = \"named\"\ndatabase.pool_size = {CLIENTS}");
    let server = Server::on(&pair, &Provider::friendly(), &settings);
    all_are_answered(&server, CLIENTS, REQUESTS);
    assert_eq!(lines(&server, "level=error"), [""; 0]);

    // Lines such as `… DATABASE PID LOG:  duration: 0.1 ms  parse NAME: SELECT …`.
    let log = fs::read_to_string(services.address("POSTGRES_LOG")).expect("it is text");
    let (mut parsed, mut executed) = (HashMap::new(), 0);
    let mut connections: HashMap<_, usize> = HashMap::new();
    for line in log.lines().filter(|line| line.contains(" test_")) {
        let Some((head, rest)) = line.split_once(" LOG:  duration: ") else {
            continue;
        };
        let pid = head.rsplit(' ').next().expect("the prefix ends with it");
        let (_, what) = rest.split_once(" ms  ").unwrap_or_default();
        if let Some(statement) = what.strip_prefix("parse ") {
            let (name, sql) = statement.split_once(": ").expect("NAME: SQL");
            if name == "<unnamed>" {
                // What a server asks once, when it starts.
                let at_start = ["schema_migrations", "secrets", "current_user"];
                assert!(at_start.iter().any(|table| sql.contains(table)), "{sql}");
                continue;
            }
            // PgBouncer gives each text a name; only the first line of a text stands here.
            *parsed.entry((pid, name, sql)).or_insert(0) += 1;
        } else if what.starts_with("execute ") {
            *connections.entry(pid).or_default() += 1;
            executed += 1;
        }
    }
    let again: Vec<_> = parsed.iter().filter(|(_, times)| **times > 1).collect();
    assert!(
        !parsed.is_empty() && again.is_empty(),
        "parsed again: {again:?}"
    );
    assert!(executed >= REQUESTS, "{executed} of {REQUESTS}");
    // Whoever made the tables and starts a server has asked a few times, directly perhaps.
    connections.retain(|_, times| *times > 100);
    assert!(
        connections.len() <= SERVER_CONNECTIONS,
        "{} server connections",
        connections.len()
    );
}

/// `auto`, the default, in front of a PgBouncer that keeps no statements.
fn falls_back(pgbouncer: &str, variable: &str) {
    let services = Services::start(&format!("postgres,{pgbouncer},redis"));
    let pair = services.pair(variable, "REDIS");
    let server = Server::on(&pair, &Provider::friendly(), "");
    all_are_answered(&server, 50, REQUESTS / 4);
    let warnings = lines(&server, "max_prepared_statements");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("warn"), "{warnings:?}");
    assert_eq!(lines(&server, "level=error"), [""; 0]);
}

#[test]
fn without_them_auto_serves_everybody_and_warns_once() {
    falls_back("pgbouncer-zero", "PGBOUNCER_ZERO");
}

#[test]
fn an_old_pgbouncer_means_the_same() {
    falls_back("pgbouncer-old", "PGBOUNCER_OLD");
}
