//! Beside the service that CloudChat replaces, on the same PostgreSQL and Redis: what one of them writes works in the
//! other, at once. The other is tests/old_service, on its own tables with its own data.

mod both_ways;
mod down_again;
mod forms;
mod odd_rows;
mod redis_keys;
mod resets;

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::kit::stores::{Accounts, Database, Pair, Stores, migrate};
use crate::kit::{Person, Provider, Server};
use crate::old_service::{self, Service};
use crate::services::Services;

/// How the hashes of either begin.
pub const THEIRS: &str = "$argon2id$v=19$m=65536,t=3,p=4$";
pub const OURS: &str = "$argon2id$v=19$m=19456,t=2,p=1$";
/// A password that nobody has at first.
const OTHER: &str = "battery staple 2";
/// Ordinary users that are there before CloudChat is.
const USERS: usize = 50;

/// Each story on every way to the database: straight, and by a new or an old PgBouncer.
macro_rules! on_every_way {
    ($($story:ident),*) => {
        mod direct {
            $(#[test] fn $story() { super::$story(crate::moving::Moving::start("POSTGRES")); })*
        }
        mod pgbouncer {
            $(#[test] fn $story() { super::$story(crate::moving::Moving::start("PGBOUNCER")); })*
        }
        mod pgbouncer_old {
            $(#[test] fn $story() { super::$story(crate::moving::Moving::start("PGBOUNCER_OLD")); })*
        }
    };
}
use on_every_way;

/// PostgreSQL and its poolers for all stories: none of them harms it.
fn shared() -> &'static Services {
    static SHARED: OnceLock<Services> = OnceLock::new();
    SHARED.get_or_init(|| Services::start("postgres,pgbouncer,pgbouncer-old"))
}

/// A server of ours and the old service, on a database that was the latter's alone.
pub struct Moving {
    server: Server,
    old: Service,
    tables: Tables<'static>,
    /// A Redis that is theirs alone.
    redis: Services,
}

/// Their database.
pub struct Tables<'a> {
    services: &'a Services,
    /// The end of the variable's name that says by which way both go there.
    way: &'static str,
    name: String,
    /// By that way.
    pub url: String,
}

/// A row of type `password`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PasswordRow {
    id: i64,
    hash: String,
    /// When the person chose the password, as far as we know.
    changed_ms: i64,
}

impl Moving {
    /// By that way to PostgreSQL.
    fn start(way: &'static str) -> Self {
        let redis = Services::start("redis");
        let tables = Tables::populated(shared(), way, USERS);
        migrate(&tables.url);
        let server = tables.serve(&redis);
        let old = Service::start(&tables.url, redis.address("REDIS"), &["serve"]);
        Self {
            server,
            old,
            tables,
            redis,
        }
    }
}

impl<'a> Tables<'a> {
    /// The old service's, with so many ordinary users and all odd ones.
    pub fn populated(services: &'a Services, way: &'static str, users: usize) -> Self {
        let name = services.database();
        let direct = format!("{}/{name}", services.address("POSTGRES"));
        old_service::populate(services.address("PSQL"), &direct, users);
        let url = format!("{}/{name}", services.address(way));
        Self {
            services,
            way,
            name,
            url,
        }
    }

    /// A server of ours on them, with sessions in this Redis; they go with it.
    pub fn serve(&self, redis: &Services) -> Server {
        let direct = self.services.address("POSTGRES");
        let pair = Pair {
            accounts: Some(Accounts::new(self.services.address(self.way), direct)),
            sessions: Some(redis.address("REDIS").to_owned()),
            is_shared: false,
        };
        let database = Database {
            name: self.name.clone(),
            direct: direct.to_owned(),
        };
        let stores = Stores::of(&pair, Some(database));
        Server::over(stores, &Provider::friendly(), "")
    }

    /// What SQL finds, a line for each row.
    pub fn sql(&self, sql: &str) -> String {
        self.services.psql("POSTGRES", &self.name, sql)
    }

    /// The row of type `password` that this user has.
    #[track_caller]
    fn password(&self, email: &str) -> PasswordRow {
        let email = email.replace('\'', "''");
        let sql = format!(
            "SELECT credentials.id, coalesce(secret_hash, ''), changed_ms FROM credentials JOIN users ON users.id = user_id
             WHERE type = 'password' AND email = '{email}'"
        );
        let found = self.sql(&sql);
        let [id, hash, changed_ms] = found.split('|').collect::<Vec<_>>()[..] else {
            panic!("{email} has one row: {found:?}");
        };
        let number = |text: &str| text.parse().expect("it is a number");
        PasswordRow {
            id: number(id),
            hash: hash.to_owned(),
            changed_ms: number(changed_ms),
        }
    }
}

impl PasswordRow {
    /// The same row with the same password, whose hash begins like this now.
    #[track_caller]
    fn is_rehashed(&self, from: &Self, begin: &str) {
        assert!(self.hash.starts_with(begin), "{begin}: {self:?}");
        assert_eq!(
            (self.id, self.changed_ms),
            (from.id, from.changed_ms),
            "the same password in the same row"
        );
    }
}

/// What the old service is asked to do.
impl Service {
    fn register(&mut self, email: &str, password: &str) {
        self.done(&json!({"do": "register", "email": email, "password": password}));
    }

    /// Its session, and whether it has made another hash.
    #[track_caller]
    pub fn login(&mut self, identifier: &str, password: &str) -> (String, bool) {
        let asked = json!({"do": "login", "identifier": identifier, "password": password});
        let answer = self.done(&asked);
        (text(&answer["sid"]), answer["rehashed"] == true)
    }

    /// The user, as its `/auth/me` shows it.
    #[track_caller]
    fn me(&mut self, sid: &str) -> Value {
        self.done(&json!({"do": "me", "sid": sid}))["user"].clone()
    }

    /// The token that it mails.
    #[track_caller]
    fn forgot(&mut self, identifier: &str) -> String {
        text(&self.done(&json!({"do": "forgot", "identifier": identifier}))["token"])
    }

    /// How many sessions it has ended.
    #[track_caller]
    fn reset(&mut self, token: &str, password: &str) -> u64 {
        let answer = self.done(&json!({"do": "reset", "token": token, "password": password}));
        answer["revoked_sessions"].as_u64().expect("a number")
    }

    /// It answers with this error.
    #[track_caller]
    fn refuses(&mut self, operation: &Value, error: &str) {
        let answer = self.ask(operation);
        assert_eq!(
            (&answer["ok"], &answer["error"]),
            (&json!(false), &json!(error)),
            "{operation}"
        );
    }

    #[track_caller]
    fn refuses_login(&mut self, identifier: &str, password: &str, why: &str) {
        let asked = json!({"do": "login", "identifier": identifier, "password": password});
        self.refuses(&asked, &format!("Invalid credentials: {why}"));
    }

    #[track_caller]
    fn refuses_session(&mut self, sid: &str) {
        self.refuses(&json!({"do": "me", "sid": sid}), "Unauthorized");
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("it is a text").to_owned()
}

/// Somebody with this session.
fn with_session<'a>(server: &'a Server, sid: &str) -> Person<'a> {
    let mut person = Person::new(server);
    person.cookies.insert("cc_auth".into(), sid.to_owned());
    person
}

/// Somebody who has logged in here.
#[track_caller]
fn logged_in<'a>(server: &'a Server, identifier: &str, password: &str) -> Person<'a> {
    let mut person = Person::new(server);
    let reply = person.login(identifier, password);
    assert_eq!(reply.status, 200, "{identifier}: {}", reply.body);
    person
}

/// Somebody fails to log in here.
#[track_caller]
fn refused(server: &Server, identifier: &str, password: &str) {
    let reply = Person::new(server).login(identifier, password);
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (401, r#"{"ok":false,"error":"Invalid credentials"}"#),
        "{identifier}"
    );
}

/// The user, as our `/auth/me` shows it.
#[track_caller]
fn me(person: &mut Person<'_>) -> Value {
    let reply = person.get("/auth/me");
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()["user"].clone()
}

/// Replaces a password here, by a token of either.
#[track_caller]
fn reset(server: &Server, token: &str, password: &str) -> u64 {
    let body = json!({"token": token, "password": password});
    let reply = Person::new(server).post("/auth/password/reset", &body);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let revoked = reply.json()["revoked_sessions"].as_u64();
    revoked.expect("a number")
}
