//! What this process was started with: listening sockets, from systemd or from the process that serves until
//! this one does.
//!
//! The old process starts us as its child. systemd waits only for processes that are its own children at the
//! time when they are named to it, so the one that will serve is forked once more and the first ends: the
//! kernel then makes the other a child of the first process (of systemd, or of the nearest subreaper).

use std::io::{self, Read as _, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;
use std::process;

use super::lineage::Lineage;
use super::sockets::{Bound, Origin, gather};
use super::upgrade::Detached;
use crate::config;

/// Holds the old process's id, the control socket's number, those of the listening sockets, and those of the
/// [`Lineage`]: `<pid> <control> <systemd's, with commas> <own, with commas> <reader>,<writer>`. The last is missing
/// from versions that know the new process as their child only.
pub const VARIABLE: &str = "CLOUDCHAT_PREDECESSOR";

/// What this process was started with.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// Sockets that listen already.
    pub sockets: Vec<Bound>,
    /// The way to the process that serves until we do.
    pub predecessor: Option<UnixStream>,
    /// What is shared with all processes that served before.
    pub lineage: Option<Lineage>,
}

impl Inheritance {
    /// Takes what systemd or an old process has passed on. To be called once, and first: before there
    /// is a second thread.
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
            ..Self::default()
        })
    }
}

/// [`VARIABLE`], parsed.
#[derive(Debug, PartialEq)]
pub struct Passed {
    pub pid: u32,
    pub control: RawFd,
    pub systemd: Vec<RawFd>,
    pub own: Vec<RawFd>,
    /// None or two.
    pub lineage: Vec<RawFd>,
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
            lineage: next().map_or(Some(Vec::new()), numbers)?,
        })
    }

    /// The variable's value.
    pub fn text(&self) -> String {
        let numbers = |fds: &[RawFd]| {
            let numbers: Vec<String> = fds.iter().map(RawFd::to_string).collect();
            numbers.join(",")
        };
        let (systemd, own) = (numbers(&self.systemd), numbers(&self.own));
        let lineage = numbers(&self.lineage);
        format!("{} {} {systemd} {own} {lineage}", self.pid, self.control)
    }

    fn take(self) -> Result<Inheritance, String> {
        let failed = |error: io::Error| format!("{VARIABLE}: {error}");
        let mut predecessor = UnixStream::from(take(self.control).map_err(failed)?);
        let lineage = self.lineage.iter().map(|fd| take(*fd));
        let lineage: Vec<OwnedFd> = lineage.collect::<io::Result<_>>().map_err(failed)?;
        let lineage = <[OwnedFd; 2]>::try_from(lineage).ok().map(Lineage::adopt);
        let systemd = self.systemd.iter().map(|fd| adopt(*fd, Origin::Systemd));
        let own = self.own.iter().map(|fd| adopt(*fd, Origin::Own));
        let sockets: Vec<Bound> = systemd.chain(own).collect::<Result<_, String>>()?;
        if lineage.is_some() {
            detach(&mut predecessor).map_err(failed)?;
        }
        Ok(Inheritance {
            sockets: gather(sockets),
            predecessor: Some(predecessor),
            lineage,
        })
    }
}

/// Goes on in a process that is not the old one's child. The old one is told its id first: it goes on only
/// if that was said, so that the old one can end it whenever it has ended its child.
fn detach(predecessor: &mut UnixStream) -> io::Result<()> {
    let (mut hear, mut say) = io::pipe()?;
    #[expect(
        unsafe_code,
        reason = "there is no other way to a process without exec"
    )]
    // SAFETY: no other thread runs yet, so nothing is torn apart.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(say);
            hear.read_exact(&mut [0])
        }
        pid => {
            let told = predecessor.write_all(&Detached::word(pid));
            let told = told.and_then(|()| say.write_all(&[0]));
            process::exit(i32::from(told.is_err()))
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_on_arrives() {
        for (systemd, own, lineage) in [
            (vec![], vec![7, 8], vec![9, 10]),
            (vec![5], vec![], vec![]),
            (vec![], vec![], vec![6, 7]),
        ] {
            let passed = Passed {
                pid: 12,
                control: 4,
                systemd,
                own,
                lineage,
            };
            assert_eq!(Passed::parse(&passed.text()), Some(passed));
        }
        let of_before = Passed::parse("12 4  7,8").map(|passed| passed.lineage);
        assert_eq!(of_before, Some(vec![]), "as earlier versions write it");
        for text in [
            "",
            "1",
            "1 2 3",
            "x 2 3 4",
            "1 2 a 4",
            "1 2 3 4,b",
            "1 2 3 4 x",
        ] {
            assert_eq!(Passed::parse(text), None, "{text}");
        }
    }
}
