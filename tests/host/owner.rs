//! Commands of root on the data folder of another user: they work with that user's rights, so that nothing they leave
//! locks the server out, and nothing that the user has planted leads anywhere.
//!
//! Needs root, who alone may become others.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rusqlite::Connection;
use tempfile::TempDir;

use crate::kit::server::{BINARY, free_port};
use crate::kit::{PASSWORD, Provider, Server, until};

/// Nobody on any machine.
const USER: u32 = 54_321;
/// How often the race for a planted link is run; before, the link won the first.
const RACES: usize = 10;

/// The data folder of a server that has served, given to [`USER`].
struct Given {
    /// Keeps the folder.
    _server: Server,
    data: PathBuf,
}

impl Given {
    fn new() -> Self {
        let mut server = Server::start(&Provider::friendly(), "");
        server.signal(libc::SIGTERM);
        server.wait();
        let data = server.data();
        give(&data);
        Self {
            _server: server,
            data,
        }
    }

    /// Runs a command on it, with a password to read: exit code, and all that it said.
    fn run(&self, args: &[&str]) -> (i32, String) {
        let mut child = Command::new(BINARY)
            .args(args)
            .arg("--data-dir")
            .arg(&self.data)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        // A command that reads nothing may have ended already.
        writeln!(stdin, "{PASSWORD}").unwrap_or_default();
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let said = [output.stderr, output.stdout].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (output.status.code().unwrap_or(-1), said)
    }

    /// Runs a command that must succeed.
    #[track_caller]
    fn does(&self, args: &[&str]) -> String {
        let (code, said) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {said}");
        assert!(said.contains("as its owner uid 54321"), "{said}");
        assert_all_given(&self.data);
        said
    }

    /// Runs a command that must fail with these words.
    #[track_caller]
    fn fails(&self, args: &[&str], words: &str) {
        let (code, said) = self.run(args);
        assert!(code == 1 || code == 2, "{args:?}: {code} {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        assert_all_given(&self.data);
    }

    fn users(&self) -> usize {
        self.does(&["user", "list", "--json"])
            .matches("\"uid\"")
            .count()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary names are UTF-8")
}

/// All that is there, the folder first.
fn all(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in fs::read_dir(folder).expect("root may read it").flatten() {
        match entry.file_type().expect("it is there").is_dir() {
            true => found.extend(all(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

fn give(folder: &Path) {
    for path in all(folder) {
        std::os::unix::fs::lchown(&path, Some(USER), Some(USER)).expect("this test needs root");
    }
}

#[track_caller]
fn assert_all_given(folder: &Path) {
    for path in all(folder) {
        let found = fs::symlink_metadata(&path).expect("it is there");
        assert_eq!((found.uid(), found.gid()), (USER, USER), "{path:?}");
    }
}

/// A folder that is closed to all but root.
fn roots() -> TempDir {
    tempfile::tempdir().expect("there is room")
}

/// A folder of the user's.
fn users() -> TempDir {
    let folder = roots();
    chown(folder.path(), Some(USER), Some(USER)).expect("this test needs root");
    folder
}

#[test]
fn what_root_does_there_belongs_to_the_owner() {
    let given = Given::new();
    given.does(&["user", "create", "alice@b.c"]);
    assert_eq!(given.users(), 1);
    let (theirs, ours) = (users(), roots());
    // A folder that is not there is made.
    let place = theirs.path().join("kept/here");
    given.does(&["backup", "--keep", "2", text(&place)]);
    assert_all_given(&theirs.path().join("kept"));
    let mode = fs::metadata(&place).expect("it was made").mode();
    assert_eq!(mode & 0o777, 0o700);
    given.fails(
        &["backup", text(&ours.path().join("x"))],
        "Permission denied",
    );
    assert_eq!(fs::read_dir(ours.path()).expect("it is ours").count(), 0);

    let backup = fs::read_dir(&place).expect("it was made").flatten().next();
    let backup = backup.expect("it is there").path();
    given.does(&["user", "create", "bob@b.c"]);
    given.does(&["restore", text(&backup)]);
    assert_eq!(given.users(), 1);
    // One that root has brought, and keeps to itself.
    let copy = ours.path().join("copy");
    let copied = Command::new("cp").arg("-r").args([&backup, &copy]).status();
    assert!(copied.expect("cp is there").success());
    for path in all(&copy) {
        chown(path, Some(0), Some(0)).expect("this test needs root");
    }
    given.does(&["user", "create", "bob@b.c"]);
    // Another label, since one names a second.
    until("the next second", || {
        let (code, said) = given.run(&["restore", text(&copy)]);
        assert!(code == 0 || said.contains("before-restore-"), "{said}");
        (code == 0).then_some(())
    });
    assert_all_given(&given.data);
    assert_eq!(given.users(), 1);

    let port = free_port();
    let mut server = Command::new(BINARY)
        .args([
            "serve",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--data-dir",
        ])
        .arg(&given.data)
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    until("the server to listen", || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    // To the kernel each thread has rights of its own.
    let threads = fs::read_dir(format!("/proc/{}/task", server.id())).expect("it runs");
    for thread in threads.flatten() {
        let status = fs::read_to_string(thread.path().join("status")).expect("it runs");
        for line in [
            "\nUid:\t54321\t54321\t54321\t54321\n",
            "\nGid:\t54321\t54321\t54321\t54321\n",
            "\nGroups:\t \n",
            "\nCapPrm:\t0000000000000000\n",
        ] {
            assert!(status.contains(line), "{line}: {status}");
        }
    }
    assert_all_given(&given.data);
    server.kill().expect("it is our child");
    server.wait().expect("it ends");
}

#[test]
fn a_planted_link_leads_root_nowhere() {
    let (given, ours, theirs) = (Given::new(), roots(), users());
    let secret = ours.path().join("backup");
    given.does(&["backup", text(&theirs.path().join("backup"))]);
    fs::rename(theirs.path().join("backup"), &secret).expect("root may");
    for path in all(&secret) {
        chown(path, Some(0), Some(0)).expect("this test needs root");
    }
    // A backup in which a file, or which itself, is a link to what only root may read.
    let planted = theirs.path().join("planted");
    fs::create_dir(&planted).expect("root may");
    symlink(secret.join("accounts.db"), planted.join("accounts.db")).expect("root may");
    symlink(&secret, theirs.path().join("link")).expect("root may");
    give(theirs.path());
    given.fails(&["restore", text(&planted)], "accounts.db: ");
    let link = theirs.path().join("link");
    given.fails(&["restore", text(&link)], "Permission denied");

    // A database that would be made where a link leads.
    let victim = ours.path().join("victim");
    for name in ["accounts.db", "sessions.db"] {
        let file = given.data.join(name);
        fs::remove_file(&file).expect("root may");
        symlink(&victim, &file).expect("root may");
        std::os::unix::fs::lchown(&file, Some(USER), Some(USER)).expect("this test needs root");
        for args in [
            &["user", "create", "bob@b.c"][..],
            &["user", "list"],
            &["backup", text(&theirs.path().join("x"))],
            &["serve", "--listen", "127.0.0.1:0"],
        ] {
            let (code, said) = given.run(args);
            assert!(code == 1 || code == 2, "{args:?}: {said}");
            assert!(!victim.exists(), "{args:?}: {said}");
        }
    }
}

/// Puts links in the place of what appears in the folder, as fast as it can.
fn plant(folder: &Path, victim: &Path, ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        for entry in fs::read_dir(folder).expect("root may").flatten() {
            let name = entry.file_name();
            let is_new = name.to_string_lossy().contains(".restored-");
            if is_new && fs::remove_file(entry.path()).is_ok() {
                symlink(victim, entry.path()).unwrap_or_default();
            }
        }
    }
}

#[test]
fn a_restore_gives_nothing_away() {
    let (given, ours, theirs) = (Given::new(), roots(), users());
    // Where the user can reach it, or no rights would keep it.
    let victim = ours.path().join("victim");
    fs::set_permissions(ours.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    fs::write(&victim, "of root").expect("it is ours");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let backup = theirs.path().join("backup");
    given.does(&["backup", text(&backup)]);
    // Copying it takes long enough for a link to be planted.
    let file = Connection::open(backup.join("sessions.db")).expect("it is a database");
    let sql = "INSERT INTO chats VALUES (zeroblob(32), NULL, zeroblob(16), 0, zeroblob(33554432))";
    file.execute(sql, []).expect("there is room");
    file.close().expect("nothing is under way");
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| plant(&given.data, &victim, &ends));
        for _ in 0..RACES {
            // It may fail: what it works with is taken away.
            given.run(&["restore", text(&backup)]);
        }
        ends.store(true, Ordering::Relaxed);
    });
    let found = fs::metadata(&victim).expect("it is there");
    assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o600));
    assert_eq!(fs::read_to_string(&victim).expect("it is ours"), "of root");
}

#[test]
fn a_folder_in_which_others_may_write_is_refused() {
    let (given, theirs) = (Given::new(), users());
    let backup = theirs.path().join("backup");
    given.does(&["backup", text(&backup)]);
    let refused = || {
        for args in [
            &["user", "list"][..],
            &["backup", text(&theirs.path().join("x"))],
            &["restore", text(&backup)],
            &["serve", "--listen", "127.0.0.1:0"],
        ] {
            let (code, said) = given.run(args);
            assert_eq!(code, 1, "{args:?}: {said}");
            assert!(
                said.contains("others may put files into this folder"),
                "{said}"
            );
        }
    };
    let mode = |mode| {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(&given.data, mode).expect("root may");
    };
    mode(0o777);
    refused();
    mode(0o1777);
    refused();
    // The group is the owner's own affair …
    mode(0o770);
    given.does(&["user", "list"]);
    // … unless the owner is root.
    chown(&given.data, Some(0), Some(USER)).expect("this test needs root");
    refused();
    mode(0o750);
    assert_eq!(given.run(&["user", "list"]).0, 0);
}

#[test]
fn root_makes_no_folder_for_a_restore() {
    let (given, theirs, ours) = (Given::new(), users(), roots());
    let backup = theirs.path().join("backup");
    given.does(&["backup", text(&backup)]);
    let missing = ours.path().join("missing");
    let args = ["restore", text(&backup), "--data-dir", text(&missing)];
    let output = Command::new(BINARY).args(args).env_clear().output();
    let output = output.expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("install -d -m 700 -o USER"), "{said}");
    assert!(!missing.exists());
}
