//! A node that holds keys is killed under load: its replica takes over, and chats and logins go on. What
//! fails meanwhile is answered with 503, for seconds that are bounded.

use std::thread;

use crate::kit::{Provider, Server, pass};
use crate::load::Load;
use crate::services::Services;

/// From the death of a node to the last failure: the time after which the others count it as dead
/// (1 to 2 s in these tests) and elect its replica, and the contract's 2 s.
const FAILOVER_MAX: f64 = 8.0;
const ANSWER_MAX: f64 = 3.0;

fn survives(services: &str, sessions: &str, victim: &str) {
    let mut services = Services::start(services);
    let pair = services.pair("POSTGRES", sessions);
    let friendly = Provider::friendly();
    let server = Server::on(&pair, &friendly, "server.workers = 2");
    let load = Load::prepare(&server, "failover");
    let killed = thread::scope(|scope| {
        load.run(scope);
        pass(2.0);
        let killed = load.now();
        services.tell("kill", victim);
        pass(FAILOVER_MAX + 4.0);
        load.end();
        killed
    });
    let seen = load.seen();
    let (mut failed, mut last, mut after) = (0, killed, 0);
    for answer in &seen {
        assert!(answer.took < ANSWER_MAX, "too slow: {answer:?}");
        let end = answer.at + answer.took;
        if answer.status == 503 {
            assert!(end > killed && answer.kind != "test", "{answer:?}");
            failed += 1;
            last = end.max(last);
        } else {
            let is_well = matches!(answer.status, 200 | 201)
                || (answer.kind == "me without a cookie" && answer.status == 401)
                // Replication is asynchronous: what the dead node had not passed on is gone.
                || (answer.kind == "me" && answer.status == 401 && end > killed);
            assert!(is_well, "{answer:?}");
            after += usize::from(answer.at > last);
        }
    }
    let took = last - killed;
    println!(
        "{victim}: {failed} of {} requests failed, the last after {took:.1} s",
        seen.len()
    );
    assert!(
        took < FAILOVER_MAX,
        "failures for {took} s, {failed} of {}",
        seen.len()
    );
    assert!(after > 50, "it goes on");
}

#[test]
fn one_node_of_the_cluster_is_killed() {
    survives(
        "postgres,cluster-with-replicas",
        "REDIS_CLUSTER",
        "cluster-1",
    );
}

#[test]
fn the_master_that_the_sentinels_watch_is_killed() {
    survives("postgres,sentinel", "REDIS_SENTINEL", "sentinel-master");
}
