//! A login that races with what ends all sessions, a thousand times each: whoever wins, no session
//! that rests on the old state is alive afterwards.

use std::thread;

use cloudchat::accounts::device;
use cloudchat::clock::Clock;
use cloudchat::model::{Credential, Token};
use cloudchat::store::NewSession;
use serde_json::json;

use crate::kit::{Beside, PASSWORD, Person, Provider, Server, pass, seconds};

const ROUNDS: usize = 1000;
const HOUR_MS: i64 = 3_600_000;

/// A server, and its stores as another process has them.
struct Site {
    beside: Beside,
    server: Server,
}

/// Each round has a user of its own, so that no attempt counts against another round.
fn email(round: usize) -> String {
    format!("{round}@b.c")
}

impl Site {
    /// All users have the same password.
    fn start() -> Self {
        let server = Server::start(&Provider::friendly(), "");
        let first = Person::new(&server).register(&email(0));
        assert_eq!(first.status, 201);
        let beside = Beside::new(&server);
        let hash = beside
            .credential(&email(0))
            .hash
            .expect("it has a password");
        for round in 1..ROUNDS {
            beside.add(&email(round), &hash);
        }
        Self { beside, server }
    }

    /// What will end the sessions of this user.
    fn ending(&self, kind: Kind, now: &Credential) -> Box<dyn FnOnce() + Send + '_> {
        let stores = &self.beside.stores;
        let now_ms = Clock::System.wall_ms();
        let mut person = Person::new(&self.server);
        let token = Token::new();
        let (line, body) = match kind {
            Kind::Disable => {
                let (accounts, user) = (stores.accounts.clone(), now.user);
                let runtime = self.beside.runtime().clone();
                return Box::new(move || {
                    let off = runtime.block_on(accounts.set_active(now_ms, user, false));
                    assert_eq!(off, Ok(true));
                });
            }
            Kind::Change => {
                let session = NewSession {
                    token: token.clone(),
                    user: now.user,
                    start_ms: now.session_start_ms(now_ms),
                    ttl_ms: HOUR_MS,
                    address: String::new(),
                    user_agent: String::new(),
                    replaces: None,
                };
                self.beside.wait(stores.sessions.create_session(session));
                // A known browser, which has a place of its own at the hasher.
                let device = device::issue(stores.accounts.device_key(), now);
                person.cookies.insert("cc_dev".into(), device);
                person
                    .cookies
                    .insert("cc_auth".into(), token.as_str().into());
                let body = json!({"old_password": PASSWORD, "new_password": OTHER});
                ("/auth/password/change", body)
            }
            Kind::Reset => {
                let put = stores
                    .sessions
                    .put_reset_token(now_ms, &token, now.user, HOUR_MS / 4);
                self.beside.wait(put);
                let body = json!({"token": token.as_str(), "password": OTHER});
                ("/auth/password/reset", body)
            }
        };
        Box::new(move || {
            let reply = person.post(line, &body);
            assert_eq!(reply.status, 200, "{line}: {}", reply.body);
        })
    }

    /// Lets it race with a login under the old password: in some rounds the login begins so many
    /// times its own length after it, in others so many before it.
    fn race(self, kind: Kind, (after, before): (f64, f64)) {
        let (mut length, mut let_in, mut kept_out) = (f64::MAX, 0, 0);
        for round in 0..ROUNDS {
            let email = email(round);
            let ending = self.ending(kind, &self.beside.credential(&email));
            let phase = (round % 97) as f64 / 97.0 * (after + before) - after;
            let wait = length.min(0.1) * phase;
            let mut browser = Person::new(&self.server);
            let (status, took) = thread::scope(|scope| {
                let ends = scope.spawn(move || {
                    pass(wait.max(0.0));
                    ending();
                });
                pass((-wait).max(0.0));
                let mut status = 0;
                let took = seconds(|| status = browser.login(&email, PASSWORD).status);
                ends.join().expect("it ends the sessions");
                (status, took)
            });
            match status {
                200 => let_in += 1,
                401 => kept_out += 1,
                other => panic!("{kind:?} {round}: {other}"),
            }
            length = if status == 200 {
                length.min(took)
            } else {
                length
            };
            assert_eq!(browser.me(), 401, "{kind:?} {round} after {status}");
        }
        assert!(let_in > 0 && kept_out > 0, "{kind:?}: {let_in}, {kept_out}");
    }
}

/// What ends all sessions.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Disable,
    Change,
    Reset,
}

const OTHER: &str = "battery staple 2";

#[test]
fn no_login_outlives_a_disable_that_it_races_with() {
    Site::start().race(Kind::Disable, (0.1, 1.2));
}

#[test]
fn no_login_outlives_a_password_change_that_it_races_with() {
    Site::start().race(Kind::Change, (2.2, 1.2));
}

#[test]
fn no_login_outlives_a_reset_that_it_races_with() {
    Site::start().race(Kind::Reset, (1.2, 1.2));
}
