//! How a reload went, told by the server to each `cloudchat reload` that waits for it.
//!
//! They meet at an abstract name, because the unit's sandbox leaves them no folder in common that they would both
//! know. Anyone on the machine can take such a name or send to it. So a reload whose name is taken makes up another,
//! which the server finds in the kernel's list, and believes only what the kernel says is from the server.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::mem::{MaybeUninit, offset_of};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::time::Duration;

use socket2::{MaybeUninitSlice, MsgHdrMut, Socket};

use crate::clock;
use crate::entropy;

/// Longest outcome, bytes.
const OUTCOME_BYTES_MAX: usize = 1024;
/// For one that waits and takes nothing, and for all of them.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);
const TELL_MAX: Duration = Duration::from_secs(1);
/// A control message with the sender's process, user and group, each 4 bytes (unix(7), `SCM_CREDENTIALS`).
const CREDENTIALS_LENGTH: usize = size_of::<libc::cmsghdr>() + size_of::<libc::ucred>();

/// The name where earlier versions meet, and what others begin with.
fn name(server: u32) -> String {
    format!("cloudchat-reload-{server}")
}

/// Where one `cloudchat reload` waits.
#[derive(Debug)]
pub struct Waiting {
    socket: Socket,
    server: u32,
}

impl Waiting {
    /// For what `server`, a process id, will tell; looks that often whether there is something.
    ///
    /// # Errors
    /// There are no more file descriptors.
    pub fn listen(server: u32, look: Duration) -> io::Result<Self> {
        let bind = |name: String| {
            SocketAddr::from_abstract_name(name).and_then(|name| UnixDatagram::bind_addr(&name))
        };
        let made_up = || format!("{}-{}", name(server), entropy::token());
        let socket = bind(name(server)).or_else(|_| bind(made_up()))?;
        socket.set_read_timeout(Some(look))?;
        let socket = Socket::from(std::os::fd::OwnedFd::from(socket));
        socket.set_passcred(true)?;
        Ok(Self { socket, server })
    }

    /// What the server has told: `+` or `-`, and a line. None if it has not, yet.
    ///
    /// # Errors
    /// The socket cannot be read.
    pub fn look(&self) -> io::Result<Option<String>> {
        let mut text = [MaybeUninit::new(0); OUTCOME_BYTES_MAX];
        let mut control = [MaybeUninit::new(0); CREDENTIALS_LENGTH];
        let mut texts = [MaybeUninitSlice::new(&mut text)];
        let message = MsgHdrMut::new().with_buffers(&mut texts);
        let mut message = message.with_control(&mut control);
        let len = match self.socket.recvmsg(&mut message, 0) {
            Ok(len) => len,
            Err(error) if is_timeout(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_from_server = sender(&initialised(control)) == Some(self.server);
        let text = String::from_utf8_lossy(&initialised(text)[..len]).into_owned();
        Ok(Some(text).filter(|_| is_from_server))
    }
}

fn initialised<const N: usize>(bytes: [MaybeUninit<u8>; N]) -> [u8; N] {
    #[expect(
        unsafe_code,
        reason = "the interface for messages with credentials takes such arrays only"
    )]
    // SAFETY: they were made from zeros, which at most were overwritten.
    bytes.map(|byte| unsafe { byte.assume_init() })
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// The process that the kernel names in a control message.
fn sender(control: &[u8; CREDENTIALS_LENGTH]) -> Option<u32> {
    let number = |at: usize| {
        let bytes = control.get(at..)?.first_chunk()?;
        Some(i32::from_ne_bytes(*bytes))
    };
    let level = number(offset_of!(libc::cmsghdr, cmsg_level))?;
    let kind = number(offset_of!(libc::cmsghdr, cmsg_type))?;
    let pid = number(size_of::<libc::cmsghdr>() + offset_of!(libc::ucred, pid))?;
    let are_credentials = (level, kind) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS);
    u32::try_from(pid).ok().filter(|_| are_credentials)
}

/// Tells every `cloudchat reload` that waits for this process: the process that serves now, or why none does.
pub fn tell(outcome: Result<u32, &str>) {
    let text = match outcome {
        Ok(pid) => format!("+process {pid} serves now"),
        Err(cause) => format!("-{cause}"),
    };
    let Ok(socket) = UnixDatagram::unbound() else {
        return;
    };
    let end = clock::now() + TELL_MAX;
    for name in waiting(&name(process::id())) {
        let sent = socket
            .set_write_timeout(Some(SEND_TIMEOUT))
            .and_then(|()| SocketAddr::from_abstract_name(&name))
            .and_then(|address| socket.send_to_addr(text.as_bytes(), &address));
        // Most of the time nobody waits.
        drop(sent);
        if clock::now() > end {
            return;
        }
    }
}

/// The names that begin like this one, which is the first.
fn waiting(name: &str) -> Vec<Vec<u8>> {
    let mut names = vec![name.as_bytes().to_owned()];
    if let Ok(table) = File::open("/proc/self/net/unix") {
        let begin = format!("@{name}-").into_bytes();
        let lines = BufReader::new(table).split(b'\n').map_while(Result::ok);
        let last =
            lines.filter_map(|line| line.rsplit(|byte| *byte == b' ').next().map(<[u8]>::to_vec));
        names.extend(
            last.filter(|name| name.starts_with(&begin))
                .map(|name| name[1..].to_vec()),
        );
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_millis(10);

    #[test]
    fn all_that_wait_hear_the_server_and_nobody_else() {
        let server = process::id();
        let waiting = [(); 3].map(|()| Waiting::listen(server, LOOK).expect("there is room"));
        tell(Err("no"));
        for one in &waiting {
            let told = one.look().expect("it can be read");
            assert_eq!(told.as_deref(), Some("-no"));
            assert_eq!(one.look().expect("it can be read"), None);
        }
        // Whoever waits for another process does not believe this one.
        let other = Waiting::listen(1, LOOK).expect("there is room");
        let address = other.socket.local_addr().expect("it is bound");
        let own = UnixDatagram::unbound().expect("there is room");
        let own = Socket::from(std::os::fd::OwnedFd::from(own));
        own.send_to(b"+process 2 serves now", &address)
            .expect("it listens");
        assert_eq!(other.look().expect("it can be read"), None);
    }
}
