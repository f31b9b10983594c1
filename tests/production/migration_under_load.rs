//! The schema is changed under the old service at work, on as many users as a large site has: nothing fails there
//! and nobody waits for long. Then ours serves everybody, and the old service still does.

use std::process::{Command, Stdio};

use cloudchat::clock;
use serde_json::Value;

use crate::kit::server::BINARY;
use crate::kit::{Person, pass, seconds};
use crate::moving::{OURS, Tables};
use crate::old_service::{Service, password_of};
use crate::services::Services;

const USERS: usize = 100_000;
/// Those who log in afterwards, each with a hash of 64 MiB to be verified and replaced.
const LOGINS: usize = 200;
/// Of them, those who log in at the old service again.
const BACK: usize = 20;
/// A transaction of the old service stays open for so long.
const HOLD: &str = "10";
/// From the end of that: tries are 1 to 2 s apart, and indexes of so many rows take less than a second each.
const MIGRATION_SECONDS_MAX: f64 = 40.0;
/// The longest that the old service may have waited for one registration or login.
const LONGEST_MS_MAX: f64 = 2000.0;

/// Runs `cloudchat migrate` to its end; seconds.
fn migrate(url: &str) -> f64 {
    let begun = clock::now();
    let mut child = Command::new(BINARY)
        .arg("migrate")
        .env_clear()
        .env("DATABASE_URL", url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary starts");
    loop {
        let passed = begun.elapsed().as_secs_f64();
        if let Some(status) = child.try_wait().expect("it is our child") {
            assert!(status.success(), "{status}");
            return passed;
        }
        if passed > MIGRATION_SECONDS_MAX {
            child.kill().expect("it is our child");
            child.wait().expect("it is our child");
            panic!("cloudchat migrate does not end");
        }
        pass(0.02);
    }
}

/// Migrates while the old service works, and says so in a line.
fn under_load(services: &Services, tables: &Tables<'_>) {
    let args = [
        "load",
        "--seconds",
        "25",
        "--registrations",
        "20",
        "--logins",
        "50",
        "--hold",
        HOLD,
    ];
    let mut load = Service::start(&tables.url, services.address("REDIS"), &args);
    assert_eq!(load.line(), "started");
    let took = migrate(&tables.url);
    load.say("stop");
    let line = load.line();
    let report: Value = serde_json::from_str(&line).expect("it is JSON");
    println!("migrate took {took:.1} s; {report}");
    let number = |name: &str| report[name].as_f64().expect("it is a number");
    assert_eq!(
        (number("failed"), &report["held_ok"]),
        (0.0, &Value::Bool(true)),
        "{report}"
    );
    assert!(number("longest_ms") < LONGEST_MS_MAX, "{report}");
    assert!(
        number("registrations") > 400.0 && number("logins") > 1000.0,
        "{report}"
    );
}

#[test]
fn a_large_site_moves_while_it_is_in_use() {
    let services = Services::start("postgres,redis");
    let tables = Tables::populated(&services, "POSTGRES", USERS);
    under_load(&services, &tables);
    let server = tables.serve(&services);
    let first = format!(
        "FROM credentials WHERE type = 'password' AND user_id IN
         (SELECT id FROM users WHERE email ~ '^user[0-9]+@' AND id <= {LOGINS})"
    );
    let rows = format!(
        "SELECT count(*), md5(string_agg(id::text || ' ' || user_id, ',' ORDER BY id)) {first}"
    );
    let before = tables.sql(&rows);
    let log_in_all = || {
        for n in 1..=LOGINS {
            let reply =
                Person::new(&server).login(&format!("user{n}@example.org"), &password_of(n));
            assert_eq!(reply.status, 200, "user{n}: {}", reply.body);
        }
    };
    println!("{LOGINS} logins took {:.1} s", seconds(log_in_all));
    assert_eq!(tables.sql(&rows), before, "in the same rows");
    let rehashed = format!("SELECT count(*) {first} AND secret_hash LIKE '{OURS}%'");
    assert_eq!(tables.sql(&rehashed), LOGINS.to_string());
    let mut old = Service::start(&tables.url, services.address("REDIS"), &["serve"]);
    for n in (1..=LOGINS).step_by(LOGINS / BACK) {
        let (_, rehashed) = old.login(&format!("user{n}@example.org"), &password_of(n));
        assert!(rehashed, "user{n}");
    }
}

#[test]
fn an_old_pgbouncer_is_no_obstacle_to_it() {
    let services = Services::start("postgres,pgbouncer-old,redis");
    let tables = Tables::populated(&services, "PGBOUNCER_OLD", USERS);
    under_load(&services, &tables);
}
