//! `cloudchat reload`: whom it signals, whom it believes, and what a server refuses.

use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::kit::server::{BINARY, free_port, run};
use crate::kit::{Conn, Provider, until};
use crate::supervisor::{Held, Service, children, copy_program, test};

/// Runs it: exit code and standard error.
fn reload(pid: i32) -> (i32, String) {
    let (code, _, errors) = run(&["reload", "--pid", &pid.to_string()], &[]);
    (code, errors)
}

/// A command that is killed, and waited for, in the end.
struct Running(Child);

impl Running {
    fn start(program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        Self(command.spawn().expect("install the package util-linux"))
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        drop(self.0.wait());
    }
}

/// Whether it has a handler for SIGUSR2.
fn catches(pid: i32) -> Option<()> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    (mask & (1 << (libc::SIGUSR2 - 1)) != 0).then_some(())
}

#[test]
fn something_else_is_refused() {
    let provider = Provider::friendly();
    let service = Service::start(Held::ByServer, &provider, "");
    // Shells have handlers for the signal, too, and many end by them.
    let shell = Running::start("/bin/sh", &["-c", "trap 'exit 9' USR2; read line"]);
    until("the handler", || catches(shell.pid()));
    // This test itself has none.
    let own = std::process::id() as i32;
    for pid in [4_194_304, own, shell.pid()] {
        let (code, errors) = reload(pid);
        assert_eq!(code, 1);
        assert!(errors.contains("no running cloudchat server"), "{errors}");
    }
    assert!(Service::runs(shell.pid()), "it was not signalled");
    assert_eq!(reload(0).0, 2);
    assert_eq!(test(&mut service.tcp()).status, 200);
}

#[test]
fn a_process_that_has_been_replaced_names_the_other() {
    let provider = Provider::played();
    let mut service = Service::start(Held::ByServer, &provider, "");
    let old = service.main_pid;
    let mut conn = service.tcp();
    conn.ask("Hi", &[]);
    let mut call = provider.call();
    call.accept().text("one");
    assert_eq!(conn.head().status, 200);
    service.upgrade();
    let (code, errors) = reload(old);
    assert_eq!(code, 1, "{errors}");
    let other = format!("process {} has replaced it", service.main_pid);
    assert!(errors.contains(&other), "{errors}");
    call.finish("stop");
    assert!(conn.rest().1);
    drop(conn);
    assert_eq!(service.ended(old), 0);
}

#[test]
fn others_can_neither_forge_the_outcome_nor_be_in_the_way() {
    let provider = Provider::friendly();
    let mut service = Service::start(Held::ByServer, &provider, "server.upgrade_seconds = 1");
    let name = format!("cloudchat-reload-{}", service.main_pid);
    let name = SocketAddr::from_abstract_name(name).expect("it is short");
    service.install_script("exec tail -f /dev/null");
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let forger = UnixDatagram::unbound().expect("there is room");
            while !ends.load(Ordering::Relaxed) {
                // Nobody waits before and after.
                let sent = forger.send_to_addr(b"+process 1 serves now", &name);
                sent.map(drop).unwrap_or_default();
                thread::yield_now();
            }
        });
        let (code, errors) = service.reload();
        ends.store(true, Ordering::Relaxed);
        assert_eq!(code, 1, "{errors}");
        assert!(errors.contains("was not ready within 1 s"), "{errors}");
    });
    service.expect("READY=1");
    service.install();
    let taken = UnixDatagram::bind_addr(&name).expect("nobody waits");
    let old = service.main_pid;
    let (code, errors) = service.reload();
    assert_eq!(code, 0, "{errors}");
    drop(taken);
    service.expect("READY=1");
    assert_eq!(service.ended(old), 0);
}

/// In a process namespace of its own, as containers have one, with `first` as the first process.
fn in_a_container(first: &str, args: &[&str]) -> Running {
    let unshare = ["-p", "-f", "--kill-child", "--mount-proc", first];
    Running::start("unshare", &[&unshare, args].concat())
}

/// A process's id in its own process namespace.
fn inner(pid: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let last = pids.and_then(|pids| pids.split_whitespace().last());
    last.expect("Linux 4.1 and later tell it").to_owned()
}

#[test]
fn a_server_whose_end_is_its_containers_is_not_replaced() {
    let folder = tempfile::tempdir().expect("there is room");
    // What `docker run --init` puts before the server.
    let init = folder.path().join("docker-init");
    copy_program(std::path::Path::new("/bin/sh"), &init);
    let init = init.to_str().expect("its name is UTF-8");
    for by_init in [false, true] {
        let data = folder.path().join(format!("data-{by_init}"));
        let data = data.to_str().expect("its name is UTF-8");
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let serve = ["serve", "--listen", &address, "--data-dir", data];
        let script = format!("{BINARY} {} & wait", serve.join(" "));
        let container = match by_init {
            false => in_a_container(BINARY, &serve),
            true => in_a_container(init, &["-c", &script]),
        };
        let first = until("the first process", || {
            children(container.pid()).first().copied()
        });
        let server = match by_init {
            false => first,
            true => until("the server", || children(first).first().copied()),
        };
        until("the server's handlers", || catches(server));
        until("the server to listen", || {
            std::net::TcpStream::connect(&address).ok()
        });
        let (code, errors) = reload(server);
        assert_eq!(code, 1, "{errors}");
        assert!(errors.contains("is in a container"), "{errors}");
        let there = [
            "-t",
            &first.to_string(),
            "-p",
            "-m",
            BINARY,
            "reload",
            "--pid",
            &inner(server),
        ];
        let output = Command::new("nsenter").args(there).output();
        let output = output.expect("install the package util-linux");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains("ends with this process"), "{errors}");
        assert_eq!(test(&mut Conn::tcp(port)).status, 200, "the server goes on");
    }
}
