//! A login that races with what ends all sessions, a thousand times each: whoever wins, no session
//! that rests on the old state is alive afterwards.

use std::thread;

use cloudchat::accounts::device;
use cloudchat::clock::Clock;
use cloudchat::config::{Config, Sources};
use cloudchat::model::{Credential, Identifier, Token};
use cloudchat::store::{Backend, NewSession, Stores};
use rusqlite::{Connection, params};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use crate::kit::{PASSWORD, Person, Provider, Server, pass, seconds};

const ROUNDS: usize = 1000;
const EMAIL: &str = "alice@b.c";
const HOUR_MS: i64 = 3_600_000;

/// A server with one user, and its files as another process on the same folder has them.
struct Site {
    server: Server,
    backend: Backend,
    stores: Stores,
    runtime: Runtime,
    accounts: Connection,
    sessions: Connection,
}

impl Site {
    fn start() -> Self {
        let server = Server::start(&Provider::friendly(), "");
        assert_eq!(Person::new(&server).register(EMAIL).status, 201);
        let data = server.data();
        let sources = Sources {
            data_dir: Some(&data),
            ..Sources::default()
        };
        let config = Config::load(sources).expect("the defaults are valid");
        let backend = Backend::start(&config.store, |_, _| ()).expect("the files are there");
        let open = |name: &str| {
            let file = Connection::open(data.join(name)).expect("it is the store's file");
            file.busy_timeout(crate::kit::PATIENCE)
                .expect("it can be set");
            file
        };
        Self {
            stores: backend.connect(),
            runtime: Builder::new_current_thread()
                .enable_time()
                .build()
                .expect("a runtime can be made"),
            accounts: open("accounts.db"),
            sessions: open("sessions.db"),
            server,
            backend,
        }
    }

    fn credential(&self) -> Credential {
        let identifier = Identifier::parse(EMAIL).expect("an address");
        let found = self.stores.accounts.credential(&identifier);
        let found = self.runtime.block_on(found).expect("the store answers");
        found.expect("she is registered")
    }

    /// As it was before the round: active, with this password, and no attempt counted.
    fn restore(&self, first: &Credential) {
        let hash = first.hash.as_ref().map(|hash| hash.as_str());
        let set = "UPDATE credentials SET password_hash = ?1";
        self.accounts.execute(set, params![hash]).expect("written");
        let set = "UPDATE users SET is_active = 1";
        self.accounts.execute(set, []).expect("written");
        let clear = "DELETE FROM windows; DELETE FROM sessions;";
        self.sessions.execute_batch(clear).expect("written");
    }

    /// What will end the sessions of this state of the account.
    fn ending(&self, kind: Kind, now: &Credential) -> Box<dyn FnOnce() + Send + '_> {
        let (accounts, sessions) = (self.stores.accounts.clone(), &self.stores.sessions);
        let now_ms = Clock::System.wall_ms();
        let mut person = Person::new(&self.server);
        let token = Token::new();
        let (line, body) = match kind {
            Kind::Disable => {
                let user = now.user;
                return Box::new(move || {
                    let runtime = Builder::new_current_thread().enable_time().build();
                    let runtime = runtime.expect("a runtime can be made");
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
                let made = self.runtime.block_on(sessions.create_session(session));
                made.expect("the store answers");
                // A known browser, which has a place of its own at the hasher.
                let device = device::issue(accounts.device_key(), now);
                person.cookies.insert("cc_dev".into(), device);
                person
                    .cookies
                    .insert("cc_auth".into(), token.as_str().into());
                let body = json!({"old_password": PASSWORD, "new_password": OTHER});
                ("/auth/password/change", body)
            }
            Kind::Reset => {
                let put = sessions.put_reset_token(now_ms, &token, now.user, HOUR_MS);
                self.runtime.block_on(put).expect("the store answers");
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
        let first = self.credential();
        let (mut length, mut let_in, mut kept_out) = (f64::MAX, 0, 0);
        for round in 0..ROUNDS {
            self.restore(&first);
            let ending = self.ending(kind, &self.credential());
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
                let took = seconds(|| status = browser.login(EMAIL, PASSWORD).status);
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
        self.backend.stop().expect("it ends well");
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
