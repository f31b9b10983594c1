//! Both ways with argon2-cffi, which the service that CloudChat replaces hashes with.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use cloudchat::hasher::{Cost, Running};

use crate::{MATCHES, NO, OUTDATED, block_on, password, settings, stored};

const PASSWORD: &str = "correct horse 密码 🔑";

/// Runs a command to its end; what it prints.
fn run(command: &mut Command, input: &str, hint: &str) -> String {
    let shown = format!("{command:?}");
    let fail = |why: &str| -> ! { panic!("{shown}: {why}\n{hint}") };
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = match piped.stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => fail(&error.to_string()),
    };
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin
        .write_all(input.as_bytes())
        .expect("the program reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it can be waited for");
    if !output.status.success() {
        fail(&String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).expect("it prints text")
}

/// Python with argon2-cffi, installed once for each target folder.
fn python() -> Command {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("argon2-cffi-25.1.0");
    let python = folder.join("bin/python");
    let done = folder.join("installed");
    if !done.exists() {
        let hint = "please install Python 3 with venv (Debian: apt-get install python3-venv)";
        let mut venv = Command::new("python3");
        run(venv.args(["-m", "venv"]).arg(&folder), "", hint);
        let hint = "argon2-cffi comes from PyPI; please see to it that pip reaches it";
        let mut pip = Command::new(&python);
        let pip = pip.args(["-m", "pip", "-q", "install", "argon2-cffi==25.1.0"]);
        run(pip, "", hint);
        std::fs::write(done, "").expect("the folder is there");
    }
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hasher/cffi.py"));
    command
}

#[test]
fn each_verifies_what_the_other_has_made() {
    let running = Running::start(&settings(100 << 20, 4, 60.0)).expect("100M can be mapped");
    let hasher = running.connect();
    let made = run(python().arg("make"), &format!("{PASSWORD}\n"), "");
    let theirs: Vec<&str> = made.lines().collect();
    assert_eq!(theirs.len(), 12, "{made}");
    assert!(
        theirs[0].starts_with("$argon2id$v=19$m=65536,t=3,p=4$"),
        "{made}"
    );
    let small = Running::start(&settings(19 << 20, 4, 60.0)).expect("19M can be mapped");
    block_on(async {
        for hash in &theirs {
            let verdict = hasher.verify(stored(hash), password(PASSWORD)).await;
            assert_eq!(verdict, Ok(OUTDATED), "{hash}");
            let verdict = hasher.verify(stored(hash), password("correct horse")).await;
            assert_eq!(verdict, Ok(NO), "{hash}");
            // With less memory the large ones match nothing, and the others as before.
            let fits = Cost::parse(hash).expect("it is one").fits(19 << 20);
            let small = small.connect();
            let verdict = small.verify(stored(hash), password(PASSWORD));
            let expect = if fits { OUTDATED } else { NO };
            assert_eq!(verdict.await, Ok(expect), "{hash}");
        }
        let ours = hasher
            .hash(password(PASSWORD))
            .await
            .expect("it is not busy");
        let again = hasher
            .hash(password(PASSWORD))
            .await
            .expect("it is not busy");
        let other = hasher
            .hash(password("another 1"))
            .await
            .expect("it is not busy");
        assert_ne!(ours, again, "each has a salt of its own");
        let verdict = hasher.verify(stored(&ours), password(PASSWORD)).await;
        assert_eq!(verdict, Ok(MATCHES), "{ours}");
        let input = format!("{PASSWORD}\n{ours}\n{again}\n{other}\n");
        assert_eq!(run(python().arg("verify"), &input, ""), "yes\nyes\nno\n");
    });
    small.stop().expect("it ends well");
    running.stop().expect("it ends well");
}
