//! Time limits while connecting, and what the provider sees when its client loses interest.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use cloudchat::clock;
use cloudchat::upstream::{Failure, Visitor};
use socket2::{Domain, Socket, Type};

use crate::provider::*;

/// A listener whose queue is full: the kernel drops further connection attempts.
fn full_listener() -> (Socket, Vec<Socket>, u16) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    listener.bind(&any.into()).expect("a free port");
    listener.listen(0).expect("is bound");
    let address = listener.local_addr().expect("is bound");
    let port = address.as_socket().expect("is IP").port();
    let mut fill = Vec::new();
    loop {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let full = socket
            .connect_timeout(&address, Duration::from_millis(200))
            .is_err();
        fill.push(socket);
        if full {
            return (listener, fill, port);
        }
        assert!(fill.len() < 100, "the queue does not fill");
    }
}

#[test]
fn connecting_has_its_own_limit() {
    let (_listener, _fill, port) = full_listener();
    let mut settings = settings();
    settings.connect_timeout = Duration::from_millis(300);
    run(async {
        let upstream = upstream(&settings, row(port));
        let start = clock::now();
        let failure = send(&upstream).await.expect_err("nobody accepts");
        let took = start.elapsed();
        assert!(
            matches!(failure, Failure::Unreachable { .. }),
            "{failure:?}"
        );
        assert_eq!(failure.code(), "connect-timeout");
        assert!(
            took >= Duration::from_millis(300) && took < Duration::from_millis(800),
            "{took:?}"
        );
        let ticket = upstream.admit(0, clock::now()).expect("is closed");
        let soon = clock::now() + Duration::from_millis(100);
        let failure = upstream
            .send(ticket, Visitor::default(), b"{}", soon)
            .await
            .expect_err("nobody accepts");
        assert_eq!(
            failure,
            Failure::Silent,
            "the request's own deadline came first"
        );
    });
}

#[test]
fn nobody_listens() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("is bound").port()
    };
    run(async {
        let failure = send(&upstream(&settings(), row(port)))
            .await
            .expect_err("is refused");
        assert_eq!(failure.code(), "ConnectionRefused");
        let mut unknown = row(port);
        unknown.host = "x".repeat(64); // too long a label: no resolver is asked
        let failure = send(&upstream(&settings(), unknown))
            .await
            .expect_err("is unknown");
        assert_eq!(failure.code(), "resolve");
        assert_eq!(failure.to_string(), "The model provider cannot be reached");
    });
}

#[test]
fn names_are_resolved_and_every_address_is_tried() {
    let fake = Fake::once(format!("{STREAM}{HELLO}"));
    let mut named = row(fake.port);
    named.host = "localhost".to_owned(); // often ::1 first, where nobody listens
    run(async {
        send(&upstream(&settings(), named))
            .await
            .expect("an answer");
    });
}

/// Drops what the client is doing when the provider's `script` has come so far; the provider must
/// see its socket closed within 50 ms. `reads`: the client has got the head by then.
fn closes(tls: bool, reads: bool, script: impl Fn(&mut TcpStream) + Send + Sync + 'static) {
    let (closed, at) = signal();
    let (reached, mut phase) = tokio::sync::mpsc::unbounded_channel();
    let fake = Fake::start(move |_, mut socket| {
        script(&mut socket);
        reached.send(()).expect("the test waits");
        closed.send(ended(&mut socket)).expect("the test waits");
    });
    run(async {
        let mut row = row(fake.port);
        row.tls = tls;
        let upstream = upstream(&settings(), row);
        let client = async {
            let mut exchange = send(&upstream).await.expect("an answer");
            assert!(reads, "no answer in this phase");
            let mut buf = [0; 64];
            while read(&mut exchange, &mut buf).await.is_ok_and(|n| n > 0) {}
            panic!("the provider went silent");
        };
        tokio::select! {
            () = client => {}
            _ = phase.recv() => {}
        }
        let dropped = clock::now().into_std();
        let closed = at.recv_timeout(PATIENCE).expect("the provider sees it");
        let took = closed.saturating_duration_since(dropped);
        assert!(took < Duration::from_millis(50), "{took:?}");
    });
}

#[test]
fn dropping_closes_the_socket_in_every_phase() {
    let handshake = |socket: &mut TcpStream| {
        let mut byte = [0];
        std::io::Read::read_exact(socket, &mut byte).expect("a client hello");
    };
    closes(true, false, handshake);
    let waiting = |socket: &mut TcpStream| {
        request(socket);
    };
    closes(false, false, waiting);
    let half_a_head = |socket: &mut TcpStream| {
        request(socket);
        write!(socket, "HTTP/1.1 200 OK\r\nContent").expect("the client reads");
    };
    closes(false, false, half_a_head);
    let half_a_body = |socket: &mut TcpStream| {
        request(socket);
        write!(socket, "{STREAM}5\r\nhel").expect("the client reads");
    };
    closes(false, true, half_a_body);
    let refusal = |socket: &mut TcpStream| {
        request(socket);
        write!(socket, "HTTP/1.1 500 X\r\nContent-Length: 9\r\n\r\n{{").expect("the client reads");
    };
    closes(false, false, refusal);
}
