//! Signals that other servers take in their own ways: none ends this one without a drain.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::kit::server::BINARY;
use crate::kit::{Conn, Provider, until};
use crate::supervisor::{Held, Service, send, test};

#[test]
fn sighup_reloads_and_sigusr1_does_nothing() {
    let provider = Provider::played();
    let mut service = Service::start(Held::ByServer, &provider, "");
    let mut conn = service.tcp();
    conn.ask("Hi", &[]);
    let mut call = provider.call();
    call.accept().text("one");
    assert_eq!(conn.head().status, 200);
    let old = service.main_pid;
    service.signal(libc::SIGUSR1);
    // Signals of different numbers need not come in order, so it gets the time of a request.
    assert_eq!(test(&mut service.tcp()).status, 200);
    assert!(Service::runs(old));
    service.signal(libc::SIGHUP);
    service.expect("READY=1");
    assert_ne!(service.main_pid, old, "a new process serves");
    assert_eq!(test(&mut service.tcp()).status, 200);
    // The old one takes them, too.
    send(old, libc::SIGUSR1);
    send(old, libc::SIGHUP);
    until("the second to be told", || {
        service.log().contains("already handed over").then_some(())
    });
    call.finish("stop");
    let (rest, whole) = conn.rest();
    assert!(rest.ends_with("{\"done\":\"stop\"}\n") && whole, "{rest}");
    drop(conn);
    assert_eq!(service.ended(old), 0);
}

/// Both ends of a new terminal. No other child may inherit ours: it hangs up when nobody has it any more.
fn terminal() -> [File; 2] {
    let mut open = File::options();
    open.read(true).write(true).custom_flags(libc::O_NOCTTY);
    let ours = open.open("/dev/ptmx").expect("there are terminals");
    let mut number = 0_u32;
    #[expect(unsafe_code, reason = "there is no safe unlockpt(3)")]
    // SAFETY: ioctl_tty(2): the one reads a number, the other writes one, which outlives the call.
    let made = unsafe {
        libc::ioctl(ours.as_raw_fd(), libc::TIOCSPTLCK, &raw const number)
            | libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTN, &raw mut number)
    };
    assert_eq!(made, 0, "it is a terminal");
    let theirs = open.open(format!("/dev/pts/{number}"));
    [ours, theirs.expect("it is unlocked")]
}

#[test]
fn a_terminal_that_closes_stops_the_server_with_a_drain() {
    let folder = tempfile::tempdir().expect("there is room");
    let port = crate::kit::server::free_port();
    let [ours, theirs] = terminal();
    let number = theirs.as_raw_fd();
    let log = folder.path().join("log");
    let mut command = Command::new(BINARY);
    command
        .args([
            "serve",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--data-dir",
        ])
        .arg(folder.path())
        .stdin(Stdio::from(
            theirs.try_clone().expect("there are file descriptors"),
        ))
        .stdout(Stdio::null())
        .stderr(File::create(&log).expect("the folder is ours"));
    #[expect(unsafe_code, reason = "a session is made in the child")]
    // SAFETY: setsid(2) and ioctl(2) may be called between fork and exec.
    unsafe {
        command.pre_exec(move || {
            libc::setsid();
            match libc::ioctl(number, libc::TIOCSCTTY, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let mut child = command.spawn().expect("the program starts");
    drop(theirs);
    until("the server to listen", || {
        let log = std::fs::read_to_string(&log).ok()?;
        log.contains("event=listening").then_some(())
    });
    assert_eq!(test(&mut Conn::tcp(port)).status, 200);
    drop(ours);
    let status = until("the server to end", || {
        child.try_wait().expect("it is ours")
    });
    assert_eq!(status.code(), Some(0));
    let log = std::fs::read_to_string(&log).expect("it was made");
    assert!(
        log.contains("event=draining") && log.contains("event=stopped"),
        "{log}"
    );
}
