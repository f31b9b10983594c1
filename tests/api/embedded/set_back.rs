//! A clock that was wrong by a day for a while: what was written meanwhile waits and lives no day longer.
//!
//! The server's wall clock is libfaketime's; its monotonic one is the system's.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::kit::{Browser, Person, Provider, Server, pass, until};

/// Where the Debian package `libfaketime` puts it.
fn library() -> String {
    let folders = fs::read_dir("/usr/lib").expect("there is one").flatten();
    let mut files = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    let file = files.find(|file| file.exists());
    let file = file.expect("install the package libfaketime");
    file.to_str().expect("its name is UTF-8").to_owned()
}

fn set(clock: &Path, offset: &str) {
    // Whole at any moment: the server reads it at each look at its clock.
    let new = clock.with_extension("new");
    fs::write(&new, offset).expect("the folder is ours");
    fs::rename(new, clock).expect("the folder is ours");
}

#[test]
fn mails_go_and_chats_end_as_if_it_had_always_been_right() {
    let folder = tempfile::tempdir().expect("there is room");
    let clock = folder.path().join("clock");
    set(&clock, "+1d");
    let provider = Provider::friendly();
    // The sender looks seldom, so that the clock is right again when it finds the mail.
    let config = format!(
        "chat.session_seconds = 2\nmail.look_seconds = 2\n{}",
        provider.row()
    );
    let env = [
        ("LD_PRELOAD", &*library()),
        (
            "FAKETIME_TIMESTAMP_FILE",
            clock.to_str().expect("it is UTF-8"),
        ),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let server = Server::with(&config, &env);
    let mails = || {
        server
            .log()
            .matches("mail.smtp_host (SMTP_HOST) is not set")
            .count()
    };
    let mut browser = Browser::new(&server);
    browser.ask("first");
    assert_eq!(Person::new(&server).register("alice@b.c").status, 201);
    until("the mail to be looked at", || (mails() == 1).then_some(()));
    // The sender has looked once more, and rests.
    pass(0.5);
    let body = json!({"identifier": "alice@b.c"});
    Person::new(&server).post("/auth/password/forgot", &body);
    set(&clock, "+0");
    until("the second mail to be looked at", || {
        (mails() == 2).then_some(())
    });
    pass(5.0);
    browser.ask("second");
    let received = provider.received();
    let last = received.last().expect("it was asked");
    assert_eq!(last.talk(), ["user: second"], "the first chat has ended");
}
