//! One upgrade at a time: what each of the two processes does with what it holds.

use std::net::TcpListener;

use serde_json::json;

use crate::kit::{Conn, PASSWORD, Provider, request, seconds, until};
use crate::supervisor::{Held, Service, send, test};

/// Opens a stream that has shown its first text.
fn open(conn: &mut Conn, provider: &Provider) -> crate::kit::Call {
    conn.ask("Hi", &[]);
    let mut call = provider.call();
    call.accept().text("one");
    assert_eq!(conn.head().status, 200);
    assert_eq!(conn.line().as_deref(), Some("{\"text\":\"one\"}"));
    call
}

#[test]
fn systemd_is_told_in_the_right_order() {
    let provider = Provider::friendly();
    let mut service = Service::start(Held::BySystemd, &provider, "");
    let old = service.main_pid;
    service.expect(&format!(
        "STATUS=Serving at 127.0.0.1:{} unix:{}",
        service.port,
        service.path("socket").display()
    ));
    let (code, errors) = service.reload();
    assert_eq!(code, 0, "{errors}");
    let said = service.expect("READY=1");
    assert_eq!(said[0], "RELOADING=1");
    assert!(said[1].starts_with("MONOTONIC_USEC="), "{said:?}");
    assert_eq!(said[3], format!("MAINPID={}", service.main_pid));
    assert_eq!(said.len(), 5, "{said:?}");
    assert_eq!(service.ended(old), 0);
}

#[test]
fn a_stream_ends_in_the_old_process_and_is_remembered_by_the_new_one() {
    let provider = Provider::played();
    let mut service = Service::start(Held::ByServer, &provider, "");
    let old = service.main_pid;
    let mut conn = service.tcp();
    conn.ask("first", &[]);
    let mut call = provider.call();
    call.accept().text("one");
    let head = conn.head();
    let cookie = head.get("set-cookie").expect("a chat has a cookie");
    let cookie = cookie.split(';').next().expect("it has a value").to_owned();
    assert_eq!(conn.line().as_deref(), Some("{\"text\":\"one\"}"));
    service.upgrade();
    assert_eq!(test(&mut service.tcp()).status, 200, "the new one serves");
    assert!(Service::runs(old), "the old one has a stream");
    call.text(" two");
    call.finish("stop");
    let expect = "{\"text\":\" two\"}\n{\"done\":\"stop\"}\n".to_owned();
    assert_eq!(conn.rest(), (expect, true));
    let mut next = service.tcp();
    next.ask("second", &[("Cookie", &cookie)]);
    let call = provider.call();
    let talk = ["user: first", "assistant: one two", "user: second"];
    assert_eq!(call.received.talk(), talk);
    call.finish("stop");
    // The connection is still there, for a request that may be on its way.
    let reply = test(&mut conn);
    assert_eq!(reply.head.get("connection"), Some("close"));
    assert!(conn.closed());
    assert_eq!(service.ended(old), 0);
}

#[test]
fn the_metrics_are_those_of_the_new_process() {
    let provider = Provider::played();
    let port = crate::kit::server::free_port();
    let settings = format!("metrics.listen = \"127.0.0.1:{port}\"");
    let mut service = Service::start(Held::ByServer, &provider, &settings);
    let old = service.main_pid;
    let says = |line: &str| {
        let mut conn = Conn::tcp(port);
        conn.send(&request("GET /metrics", &[("Connection", "close")], None));
        // One that waits at the old process's listener while that closes is lost, and asked again.
        assert_eq!(conn.try_head()?.status, 200);
        conn.rest().0.contains(line).then_some(())
    };
    let mut conn = service.tcp();
    let call = open(&mut conn, &provider);
    assert_eq!(says("\ncloudchat_streams_open 1\n"), Some(()));
    service.upgrade();
    assert!(Service::runs(old), "the old one has a stream");
    let fresh = "\ncloudchat_streams_open 0\n";
    // By chance, ten in a row are the new one's once in a thousand times.
    until("the new process alone to be asked", || {
        (0..10).all(|_| says(fresh).is_some()).then_some(())
    });
    call.finish("stop");
    assert!(conn.rest().1);
    drop(conn);
    assert_eq!(service.ended(old), 0);
}

#[test]
fn idle_connections_get_one_more_answer() {
    let provider = Provider::friendly();
    let mut service = Service::start(Held::ByServer, &provider, "");
    let (mut tcp, mut unix, mut fresh) = (service.tcp(), service.unix(), service.tcp());
    for conn in [&mut tcp, &mut unix] {
        assert_eq!(test(conn).head.get("connection"), None);
    }
    let old = service.main_pid;
    service.upgrade();
    service.upgrade();
    for conn in [&mut tcp, &mut unix, &mut fresh] {
        let reply = test(conn);
        assert_eq!((reply.status, reply.whole), (200, true));
        assert_eq!(reply.head.get("connection"), Some("close"));
        assert!(conn.closed());
    }
    assert_eq!(service.ended(old), 0, "nothing is left to wait for");
    let fresh = test(&mut service.tcp());
    assert_eq!(fresh.head.get("connection"), None);
}

#[test]
fn the_socket_file_belongs_to_who_serves() {
    let provider = Provider::friendly();
    let mut service = Service::start(Held::ByServer, &provider, "");
    for _ in 0..2 {
        let old = service.main_pid;
        service.upgrade();
        assert_eq!(service.ended(old), 0);
        assert_eq!(test(&mut service.unix()).status, 200);
    }
    service.signal(libc::SIGTERM);
    assert_eq!(service.ended(service.main_pid), 0);
    assert!(!service.path("socket").exists());
}

#[test]
fn addresses_may_come_and_go() {
    let provider = Provider::friendly();
    let mut service = Service::start(Held::ByServer, &provider, "");
    let more = crate::kit::server::free_port();
    let settings = format!(
        "server.listen = [\"127.0.0.1:{more}\", \"127.0.0.1:{}\"]",
        service.port
    );
    service.configure(&settings);
    let old = service.main_pid;
    service.upgrade();
    assert_eq!(test(&mut service.tcp()).status, 200);
    assert_eq!(test(&mut Conn::tcp(more)).status, 200);
    assert_eq!(service.ended(old), 0);
    assert!(!service.path("socket").exists(), "nobody listens there");
    service.configure("");
    let old = service.main_pid;
    service.upgrade();
    assert_eq!(service.ended(old), 0);
    assert_eq!(test(&mut service.unix()).status, 200);
    let rebound = until("the other port to be free", || {
        TcpListener::bind(("127.0.0.1", more)).ok()
    });
    drop(rebound);
}

#[test]
fn a_stop_ends_a_draining_process_after_the_drain_time() {
    let provider = Provider::played();
    let mut service = Service::start(Held::ByServer, &provider, "server.drain_seconds = 0.3");
    let old = service.main_pid;
    let mut conn = service.tcp();
    let _call = open(&mut conn, &provider);
    let mut idle = service.tcp();
    assert_eq!(test(&mut idle).status, 200);
    service.upgrade();
    // A reload by mistake changes nothing.
    send(old, libc::SIGUSR2);
    until("the mistake to be told", || {
        service.log().contains("already handed over").then_some(())
    });
    let took = seconds(|| {
        send(old, libc::SIGTERM);
        assert!(idle.closed(), "it has had its time");
        let (rest, whole) = conn.rest();
        assert!(rest.contains("Server restarting") && !whole, "{rest}");
        assert_eq!(service.ended(old), 0);
    });
    assert!((0.2..5.0).contains(&took), "{took} s");
    assert_eq!(test(&mut service.tcp()).status, 200, "the new one goes on");
    assert_eq!(test(&mut service.unix()).status, 200);
}

#[test]
fn a_stop_during_an_upgrade_ends_both() {
    let provider = Provider::friendly();
    let mut service = Service::start(Held::ByServer, &provider, "");
    service.install_script("exec tail -f /dev/null");
    let main = service.main_pid;
    service.signal(libc::SIGUSR2);
    let new = until("the new process", || {
        crate::supervisor::children(main).first().copied()
    });
    service.signal(libc::SIGTERM);
    assert_eq!(service.ended(main), 0);
    assert!(!Service::runs(new));
    assert!(!service.path("socket").exists());
}

#[test]
fn a_new_process_that_dies_takes_the_old_one_along() {
    let provider = Provider::played();
    let mut service = Service::start(Held::ByServer, &provider, "server.drain_seconds = 0.3");
    let old = service.main_pid;
    let mut conn = service.tcp();
    let _call = open(&mut conn, &provider);
    service.upgrade();
    // With all processes gone, systemd starts the service again.
    send(service.main_pid, libc::SIGKILL);
    let (rest, _) = conn.rest();
    assert!(rest.contains("Server restarting"), "{rest}");
    assert_eq!(service.ended(old), 1);
    assert!(service.log().contains("successor lost"));
}

#[test]
fn the_new_process_sends_no_mail_before_the_old_one_has_stopped() {
    let provider = Provider::friendly();
    let smtp = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = smtp.local_addr().expect("it is bound").port();
    let settings = format!(
        "mail.smtp_host = \"127.0.0.1\"\nmail.smtp_port = {port}\nmail.smtp_tls = false\n\
         mail.from = \"a@b.c\"\nmail.look_seconds = 0.05\nmail.retry_seconds = 0.05"
    );
    let mut service = Service::start(Held::ByServer, &provider, &settings);
    let body = json!({"email": "alice@b.c", "password": PASSWORD}).to_string();
    let headers = [("Content-Type", "application/json")];
    let mut conn = service.tcp();
    conn.send(&request(
        "POST /auth/register",
        &headers,
        Some(body.as_bytes()),
    ));
    assert_eq!(conn.reply().status, 201);
    // The old one has the letter in hand, and the mail server says nothing.
    let (silent, _) = smtp.accept().expect("the sender connects");
    drop(conn);
    let old = service.main_pid;
    service.upgrade();
    assert_eq!(test(&mut service.tcp()).status, 200);
    smtp.set_nonblocking(true).expect("it can be set");
    crate::kit::pass(0.5);
    assert!(smtp.accept().is_err(), "the new one waits");
    drop(silent);
    let (_second, _) = until("the new one to try", || smtp.accept().ok());
    assert_eq!(service.ended(old), 0);
}
