//! What an answer's time tells: nothing about whether there is such a user.
//!
//! Medians of interleaved requests; what else runs here disturbs single attempts, so there are
//! several, while a difference that is really there shows in each.

use rusqlite::Connection;
use serde_json::json;

use crate::kit::{PASSWORD, Person, Provider, Server, fails, seconds};

const ATTEMPTS: usize = 6;
/// Requests of each kind in one attempt.
const REQUESTS: usize = 200;

struct Site {
    server: Server,
    sessions: Connection,
}

impl Site {
    /// Alice is there, Off is switched off, nobody else is there.
    fn start() -> Self {
        let server = Server::start(&Provider::friendly(), "");
        for email in ["alice@b.c", "off@b.c"] {
            assert_eq!(Person::new(&server).register(email).status, 201);
        }
        let open = |name: &str| {
            let path = server.data().join(name);
            let file = Connection::open(path).expect("it is the store's file");
            file.busy_timeout(crate::kit::PATIENCE)
                .expect("it can be set");
            file
        };
        let off = "UPDATE users SET is_active = 0 WHERE email = 'off@b.c'";
        let set = open("accounts.db").execute(off, []);
        assert_eq!(set.expect("it can be written"), 1);
        let sessions = open("sessions.db");
        Self { server, sessions }
    }

    /// No attempt has been counted.
    fn forget(&self) {
        let clear = self.sessions.execute("DELETE FROM windows", []);
        clear.expect("it can be written");
    }

    fn login(&self, identifier: &str) -> f64 {
        let mut person = Person::new(&self.server);
        seconds(|| {
            let reply = person.login(identifier, "wrong one 1");
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

    /// The medians of so many requests for each of these identifiers, one after the other in turn.
    fn medians<const N: usize>(
        &self,
        identifiers: [&str; N],
        request: impl Fn(&str) -> f64,
    ) -> [f64; N] {
        let mut took = [(); N].map(|()| Vec::with_capacity(REQUESTS));
        for n in 0..REQUESTS {
            if n % 4 == 0 {
                self.forget();
            }
            // Each of them comes first as often as the others.
            for place in 0..N {
                let which = (n + place) % N;
                took[which].push(request(identifiers[which]));
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
    let names = ["alice@b.c", "nobody@b.c", "off@b.c"];
    let attempts = (0..ATTEMPTS).map(|_| site.medians(names, |name| site.login(name)));
    let mut seen = Vec::new();
    let found = attempts
        .inspect(|medians| seen.push(*medians))
        .find(|medians| are_alike(medians, 0.05, 0.0));
    let hashed = found.unwrap_or_else(|| panic!("known, unknown, inactive: {seen:?}"))[0];
    // Over the limit nothing is hashed, so it is known at once.
    for _ in 0..10 {
        site.login("alice@b.c");
    }
    let refused = median((0..50).map(|_| site.login("alice@b.c")).collect());
    assert!(refused < hashed / 4.0, "{refused} s, hashed {hashed} s");
    site.forget();
    let mut owner = Person::new(&site.server);
    assert_eq!(owner.login("alice@b.c", PASSWORD).status, 200);
}

#[test]
fn asking_for_a_link_takes_as_long_for_whoever_it_is() {
    let site = Site::start();
    let names = ["alice@b.c", "nobody@b.c"];
    let mut seen = Vec::new();
    let is_alike = (0..ATTEMPTS)
        .map(|_| site.medians(names, |name| site.ask_for_a_link(name)))
        .inspect(|medians| seen.push(*medians))
        .any(|medians| are_alike(&medians, 0.05, 0.000_2));
    assert!(is_alike, "known, unknown: {seen:?}");
}
