//! The client is gone: whatever the server is waiting for, the provider is let go within 50 ms.

use std::net::TcpListener;
use std::time::Duration;

use cloudchat::clock;
use socket2::{Domain, Socket, Type};

use crate::kit::provider::row;
use crate::kit::{Call, Conn, Provider, Server, request, until};

const MOST: Duration = Duration::from_millis(50);

/// Tries before the time counts as too long: other tests share the machine's cores.
const TRIES: usize = 10;

/// `try_once` says how long the provider was held; one of its tries has to be within [`MOST`].
fn within(what: &str, mut try_once: impl FnMut() -> Duration) {
    let mut times = Vec::new();
    while times.iter().all(|&time| time >= MOST) {
        assert!(times.len() < TRIES, "{what}: {times:?}");
        times.push(try_once());
    }
}

/// How far a stream is when its client leaves.
type Phase = fn(&mut Conn, &mut Call);

fn check(what: &str, phase: Phase) {
    let provider = Provider::played();
    let server = Server::start(&provider, "");
    for reset in [false, true] {
        within(&format!("{what}, reset: {reset}"), || {
            let mut conn = server.connect();
            conn.ask("Hi", &[]);
            let mut call = provider.call();
            phase(&mut conn, &mut call);
            let left = clock::now();
            if reset {
                conn.reset()
            } else {
                drop(conn)
            }
            call.closed_at().duration_since(left)
        });
    }
}

#[test]
fn before_the_response_head() {
    check("before the head", |_, _| {});
}

#[test]
fn before_the_first_text() {
    check("before the first text", |_, call| {
        call.accept();
    });
}

#[test]
fn after_comments_only() {
    check("after comments", |_, call| {
        call.accept().chunk(": keep-alive\n\n");
    });
}

#[test]
fn while_the_provider_is_silent_after_a_text() {
    check("silent after a text", |conn, call| {
        call.accept().text("Hi");
        assert_eq!(conn.head().status, 200);
        assert_eq!(conn.line().as_deref(), Some("{\"text\":\"Hi\"}"));
    });
}

#[test]
fn mid_stream() {
    let provider = Provider::played();
    let server = Server::start(&provider, "");
    for reset in [false, true] {
        let mut conn = server.connect();
        conn.ask("Hi", &[]);
        let mut call = provider.call();
        call.accept();
        let leaver = std::thread::spawn(move || {
            conn.head();
            for _ in 0..20 {
                conn.line().expect("the stream runs");
            }
            let left = clock::now();
            if reset {
                conn.reset()
            } else {
                drop(conn)
            }
            left
        });
        // Tokens every millisecond, until writing to the server fails.
        let event = crate::kit::provider::chunk(crate::kit::provider::delta("token ").as_bytes());
        while call.try_raw(&event) {
            crate::kit::pass(0.001);
        }
        let noticed = clock::now();
        let left = leaver.join().expect("the client reads its lines");
        let took = noticed.duration_since(left);
        assert!(took < MOST, "mid-stream, reset: {reset}: {took:?}");
    }
}

#[test]
fn while_connecting() {
    // A listener whose queue is full: the kernel drops further SYNs, connecting hangs.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
    listener
        .bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .expect("a port is free");
    listener.listen(0).expect("it listens");
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().expect("it is bound");
    let _full: Vec<_> = (0..4)
        .map(|_| {
            let filler =
                Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
            filler.set_nonblocking(true).expect("it can be set");
            // In progress for ever once the queue is full.
            let _ = filler.connect(&address.into());
            filler
        })
        .collect();
    let hanging = || connecting_to(address.port());
    let fillers = hanging();
    let server = Server::with(&row("full", &format!("http://{address}")), &[]);
    until("the model check at the start to hang", || {
        (hanging() == fillers + 1).then_some(())
    });
    within("connecting", || {
        let mut conn = server.connect();
        conn.ask("Hi", &[]);
        until("the chat to hang as well", || {
            (hanging() == fillers + 2).then_some(())
        });
        let left = clock::now();
        drop(conn);
        until("it to be given up", || {
            (hanging() == fillers + 1).then_some(())
        });
        left.elapsed()
    });
}

/// Sockets of this machine that are connecting to that loopback port and have no answer yet.
fn connecting_to(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel has it");
    // Remote address, then the state SYN_SENT.
    let entry = format!(" 0100007F:{port:04X} 02 ");
    table.matches(&entry).count()
}

#[test]
fn during_the_tls_handshake() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let server = Server::with(&row("mute", &format!("https://127.0.0.1:{port}")), &[]);
    let accept = || listener.accept().expect("the server connects").0;
    let mut first = true;
    within("handshake", || {
        let mut conn = server.connect();
        conn.ask("Hi", &[]);
        // The model check at the start comes here as well, before or after the first chat, and
        // stays: what counts is that one of the two is let go.
        let mut peers = vec![accept()];
        if std::mem::take(&mut first) {
            peers.push(accept());
        }
        let left = clock::now();
        drop(conn);
        until("the handshake to be given up", || {
            peers.iter().any(is_closed).then_some(())
        });
        left.elapsed()
    });
}

/// Whether the peer has closed; what it sent before is read and dropped.
fn is_closed(socket: &std::net::TcpStream) -> bool {
    use std::io::{ErrorKind, Read as _};
    socket.set_nonblocking(true).expect("it can be set");
    loop {
        match (&*socket).read(&mut [0; 4096]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return e.kind() != ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn a_cancelled_stream_gives_its_place_back() {
    let provider = Provider::played();
    let server = Server::start(&provider, "chat.streams_per_client_max = 1");
    for round in 0..5 {
        // The provider is let go a moment before the place is free.
        let (mut conn, mut call) = until("the place to be free", || {
            let mut conn = server.connect();
            conn.ask("Hi", &[]);
            let call = until("a call or a refusal", || match provider.try_call() {
                Some(call) => Some(Some(call)),
                None => conn.is_readable().then_some(None),
            });
            assert!(call.is_some() || round > 0, "the first one has its place");
            call.map(|call| (conn, call))
        });
        call.accept().text("Hi");
        assert_eq!(conn.head().status, 200);
        drop(conn);
        call.closed_at();
    }
}

#[test]
fn pipelined_bytes_delay_it_to_the_next_heartbeat_at_most() {
    let provider = Provider::played();
    let server = Server::start(&provider, "chat.heartbeat_seconds = 0.3");
    for reset in [false, true] {
        let mut conn = server.connect();
        conn.ask("Hi", &[]);
        conn.send(&request(
            "GET /test",
            &[("X-Long", &"x".repeat(3000))],
            None,
        ));
        let mut call = provider.call();
        call.accept().text("Hi");
        assert_eq!(conn.head().status, 200);
        assert_eq!(conn.line().as_deref(), Some("{\"text\":\"Hi\"}"));
        let left = clock::now();
        if reset {
            conn.reset()
        } else {
            drop(conn)
        }
        let took = call.closed_at().duration_since(left).as_secs_f64();
        assert!(took < 1.0, "reset: {reset}: {took} s");
    }
}
