//! The listening sockets: bound here, or taken from systemd or from the process that served before,
//! and given to the workers.
//!
//! A port that we bind has one socket per worker (`SO_REUSEPORT`), so that the kernel spreads the
//! connections. Every other socket is accepted by one worker, which deals the connections out in
//! turn: if all workers waited for the same socket, the one that wakes first would take nearly
//! everything, and a stream stays where it was accepted. That costs one wake-up per connection, not
//! per request, and behind Nginx connections are few.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

use crate::config::Listen;
use crate::worker::{Dealt, Door, Listener};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// Who made a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This program, now or as the process that served before.
    Own,
    /// systemd: it keeps the socket, and its file, beyond our end.
    Systemd,
}

/// An address and the sockets that listen there.
#[derive(Debug)]
pub struct Bound {
    pub address: Listen,
    pub origin: Origin,
    /// At least one; more only of a port that workers share.
    pub sockets: Vec<Socket>,
}

impl Bound {
    /// A socket that listens already.
    ///
    /// # Errors
    /// What it is instead, for the end of a sentence that names it.
    pub fn adopt(fd: OwnedFd, origin: Origin) -> Result<Self, String> {
        let socket = Socket::from(fd);
        let inspect = || -> io::Result<Option<Listen>> {
            // Nothing that we start may inherit it by accident.
            socket.set_cloexec(true)?;
            if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
                return Ok(None);
            }
            let address = socket.local_addr()?;
            Ok(match address.as_socket() {
                Some(address) => Some(Listen::Tcp(address)),
                None if address.is_unix() => Some(Listen::Unix(unix_path(&address))),
                None => None,
            })
        };
        match inspect() {
            Ok(Some(address)) => Ok(Self {
                address,
                origin,
                sockets: vec![socket],
            }),
            Ok(None) => Err("is no listening TCP or Unix stream socket".to_owned()),
            Err(error) => Err(format!("cannot be used: {error}")),
        }
    }

    /// Removes the file of a Unix socket that is ours.
    pub fn remove_file(&self) {
        if let (Listen::Unix(path), Origin::Own) = (&self.address, self.origin) {
            // Somebody may have removed it already.
            fs::remove_file(path).unwrap_or_default();
        }
    }
}

/// An abstract name is shown as systemd writes it.
fn unix_path(address: &socket2::SockAddr) -> PathBuf {
    if let Some(path) = address.as_pathname() {
        return path.into();
    }
    let name = address.as_abstract_namespace().unwrap_or_default();
    PathBuf::from(format!("@{}", String::from_utf8_lossy(name)))
}

/// Puts the sockets of one port together.
pub fn gather(sockets: impl IntoIterator<Item = Bound>) -> Vec<Bound> {
    let mut gathered: Vec<Bound> = Vec::new();
    for bound in sockets {
        let mut same = gathered.iter_mut();
        match same.find(|other| other.address == bound.address && other.origin == bound.origin) {
            Some(other) => other.sockets.extend(bound.sockets),
            None => gathered.push(bound),
        }
    }
    gathered
}

/// Everything that listens: what systemd has passed on, or else what `listen` asks for, of which
/// `inherited` may hold some already; what is left of it is not wanted any more.
///
/// # Errors
/// One line on the address that cannot be had.
pub fn open(
    listen: &[Listen],
    inherited: Vec<Bound>,
    workers: usize,
    send_buffer: usize,
) -> Result<(Vec<Bound>, Vec<Bound>), String> {
    let (mut open, mut left): (Vec<_>, Vec<_>) = inherited
        .into_iter()
        .partition(|bound| bound.origin == Origin::Systemd);
    if open.is_empty() {
        let mut rest = Vec::new();
        // Those with a certain port first: port 0 takes any that is left.
        for listen in listen {
            match left.iter().position(|bound| bound.address == *listen) {
                Some(at) => open.push(left.swap_remove(at)),
                None => rest.push(listen),
            }
        }
        for listen in rest {
            match left.iter().position(|bound| is_any_port(listen, bound)) {
                Some(at) => open.push(left.swap_remove(at)),
                None => open.push(bind(listen, workers, send_buffer)?),
            }
        }
    }
    for socket in open.iter().flat_map(|bound| &bound.sockets) {
        let is_ready = socket.set_nonblocking(true).and_then(|()| {
            // Accepted sockets inherit it.
            match socket.local_addr()?.as_socket() {
                Some(_) => socket.set_send_buffer_size(send_buffer),
                None => Ok(()),
            }
        });
        is_ready.map_err(|error| format!("a listening socket cannot be set up: {error}"))?;
    }
    Ok((open, left))
}

fn is_any_port(listen: &Listen, bound: &Bound) -> bool {
    match (listen, &bound.address) {
        (Listen::Tcp(wanted), Listen::Tcp(there)) => {
            wanted.port() == 0 && wanted.ip() == there.ip()
        }
        _ => false,
    }
}

/// What each worker listens on. The sockets are duplicated: `bound` stays, to be handed over.
///
/// # Errors
/// There are not enough file descriptors.
pub fn deal_out(bound: &[Bound], workers: usize) -> io::Result<Vec<Vec<Listener>>> {
    let mut listeners: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
    let ways = (0..workers).map(|_| mpsc::unbounded_channel());
    let (dealt, taken): (Vec<Dealt>, Vec<_>) = ways.unzip();
    let mut turns = (0..workers).cycle();
    let mut is_dealt = false;
    for bound in bound {
        for (socket, worker) in bound.sockets.iter().zip(&mut turns) {
            let socket = socket.try_clone()?;
            let door = match bound.address {
                Listen::Tcp(_) => Door::Tcp(socket.into()),
                Listen::Unix(_) => Door::Unix(socket.into()),
            };
            let listener = if bound.sockets.len() == workers {
                Listener::Own(door)
            } else {
                is_dealt = true;
                Listener::Shared(door, dealt.clone())
            };
            listeners[worker].push(listener);
        }
    }
    if is_dealt {
        for (own, taken) in listeners.iter_mut().zip(taken) {
            own.push(Listener::Dealt(taken));
        }
    }
    Ok(listeners)
}

fn bind(listen: &Listen, workers: usize, send_buffer: usize) -> Result<Bound, String> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{listen} is in use by another process: stop it, or choose another --listen")
        }
        _ => format!("cannot listen on {listen}: {error}"),
    };
    match listen {
        Listen::Tcp(address) => bind_tcp(*address, workers, send_buffer).map_err(failed),
        Listen::Unix(path) => bind_unix(path).map_err(failed),
    }
}

/// One socket per worker on a shared port.
fn bind_tcp(address: SocketAddr, workers: usize, send_buffer: usize) -> io::Result<Bound> {
    // With SO_REUSEPORT a second server would silently take part of the traffic: ask without.
    // Not by listening, because a client that came just then would be lost with the probe.
    let probe = tcp_socket(address)?;
    probe.bind(&address.into())?;
    let address = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    let mut sockets = Vec::new();
    for _ in 0..workers {
        let socket = tcp_socket(address)?;
        socket.set_reuse_port(true)?;
        socket.set_send_buffer_size(send_buffer)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        sockets.push(socket);
    }
    Ok(Bound {
        address: Listen::Tcp(address),
        origin: Origin::Own,
        sockets,
    })
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// One socket, for its owner and group only.
fn bind_unix(path: &Path) -> io::Result<Bound> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(Bound {
        address: Listen::Unix(PathBuf::from(path)),
        origin: Origin::Own,
        sockets: vec![Socket::from(OwnedFd::from(listener))],
    })
}

/// Removes a socket that nobody listens on any more; anything else stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is no socket is there",
        )),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            _ => Err(io::ErrorKind::AddrInUse.into()),
        },
    }
}
