//! A store is killed, or stopped so that it hangs, for ten seconds under load: the contract's answers,
//! nothing slow, nothing lost, and all of it comes back by itself.

use std::thread;

use serde_json::Value;

use crate::kit::stores::{connect, runtime};
use crate::kit::{Person, Provider, Server, pass, seconds};
use crate::load::{Load, Seen};
use crate::services::Services;

/// How long a store is away, seconds.
const AWAY: f64 = 10.0;
/// An answer takes no longer than this, whatever is down.
const ANSWER_MAX: f64 = 3.0;
/// So long after its return everything works.
const RECOVERY: f64 = 2.0;
/// Requests sent this long before the outage may see it, and this long into it may still have been
/// served by a connection that was open.
const EDGE: f64 = 0.5;

/// Which of the two stores is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    Sessions,
    Accounts,
}

/// What the contract's table says of a kind of request while a store is away.
fn expected(kind: &str, away: Store) -> u16 {
    match (kind, away) {
        ("test", _) => 200,
        ("me without a cookie", _) => 401,
        ("chat" | "logout", Store::Accounts) => 200,
        _ => 503,
    }
}

/// What it is answered with when all is well.
fn normal(kind: &str) -> u16 {
    match kind {
        "me without a cookie" => 401,
        "register" => 201,
        _ => 200,
    }
}

fn looks_right(seen: &Seen, away: Store) {
    assert!(seen.took < ANSWER_MAX, "too slow: {seen:?}");
    if seen.kind == "healthz" {
        assert!(seen.took <= 1.0 + 0.2, "too slow: {seen:?}");
    }
    if seen.status == 503 {
        assert_eq!(expected(seen.kind, away), 503, "{seen:?}");
        let body: Value = serde_json::from_str(&seen.body).expect("it is JSON");
        if seen.kind == "healthz" {
            let parts = (body["redis"] == true, body["db"] == true);
            let well = (away == Store::Accounts, away == Store::Sessions);
            assert_eq!(parts, well, "{seen:?}");
        } else {
            assert_eq!(body["error"], "Service unavailable", "{seen:?}");
            assert!(seen.retry_after, "{seen:?}");
        }
    } else {
        assert_eq!(seen.status, normal(seen.kind), "{seen:?}");
    }
}

/// Takes a server away in both ways, one after the other.
fn survives(victim: &str, away: Store) {
    let mut services = Services::start("postgres,pgbouncer,redis");
    // What Redis has answered it keeps: `everysec`, the usual setting, writes up to two seconds late when
    // the disk is busy (redis.conf), and what was not written dies with the process.
    assert_eq!(
        services.redis(&["CONFIG", "SET", "appendfsync", "always"]),
        "OK"
    );
    let pair = services.pair("PGBOUNCER", "REDIS");
    let friendly = Provider::friendly();
    let server = Server::on(&pair, &friendly, "server.workers = 2");
    // A second server on the same stores holds the streams that run all the time.
    let played = Provider::played();
    let streaming = server.second(&played, "chat.streams_per_client_max = 20");
    for (take, give) in [("kill", "start"), ("stop", "continue")] {
        let load = Load::prepare(&server, take);
        thread::scope(|scope| {
            load.run(scope);
            let mut streams: Vec<_> = (0..4)
                .map(|_| {
                    let mut conn = streaming.connect();
                    conn.ask("Hi", &[]);
                    let mut call = played.call();
                    call.accept().text("a");
                    assert_eq!(conn.head().status, 200);
                    assert_eq!(conn.line().as_deref(), Some("{\"text\":\"a\"}"));
                    (conn, call)
                })
                .collect();
            pass(2.0);
            let down = load.now();
            services.tell(take, victim);
            let mut last_during = None;
            for n in 0..(AWAY * 10.0) as usize {
                for (conn, call) in &mut streams {
                    call.text("b");
                    assert_eq!(conn.line().as_deref(), Some("{\"text\":\"b\"}"));
                }
                if n == 50 {
                    let (mut conn, call) = streams.pop().expect("there are four");
                    call.finish("stop");
                    last_during = Some(conn.rest());
                }
                pass(0.1);
            }
            let given = load.now();
            services.tell(give, victim);
            let up = load.now();
            let saved = if away == Store::Sessions {
                ",\"saved\":false"
            } else {
                ""
            };
            let last = format!("{{\"done\":\"stop\"{saved}}}\n");
            assert_eq!(last_during, Some((last, true)));
            pass(RECOVERY + 3.0);
            for (mut conn, call) in streams {
                call.finish("stop");
                assert_eq!(conn.rest(), ("{\"done\":\"stop\"}\n".to_owned(), true));
            }
            load.end();
            check(&load.seen(), (down, given, up), away, take);
        });
        load.keeps_its_promises();
    }
}

/// All answers, by when their requests were sent.
fn check(seen: &[Seen], (down, given, up): (f64, f64, f64), away: Store, how: &str) {
    for answer in seen {
        looks_right(answer, away);
        let end = answer.at + answer.took;
        let is_undisturbed = end < down || answer.at > up + RECOVERY;
        let is_in_the_middle = answer.at > down + EDGE && end < given;
        let expect = match (is_undisturbed, is_in_the_middle) {
            (true, _) => normal(answer.kind),
            (_, true) => expected(answer.kind, away),
            _ => continue,
        };
        assert_eq!(
            answer.status, expect,
            "{how}, away {down} to {up}: {answer:?}"
        );
    }
    for kind in [
        "chat", "me", "register", "login", "forgot", "healthz", "test",
    ] {
        let count = |from: f64, to: f64| {
            let mine = seen.iter().filter(|seen| seen.kind == kind);
            mine.filter(|seen| (from..to).contains(&seen.at)).count()
        };
        let (before, during, after) = (count(0.0, down), count(down, up), count(up, f64::MAX));
        assert!(
            before > 2 && during > 2 && after > 2,
            "{how}: {kind} was asked {before}, {during} and {after} times"
        );
    }
}

/// A look at the health that got no answer in time leaves no connection behind that others wait for.
#[test]
fn a_connection_whose_answer_came_too_late_is_not_used_again() {
    let services = Services::start("postgres,redis");
    let pair = services.pair("POSTGRES", "REDIS");
    let settings = "server.workers = 1\ndatabase.pool_size = 1";
    let server = Server::on(&pair, &Provider::friendly(), settings);
    let mut alice = Person::logged_in(&server, "alice@b.c");
    let (_, name) = server
        .stores
        .settings
        .split_once("/test_")
        .expect("its database");
    let (name, _) = name.split_once('"').expect("it ends");
    let admin = services.address("POSTGRES_ADMIN");
    let locker = connect(&format!("{admin}/test_{name}"));
    let lock = "BEGIN; LOCK TABLE secrets";
    let locked = runtime().block_on(locker.batch_execute(lock));
    locked.expect("the administrator may");
    assert_eq!(server.get("/auth/healthz").json()["db"], false);
    let took = seconds(|| assert_eq!(alice.me(), 200));
    assert!(took < 1.0, "{took} s");
}

#[test]
fn redis_is_killed_and_stopped() {
    survives("redis", Store::Sessions);
}

#[test]
fn postgresql_is_killed_and_stopped() {
    survives("postgres", Store::Accounts);
}

#[test]
fn pgbouncer_is_killed_and_stopped() {
    survives("pgbouncer", Store::Accounts);
}
