//! Replacing the process by a new one without losing a connection.
//!
//! The old process starts the program anew with all listening sockets and a control socket. The new
//! one sets itself up and says so; the old one says go; the new one accepts and says so; only then
//! the old one names it to systemd and stops accepting. Both hold the same sockets all the time, so
//! the kernel's queues are never closed. Until the new one accepts, whatever happens to it costs
//! nothing: it is ended, and the old one goes on.
//!
//! Afterwards the control socket tells the new process when the old one's mail sender has stopped
//! (two senders at work would send letters twice), and each of them when the other has ended.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::{CommandExt as _, parent_id};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::sockets::{Bound, Origin, gather};
use crate::config;

/// Holds the old process's id, the control socket's number, and those of the listening sockets:
/// `<pid> <control> <systemd's, with commas> <own, with commas>`.
const VARIABLE: &str = "CLOUDCHAT_PREDECESSOR";

// What the two say to each other, each a byte.
/// New: set up.
const READY: u8 = b'R';
/// Old: accept.
const GO: u8 = b'G';
/// New: accepting.
const SERVING: u8 = b'S';
/// Old: systemd knows that you are the main process.
const ANNOUNCED: u8 = b'M';
/// Old: no letter is in my hands any more.
const LETTERS: u8 = b'L';
/// New: a process newer than me serves now.
const HANDED_ON: u8 = b'H';

/// How long a process that has closed its control socket may take to end.
const END_TRIES: u32 = 100;
const END_PAUSE: Duration = Duration::from_millis(10);

/// The program as it was started, to be started again.
#[derive(Debug)]
pub struct Program {
    /// As it was called, which a symbolic link to the newest version may be part of.
    called: OsString,
    /// As it was found; the name counts, not the file behind it, which may be replaced.
    found: Option<PathBuf>,
    args: Vec<OsString>,
}

impl Program {
    /// This process's program.
    pub fn of_this_process() -> Self {
        let mut args = std::env::args_os();
        Self {
            called: args.next().unwrap_or_default(),
            found: std::env::current_exe().ok().map(without_deleted),
            args: args.collect(),
        }
    }

    /// The file to start now.
    fn path(&self) -> Result<PathBuf, String> {
        let called = PathBuf::from(&self.called);
        let called = Some(called).filter(|path| path.components().count() > 1);
        let mut candidates = [called.as_ref(), self.found.as_ref()].into_iter().flatten();
        candidates
            .find(|path| path.is_file())
            .cloned()
            .ok_or_else(|| format!("no program at {}", self.called.display()))
    }
}

/// The kernel marks the name of a program whose file has been replaced since it was started.
fn without_deleted(path: PathBuf) -> PathBuf {
    let text = path
        .to_str()
        .and_then(|text| text.strip_suffix(" (deleted)"));
    text.map(PathBuf::from).unwrap_or(path)
}

/// What this process was started with.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// Sockets that listen already.
    pub sockets: Vec<Bound>,
    /// The way to the process that serves until we do.
    pub predecessor: Option<std::os::unix::net::UnixStream>,
}

impl Inheritance {
    /// Takes what systemd or an old process has passed on. To be called once, and first.
    ///
    /// # Errors
    /// One line on what cannot be used.
    pub fn take() -> Result<Self, String> {
        if let Some(passed) = config::environment(VARIABLE)
            && let Some(passed) = Passed::parse(&passed)
            && passed.pid == parent_id()
        {
            return passed.take();
        }
        let fds = sd_notify::listen_fds();
        let fds = fds.map_err(|error| format!("sockets from systemd (LISTEN_FDS): {error}"))?;
        // They help whoever reads the error, and may be another process's.
        let names = config::environment("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let sockets = fds.map(|fd| {
            let name = names.next().unwrap_or_default();
            adopt(fd, Origin::Systemd).map_err(|error| format!("{error} (named {name:?})"))
        });
        let sockets: Vec<Bound> = sockets.collect::<Result<_, String>>()?;
        Ok(Self {
            sockets: gather(sockets),
            predecessor: None,
        })
    }
}

/// [`VARIABLE`], parsed.
#[derive(Debug, PartialEq)]
struct Passed {
    pid: u32,
    control: RawFd,
    systemd: Vec<RawFd>,
    own: Vec<RawFd>,
}

impl Passed {
    fn parse(text: &str) -> Option<Self> {
        let numbers = |text: &str| -> Option<Vec<RawFd>> {
            let numbers = text.split(',').filter(|number| !number.is_empty());
            numbers.map(|number| number.parse().ok()).collect()
        };
        let mut parts = text.split(' ');
        let mut next = || parts.next();
        Some(Self {
            pid: next()?.parse().ok()?,
            control: next()?.parse().ok()?,
            systemd: numbers(next()?)?,
            own: numbers(next()?)?,
        })
    }

    fn text(&self) -> String {
        let numbers = |fds: &[RawFd]| {
            let numbers: Vec<String> = fds.iter().map(RawFd::to_string).collect();
            numbers.join(",")
        };
        let (systemd, own) = (numbers(&self.systemd), numbers(&self.own));
        format!("{} {} {systemd} {own}", self.pid, self.control)
    }

    fn take(self) -> Result<Inheritance, String> {
        let control = take(self.control).map_err(|error| format!("{VARIABLE}: {error}"))?;
        let predecessor = std::os::unix::net::UnixStream::from(control);
        let systemd = self.systemd.iter().map(|fd| adopt(*fd, Origin::Systemd));
        let own = self.own.iter().map(|fd| adopt(*fd, Origin::Own));
        let sockets: Vec<Bound> = systemd.chain(own).collect::<Result<_, String>>()?;
        Ok(Inheritance {
            sockets: gather(sockets),
            predecessor: Some(predecessor),
        })
    }
}

fn adopt(fd: RawFd, origin: Origin) -> Result<Bound, String> {
    let bound = take(fd).map_err(|error| format!("cannot be used: {error}"));
    let bound = bound.and_then(|fd| Bound::adopt(fd, origin));
    bound.map_err(|error| format!("the inherited file descriptor {fd} {error}"))
}

/// A file descriptor that this process was started with.
fn take(fd: RawFd) -> io::Result<OwnedFd> {
    #[expect(unsafe_code, reason = "fcntl(2) with F_SETFD touches no memory")]
    // SAFETY: as above; a number that is not open gives an error.
    let set = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    #[expect(unsafe_code, reason = "a number in the environment is all there is")]
    // SAFETY: it is open, and was opened for us: each number that is passed on is taken once,
    // before anything else is opened.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the old process says after the handover.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    /// It has no letter in hand any more.
    Letters,
    /// It has ended.
    Gone,
}

/// The process that serves until this one does.
#[derive(Debug)]
pub struct Predecessor {
    control: UnixStream,
}

impl Predecessor {
    /// Must be called within the runtime.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub fn new(control: std::os::unix::net::UnixStream) -> Result<Self, String> {
        let new = control.set_nonblocking(true);
        let new = new.and_then(|()| UnixStream::from_std(control));
        let control = new.map_err(|error| format!("{VARIABLE}: {error}"))?;
        Ok(Self { control })
    }

    /// Says that this process is set up, and waits until it is to accept. A predecessor that is
    /// gone wants nothing else.
    pub async fn wait_for_go(&mut self) {
        say(&mut self.control, READY).await;
        listen(&mut self.control, GO).await;
    }

    /// Says that this process accepts, and waits until systemd knows it.
    pub async fn take_over(&mut self) {
        say(&mut self.control, SERVING).await;
        listen(&mut self.control, ANNOUNCED).await;
    }

    /// Says that this process has been replaced in its turn.
    pub async fn hand_on(&mut self) {
        say(&mut self.control, HANDED_ON).await;
    }

    /// What it says next. May be dropped and called again.
    pub async fn next(&mut self) -> Word {
        match listen(&mut self.control, LETTERS).await {
            true => Word::Letters,
            false => Word::Gone,
        }
    }
}

/// Whoever has gone does not hear it; [`listen`] tells.
async fn say(control: &mut UnixStream, word: u8) {
    control.write_all(&[word]).await.unwrap_or_default();
}

/// Whether that was said before the other end was gone.
async fn listen(control: &mut UnixStream, word: u8) -> bool {
    let mut heard = [0];
    matches!(control.read(&mut heard).await, Ok(1) if heard[0] == word)
}

/// The new process.
#[derive(Debug)]
pub struct Successor {
    child: Child,
    control: UnixStream,
    /// Until then it is ended when this is dropped.
    serves: bool,
}

impl Successor {
    /// Starts `program` with these sockets; returns when it accepts.
    ///
    /// # Errors
    /// One line on why it does not. It has been ended then, and has taken no connection away.
    pub async fn start(
        program: &Program,
        sockets: &[Bound],
        patience: Duration,
    ) -> Result<Self, String> {
        let path = program.path()?;
        let (child, control) = spawn(program, &path, sockets)
            .map_err(|error| format!("{} cannot be started: {error}", path.display()))?;
        let mut successor = Self {
            child,
            control,
            serves: false,
        };
        match timeout(patience, successor.come_up()).await {
            Ok(true) => {
                successor.serves = true;
                Ok(successor)
            }
            Ok(false) => Err(match successor.ended().await {
                Some(status) => format!("the new process ended with {status}"),
                None => "the new process has closed its control socket".to_owned(),
            }),
            Err(_) => Err(format!(
                "it was not ready within {} s",
                patience.as_secs_f64()
            )),
        }
    }

    async fn come_up(&mut self) -> bool {
        if !listen(&mut self.control, READY).await {
            return false;
        }
        say(&mut self.control, GO).await;
        listen(&mut self.control, SERVING).await
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Says that systemd knows it.
    pub async fn announce(&mut self) {
        say(&mut self.control, ANNOUNCED).await;
    }

    /// Says that it may send letters.
    pub async fn give_letters(&mut self) {
        say(&mut self.control, LETTERS).await;
    }

    /// Resolves when it has been replaced in its turn (`true`), or has ended without. May be dropped
    /// and called again.
    pub async fn replaced(&mut self) -> bool {
        listen(&mut self.control, HANDED_ON).await
    }

    /// How it ended, if it does so soon.
    pub async fn ended(&mut self) -> Option<ExitStatus> {
        for _ in 0..END_TRIES {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            sleep(END_PAUSE).await;
        }
        None
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.serves {
            // Both fail only if it has been waited for.
            self.child.kill().unwrap_or_default();
            drop(self.child.wait());
        }
    }
}

fn spawn(
    program: &Program,
    path: &std::path::Path,
    sockets: &[Bound],
) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let control = inheritable(&theirs)?;
    let (mut systemd, mut own) = (Vec::new(), Vec::new());
    for bound in sockets {
        let list = match bound.origin {
            Origin::Systemd => &mut systemd,
            Origin::Own => &mut own,
        };
        for socket in &bound.sockets {
            list.push(inheritable(socket)?);
        }
    }
    let numbers = |fds: &[OwnedFd]| fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let passed = Passed {
        pid: std::process::id(),
        control: control.as_raw_fd(),
        systemd: numbers(&systemd),
        own: numbers(&own),
    };
    let child = Command::new(path)
        .arg0(&program.called)
        .args(&program.args)
        .env(VARIABLE, passed.text())
        // These are about this process; without WATCHDOG_PID the watchdog is for whoever serves.
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_FDNAMES")
        .env_remove("WATCHDOG_PID")
        .spawn()?;
    Ok((child, UnixStream::from_std(ours)?))
}

/// A copy that a program started by this process keeps, unlike everything else that is open here.
fn inheritable(fd: &impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::dup(fd)?)
}

/// Where `cloudchat reload` waits for the outcome: a name that only exists while it does.
///
/// # Errors
/// Never for a process id.
pub fn outcome_address(pid: u32) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("cloudchat-reload-{pid}"))
}

/// Tells `cloudchat reload`, if somebody has run it, how it went: `+` or `-`, and a line.
pub fn tell_outcome(outcome: Result<u32, &str>) {
    let text = match outcome {
        Ok(pid) => format!("+process {pid} serves now"),
        Err(cause) => format!("-{cause}"),
    };
    let told = outcome_address(std::process::id()).and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(text.as_bytes(), &address)
    });
    // Most of the time nobody waits.
    drop(told);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_on_arrives() {
        for (systemd, own) in [(vec![], vec![7, 8]), (vec![5], vec![]), (vec![], vec![])] {
            let passed = Passed {
                pid: 12,
                control: 4,
                systemd,
                own,
            };
            assert_eq!(Passed::parse(&passed.text()), Some(passed));
        }
        for text in ["", "1", "1 2 3", "x 2 3 4", "1 2 a 4", "1 2 3 4,b"] {
            assert_eq!(Passed::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_replaced_program_is_found_under_its_name() {
        for (seen, expect) in [("/a/b (deleted)", "/a/b"), ("/a/b", "/a/b")] {
            assert_eq!(without_deleted(seen.into()), PathBuf::from(expect));
        }
    }
}
