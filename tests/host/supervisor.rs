//! Plays systemd for one service: holds its sockets, starts it, hears what it says, follows its main
//! process, and collects every process that it leaves behind.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tempfile::TempDir;

use crate::kit::server::{BINARY, free_port, no_rate_limit};
use crate::kit::{Conn, Provider, Reply, pass, request, until};

/// Who holds the listening sockets.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Held {
    BySystemd,
    ByServer,
}

/// A service and its processes; those are killed when this is dropped.
pub struct Service {
    pub folder: TempDir,
    pub port: u16,
    pub held: Held,
    sockets: Vec<OwnedFd>,
    provider_row: String,
    env: Vec<(&'static str, String)>,
    heard: Arc<Mutex<Vec<String>>>,
    /// Lines of `heard` that were looked at.
    seen: usize,
    pub main_pid: i32,
    /// Every process that was the main one and has not been collected.
    pub pids: Vec<i32>,
}

impl Service {
    pub fn start(held: Held, provider: &Provider, settings: &str) -> Self {
        Self::start_with(held, provider, settings, Vec::new())
    }

    pub fn start_with(
        held: Held,
        provider: &Provider,
        settings: &str,
        env: Vec<(&'static str, String)>,
    ) -> Self {
        adopt_orphans();
        let folder = tempfile::tempdir().expect("there is room");
        let port = free_port();
        let sockets = match held {
            Held::ByServer => Vec::new(),
            Held::BySystemd => {
                let tcp = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
                let unix = UnixListener::bind(folder.path().join("socket"));
                vec![tcp.into(), unix.expect("the folder is ours").into()]
            }
        };
        let notify = UnixDatagram::bind(folder.path().join("notify")).expect("the folder is ours");
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let hearing = Arc::clone(&heard);
        thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(n) = notify.recv(&mut message) {
                let text = String::from_utf8_lossy(&message[..n]).into_owned();
                let lines = text.lines().map(str::to_owned);
                let mut hearing = hearing.lock().unwrap_or_else(PoisonError::into_inner);
                hearing.extend(lines);
            }
        });
        fs::create_dir(folder.path().join("bin")).expect("the folder is ours");
        let mut service = Self {
            folder,
            port,
            held,
            sockets,
            provider_row: provider.row(),
            env,
            heard,
            seen: 0,
            main_pid: 0,
            pids: Vec::new(),
        };
        service.install();
        service.configure(settings);
        service.spawn();
        service.expect("READY=1");
        service
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program that the service runs.
    pub fn program(&self) -> PathBuf {
        self.path("bin/cloudchat")
    }

    /// Puts the real program in place, as a package manager does: beside, then renamed over.
    pub fn install(&self) {
        copy_program(Path::new(BINARY), &self.path("bin/new"));
        fs::rename(self.path("bin/new"), self.program()).expect("the folder is ours");
    }

    /// Puts a script in the program's place.
    pub fn install_script(&self, script: &str) {
        self.install_file(&format!("#!/bin/sh\n{script}\n"), 0o755);
    }

    /// Puts a file of this mode in the program's place.
    pub fn install_file(&self, text: &str, mode: u32) {
        let (written, new) = (self.path("bin/written"), self.path("bin/new"));
        fs::write(&written, text).expect("the folder is ours");
        copy_program(&written, &new);
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).expect("it is ours");
        fs::rename(new, self.program()).expect("the folder is ours");
    }

    /// Writes the configuration, which the next process reads.
    pub fn configure(&self, settings: &str) {
        let listen = match settings.contains("server.listen") {
            true => String::new(),
            false => format!(
                "server.listen = [\"127.0.0.1:{}\", \"unix:{}\"]\n",
                self.port,
                self.path("socket").display()
            ),
        };
        let text = listen + &no_rate_limit(settings) + &self.provider_row;
        fs::write(self.path("config.toml"), text).expect("the folder is ours");
    }

    fn spawn(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("stderr"));
        // LISTEN_PID is the process's own id, which only it knows in time.
        let mut command = Command::new("/bin/sh");
        command
            .args([
                "-c",
                "[ -n \"$LISTEN_PID\" ] || export LISTEN_PID=$$; exec \"$@\"",
                "sh",
            ])
            .arg(self.program())
            .args(["serve", "--config"])
            .arg(self.path("config.toml"))
            .arg("--data-dir")
            .arg(self.path("data"))
            .env_clear()
            .env("NOTIFY_SOCKET", self.path("notify"))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("it is writable"));
        if self.held == Held::BySystemd {
            command
                .env("LISTEN_FDS", self.sockets.len().to_string())
                .env("LISTEN_FDNAMES", "http:unix");
            let numbers: Vec<RawFd> = self.sockets.iter().map(|fd| fd.as_raw_fd()).collect();
            #[expect(
                unsafe_code,
                reason = "file descriptors get their numbers in the child"
            )]
            // SAFETY: fcntl(2) and dup2(2) may be called between fork and exec, and `numbers` lives
            // in the closure.
            unsafe {
                command.pre_exec(move || {
                    // Out of the way first, for the numbers may overlap.
                    let mut high = [0; 8];
                    for (high, number) in high.iter_mut().zip(&numbers) {
                        *high = libc::fcntl(*number, libc::F_DUPFD_CLOEXEC, 200);
                    }
                    for (target, high) in (3..).zip(&high[..numbers.len()]) {
                        if libc::dup2(*high, target) < 0 {
                            return Err(std::io::Error::last_os_error());
                        }
                    }
                    Ok(())
                });
            }
        }
        #[expect(clippy::zombie_processes, reason = "`Service::ended` collects it")]
        let child = command.spawn().expect("the shell starts");
        self.main_pid = child.id() as i32;
        self.pids.push(self.main_pid);
    }

    /// Stops the main process and starts another, with the same sockets.
    pub fn restart(&mut self) {
        self.signal(libc::SIGTERM);
        assert_eq!(self.ended(self.main_pid), 0);
        self.spawn();
        self.expect("READY=1");
    }

    /// Everything that the service has said to systemd.
    pub fn heard(&self) -> Vec<String> {
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until the service says this; what it said up to there is returned, and not looked at
    /// again.
    pub fn expect(&mut self, line: &str) -> Vec<String> {
        let (from, to) = until(&format!("{line} from the service"), || {
            let heard = self.heard();
            let at = heard[self.seen..].iter().position(|said| said == line)?;
            Some((self.seen, self.seen + at + 1))
        });
        self.seen = to;
        let said = self.heard()[from..to].to_vec();
        for line in &said {
            if let Some(pid) = line.strip_prefix("MAINPID=") {
                self.main_pid = pid.parse().expect("it is a number");
                self.pids.push(self.main_pid);
            }
        }
        said
    }

    /// Reloads, and waits until a new process is the main one.
    pub fn upgrade(&mut self) {
        let old = self.main_pid;
        self.signal(libc::SIGUSR2);
        self.expect("READY=1");
        assert_ne!(self.main_pid, old, "a new process serves\n{}", self.log());
    }

    /// Runs `cloudchat reload`: exit code and standard error.
    pub fn reload(&self) -> (i32, String) {
        let pid = self.main_pid.to_string();
        let (code, _, errors) = crate::kit::server::run(&["reload", "--pid", &pid], &[]);
        (code, errors)
    }

    /// Signals the main process.
    pub fn signal(&self, signal: i32) {
        send(self.main_pid, signal);
    }

    /// Waits for the end of one process: its exit code.
    pub fn ended(&mut self, pid: i32) -> i32 {
        let code = until("a process to end", || try_wait(pid));
        self.pids.retain(|other| *other != pid);
        code
    }

    /// Whether it still runs.
    pub fn runs(pid: i32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    /// All that run a program of this service's, whosever children they are.
    pub fn processes(&self) -> Vec<i32> {
        let all = fs::read_dir("/proc").expect("it is mounted").flatten();
        all.filter(|entry| {
            let program = fs::read_link(entry.path().join("exe"));
            program.is_ok_and(|program| program.starts_with(self.folder.path()))
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
    }

    /// What its processes wrote to standard error so far, a moment later.
    pub fn log(&self) -> String {
        pass(0.05);
        let bytes = fs::read(self.path("stderr")).expect("it was made at the start");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn tcp(&self) -> Conn {
        Conn::tcp(self.port)
    }

    pub fn unix(&self) -> Conn {
        Conn::unix(&self.path("socket"))
    }
}

/// Copies a file that will be started. Not written here: a child that another test starts just then
/// would have it open for writing, and the kernel starts no such file.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "cp works");
}

/// Asks for `/test` on this connection.
pub fn test(conn: &mut Conn) -> Reply {
    conn.send(&request("GET /test", &[], None));
    conn.reply()
}

/// The processes that a process has started and not waited for.
pub fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let lists = tasks.flatten().map(|task| {
        let list: &Path = &task.path().join("children");
        fs::read_to_string(list).unwrap_or_default()
    });
    let all = lists.collect::<Vec<_>>().join(" ");
    all.split_whitespace()
        .map(|pid| pid.parse().expect("it is a number"))
        .collect()
}

pub fn send(pid: i32, signal: i32) {
    #[expect(unsafe_code, reason = "kill(2) touches no memory of ours")]
    // SAFETY: as above; the process is one of ours and not collected yet.
    let sent = unsafe { libc::kill(pid, signal) };
    assert_eq!(sent, 0, "process {pid} is there");
}

/// Collects a process that has ended: its exit code, or the negative signal.
pub fn try_wait(pid: i32) -> Option<i32> {
    let mut status = 0;
    #[expect(unsafe_code, reason = "orphans are collected by waitpid(2) only")]
    // SAFETY: `status` outlives the call.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
    if waited < 0 {
        let error = std::io::Error::last_os_error();
        // It is still its predecessor's child.
        assert_eq!(error.raw_os_error(), Some(libc::ECHILD), "{error}");
        return None;
    }
    (waited == pid).then(|| match libc::WIFEXITED(status) {
        true => libc::WEXITSTATUS(status),
        false => -libc::WTERMSIG(status),
    })
}

/// Has processes whose parent has ended become children of this one.
pub fn adopt_orphans() {
    #[expect(unsafe_code, reason = "prctl(2) touches no memory here")]
    // SAFETY: as above.
    let set = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    assert_eq!(set, 0, "Linux 3.4 and later have it");
}

impl Drop for Service {
    #[expect(
        clippy::print_stderr,
        reason = "libtest shows it for failed tests only"
    )]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the service's standard error ---\n{}", self.log());
            eprintln!("--- heard ---\n{}", self.heard().join("\n"));
        }
        for pid in std::mem::take(&mut self.pids) {
            #[expect(unsafe_code, reason = "kill(2) touches no memory of ours")]
            // SAFETY: the process has not been collected, so the id is still its own.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
            }
        }
        let gone = fs::remove_file(self.path("notify"));
        assert!(
            gone.is_ok() || gone.is_err_and(|error| error.kind() == ErrorKind::NotFound),
            "the folder is ours"
        );
    }
}
