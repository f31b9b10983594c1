//! A file system that is full, or broken, for real: what writes is told to come back, what reads is answered,
//! nothing that was answered before is lost, and with the room all else is back.
//!
//! Needs root, who alone may mount.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::kit::stores::{Pair, Stores};
use crate::kit::{Browser, PASSWORD, Person, Provider, Reply, Server};

/// Room for two databases with their logs, and little else.
const SIZE: &str = "size=4m,mode=0700";

/// A small file system over the data folder; gone when dropped.
struct Disk(PathBuf);

fn run(command: &mut Command) {
    let done = command.status().expect("install mount and e2fsprogs");
    assert!(done.success(), "this test needs root: {command:?}");
}

impl Disk {
    fn over(folder: &Path) -> Self {
        let mount = ["-t", "tmpfs", "-o", SIZE, "tmpfs"];
        run(Command::new("mount").args(mount).arg(folder));
        Self(folder.to_owned())
    }

    /// One that can break; it is in this file.
    fn in_a_file(folder: &Path, image: &Path) -> Self {
        let file = File::create(image).expect("it is writable");
        file.set_len(16 << 20).expect("there is room");
        run(Command::new("mkfs.ext4").arg("-q").arg(image));
        run(Command::new("mount")
            .args(["-o", "loop"])
            .args([image, folder]));
        Self(folder.to_owned())
    }

    /// As the kernel does when it finds it damaged: from now on nothing is written to it.
    fn break_it(&self) {
        run(Command::new("mount")
            .args(["-o", "remount,abort"])
            .arg(&self.0));
    }

    /// Leaves no byte of it.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).expect("there is room for a name");
        let full = (0..).find_map(|_| file.write_all(&[0; 4096]).err());
        let kind = full.expect("it is small").kind();
        assert_eq!(kind, std::io::ErrorKind::StorageFull);
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).expect("it was filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
        // Its temporary folder could not be removed while something was mounted there.
        let _ = fs::remove_dir(&self.0);
    }
}

fn server(provider: &Provider) -> (Disk, Server) {
    let stores = Stores::fresh(Pair::of_this_run());
    let disk = Disk::over(stores.folder.path());
    let settings = "chat.rate_per_minute = 1000";
    (disk, Server::over(stores, provider, settings))
}

/// Ada's session and chat, as her browser has them.
struct Ada {
    session: String,
    chat: Option<String>,
}

impl Ada {
    fn person<'a>(&self, server: &'a Server) -> Person<'a> {
        let mut person = Person::new(server);
        person
            .cookies
            .insert("cc_auth".to_owned(), self.session.clone());
        person
    }

    fn browser<'a>(&self, server: &'a Server) -> Browser<'a> {
        let mut browser = Browser::new(server);
        browser.cookie = self.chat.clone();
        browser
    }
}

#[track_caller]
fn come_back(what: &str, reply: &Reply) {
    assert_eq!(reply.status, 503, "{what}: {}", reply.body);
    assert_eq!(reply.json()["error"], "Service unavailable", "{what}");
    assert_eq!(reply.get("retry-after"), Some("2"), "{what}");
}

fn writes_are_refused_and_reads_answered(server: &Server, ada: &Ada) {
    let mut bob = Person::new(server);
    come_back("register", &bob.register("bob@example.org"));
    come_back("login", &bob.login("ada@example.org", PASSWORD));
    let forgot = json!({"identifier": "ada@example.org"});
    come_back("forgot", &bob.post("/auth/password/forgot", &forgot));
    let mut person = ada.person(server);
    let named = person.send("PATCH /auth/me", Some(b"{\"display_name\":\"Ada\"}"));
    come_back("change", &named);
    come_back("logout", &person.send("POST /auth/logout", None));
    come_back("a new chat", &Browser::new(server).ask("Hi"));
    come_back("a chat goes on", &ada.browser(server).ask("second"));
    come_back("reset", &ada.browser(server).forget());
    assert_eq!(ada.person(server).me(), 200);
    let export = ada.person(server).get("/auth/me/export");
    assert_eq!(export.status, 200, "{}", export.body);
    assert_eq!(server.get("/test").status, 200);
    takes_writes(server, false);
}

/// Of both stores.
#[track_caller]
fn takes_writes(server: &Server, does: bool) {
    let reply = server.get("/auth/healthz");
    assert_eq!(reply.status, if does { 200 } else { 503 });
    let expect = json!({"ok": does, "redis": does, "db": does});
    assert_eq!(reply.json(), expect);
}

#[test]
fn what_writes_is_told_to_come_back_and_nothing_is_lost() {
    let provider = Provider::friendly();
    let (disk, server) = server(&provider);
    let person = Person::logged_in(&server, "ada@example.org");
    let mut browser = Browser::new(&server);
    assert_eq!(browser.ask("first").status, 200);
    let ada = Ada {
        session: person.cookies["cc_auth"].clone(),
        chat: browser.cookie.clone(),
    };
    disk.fill();
    writes_are_refused_and_reads_answered(&server, &ada);
    // It starts there, too, and has lost nothing.
    let server = server.restart(libc::SIGKILL);
    writes_are_refused_and_reads_answered(&server, &ada);
    let log = server.log();
    assert!(
        log.contains("sessions.db: database or disk is full"),
        "{log}"
    );
    disk.make_room();
    takes_writes(&server, true);
    assert_eq!(ada.browser(&server).ask("second").status, 200);
    let first = ["user: first", "assistant: Hello you"].map(str::to_owned);
    assert_eq!(provider.last().talk()[..2], first);
    let mut person = ada.person(&server);
    let named = person.send("PATCH /auth/me", Some(b"{\"display_name\":\"Ada\"}"));
    assert_eq!(named.status, 200, "{}", named.body);
    assert_eq!(
        Person::new(&server)
            .login("ada@example.org", PASSWORD)
            .status,
        200
    );
    Person::logged_in(&server, "bob@example.org");
    assert_eq!(person.send("POST /auth/logout", None).status, 200);
    assert_eq!(ada.person(&server).me(), 401);
}

#[test]
fn an_answer_that_cannot_be_remembered_comes_whole_and_says_so() {
    let provider = Provider::played();
    let (disk, server) = server(&provider);
    let mut conn = Browser::new(&server).open("Hi");
    let mut call = provider.call();
    call.accept().text("a");
    assert_eq!(conn.head().status, 200);
    assert_eq!(conn.line().as_deref(), Some("{\"text\":\"a\"}"));
    disk.fill();
    call.text("b");
    call.finish("stop");
    let end = "{\"text\":\"b\"}\n{\"done\":\"stop\",\"saved\":false}\n";
    assert_eq!(conn.rest(), (end.to_owned(), true));
}

#[test]
fn healthz_sees_a_disk_that_takes_no_writes_though_nobody_else_writes() {
    let provider = Provider::friendly();
    let (disk, full) = server(&provider);
    disk.fill();
    takes_writes(&full, false);
    disk.make_room();
    takes_writes(&full, true);
    // The next ones rely on that.
    let logs = ["accounts.db-wal", "sessions.db-wal"].map(|name| disk.0.join(name));
    let sizes = || {
        let sizes = logs
            .each_ref()
            .map(|log| fs::metadata(log).map(|log| log.len()));
        sizes.map(|size| size.expect("it is there"))
    };
    let before = sizes();
    for _ in 0..20 {
        takes_writes(&full, true);
    }
    assert_eq!(sizes(), before);
}

#[test]
fn healthz_sees_a_disk_that_has_become_read_only() {
    let provider = Provider::friendly();
    let stores = Stores::fresh(Pair::of_this_run());
    let image = tempfile::NamedTempFile::new().expect("there is room");
    let disk = Disk::in_a_file(stores.folder.path(), image.path());
    let server = Server::over(stores, &provider, "");
    disk.break_it();
    takes_writes(&server, false);
}
