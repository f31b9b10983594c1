//! The name of a store leads to another server by now, while the old one lives and goes on answering: what
//! writes works again within seconds, and what reads does so all the time.
//!
//! Needs root: names are those of an `/etc/hosts` of the test's own.

use std::fs;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::json;
use tempfile::NamedTempFile;

use crate::kit::stores::{Accounts, Pair};
use crate::kit::{PASSWORD, Person, Provider, Server, seconds, until};
use crate::services::Services;

const NAME: &str = "store.test";
const OLD: &str = "127.0.0.1";
const NEW: &str = "127.0.0.2";
/// From the turn of the name to the fifth time in a row that all went well, seconds.
const TURN_MAX: f64 = 4.0;

/// The names that this thread, and whatever it starts, can look up.
struct Hosts(NamedTempFile);

impl Hosts {
    fn of_this_thread() -> Self {
        let hosts = Self(NamedTempFile::new().expect("there is room"));
        hosts.turn(OLD);
        #[expect(unsafe_code, reason = "unshare(2) touches no memory")]
        // SAFETY: it changes which mounts this thread sees, and nothing else.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) };
        assert_eq!(unshared, 0, "this test needs root");
        for arguments in [
            &["--make-rprivate".as_ref(), "/".as_ref()][..],
            &["--bind".as_ref(), hosts.0.path(), "/etc/hosts".as_ref()],
        ] {
            let mounted = Command::new("mount").args(arguments).status();
            assert!(mounted.expect("install the package mount").success());
        }
        hosts
    }

    fn turn(&self, address: &str) {
        let lines = format!("127.0.0.1 localhost\n{address} {NAME}\n");
        fs::write(self.0.path(), lines).expect("it is writable");
    }
}

/// Runs a test on a thread that has names of its own.
fn with_hosts(test: fn(&Hosts)) {
    let done = thread::spawn(move || test(&Hosts::of_this_thread())).join();
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Lets a server be reached at the new address, by the port of the old one.
fn forward(port: u16, to: u16) {
    let listener = TcpListener::bind((NEW, port)).expect("nobody is there");
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a connection");
            let Ok(server) = TcpStream::connect((OLD, to)) else {
                continue;
            };
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (mut from, mut to) = [from, to]
                    .map(|end| end.try_clone().expect("a file"))
                    .into();
                thread::spawn(move || {
                    // However it ends.
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
}

/// `scheme://user:password@host:port`: the password and the port.
fn parts(url: &str) -> (&str, u16) {
    let (user, host) = url.split_once('@').expect("it names a user");
    let (_, password) = user.rsplit_once(':').expect("it names a password");
    let (_, port) = host.rsplit_once(':').expect("it names a port");
    (password, port.parse().expect("a number"))
}

fn named(url: &str) -> String {
    url.replace(OLD, NAME)
}

fn health(server: &Server) -> serde_json::Value {
    server.get("/auth/healthz").json()
}

/// Until whatever writes works, on every core; `reads` says whether what reads is answered meanwhile.
fn works_again(server: &Server, alice: &mut Person<'_>, reads: bool) {
    let mut tries = 0;
    let mut is_well = || {
        tries += 1;
        assert!(!reads || alice.me() == 200);
        let (email, mut person) = (format!("new{tries}@b.c"), Person::new(server));
        let chat = json!({"message": "Hi"});
        health(server)["ok"] == true
            && person.register(&email).status == 201
            && person.login(&email, PASSWORD).status == 200
            && alice
                .post("/deepseek_chat", &chat)
                .body
                .ends_with("{\"done\":\"stop\"}\n")
    };
    let mut in_a_row = 0;
    let took = seconds(|| {
        until("writes to be taken", || {
            in_a_row = if is_well() { in_a_row + 1 } else { 0 };
            (in_a_row == 5).then_some(())
        });
    });
    println!("after {took:.1} s and {tries} tries");
    assert!(took < TURN_MAX, "{took} s");
    assert_eq!(alice.me(), 200);
}

#[test]
fn redis_has_a_new_master() {
    with_hosts(|hosts| {
        let (old, new) = (Services::start("postgres,redis"), Services::start("redis"));
        let (password, port) = parts(old.address("REDIS"));
        let (_, new_port) = parts(new.address("REDIS"));
        forward(port, new_port);
        let pair = Pair {
            sessions: Some(named(old.address("REDIS"))),
            ..old.pair("POSTGRES", "REDIS")
        };
        let server = Server::on(&pair, &Provider::friendly(), "server.workers = 2");
        let mut alice = Person::logged_in(&server, "alice@b.c");
        let told = |redis: &Services, command: &[&str]| assert_eq!(redis.redis(command), "OK");
        told(
            &new,
            &["ACL", "SETUSER", "default", &format!(">{password}")],
        );
        told(&new, &["CONFIG", "SET", "masterauth", password]);
        told(&new, &["REPLICAOF", OLD, &port.to_string()]);
        until("the replica to follow", || {
            let state = new.redis(&["INFO", "replication"]);
            state.contains("master_link_status:up").then_some(())
        });
        told(&new, &["REPLICAOF", "NO", "ONE"]);
        told(&old, &["REPLICAOF", OLD, &new_port.to_string()]);
        until("healthz to notice", || {
            let part = json!({"ok": false, "redis": false, "db": true});
            (health(&server) == part).then_some(())
        });
        hosts.turn(NEW);
        // The old one loads what the new one sends it.
        works_again(&server, &mut alice, false);
    });
}

#[test]
fn postgresql_has_a_new_primary() {
    with_hosts(|hosts| {
        let (old, new) = (
            Services::start("postgres,redis"),
            Services::start("postgres"),
        );
        let (password, port) = parts(old.address("POSTGRES"));
        let (_, new_port) = parts(new.address("POSTGRES"));
        forward(port, new_port);
        let url = named(old.address("POSTGRES"));
        let pair = Pair {
            accounts: Some(Accounts::new(&url, old.address("POSTGRES"))),
            ..old.pair("POSTGRES", "REDIS")
        };
        let server = Server::on(&pair, &Provider::friendly(), "server.workers = 2");
        let mut alice = Person::logged_in(&server, "alice@b.c");
        let (_, name) = server
            .stores
            .settings
            .split_once(&format!("{url}/"))
            .expect("its URL");
        let (name, _) = name.split_once('"').expect("it ends");
        new.psql(
            "POSTGRES_ADMIN",
            "postgres",
            &format!("ALTER ROLE cloudchat PASSWORD '{password}'"),
        );
        new.psql(
            "POSTGRES_ADMIN",
            "postgres",
            &format!("CREATE DATABASE {name} OWNER cloudchat"),
        );
        copy(&old, &new, name);
        let read_only = |on: &str| {
            let set = format!("ALTER SYSTEM SET default_transaction_read_only = {on}");
            old.psql("POSTGRES_ADMIN", "postgres", &set);
            old.psql("POSTGRES_ADMIN", "postgres", "SELECT pg_reload_conf()");
        };
        read_only("on");
        until("healthz to notice", || {
            let part = json!({"ok": false, "redis": true, "db": false});
            (health(&server) == part).then_some(())
        });
        assert_eq!(alice.me(), 200);
        hosts.turn(NEW);
        works_again(&server, &mut alice, true);
        read_only("off");
    });
}

fn copy(from: &Services, to: &Services, name: &str) {
    let psql = Path::new(from.address("PSQL"));
    let mut dump = Command::new(psql.with_file_name("pg_dump"))
        .arg(format!("{}/{name}", from.address("POSTGRES_ADMIN")))
        .stdout(Stdio::piped())
        .spawn()
        .expect("it stands beside psql");
    let loaded = Command::new(psql)
        .args(["-Xq", "-v", "ON_ERROR_STOP=1", "-d"])
        .arg(format!("{}/{name}", to.address("POSTGRES_ADMIN")))
        .stdin(dump.stdout.take().expect("it is piped"))
        .stdout(Stdio::null())
        .status();
    assert!(loaded.expect("it is there").success());
    assert!(dump.wait().expect("it is our child").success());
}
