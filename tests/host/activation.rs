//! Sockets from systemd, and what systemd is told.

use std::fs;

use crate::kit::provider::Answer;
use crate::kit::{Conn, Provider, until};
use crate::supervisor::{Held, Service, test};

#[test]
fn sockets_from_systemd_replace_the_list() {
    let provider = Provider::friendly();
    // An address that nobody could listen on shows that the list is not looked at.
    let settings = "server.workers = 3\nserver.listen = [\"192.0.2.1:1\"]";
    let mut service = Service::start(Held::BySystemd, &provider, settings);
    assert_eq!(test(&mut service.tcp()).status, 200);
    assert_eq!(test(&mut service.unix()).status, 200);
    let status = service.expect(&format!(
        "STATUS=Serving at 127.0.0.1:{} unix:{}",
        service.port,
        service.path("socket").display()
    ));
    assert_eq!(status.len(), 1, "{status:?}");
    service.signal(libc::SIGTERM);
    service.expect("STOPPING=1");
    assert_eq!(service.ended(service.main_pid), 0);
    assert!(service.path("socket").exists(), "the file is systemd's");
}

#[test]
fn connections_of_one_socket_are_spread_evenly() {
    let provider = Provider::friendly();
    let service = Service::start(Held::BySystemd, &provider, "server.workers = 3");
    for unix in [false, true] {
        let mut conns: Vec<Conn> = (0..30)
            .map(|_| if unix { service.unix() } else { service.tcp() })
            .collect();
        let before = service.log().len();
        for conn in &mut conns {
            assert_eq!(test(conn).status, 200);
        }
        let count = |worker: usize| {
            let log = service.log()[before..].to_owned();
            log.matches(&format!("worker={worker}")).count()
        };
        // Lines of requests are written when a core has nothing else to do.
        until("30 lines in the log", || {
            ((0..3).map(count).sum::<usize>() == 30).then_some(())
        });
        let spread: Vec<usize> = (0..3).map(count).collect();
        assert_eq!(spread, [10; 3], "unix: {unix}");
    }
}

#[test]
fn what_is_no_listening_socket_is_one_clear_line() {
    let folder = tempfile::tempdir().expect("there is room");
    let data = folder.path().to_str().expect("its name is UTF-8");
    // The shell opens a file under the number of the first socket.
    let script = format!(
        "LISTEN_PID=$$ LISTEN_FDS=1 exec {} serve --data-dir {data} 3</dev/null",
        crate::kit::server::BINARY
    );
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", &script])
        .output()
        .expect("the shell starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("file descriptor 3"), "{errors}");
}

#[test]
fn sockets_of_another_process_are_left_alone() {
    let provider = Provider::friendly();
    let env = [
        ("LISTEN_PID", "1"),
        ("LISTEN_FDS", "1"),
        ("LISTEN_FDNAMES", "x"),
    ];
    let env = env.map(|(name, value)| (name, value.to_owned()));
    let service = Service::start_with(Held::ByServer, &provider, "", env.to_vec());
    assert_eq!(test(&mut service.tcp()).status, 200);
}

#[test]
fn the_watchdog_is_fed_while_every_core_makes_progress() {
    let provider = Provider::answering(|_, _| Answer::texts(&["x"]));
    let env = vec![("WATCHDOG_USEC", "400000".to_owned())];
    let mut service =
        Service::start_with(Held::ByServer, &provider, "server.workers = 2", env.clone());
    for _ in 0..3 {
        service.expect("WATCHDOG=1");
    }
    let hung = Hung::thread(service.main_pid, "worker-1");
    // One may have been on its way.
    crate::kit::pass(0.3);
    let fed = |service: &Service| {
        let heard = service.heard();
        heard.iter().filter(|line| *line == "WATCHDOG=1").count()
    };
    let before = fed(&service);
    crate::kit::pass(0.6);
    assert_eq!(
        fed(&service),
        before,
        "a core hangs, and systemd must notice"
    );
    drop(hung);
    until("the watchdog to be fed again", || {
        (fed(&service) > before).then_some(())
    });
    // The new process feeds it, too.
    service.upgrade();
    for _ in 0..3 {
        service.expect("WATCHDOG=1");
    }
}

/// A thread that is kept from running.
struct Hung(i32);

impl Hung {
    fn thread(pid: i32, name: &str) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
        let is_named = |path: &std::path::Path| {
            fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let task = tasks.flatten().find(|task| is_named(&task.path()));
        let task = task.expect("the thread is there").file_name();
        let tid: i32 = task.to_string_lossy().parse().expect("it is a number");
        trace(libc::PTRACE_SEIZE, tid);
        trace(libc::PTRACE_INTERRUPT, tid);
        until("the thread to stop", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat"));
            stat.is_ok_and(|stat| stat.contains(") t ")).then_some(())
        });
        Self(tid)
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        trace(libc::PTRACE_DETACH, self.0);
    }
}

fn trace(request: libc::c_uint, tid: i32) {
    let none = std::ptr::null_mut::<libc::c_void>();
    #[expect(unsafe_code, reason = "only ptrace(2) stops one thread of a process")]
    // SAFETY: these requests take no pointers; the thread is one of a process that we started.
    let done = unsafe { libc::ptrace(request, tid, none, none) };
    let error = std::io::Error::last_os_error();
    assert_eq!(done, 0, "ptrace: {error}; this test needs CAP_SYS_PTRACE");
}
