//! A stop after an upgrade, while the old process still has answers: all of them come to their end, and the
//! main process is the last to end, because systemd counts the service as stopped with it.

use std::fs;

use crate::kit::{Call, Conn, Provider, until};
use crate::supervisor::{Held, Service, children, send};

/// Opens a stream that has shown its first text.
fn open(service: &Service, provider: &Provider) -> (Conn, Call) {
    let mut conn = service.tcp();
    conn.ask("Hi", &[]);
    let mut call = provider.call();
    call.accept().text("one");
    assert_eq!(conn.head().status, 200);
    assert_eq!(conn.line().as_deref(), Some("{\"text\":\"one\"}"));
    (conn, call)
}

/// Ends it; the client gets all of it.
fn finish((mut conn, call): (Conn, Call)) {
    call.finish("stop");
    assert_eq!(conn.rest(), ("{\"done\":\"stop\"}\n".to_owned(), true));
}

/// Waits until the log has so many lines of this event.
fn logged(service: &Service, event: &str, count: usize) {
    let event = format!("event={event} ");
    until("a line in the log", || {
        let lines = service
            .log()
            .lines()
            .filter(|line| format!("{line} ").contains(&event))
            .count();
        (lines >= count).then_some(())
    });
}

fn parent(pid: i32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let after_name = stat.rsplit(") ").next();
    let parent = after_name.and_then(|rest| rest.split(' ').nth(1));
    parent
        .and_then(|pid| pid.parse().ok())
        .expect("proc_pid_stat(5)")
}

#[test]
fn the_new_process_is_nobodys_child_when_systemd_hears_of_it() {
    let provider = Provider::played();
    let mut service = Service::start(Held::ByServer, &provider, "");
    let old = service.main_pid;
    let stream = open(&service, &provider);
    service.upgrade();
    assert!(Service::runs(old), "it has a stream");
    assert_eq!(children(old), [0; 0], "nor has it another child");
    // Whoever takes orphans in here, as systemd does.
    assert_eq!(parent(service.main_pid), std::process::id());
    finish(stream);
    assert_eq!(service.ended(old), 0);
}

#[test]
fn of_three_that_are_told_to_end_the_main_one_is_the_last() {
    let provider = Provider::played();
    let mut service = Service::start(Held::ByServer, &provider, "");
    let (first, in_first) = (service.main_pid, open(&service, &provider));
    service.upgrade();
    let (second, in_second) = (service.main_pid, open(&service, &provider));
    service.upgrade();
    let main = service.main_pid;
    // As systemd does it.
    for pid in [main, first, second] {
        send(pid, libc::SIGTERM);
    }
    logged(&service, "stopped", 1);
    finish(in_second);
    assert_eq!(service.ended(second), 0);
    assert!(Service::runs(main), "the first one has a stream");
    finish(in_first);
    assert_eq!(service.ended(first), 0);
    assert_eq!(service.ended(main), 0);
    assert!(!service.log().contains("level=error"));
}

#[test]
fn an_old_process_ends_with_the_main_one() {
    let provider = Provider::played();
    let mut service = Service::start(Held::ByServer, &provider, "");
    let old = service.main_pid;
    let stream = open(&service, &provider);
    service.upgrade();
    // As a supervisor does it that knows one process only.
    service.signal(libc::SIGTERM);
    logged(&service, "draining", 2);
    // The signal that ends both, when it comes late, is no second one.
    send(old, libc::SIGTERM);
    finish(stream);
    assert_eq!(service.ended(old), 0);
    assert_eq!(service.ended(service.main_pid), 0);
    assert!(!service.log().contains("level=error"));
}

#[test]
fn a_second_signal_ends_the_main_process_at_once() {
    let provider = Provider::played();
    let mut service = Service::start(Held::ByServer, &provider, "");
    let old = service.main_pid;
    let stream = open(&service, &provider);
    service.upgrade();
    service.signal(libc::SIGTERM);
    logged(&service, "stopped", 1);
    service.signal(libc::SIGTERM);
    assert_eq!(service.ended(service.main_pid), 1);
    finish(stream);
    assert_eq!(service.ended(old), 0, "it was told once");
}
