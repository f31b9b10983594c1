//! Replacing the process by a new one without losing a connection.
//!
//! The old process starts the program anew with all listening sockets and a control socket. The new
//! one sets itself up and says so; the old one says go; the new one accepts and says so; only then
//! the old one names it to systemd and stops accepting. Both hold the same sockets all the time, so
//! the kernel's queues are never closed. Until the new one accepts, whatever happens to it costs
//! nothing: it is ended, and the old one goes on.
//!
//! Afterwards the control socket tells the new process when the old one's mail sender has stopped
//! (two senders at work would send letters twice), and each of them when the other is told to end, or has
//! ended. On a stop the new process is the last to end ([`Lineage`]).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, parent_id};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::inherit::{Passed, VARIABLE};
use super::lineage::Lineage;
use super::sockets::{Bound, Origin};

// What the two say to each other, each a byte.
/// New: my process id, in the four bytes that follow; see [`Detached`].
const DETACHED: u8 = b'D';
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
/// New: told to end, as you are to.
const LEAVING: u8 = b'E';

/// How long a process that has closed its control socket may take to end.
const END_TRIES: u32 = 100;
const END_PAUSE: Duration = Duration::from_millis(10);

/// First processes of containers that end with the process which they have started.
const INITS: [&str; 4] = ["catatonit", "docker-init", "dumb-init", "tini"];

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
    /// Whether it knows [`LEAVING`]; earlier versions do not.
    hears_leaving: bool,
}

impl Predecessor {
    /// Must be called within the runtime. `hears_leaving`: it has passed on a [`Lineage`].
    ///
    /// # Errors
    /// The socket cannot be used.
    pub fn new(
        control: std::os::unix::net::UnixStream,
        hears_leaving: bool,
    ) -> Result<Self, String> {
        let new = control.set_nonblocking(true);
        let new = new.and_then(|()| UnixStream::from_std(control));
        let control = new.map_err(|error| format!("{VARIABLE}: {error}"))?;
        Ok(Self {
            control,
            hears_leaving,
        })
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

    /// Says that this process has been told to end.
    pub async fn leave(&mut self) {
        if self.hears_leaving {
            say(&mut self.control, LEAVING).await;
        }
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

/// The id of a new process that is not the child of the old one any more, as it is told.
#[derive(Debug)]
pub struct Detached(Pid);

impl Detached {
    /// What is said of process `pid`.
    pub fn word(pid: i32) -> [u8; 5] {
        let [a, b, c, d] = pid.to_le_bytes();
        [DETACHED, a, b, c, d]
    }

    fn heard(word: &[u8]) -> Option<Self> {
        let pid = word.strip_prefix(&[DETACHED])?;
        let pid = i32::from_le_bytes(pid.try_into().ok()?);
        Some(pid)
            .filter(|pid| *pid > 0)
            .and_then(Pid::from_raw)
            .map(Self)
    }
}

/// What the new process says after the handover.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// A newer process serves now.
    HandedOn,
    /// It has been told to end.
    Leaving,
    /// It has ended, with neither.
    Gone,
}

/// The new process.
#[derive(Debug)]
pub struct Successor {
    /// The process that was started.
    child: Child,
    /// The one that it has put in its place, as all but earlier versions do.
    detached: Option<Detached>,
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
        lineage: &mut Option<Lineage>,
        patience: Duration,
    ) -> Result<Self, String> {
        is_outlived()?;
        let path = program.path()?;
        let (child, control) = spawn(program, &path, sockets, lineage)
            .map_err(|error| format!("{} cannot be started: {error}", path.display()))?;
        let mut successor = Self {
            child,
            detached: None,
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
                None => "the new process ended; its own lines in the log say why".to_owned(),
            }),
            Err(_) => Err(format!(
                "it was not ready within {} s",
                patience.as_secs_f64()
            )),
        }
    }

    async fn come_up(&mut self) -> bool {
        let mut word = Detached::word(0);
        let Ok(mut len) = self.control.read(&mut word).await else {
            return false;
        };
        self.detached = Detached::heard(&word[..len]);
        if self.detached.is_some() {
            // It is about to end, and only then the other has another parent.
            drop(self.child.wait());
            len = self.control.read(&mut word[..1]).await.unwrap_or(0);
        }
        if word[..len] != [READY] {
            return false;
        }
        say(&mut self.control, GO).await;
        listen(&mut self.control, SERVING).await
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        match &self.detached {
            Some(Detached(pid)) => pid.as_raw_pid().unsigned_abs(),
            None => self.child.id(),
        }
    }

    /// Says that systemd knows it.
    pub async fn announce(&mut self) {
        say(&mut self.control, ANNOUNCED).await;
    }

    /// Says that it may send letters.
    pub async fn give_letters(&mut self) {
        say(&mut self.control, LETTERS).await;
    }

    /// What it says next. May be dropped and called again.
    pub async fn next(&mut self) -> News {
        let mut heard = [0];
        match self.control.read(&mut heard).await {
            Ok(1) if heard == [HANDED_ON] => News::HandedOn,
            Ok(1) if heard == [LEAVING] => News::Leaving,
            _ => News::Gone,
        }
    }

    /// How it ended, if it does so soon, and is still our child.
    pub async fn ended(&mut self) -> Option<ExitStatus> {
        for _ in 0..END_TRIES {
            if self.detached.is_some() {
                break;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            sleep(END_PAUSE).await;
        }
        None
    }

    /// Ends it, whichever process it is by now.
    fn end(&mut self) {
        // Both fail only if it has been waited for.
        self.child.kill().unwrap_or_default();
        drop(self.child.wait());
        // By now it has told of the process in its place, or there is none.
        let mut word = Detached::word(0);
        for _ in 0..END_TRIES {
            match rustix::io::read(&self.control, &mut word) {
                Ok(1..) => self.detached = self.detached.take().or(Detached::heard(&word)),
                Err(Errno::AGAIN) => {
                    let Some(Detached(pid)) = self.detached else {
                        return;
                    };
                    // It has the socket open, so the id is still its own.
                    kill_process(pid, Signal::KILL).unwrap_or_default();
                    thread::sleep(END_PAUSE);
                }
                Ok(0) | Err(_) => return,
            }
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.serves {
            self.end();
        }
    }
}

/// Whether what runs this process goes on after its end; a container does not.
fn is_outlived() -> Result<(), String> {
    // The first process of a process namespace, the child of one that only waits for it, or of one outside.
    let is_containers = std::process::id() == 1
        || match parent_id() {
            0 => true,
            1 => fs::read_to_string("/proc/1/comm").is_ok_and(|init| INITS.contains(&init.trim())),
            _ => false,
        };
    match is_containers {
        false => Ok(()),
        true => Err(
            "the container ends with this process: start another with the new version instead"
                .to_owned(),
        ),
    }
}

fn spawn(
    program: &Program,
    path: &std::path::Path,
    sockets: &[Bound],
    lineage: &mut Option<Lineage>,
) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let control = inheritable(&theirs)?;
    if lineage.is_none() {
        *lineage = Some(Lineage::new()?);
    }
    let ends = lineage.iter().flat_map(Lineage::ends);
    let ends: Vec<OwnedFd> = ends
        .map(|end| inheritable(&end))
        .collect::<io::Result<_>>()?;
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
        lineage: numbers(&ends),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detached_process_is_told_by_its_id() {
        let told = Detached::heard(&Detached::word(70_000)).map(|Detached(pid)| pid.as_raw_pid());
        assert_eq!(told, Some(70_000));
        for word in [
            &Detached::word(0)[..],
            &Detached::word(-1),
            b"R",
            b"",
            b"D123",
        ] {
            assert!(Detached::heard(word).is_none(), "{word:?}");
        }
    }

    #[test]
    fn a_replaced_program_is_found_under_its_name() {
        for (seen, expect) in [("/a/b (deleted)", "/a/b"), ("/a/b", "/a/b")] {
            assert_eq!(without_deleted(seen.into()), PathBuf::from(expect));
        }
    }
}
