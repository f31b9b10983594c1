//! What an answer's time tells: nothing about whether there is such a user.
//!
//! Medians of interleaved requests; what else runs here disturbs single attempts, so there are
//! several, while a difference that is really there shows in each.

use std::cell::Cell;

use cloudchat::model::PasswordHash;
use serde_json::json;

use crate::kit::{Beside, Person, Provider, Server, fails, seconds};

const ATTEMPTS: usize = 6;
/// Requests of each kind in one attempt.
const REQUESTS: usize = 200;
/// Users of each kind: so many that none comes near a limit on what may be tried.
const USERS: usize = 300;

struct Site {
    server: Server,
    /// Requests of each kind so far.
    requests: Cell<usize>,
}

impl Site {
    /// Those called `known` are there, those called `old` with a password as it was typed, those called `off` are
    /// switched off, `bare` have no password, and `null`
    /// a row without a hash; nobody else is there.
    fn start() -> Self {
        let server = Server::start(&Provider::friendly(), "");
        assert_eq!(Person::new(&server).register("alice@b.c").status, 201);
        let beside = Beside::new(&server);
        let hash = beside.credential("alice@b.c").hash;
        let hash = hash.expect("she has a password");
        let as_typed = PasswordHash::new(hash.as_str().to_owned());
        for n in 0..USERS {
            beside.add(&format!("known{n}@b.c"), &hash);
            beside.add(&format!("old{n}@b.c"), &as_typed);
            beside.add(&format!("off{n}@b.c"), &hash);
            beside.disable(&format!("off{n}@b.c"));
            beside.add(&format!("bare{n}@b.c"), &hash);
            beside.add(&format!("null{n}@b.c"), &hash);
        }
        let of = |name: &str| format!("(SELECT id FROM users WHERE email LIKE '{name}%')");
        for (change, name) in [
            ("DELETE FROM credentials", "bare"),
            ("UPDATE credentials SET secret_hash = NULL", "null"),
        ] {
            let sql = format!("{change} WHERE user_id IN {}", of(name));
            assert_eq!(server.stores.execute(&sql) as usize, USERS);
        }
        Self {
            server,
            requests: Cell::new(0),
        }
    }

    fn login(&self, identifier: &str) -> f64 {
        let mut person = Person::new(&self.server);
        seconds(|| {
            let reply = person.login(identifier, "wro\u{308}ng one 1");
            fails(&reply, 401, "Invalid credentials");
        })
    }

    fn ask_for_a_link(&self, identifier: &str) -> f64 {
        let mut person = Person::new(&self.server);
        let body = json!({"identifier": identifier});
        seconds(|| {
            let reply = person.post("/auth/password/forgot", &body);
            assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"ok":true}"#));
        })
    }

    /// The medians of so many requests for users of each of these names, one after the other in turn.
    fn medians<const N: usize>(&self, names: [&str; N], request: impl Fn(&str) -> f64) -> [f64; N] {
        let mut took = [(); N].map(|()| Vec::with_capacity(REQUESTS));
        for _ in 0..REQUESTS {
            let n = self.requests.replace(self.requests.get() + 1);
            // Each of them comes first as often as the others.
            for place in 0..N {
                let which = (n + place) % N;
                let identifier = format!("{}{}@b.c", names[which], n % USERS);
                took[which].push(request(&identifier));
            }
        }
        took.map(median)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Whether these differ by less than that share of the least, or by less than that many seconds.
fn are_alike(medians: &[f64], share: f64, apart: f64) -> bool {
    let least = medians.iter().copied().fold(f64::MAX, f64::min);
    let most = medians.iter().copied().fold(0.0, f64::max);
    most - least < (least * share).max(apart)
}

#[test]
fn a_login_takes_as_long_for_whoever_it_is() {
    let site = Site::start();
    let names = ["known", "old", "unknown", "off", "bare", "null"];
    let attempts = (0..ATTEMPTS).map(|_| site.medians(names, |name| site.login(name)));
    let mut seen = Vec::new();
    let found = attempts
        .inspect(|medians| seen.push(*medians))
        .find(|medians| are_alike(medians, 0.05, 0.0));
    let hashed = found.unwrap_or_else(|| panic!("{names:?}: {seen:?}"))[0];
    // Over the limit nothing is hashed, so it is known at once.
    for _ in 0..10 {
        site.login("alice@b.c");
    }
    let refused = median((0..50).map(|_| site.login("alice@b.c")).collect());
    assert!(refused < hashed / 4.0, "{refused} s, hashed {hashed} s");
}

#[test]
fn asking_for_a_link_takes_as_long_for_whoever_it_is() {
    let site = Site::start();
    let names = ["known", "unknown"];
    let mut seen = Vec::new();
    let is_alike = (0..ATTEMPTS)
        .map(|_| site.medians(names, |name| site.ask_for_a_link(name)))
        .inspect(|medians| seen.push(*medians))
        .any(|medians| are_alike(&medians, 0.05, 0.000_2));
    assert!(is_alike, "known, unknown: {seen:?}");
}
