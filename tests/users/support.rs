//! The program as an operator calls it, and the store behind it as the server sees it.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cloudchat::clock::Clock;
use cloudchat::config;
use cloudchat::hasher::{Against, Password, Running};
use cloudchat::model::{Credential, Email, Identifier, Letter, Token, UserId};
use cloudchat::store::{Backend, NewSession, Stores};
use serde_json::Value;
use tempfile::TempDir;

pub const PASSWORD: &str = "correct horse 1";
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `cloudchat user` on this folder with these words and this standard input.
pub fn user_with(folder: &Path, words: &[&str], input: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cloudchat"))
        .arg("user")
        .args(words)
        .arg("--data-dir")
        .arg(folder)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    // A command that reads nothing may have ended already.
    stdin.write_all(input.as_bytes()).unwrap_or_default();
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    let code = output.status.code().expect("it ends by itself");
    // Each says first where it works.
    let errors = text(output.stderr);
    let store = format!("cloudchat: store: {}\n", folder.display());
    let errors = errors.strip_prefix(&store).unwrap_or(&errors).to_owned();
    (code, text(output.stdout), errors)
}

pub fn user(folder: &Path, words: &[&str]) -> (i32, String, String) {
    user_with(folder, words, "")
}

/// Runs a command that must succeed; its JSON.
pub fn json(folder: &Path, words: &[&str], input: &str) -> Value {
    let (code, out, err) = user_with(folder, &[words, &["--json"]].concat(), input);
    assert_eq!((code, err.as_str()), (0, ""), "{words:?}");
    assert_eq!(out.lines().count(), 1, "{out}");
    serde_json::from_str(&out).expect("it prints JSON")
}

/// Runs a command that must fail with this code and one line that holds these words.
pub fn fails(folder: &Path, words: &[&str], input: &str, code: i32, part: &str) {
    let (found, out, err) = user_with(folder, words, input);
    assert_eq!((found, out.as_str()), (code, ""), "{words:?}: {err}");
    assert!(
        err.contains(part) && err.lines().count() == 1,
        "{words:?}: {err}"
    );
}

pub fn create(folder: &Path, words: &[&str]) -> UserId {
    let done = json(
        folder,
        &[&["create"], words].concat(),
        &format!("{PASSWORD}\n"),
    );
    assert_eq!(done["done"], "create");
    UserId(done["id"].as_i64().expect("a number"))
}

pub fn settings(dir: &Path) -> config::Store {
    let sources = config::Sources {
        data_dir: Some(dir),
        ..config::Sources::default()
    };
    config::Config::load(sources)
        .expect("the defaults are valid")
        .store
}

/// Looks into the store, as the server would.
pub fn look<T>(folder: &Path, work: impl AsyncFnOnce(Stores) -> T) -> T {
    let backend = Backend::start(&settings(folder), |_, _| ()).expect("the store opens");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let looked = runtime
        .expect("a runtime can be made")
        .block_on(work(backend.connect()));
    backend.stop().expect("it ends well");
    looked
}

pub fn credential(folder: &Path, email: &str) -> Option<Credential> {
    let identifier = Identifier::from(&Email::parse(email).expect("an address"));
    look(folder, async |stores| {
        stores.accounts.credential(&identifier).await
    })
    .expect("the store answers")
}

pub fn matches(credential: &Credential, password: &str) -> bool {
    let mut auth = config::Config::load(config::Sources::default())
        .expect("the defaults are right")
        .auth;
    auth.hash_queue_max = 1;
    auth.hash_timeout = PATIENCE;
    let against = Against::Stored {
        user: credential.user.0,
        hash: credential
            .hash
            .as_ref()
            .expect("a password")
            .as_str()
            .to_owned(),
    };
    let running = Running::start(&auth).expect("19M can be mapped");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let verdict = runtime
        .expect("a runtime can be made")
        .block_on(
            running
                .connect()
                .verify(against, Password::new(password.to_owned())),
        )
        .expect("nobody else asks");
    running.stop().expect("it ends well");
    assert!(!verdict.needs_rehash);
    verdict.matches
}

/// Logs the user in twice.
pub fn log_in(folder: &Path, id: UserId) -> [Token; 2] {
    let tokens = [Token::new(), Token::new()];
    look(folder, async |stores| {
        let user = stores
            .accounts
            .user(id)
            .await
            .expect("it answers")
            .expect("a user");
        for token in &tokens {
            let new = NewSession {
                token: token.clone(),
                user: id,
                start_ms: Clock::System.wall_ms().max(user.sessions_not_before_ms),
                ttl_ms: 3_600_000,
                address: String::new(),
                user_agent: String::new(),
                replaces: None,
            };
            stores
                .sessions
                .create_session(new)
                .await
                .expect("it answers");
        }
    });
    tokens
}

/// The kinds of mails that wait.
pub fn letters(folder: &Path) -> Vec<Letter> {
    let rows = look(folder, async |stores| {
        let now_ms = Clock::System.wall_ms();
        stores.accounts.claim_letters(now_ms, 0, 100).await
    });
    let rows = rows.expect("the store answers");
    rows.iter().map(|row| row.letter).collect()
}

/// A folder with an empty store.
pub fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    look(folder.path(), async |_| ());
    folder
}

/// Runs `cloudchat user` at a terminal that `script` makes, and types an answer at each prompt; the
/// exit code and what the terminal showed.
pub fn at_terminal(folder: &Path, words: &str, answers: &[(&str, &str)]) -> (i32, String) {
    let program = env!("CARGO_BIN_EXE_cloudchat");
    let line = format!("'{program}' user {words} --data-dir '{}'", folder.display());
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script is there (Debian: bsdutils)");
    let mut keys = child.stdin.take().expect("it is piped");
    let mut screen = child.stdout.take().expect("it is piped");
    let (mut shown, mut bytes) = (String::new(), [0; 1024]);
    let mut prompts = answers.iter();
    let mut next = prompts.next();
    loop {
        let n = screen.read(&mut bytes).expect("the terminal is readable");
        if n == 0 {
            break;
        }
        shown += str::from_utf8(&bytes[..n]).expect("the test types ASCII only");
        while let Some((prompt, answer)) = next
            && shown.contains(prompt)
        {
            keys.write_all(answer.as_bytes()).expect("it listens");
            next = prompts.next();
        }
    }
    assert_eq!(next, None, "it did not ask: {shown}");
    let code = child.wait().expect("it ends").code();
    (code.expect("it ends by itself"), shown)
}
