//! The doors of a core: accepting connections, dealing them out to other cores, refusing them.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{sleep, timeout};

use super::Client;
use super::live::Live;
use crate::app::App;
use crate::http::address::{self, Address};
use crate::http::reply;
use crate::http::wire::Socket;
use crate::limits::Permit;
use crate::log::{self, Value};

/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection that there is no room for is kept so that it sees the refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How often others take turns, and then how many milliseconds pass, before a connection that was to
/// end has ended: its turn comes late on a busy core.
const TURNS_MAX: usize = 8;
const PAUSES_MAX: usize = 50;
/// How often a place is looked for.
const TRIES_MAX: usize = 4;
/// How many such connections a core keeps at a time.
const REFUSALS_MAX: usize = 32;

/// A listening socket, set not to block, not yet known to a runtime.
#[derive(Debug)]
pub enum Door {
    /// Over TCP.
    Tcp(std::net::TcpListener),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixListener),
}

/// Where a worker's connections come from.
#[derive(Debug)]
pub enum Listener {
    /// Its own socket of a port that all share: the kernel spreads the connections.
    Own(Door),
    /// A socket for all workers: this one accepts and deals the connections out, to itself too.
    Shared(Door, Vec<Dealt>),
    /// What workers deal to this one.
    Dealt(mpsc::UnboundedReceiver<Newcomer>),
}

/// The way to a worker for connections that another one has accepted. Unbounded, because each
/// connection brings its permit.
pub type Dealt = mpsc::UnboundedSender<Newcomer>;

/// A connection on its way to the worker that will serve it, known to no runtime.
#[derive(Debug)]
pub struct Newcomer {
    socket: StdSocket,
    peer: Address,
    permit: Permit,
}

#[derive(Debug)]
enum StdSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Newcomer {
    fn leave(socket: Socket, peer: Address, permit: Permit) -> io::Result<Self> {
        let socket = match socket {
            Socket::Tcp(tcp) => StdSocket::Tcp(tcp.into_std()?),
            Socket::Unix(unix) => StdSocket::Unix(unix.into_std()?),
        };
        Ok(Self {
            socket,
            peer,
            permit,
        })
    }

    fn arrive(self) -> io::Result<(Socket, Address, Permit)> {
        let socket = match self.socket {
            StdSocket::Tcp(tcp) => Socket::Tcp(TcpStream::from_std(tcp)?),
            StdSocket::Unix(unix) => Socket::Unix(UnixStream::from_std(unix)?),
        };
        Ok((socket, self.peer, self.permit))
    }
}

/// Accepts for this worker alone, until the task is aborted.
pub async fn accept_own(app: Rc<App>, door: Door, live: Rc<Live>) -> io::Error {
    let mut entrance = match Entrance::open(door) {
        Ok(entrance) => entrance,
        Err(error) => return error,
    };
    loop {
        let Some((socket, peer)) = entrance.next().await else {
            continue;
        };
        match admit(&app, peer, &live).await {
            Some(permit) => {
                let app = Rc::clone(&app);
                spawn_local(Client::new(app, socket, peer, permit, live.enter()));
            }
            None => entrance.refuse(socket),
        }
    }
}

/// A place for a newcomer: within its share or, when all are taken, in the place of a connection that waits for
/// nothing but its client, one of the client's that has most of them.
async fn admit(app: &App, peer: Address, live: &Live) -> Option<Permit> {
    let connections = &app.shared.pools.connections;
    let client = address::share_of_peer(&app.shared.config.server, peer);
    // Another core may be quicker to take the place of one that has ended, or may free one meanwhile.
    for _ in 0..TRIES_MAX {
        if let Some(permit) = connections.take_for(client, 1) {
            return Some(permit);
        }
        if connections.used() < connections.max() {
            continue;
        }
        // That one ends at its next turn. If there is none, newcomers of this moment may not have had their
        // first turn yet.
        let pauses_max = match live.end_idlest() {
            true => PAUSES_MAX,
            false => 0,
        };
        for turn in 0..TURNS_MAX + pauses_max {
            match turn {
                0..TURNS_MAX => yield_now().await,
                _ => sleep(Duration::from_millis(1)).await,
            }
            if let Some(permit) = connections.take_for(client, 1) {
                return Some(permit);
            }
        }
    }
    None
}

/// Accepts until the task is aborted, and deals the connections out in turn. Nothing is awaited between the two
/// while there is room, so that none is lost when the task ends.
pub async fn accept_shared(
    app: Rc<App>,
    door: Door,
    dealt: Vec<Dealt>,
    live: Rc<Live>,
) -> io::Error {
    let mut entrance = match Entrance::open(door) {
        Ok(entrance) => entrance,
        Err(error) => return error,
    };
    let mut turns = dealt.iter().cycle();
    loop {
        let Some((socket, peer)) = entrance.next().await else {
            continue;
        };
        match (admit(&app, peer, &live).await, turns.next()) {
            (Some(permit), Some(worker)) => match Newcomer::leave(socket, peer, permit) {
                // A worker takes what it is dealt for as long as anybody can deal: if this one is
                // gone, so is the server.
                Ok(newcomer) => worker.send(newcomer).unwrap_or_default(),
                Err(error) => return error,
            },
            _ => entrance.refuse(socket),
        }
    }
}

/// Serves what other workers have accepted, until none of them accepts any more.
pub async fn take_dealt(
    app: Rc<App>,
    mut dealt: mpsc::UnboundedReceiver<Newcomer>,
    live: Rc<Live>,
) {
    while let Some(newcomer) = dealt.recv().await {
        match newcomer.arrive() {
            Ok((socket, peer, permit)) => {
                let app = Rc::clone(&app);
                spawn_local(Client::new(app, socket, peer, permit, live.enter()));
            }
            Err(error) => log::error("connection lost", &[("cause", Value::Display(&error))]),
        }
    }
}

/// A listening socket in this core's runtime.
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A door in use, and what happens at it besides serving.
struct Entrance {
    listening: Listening,
    is_failing: bool,
    refusals: Rc<Cell<usize>>,
}

impl Entrance {
    fn open(door: Door) -> io::Result<Self> {
        let listening = match door {
            Door::Tcp(tcp) => Listening::Tcp(TcpListener::from_std(tcp)?),
            Door::Unix(unix) => Listening::Unix(UnixListener::from_std(unix)?),
        };
        Ok(Self {
            listening,
            is_failing: false,
            refusals: Rc::default(),
        })
    }

    /// The connection that came in; none after a failure, and then only after a pause.
    async fn next(&mut self) -> Option<(Socket, Address)> {
        let accepted = match &self.listening {
            Listening::Tcp(tcp) => tcp.accept().await.map(|(socket, peer)| {
                // Each line must leave at once; without this it would wait for the last one's ACK.
                if let Err(error) = socket.set_nodelay(true) {
                    log::warn(
                        "connection not set up",
                        &[("cause", Value::Display(&error))],
                    );
                }
                (Socket::Tcp(socket), Address::of(peer.ip()))
            }),
            Listening::Unix(unix) => {
                let accepted = unix.accept().await;
                accepted.map(|(socket, _)| (Socket::Unix(socket), Address::Unix))
            }
        };
        match accepted {
            Ok(accepted) => {
                self.is_failing = false;
                Some(accepted)
            }
            // The client was gone before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => None,
            Err(error) => {
                if !self.is_failing {
                    log::error("accept failed", &[("cause", Value::Display(&error))]);
                }
                self.is_failing = true;
                sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }

    fn refuse(&self, socket: Socket) {
        if self.refusals.get() < REFUSALS_MAX {
            spawn_local(refuse(socket, Rc::clone(&self.refusals)));
        }
    }
}

/// Answers a connection that there is no room for, so that the client sees why.
async fn refuse(socket: Socket, refusals: Rc<Cell<usize>>) {
    refusals.set(refusals.get() + 1);
    let text = reply::no_room_for_connection();
    let sent = match &socket {
        Socket::Tcp(tcp) => tcp.try_write(text.as_bytes()),
        Socket::Unix(unix) => unix.try_write(text.as_bytes()),
    };
    if sent.is_ok() {
        // Closing before the request has been read would reset the connection, answer and all.
        let mut buffer = [0; 1024];
        let read_on = async {
            match socket {
                Socket::Tcp(mut tcp) => while matches!(tcp.read(&mut buffer).await, Ok(1..)) {},
                Socket::Unix(mut unix) => while matches!(unix.read(&mut buffer).await, Ok(1..)) {},
            }
        };
        // Either end of the wait is fine.
        let _: Result<(), _> = timeout(REFUSAL_TIMEOUT, read_on).await;
    }
    refusals.set(refusals.get() - 1);
}
