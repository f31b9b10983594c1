//! One listener per thread on a shared port, and the guard against sharing it with a stranger.

use std::io;
use std::net::{SocketAddr, TcpListener as Probe};

use tokio::net::TcpSocket;

/// Binds `count` sockets with `SO_REUSEPORT` to one address; port 0 picks a free one.
///
/// Fails when the port is in use: a server left over from an earlier run would silently take part
/// of the connections, and the figures would be wrong.
pub fn bind_shared(addr: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<TcpSocket>)> {
    drop(Probe::bind(addr)?);
    let first = bind_one(addr)?;
    let addr = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bind_one(addr)?);
    }
    Ok((addr, sockets))
}

fn bind_one(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Raises the soft limit of open files to the hard one, and returns it.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // When it cannot be raised the old limit stands, and a connection that does not fit says so.
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
    }
}

/// The number of threads to use unless told: one per core.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
