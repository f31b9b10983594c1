//! The man pages and the shells' completions, which the package installs: made from the command line's own
//! definition. What differs is written anew, and the test fails once, so that it is looked at and
//! committed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::{Generator as _, Shell};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packages")
}

/// Exit codes, with what they mean.
const EXITS: [(&str, &str); 3] = [
    ("0", "Done; a server was stopped by a signal."),
    (
        "1",
        "Something failed while running; doctor or check --ask has found something.",
    ),
    (
        "2",
        "Wrong arguments or configuration, or there is no store where they lead.",
    ),
];

/// Signals that a server takes.
const SIGNALS: [(&str, &str); 3] = [
    (
        "SIGTERM, SIGINT",
        "It accepts nothing more, and ends when the answers that run have ended, at the latest after \
         server.drain_seconds. A second one ends it at once.",
    ),
    (
        "SIGHUP, SIGUSR2",
        "The program file that is there now is started beside it and takes over; no request is lost. See \
         cloudchat-reload(1). The SIGHUP of a terminal that closes ends the server as SIGTERM does.",
    ),
    (
        "SIGUSR1",
        "Nothing: there is no log file to be opened again.",
    ),
];

/// What the package installs, and what it is for.
const FILES: [(&str, &str); 6] = [
    (
        "/etc/cloudchat/config.toml",
        "Settings. All commands but demo read them, unless --config names another file.",
    ),
    (
        "/etc/cloudchat/cloudchat.env",
        "Keys and passwords, as environment variables. Read with it, so by root; a variable that is set wins.",
    ),
    ("/var/lib/cloudchat", "Data of the embedded stores."),
    (
        "/var/backups/cloudchat",
        "Backups, made by cloudchat-backup.timer.",
    ),
    (
        "/run/cloudchat/cloudchat.sock",
        "Unix socket of cloudchat.socket.",
    ),
    (
        "/usr/share/doc/cloudchat/examples",
        "Every setting with its default; configurations of Nginx, PostgreSQL, PgBouncer and Redis.",
    ),
];

fn list(page: &mut Roff, title: &str, rows: &[(&str, &str)]) {
    page.control("SH", [title]);
    for (term, meaning) in rows {
        page.control("TP", []);
        page.text([bold(*term)]);
        page.text([roman(*meaning)]);
    }
}

/// A page for each command, by file name.
fn man_pages(command: &Command, pages: &mut BTreeMap<String, String>) {
    for below in command.get_subcommands() {
        man_pages(below, pages);
    }
    let source = concat!("cloudchat ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(source).manual("CloudChat");
    let mut text = Vec::new();
    man.render(&mut text).expect("a Vec takes everything");
    let is_first = command.get_name() == "cloudchat";
    if is_first {
        let mut more = Roff::new();
        list(&mut more, "SIGNALS", &SIGNALS);
        list(&mut more, "EXIT STATUS", &EXITS);
        list(&mut more, "FILES", &FILES);
        text.extend(more.render().into_bytes());
    }
    let text = String::from_utf8(text).expect("pages are UTF-8");
    pages.insert(format!("man/{}", man.get_filename()), text);
}

fn completions(command: &Command, pages: &mut BTreeMap<String, String>) {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command.clone(), "cloudchat", &mut text);
        let name = format!("completions/{}", shell.file_name("cloudchat"));
        let text = String::from_utf8(text).expect("completions are UTF-8");
        pages.insert(name, text);
    }
}

#[test]
fn man_pages_and_completions_are_those_of_the_command_line() {
    let mut pages = BTreeMap::new();
    let mut command = cloudchat::cli::command();
    completions(&command, &mut pages);
    command = command.disable_help_subcommand(true);
    command.build();
    man_pages(&command, &mut pages);
    let mut stale = Vec::new();
    for (name, text) in &pages {
        let path = folder().join(name);
        if fs::read_to_string(&path).ok().as_ref() != Some(text) {
            fs::create_dir_all(path.parent().expect("it is in a folder")).expect("it can be made");
            fs::write(&path, text).expect("the repository can be written");
            stale.push(name.clone());
        }
    }
    for kind in ["man", "completions"] {
        for entry in fs::read_dir(folder().join(kind)).expect("it is there") {
            let name = entry.expect("it can be read").file_name();
            let name = format!("{kind}/{}", name.to_string_lossy());
            if !pages.contains_key(&name) {
                fs::remove_file(folder().join(&name)).expect("the repository can be written");
                stale.push(name);
            }
        }
    }
    assert!(
        stale.is_empty(),
        "written anew in packages/; look at them and commit them: {stale:?}"
    );
}

#[test]
fn the_packages_version_is_the_programs() {
    let changelog = fs::read_to_string(folder().join("debian/changelog")).expect("it is there");
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        changelog.starts_with(&format!("cloudchat ({version}) ")),
        "packages/debian/changelog begins with another version than Cargo.toml: {version}"
    );
}
