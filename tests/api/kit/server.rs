//! The real binary as a child process, with a data folder and a configuration of its own.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::client::{Headers, request};
use super::nginx::{self, Nginx};
use super::provider::Provider;
use super::stores::{Pair, Stores, settings_to_check};
use super::{Conn, PATIENCE, Reply, until};

/// What identifies this binary in `Command`s.
pub const BINARY: &str = env!("CARGO_BIN_EXE_cloudchat");

/// A running server; it is killed when dropped.
pub struct Server {
    child: Child,
    /// Where clients come in: its own port, or that of the Nginx in front.
    pub port: u16,
    /// Its own port.
    pub direct: u16,
    nginx: Option<Nginx>,
    /// What is its own: configuration, socket, log.
    folder: TempDir,
    /// What outlives it, and what others may share with it.
    pub stores: Arc<Stores>,
    env: Vec<(String, String)>,
    listen: Vec<String>,
}

/// A port that nobody listens on, below the range the kernel hands out by itself.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 200) as u16 * 100;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::SeqCst);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// These settings, without a rate limit unless they name one.
pub fn no_rate_limit(settings: &str) -> String {
    let limited = settings.contains("rate_per_minute");
    let rate = if limited {
        ""
    } else {
        "chat.rate_per_minute = 0\n"
    };
    format!("{rate}{settings}\n")
}

fn folder_with(config: &str, stores: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let config = stores.to_owned() + config;
    fs::write(folder.path().join("config.toml"), config).expect("it is writable");
    folder
}

impl Server {
    /// Starts a server in front of `provider`. `settings` are lines of `section.key = value`;
    /// there is no rate limit unless they name one.
    pub fn start(provider: &Provider, settings: &str) -> Self {
        Self::on(Pair::of_this_run(), provider, settings)
    }

    /// Starts a server with this configuration file and these environment variables.
    pub fn with(config: &str, env: &[(&str, &str)]) -> Self {
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Self::start_fresh(config, env, Vec::new(), "/test")
    }

    /// As `start`, with stores of its own on these servers.
    pub fn on(pair: &Pair, provider: &Provider, settings: &str) -> Self {
        Self::over(Stores::fresh(pair), provider, settings)
    }

    /// As `start`, on these stores.
    pub fn over(stores: Stores, provider: &Provider, settings: &str) -> Self {
        let config = no_rate_limit(settings) + &provider.row();
        let folder = folder_with(&config, &stores.settings);
        Self::start_in(folder, Arc::new(stores), Vec::new(), Vec::new(), "/test")
    }

    /// Starts another server on the same stores.
    pub fn second(&self, provider: &Provider, settings: &str) -> Self {
        let config = no_rate_limit(settings) + &provider.row();
        let folder = folder_with(&config, &self.stores.settings);
        let stores = Arc::clone(&self.stores);
        Self::start_in(folder, stores, Vec::new(), Vec::new(), "/test")
    }

    /// As `start`, listening on these addresses too.
    pub fn listening(provider: &Provider, settings: &str, listen: &[String]) -> Self {
        let config = no_rate_limit(settings) + &provider.row();
        Self::start_fresh(&config, Vec::new(), listen.to_vec(), "/test")
    }

    /// As `start`, where `/test` answers at another path.
    pub fn with_ready_path(provider: &Provider, settings: &str, path: &str) -> Self {
        let config = no_rate_limit(settings) + &provider.row();
        Self::start_fresh(&config, Vec::new(), Vec::new(), path)
    }

    fn start_fresh(
        config: &str,
        env: Vec<(String, String)>,
        listen: Vec<String>,
        ready: &str,
    ) -> Self {
        let stores = Stores::fresh(Pair::of_this_run());
        let folder = folder_with(config, &stores.settings);
        Self::start_in(folder, Arc::new(stores), env, listen, ready)
    }

    fn start_in(
        folder: TempDir,
        stores: Arc<Stores>,
        env: Vec<(String, String)>,
        listen: Vec<String>,
        ready: &str,
    ) -> Self {
        let port = free_port();
        let errors = File::options()
            .create(true)
            .append(true)
            .open(folder.path().join("stderr"));
        let child = Command::new(BINARY)
            .args(["serve", "--config"])
            .arg(folder.path().join("config.toml"))
            .arg("--data-dir")
            .arg(stores.folder.path())
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args([
                "--listen",
                &format!("unix:{}", folder.path().join("socket").display()),
            ])
            .args(listen.iter().flat_map(|address| ["--listen", address]))
            .env_clear()
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors.expect("it is writable"))
            .spawn()
            .expect("the binary starts");
        let mut server = Self {
            child,
            port,
            direct: port,
            nginx: None,
            folder,
            stores,
            env,
            listen,
        };
        until("the server to listen", || {
            if let Some(status) = server.child.try_wait().expect("it is our child") {
                panic!("the server ended at once: {status}");
            }
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        if nginx::is_in_front() {
            let nginx = Nginx::before(port);
            server.port = nginx.port;
            server.nginx = Some(nginx);
        }
        assert_eq!(server.get(ready).status, 200, "the server is ready");
        server
    }

    /// Stops by `signal` and starts again on the same data.
    pub fn restart(mut self, signal: i32) -> Self {
        self.signal(signal);
        self.wait();
        self.restart_ended()
    }

    /// Starts again on the same data, after the process has ended.
    pub fn restart_ended(mut self) -> Self {
        let folder = std::mem::replace(
            &mut self.folder,
            tempfile::tempdir().expect("there is room"),
        );
        let stores = Arc::clone(&self.stores);
        let env = std::mem::take(&mut self.env);
        let listen = std::mem::take(&mut self.listen);
        drop(self);
        Self::start_in(folder, stores, env, listen, "/test")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: i32) {
        #[expect(unsafe_code, reason = "kill(2) touches no memory of ours")]
        // SAFETY: the id is that of our own child, which has not been waited for.
        let sent = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(sent, 0, "the child is there");
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        until("the server to end", || {
            self.child.try_wait().expect("it is our child")
        })
    }

    /// Whether the process still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// The Unix socket it listens on.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    pub fn data(&self) -> PathBuf {
        self.stores.folder.path().to_owned()
    }

    /// What it wrote to standard error so far: a thread of its own does that, a moment later.
    pub fn log(&self) -> String {
        super::pass(0.05);
        let bytes = fs::read(self.folder.path().join("stderr")).expect("it was made at the start");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn connect(&self) -> Conn {
        Conn::tcp(self.port)
    }

    /// Sends a request on a connection of its own and reads the whole response.
    pub fn call(&self, line: &str, headers: Headers<'_>, body: Option<&[u8]>) -> Reply {
        let mut conn = self.connect();
        conn.send(&request(line, headers, body));
        if line.starts_with("HEAD ") {
            conn.reply_without_body()
        } else {
            conn.reply()
        }
    }

    pub fn get(&self, path: &str) -> Reply {
        self.call(&format!("GET {path}"), &[], None)
    }

    /// Posts this body as JSON to the chat.
    pub fn post_chat(&self, body: &[u8]) -> Reply {
        self.call(
            "POST /deepseek_chat",
            &[("Content-Type", "application/json")],
            Some(body),
        )
    }

    /// Asks a question without a cookie.
    pub fn chat(&self, message: &str, headers: Headers<'_>) -> Reply {
        self.connect().ask(message, headers).reply()
    }

    /// Kilobytes in a line such as `VmHWM` of `/proc/PID/status`.
    pub fn memory_kib(&self, name: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status
            .lines()
            .find(|line| line.starts_with(name))
            .expect("the kernel knows it");
        let number = line.split_whitespace().nth(1).expect("a number follows");
        number.parse().expect("it is a number")
    }

    /// Makes the peak (`VmHWM`) start again from what is in use now.
    pub fn reset_peak(&self) {
        let path = format!("/proc/{}/clear_refs", self.pid());
        let mut file = File::options().write(true).open(path).expect("it runs");
        file.write_all(b"5").expect("the kernel takes it");
    }

    /// Takes away its right to open more than about `more` files beyond those that are open now.
    pub fn limit_files(&self, more: usize) {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs");
        let open: HashSet<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        // The limit is one of numbers, and the lowest free number is given out first.
        let lowest_free = (0..).find(|n: &usize| !open.contains(&n.to_string()));
        let files = (lowest_free.expect("numbers do not end") + more) as libc::rlim_t;
        let limit = libc::rlimit {
            rlim_cur: files,
            rlim_max: files,
        };
        let (pid, old) = (self.pid() as i32, std::ptr::null_mut());
        #[expect(
            unsafe_code,
            reason = "another process's limit is set by prlimit(2) only"
        )]
        // SAFETY: `limit` outlives the call, and a null pointer means that the old one is not told.
        let set = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &limit, old) };
        assert_eq!(set, 0, "the child is there and ours");
    }

    /// Processor time used so far, in ticks of a hundredth of a second.
    pub fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        let (_, after_name) = stat.rsplit_once(')').expect("the name is in brackets");
        let mut fields = after_name.split_whitespace().skip(11);
        let mut number = || fields.next().and_then(|field| field.parse::<u64>().ok());
        number()
            .zip(number())
            .map_or(0, |(user, system)| user + system)
    }

    /// Context switches of each thread whose name starts with `name`.
    pub fn switches(&self, name: &str) -> Vec<u64> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        let read =
            |path: &Path, file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
        let mine = tasks
            .flatten()
            .map(|task| task.path())
            .filter(|t| read(t, "comm").starts_with(name));
        mine.map(|task| {
            let status = read(&task, "status");
            let line = status
                .lines()
                .find(|line| line.starts_with("voluntary_ctxt_switches"));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            number
                .expect("the kernel counts")
                .parse()
                .expect("it is a number")
        })
        .collect()
    }
}

impl Drop for Server {
    #[expect(
        clippy::print_stderr,
        reason = "libtest shows it for failed tests only"
    )]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the server's standard error ---\n{}", self.log());
            if let Some(nginx) = &self.nginx {
                eprintln!("--- Nginx's log ---\n{}", nginx.log());
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A limit as `cloudchat check` prints it for this server's configuration.
pub fn limit(server: &Server, name: &str) -> usize {
    let path = |path: PathBuf| path.to_str().expect("temporary names are UTF-8").to_owned();
    let config = path(server.config());
    let (code, out, errors) = run(
        &[
            "check",
            "--config",
            &config,
            "--data-dir",
            &path(server.data()),
        ],
        &[],
    );
    assert_eq!(code, 0, "{errors}");
    let line = out
        .lines()
        .find(|line| line.split_whitespace().next() == Some(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    let number = number.unwrap_or_else(|| panic!("{name} is not printed: {out}"));
    number.replace(',', "").parse().expect("it is a number")
}

/// The least `limits.memory` that a server with two workers starts with.
pub fn least_memory() -> String {
    (8..256)
        .map(|mib| format!("{mib}M"))
        .find(|memory| {
            let settings = format!("limits.memory = {memory:?}\nserver.workers = 2\n");
            let folder = folder_with(&settings, &settings_to_check());
            let file = folder.path().join("config.toml");
            let file = file.to_str().expect("temporary names are UTF-8");
            run(&["check", "--config", file], &[]).0 == 0
        })
        .expect("some amount of memory is enough")
}

/// Runs a command of the binary to its end: exit code, standard output, standard error.
pub fn run(args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    run_within(PATIENCE, args, env)
}

/// As `run`, for a command that may take so long.
pub fn run_within(longest: Duration, args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(BINARY);
    command
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .stdin(Stdio::null());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let start = cloudchat::clock::now();
    while child.try_wait().expect("it is our child").is_none() {
        if start.elapsed() > longest {
            let _ = child.kill();
            panic!("{args:?} does not end");
        }
        super::pass(0.002);
    }
    let output = child.wait_with_output().expect("it has ended");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}
