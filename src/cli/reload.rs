//! `cloudchat reload`: has a running server replaced by a new process, and waits for the outcome.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::{Failure, print};
use crate::clock;
use crate::config;
use crate::serve::Waiting;

/// How often the server is looked at while nothing comes.
const LOOK: Duration = Duration::from_millis(500);
/// More than the most of `server.upgrade_seconds`, after which the server says that it goes on.
const PATIENCE: Duration = Duration::from_secs(610);
/// What our program's file is called, or begins with.
const PROGRAM: &str = "cloudchat";

#[derive(Args)]
pub(super) struct ReloadArgs {
    /// Process id of the server
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
}

pub(super) fn run(args: &ReloadArgs) -> Result<(), Failure> {
    let pid = args.pid;
    let failed = |cause: &str| Failure::Stopped(format!("process {pid} {cause}"));
    let server = Pid::from_raw(pid).expect("the range begins with 1");
    // Any other program would be ended by the signal.
    is_server(server).map_err(|cause| failed(&cause))?;
    let waiting = Waiting::listen(pid.unsigned_abs(), LOOK)
        .map_err(|error| Failure::Stopped(format!("cannot wait for the outcome: {error}")))?;
    kill_process(server, Signal::USR2)
        .map_err(|error| failed(&format!("cannot be told: {error}")))?;
    let end = clock::now() + PATIENCE;
    while clock::now() < end {
        let told = waiting.look();
        match told.map_err(|error| Failure::Stopped(format!("waiting: {error}")))? {
            Some(outcome) => {
                return match outcome.strip_prefix('+') {
                    Some(done) => print(&format!("{done}\n")),
                    None => Err(Failure::Stopped(format!(
                        "the old process goes on: {}",
                        outcome.trim_start_matches('-')
                    ))),
                };
            }
            None if test_kill_process(server).is_err() => return Err(failed("has ended")),
            None => {}
        }
    }
    Err(failed(&format!(
        "has not answered within {} s",
        PATIENCE.as_secs()
    )))
}

/// Whether it is a server of ours, as far as can be seen.
fn is_server(server: Pid) -> Result<(), String> {
    const NONE: &str = "is no running cloudchat server";
    let pid = server.as_raw_pid();
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let Ok(status) = fs::read_to_string(folder.join("status")) else {
        // With `ProtectProc=` and `PrivateUsers=` a unit's commands do not see each other; systemd says which it is.
        let is_told = config::environment("MAINPID").is_some_and(|main| main == pid.to_string());
        return match is_told && test_kill_process(server).is_ok() {
            true => Ok(()),
            false => Err(format!("{NONE}, or hidden from you")),
        };
    };
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    // What it is in the innermost of its process namespaces.
    let inner = field("NSpid:").and_then(|pids| pids.split_whitespace().last()?.parse().ok());
    if let Some(inner) = inner.filter(|inner: &i32| *inner != pid) {
        return Err(format!(
            "is in a container: run `cloudchat reload --pid {inner}` in there"
        ));
    }
    // proc_pid_status(5): the handlers that it has, as a bit each.
    let caught = field("SigCgt:").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    let takes_signal = caught.is_some_and(|mask| mask & (1 << (Signal::USR2.as_raw() - 1)) != 0);
    // Another user's file is not shown; the name that it was started by is.
    let program = program_file(&folder).or_else(|| field("Name:").map(PathBuf::from));
    match takes_signal && program.as_deref().is_some_and(is_ours) {
        true => Ok(()),
        false => Err(NONE.to_owned()),
    }
}

fn program_file(process: &Path) -> Option<PathBuf> {
    fs::read_link(process.join("exe")).ok()
}

/// By the name: the file itself may be of another version, and have been replaced.
fn is_ours(program: &Path) -> bool {
    let own = program_file(Path::new("/proc/self"));
    let name = program
        .file_name()
        .and_then(OsStr::to_str)
        .unwrap_or_default();
    name.starts_with(PROGRAM) || own.is_some_and(|own| own.file_name() == program.file_name())
}
