//! Fifty upgrades in a row under load: no request fails or waits for long, no stream is cut.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::kit::Provider;
use crate::load::{Load, Outcome, RATE};
use crate::supervisor::{Held, Service};

const UPGRADES: usize = 50;
/// Longest wait of any request.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// The load is for the whole machine.
pub static ALONE: Mutex<()> = Mutex::new(());

pub fn settings(workers: usize) -> String {
    format!("server.workers = {workers}\nchat.streams_per_client_max = 100000\n")
}

/// Says what was seen, and that nobody has waited for long.
#[expect(clippy::print_stderr, reason = "libtest shows it with --nocapture")]
pub fn judge(what: &str, outcome: &Outcome) {
    eprintln!("{what}: {outcome:?}");
    assert!(outcome.longest <= WAIT_MAX, "{outcome:?}");
    assert!(outcome.streams > 0 && outcome.requests > RATE);
}

fn fifty(held: Held) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let provider = Provider::played();
    let mut service = Service::start(held, &provider, &settings(2));
    let load = Load::start(&service, provider);
    let mut old = Vec::new();
    for n in 0..UPGRADES {
        // The number of sockets that are handed over stays; that of the workers need not.
        service.configure(&settings([2, 2, 3, 1][n % 4]));
        old.push(service.main_pid);
        service.upgrade();
        load.requests(RATE / 5);
    }
    let outcome = load.stop();
    judge(&format!("{UPGRADES} upgrades, sockets {held:?}"), &outcome);
    for pid in old {
        assert_eq!(service.ended(pid), 0, "with the last of its streams");
    }
    service.signal(libc::SIGTERM);
    assert_eq!(service.ended(service.main_pid), 0);
    let log = service.log();
    for word in [
        "level=error",
        "level=warn",
        "end=gone",
        "end=error",
        "end=restarting",
    ] {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(word)).collect();
        assert!(lines.is_empty(), "{lines:?}");
    }
}

#[test]
fn with_sockets_from_systemd() {
    fifty(Held::BySystemd);
}

#[test]
fn with_sockets_of_its_own() {
    fifty(Held::ByServer);
}
