//! What the hasher takes from the process: memory within the sum and given back, and a low
//! priority. One test only: memory and threads belong to the process.

use std::fs;
use std::time::Duration;

use cloudchat::budget::{HASH_CALL_BYTES, HASHER_BYTES};
use cloudchat::clock;
use cloudchat::config::{Auth, Config, Sources};
use cloudchat::hasher::{Against, Cost, Password, Running};

const MIB: usize = 1 << 20;
const QUEUED: usize = 64;
/// What the test's own tasks and the runtime's timers take, and a huge page that is used in part.
const OWN_BYTES: usize = 3 * MIB;
/// The kernel counts pages per processor and adds them up late: 32 pages on each of a few (proc(5)).
const COUNTED_LATE_BYTES: usize = MIB;

/// A line of /proc/self/status in bytes.
fn status(name: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with(name));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    kib.expect("a number of KiB") << 10
}

/// Niceness of the thread with that name, or of the first one.
fn niceness(name: Option<&str>) -> i32 {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux has it");
    let stats = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    let named = |stat: &String| name.is_none_or(|name| stat.contains(&format!("({name})")));
    let stat = stats.into_iter().find(named).expect("the thread is there");
    let after_name = stat.rsplit(')').next().expect("a name stands in brackets");
    let field = after_name.split_whitespace().nth(16).expect("nice(19)");
    field.parse().expect("a number")
}

#[test]
fn a_login_storm_stays_within_the_sum_and_passes() {
    let settings = Auth {
        hash_memory_max: 64 * MIB,
        hash_queue_max: QUEUED,
        hash_timeout: Duration::from_secs(60),
        ..Config::load(Sources::default())
            .expect("the defaults are right")
            .auth
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime can be made");
    let running = Running::start(&settings).expect("64M can be mapped");
    let base = status("VmRSS");
    let storm = |cost: Cost| {
        fs::write("/proc/self/clear_refs", "5").expect("the peak can be reset");
        runtime.block_on(async {
            let verify = |_| {
                let hasher = running.connect();
                let password = Password::new("密".repeat(128));
                tokio::spawn(async move { hasher.verify(Against::Dummy(cost), password).await })
            };
            let calls: Vec<_> = (0..QUEUED).map(verify).collect();
            for call in calls {
                call.await
                    .expect("no panic")
                    .expect("there is room for all");
            }
        });
        let peak = status("VmHWM").saturating_sub(base);
        let sum = cost.bytes() + HASHER_BYTES + QUEUED * HASH_CALL_BYTES + OWN_BYTES;
        let used = peak + COUNTED_LATE_BYTES >= cost.bytes();
        assert!(used, "{peak} bytes: the arena was not used");
        assert!(peak <= sum, "{peak} bytes at the peak, at most {sum}");
    };
    storm(Cost::TODAY);
    storm(Cost::parse("$argon2id$v=19$m=65536,t=1,p=4").expect("it is a cost"));
    // There is none beyond 19.
    assert_eq!(niceness(Some("hasher")), (niceness(None) + 10).min(19));

    // The large part goes at once, the rest when nobody has logged in for a while.
    for most in [Cost::TODAY.bytes() + OWN_BYTES, OWN_BYTES] {
        let deadline = clock::now() + Duration::from_secs(20);
        while status("VmRSS").saturating_sub(base) > most {
            assert!(
                clock::now() < deadline,
                "{} bytes are kept",
                status("VmRSS") - base
            );
            std::thread::yield_now();
        }
    }
    storm(Cost::TODAY);
    running.stop().expect("it ends well");
}
