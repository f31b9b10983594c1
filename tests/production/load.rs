//! Requests of every kind, again and again, and what became of each.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Scope;

use cloudchat::clock;
use serde_json::json;
use tokio::time::Instant;

use crate::kit::{Beside, Browser, PASSWORD, Person, Reply, Server, pass, seconds};

/// Users who log in; so many that none meets the limit on successful logins.
const USERS: usize = 60;
/// Between two requests of one kind, seconds.
const PAUSE: f64 = 0.05;

/// An answer.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The kind of request.
    pub kind: &'static str,
    /// When it was sent, seconds after the load began.
    pub at: f64,
    /// How long it took.
    pub took: f64,
    pub status: u16,
    pub body: String,
    pub retry_after: bool,
}

/// Everything that was answered.
pub struct Load<'a> {
    server: &'a Server,
    /// Part of every email, so that a server can bear several loads.
    name: &'a str,
    start: Instant,
    ended: AtomicBool,
    seen: Mutex<Vec<Seen>>,
    /// Emails whose registration was answered with 201.
    pub registered: Mutex<Vec<String>>,
    /// Session cookies whose logout was answered with 200.
    pub revoked: Mutex<Vec<String>>,
    registrations: AtomicUsize,
}

impl<'a> Load<'a> {
    /// Makes the users.
    pub fn prepare(server: &'a Server, name: &'a str) -> Self {
        let load = Self {
            server,
            name,
            start: clock::now(),
            ended: AtomicBool::new(false),
            seen: Mutex::default(),
            registered: Mutex::default(),
            revoked: Mutex::default(),
            registrations: AtomicUsize::new(0),
        };
        let first = load.user(0);
        assert_eq!(Person::new(server).register(&first).status, 201);
        let beside = Beside::new(server);
        let hash = beside.credential(&first).hash.expect("a password");
        for n in 1..USERS {
            beside.add(&load.user(n), &hash);
        }
        load
    }

    fn user(&self, n: usize) -> String {
        format!("{}{}@b.c", self.name, n % USERS)
    }

    /// Seconds since the load began.
    pub fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Starts one thread for each kind of request.
    pub fn run<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let mut anonymous = Browser::new(self.server);
        self.repeat(scope, "chat", move |_| anonymous.ask("Hi"));
        let mut alice = Person::new(self.server);
        assert_eq!(alice.login(&self.user(0), PASSWORD).status, 200);
        self.repeat(scope, "me", move |_| alice.get("/auth/me"));
        let mut nobody = Person::new(self.server);
        self.repeat(scope, "me without a cookie", move |_| {
            nobody.get("/auth/me")
        });
        let server = self.server;
        self.repeat(scope, "healthz", |_| server.get("/auth/healthz"));
        self.repeat(scope, "test", |_| server.get("/test"));
        self.repeat(scope, "register", move |load| {
            let n = load.registrations.fetch_add(1, Ordering::Relaxed);
            let email = format!("new-{}{n}@b.c", load.name);
            let reply = Person::new(server).register(&email);
            if reply.status == 201 {
                load.registered.lock().expect("nobody panics").push(email);
            }
            reply
        });
        let mut n = 0;
        self.repeat(scope, "forgot", move |load| {
            n += 1;
            let body = json!({"identifier": load.user(n)});
            Person::new(server).post("/auth/password/forgot", &body)
        });
        let mut logins = 1;
        self.repeat(scope, "login", move |load| {
            logins += 1;
            let mut person = Person::new(server);
            let reply = person.login(&load.user(logins), PASSWORD);
            if reply.status == 200 {
                load.log_out(&mut person);
            }
            reply
        });
    }

    /// Ends a session, and remembers that it has ended if the server says so.
    fn log_out(&self, person: &mut Person<'_>) {
        let cookie = person.cookies["cc_auth"].clone();
        let at = self.now();
        let mut reply = None;
        let took = seconds(|| reply = Some(person.send("POST /auth/logout", None)));
        let reply = reply.expect("it was answered");
        if reply.status == 200 {
            self.revoked.lock().expect("nobody panics").push(cookie);
        }
        self.note("logout", at, took, &reply);
    }

    fn repeat<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        kind: &'static str,
        mut request: impl FnMut(&Self) -> Reply + Send + 'scope,
    ) {
        scope.spawn(move || {
            while !self.ended.load(Ordering::Relaxed) {
                let at = self.now();
                let mut reply = None;
                let took = seconds(|| reply = Some(request(self)));
                self.note(kind, at, took, &reply.expect("it was answered"));
                pass(PAUSE);
            }
        });
    }

    fn note(&self, kind: &'static str, at: f64, took: f64, reply: &Reply) {
        let seen = Seen {
            kind,
            at,
            took,
            status: reply.status,
            body: reply.body.clone(),
            retry_after: reply.get("retry-after").is_some(),
        };
        self.seen.lock().expect("nobody panics").push(seen);
    }

    /// No further requests are sent.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Everything so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("nobody panics").clone()
    }

    /// What was promised holds: who was told 201 can log in, who has logged out stays out.
    pub fn keeps_its_promises(&self) {
        let beside = Beside::new(self.server);
        let registered = self.registered.lock().expect("nobody panics");
        assert!(!registered.is_empty(), "some registrations succeeded");
        for email in registered.iter() {
            assert!(beside.credential(email).is_active, "{email}");
        }
        let revoked = self.revoked.lock().expect("nobody panics");
        assert!(!revoked.is_empty(), "some logouts succeeded");
        for cookie in revoked.iter() {
            let mut person = Person::new(self.server);
            person.cookies.insert("cc_auth".into(), cookie.clone());
            assert_eq!(person.me(), 401, "a session that was ended came back");
        }
    }
}
