//! What a login's time tells while half of the hashes are still the old service's: nothing.
//!
//! The old hashes take several times as long as ours. So each kind of user has two groups of answers,
//! quick and slow ones; between the kinds neither their share nor their medians may differ.

use crate::kit::{Beside, Person, Provider, Server, fails, seconds};
use crate::old_service::hash_of_user_1;
use crate::services::Services;

const ATTEMPTS: usize = 4;
/// Logins of each kind in one attempt; each identifier is used once.
const REQUESTS: usize = 120;
/// Somebody with a password, nobody, somebody who is switched off; and without a password: no row, or none in it.
const KINDS: [&str; 5] = ["known", "unknown", "off", "bare", "null"];
/// Kinds with a row of type `password` in which a hash stands.
const HASHED: [&str; 2] = ["known", "off"];

/// Share of slow answers, and the medians of the quick and of the slow ones.
fn summary(mut took: Vec<f64>) -> [f64; 3] {
    took.sort_by(f64::total_cmp);
    // The geometric mean of the extremes lies between the two groups.
    let between = (took[took.len() / 50] * took[took.len() - 1 - took.len() / 50]).sqrt();
    let slow = took.partition_point(|took| *took < between);
    let share = (took.len() - slow) as f64 / took.len() as f64;
    [share, took[slow / 2], took[(slow + took.len()) / 2]]
}

#[test]
fn old_and_new_hashes_do_not_tell_who_is_there() {
    let services = Services::start("postgres,redis");
    let pair = services.pair("POSTGRES", "REDIS");
    let server = Server::on(&pair, &Provider::friendly(), "");
    assert_eq!(Person::new(&server).register("alice@b.c").status, 201);
    let beside = Beside::new(&server);
    let new = beside.credential("alice@b.c").hash.expect("a password");
    for n in 0..ATTEMPTS * REQUESTS {
        for kind in KINDS.iter().filter(|kind| **kind != "unknown") {
            beside.add(&format!("{kind}{n}@b.c"), &new);
        }
    }
    let change = |sql: &str, rows: usize| assert_eq!(server.stores.execute(sql) as usize, rows);
    let whose =
        |email: &str| format!("user_id IN (SELECT id FROM users WHERE email SIMILAR TO '{email}')");
    let each = ATTEMPTS * REQUESTS;
    let old = hash_of_user_1();
    let halves = whose("(known|off)%[02468]@b.c");
    let halve = format!("UPDATE credentials SET secret_hash = '{old}' WHERE {halves}");
    change(&halve, HASHED.len() * each / 2);
    change(
        "UPDATE users SET is_active = FALSE WHERE email LIKE 'off%'",
        each,
    );
    let (bare, null) = (whose("bare%"), whose("null%"));
    change(&format!("DELETE FROM credentials WHERE {bare}"), each);
    let null = format!("UPDATE credentials SET secret_hash = NULL WHERE {null}");
    change(&null, each);
    let mut seen = Vec::new();
    let is_alike = (0..ATTEMPTS).any(|attempt| {
        let mut took = KINDS.map(|_| Vec::new());
        for n in 0..REQUESTS {
            for place in 0..KINDS.len() {
                let which = (n + place) % KINDS.len();
                let name = format!("{}{}@b.c", KINDS[which], attempt * REQUESTS + n);
                let mut person = Person::new(&server);
                took[which].push(seconds(|| {
                    fails(
                        &person.login(&name, "wrong one 1"),
                        401,
                        "Invalid credentials",
                    );
                }));
            }
        }
        let summaries = took.map(summary);
        seen.push(summaries);
        let spread = |part: usize| {
            let of = summaries.map(|summary| summary[part]);
            let (least, most) = (
                of.iter().copied().fold(f64::MAX, f64::min),
                of.iter().copied().fold(0.0, f64::max),
            );
            (most - least, least)
        };
        // Of those with a hash just half are slow. The three other kinds get a cost by lot, so each is held against
        // that half and not against another lot: of 120 draws, 60 give or take three deviations of 5.5 each. One
        // attempt in 136 fails by chance (the largest and the least of all would be farther apart in one of 12).
        let is_half = |[share, _, _]: &[f64; 3]| (share - 0.5).abs() < 0.14;
        let medians = [spread(1), spread(2)];
        summaries.iter().all(is_half) && medians.iter().all(|(apart, least)| *apart < 0.05 * least)
    });
    assert!(
        is_alike,
        "share of slow ones, quick and slow medians, of {KINDS:?}: {seen:?}"
    );
}
