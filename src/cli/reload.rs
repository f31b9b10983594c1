//! `cloudchat reload`: has a running server replaced by a new process, and waits for the outcome.

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::{Failure, print};
use crate::serve::outcome_address;

/// How often the server is looked at while nothing comes.
const LOOK: Duration = Duration::from_millis(500);
/// Longest outcome, bytes.
const OUTCOME_BYTES_MAX: usize = 1024;

#[derive(Args)]
pub(super) struct ReloadArgs {
    /// Process id of the server
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
}

pub(super) fn run(args: &ReloadArgs) -> Result<(), Failure> {
    let pid = args.pid;
    let server = Pid::from_raw(pid).expect("the range begins with 1");
    // Any other program would be ended by the signal.
    let is_server = takes_signal(pid).unwrap_or_else(|| test_kill_process(server).is_ok());
    if !is_server {
        return Err(Failure::Stopped(format!(
            "process {pid} is no running cloudchat server"
        )));
    }
    let waiting = listen(pid).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => Failure::Stopped("another reload is under way".to_owned()),
        _ => Failure::Stopped(format!("cannot wait for the outcome: {error}")),
    })?;
    kill_process(server, Signal::USR2)
        .map_err(|error| Failure::Stopped(format!("process {pid}: {error}")))?;
    let mut outcome = [0; OUTCOME_BYTES_MAX];
    loop {
        match waiting.recv(&mut outcome) {
            Ok(n) => {
                let outcome = String::from_utf8_lossy(&outcome[..n]);
                return match outcome.strip_prefix('+') {
                    Some(done) => print(&format!("{done}\n")),
                    None => Err(Failure::Stopped(format!(
                        "the old process goes on: {}",
                        outcome.trim_start_matches('-')
                    ))),
                };
            }
            // It has its own deadline, server.upgrade_seconds; only its death is not told.
            Err(error) if is_timeout(&error) => {
                if test_kill_process(server).is_err() {
                    return Err(Failure::Stopped(format!("process {pid} has ended")));
                }
            }
            Err(error) => return Err(Failure::Stopped(format!("waiting: {error}"))),
        }
    }
}

fn listen(pid: i32) -> io::Result<UnixDatagram> {
    let waiting = UnixDatagram::bind_addr(&outcome_address(pid.unsigned_abs())?)?;
    waiting.set_read_timeout(Some(LOOK))?;
    Ok(waiting)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Whether the process has a handler for SIGUSR2 (proc_pid_status(5), `SigCgt`). `None` if that cannot
/// be seen: with `ProtectProc=` and `PrivateUsers=` a unit's commands do not see each other.
fn takes_signal(pid: i32) -> Option<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let caught = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.map(|mask| mask & (1 << (Signal::USR2.as_raw() - 1)) != 0)
}
