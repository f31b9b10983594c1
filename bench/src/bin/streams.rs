//! A client that opens many streams at once and measures what arrives.
//!
//! It speaks the chat contract (`POST /deepseek_chat`, JSON lines), or with `--target sse` the
//! provider's own protocol, for the references: the provider alone, and Nginx before it. When
//! requests are due is fixed beforehand and waiting counts from then, so a slow server cannot hide
//! by slowing the client down (no coordinated omission). Prints one JSON object; with `--hold` and
//! `--hold-until-line` first a line when the streams are ready.
//!
//! ```text
//! streams --url http://127.0.0.1:5000/deepseek_chat --streams 200 --rate 50 --seconds 10
//! streams --url http://127.0.0.1:9000/v1/chat/completions --target sse --streams 200 --rate 50 --seconds 10
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bench::args::{Args, fail};
use bench::client::{self, Progress};
use bench::cpu::Cpu;
use bench::plan::{FLAGS, OPTIONS, Plan};
use bench::tally::Tally;
use bench::{clock, listen};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

const USAGE: &str =
    "streams --url http(s)://HOST:PORT/PATH [--tls-ca FILE] [--target ours|sse] [--streams N] [--ramp S] [--threads N]
  [--tokens T] [--rate R] [--bytes B] [--sim 'key=value …']   what the simulator is asked for, with stamps
  [--message TEXT]        instead of these four
  [--turns K --turn-seconds S]  each stream asks K times, S seconds from one to the next
  [--warmup S]            record nothing before
  [--seconds S]           close everything then; streams still open count as held
  [--timeout S]           an answer that takes longer is late (default 120)
  [--hold S | --hold-until-line] [--ready-deltas N]   say when every stream has N deltas, then keep
                          them for S seconds, or until a line on stdin
  [--slow N --slow-bytes-per-second B]        the first N streams read slowly; not in the histograms
  [--abort N --abort-deltas D [--abort-reset]]  the last N streams are closed from here after D deltas
  [--pid PID]…            CPU time of these processes too
delay_us: receipt less stamp. first_text_us: receipt of the first text, less when the request was
due, less the head_ms and first_ms that the simulator was asked to wait.";

/// CPU time and deltas so far.
struct Sample {
    ns: u64,
    deltas: u64,
    own_cpu_ns: u64,
    others: Vec<(u32, Cpu)>,
}

impl Sample {
    fn take(progress: &Progress, pids: &[u32]) -> Self {
        let cpu = |pid: &u32| {
            let found = Cpu::of_process(*pid);
            (
                *pid,
                found.unwrap_or_else(|error| fail(&format!("--pid {pid}: {error}"))),
            )
        };
        Self {
            ns: clock::monotonic_ns(),
            deltas: progress.deltas.load(Relaxed),
            own_cpu_ns: clock::cpu_ns(),
            others: pids.iter().map(cpu).collect(),
        }
    }

    /// Adds to the report what was used since an earlier sample.
    fn report(&self, before: &Self, report: &mut Value) {
        let deltas = self.deltas - before.deltas;
        let each = |ns: u64| (deltas > 0).then(|| round(ns as f64 / 1e3 / deltas as f64));
        let own_ns = self.own_cpu_ns - before.own_cpu_ns;
        let mut pids = Map::new();
        for ((pid, now), (_, then)) in self.others.iter().zip(&before.others) {
            let used = now.since(*then);
            let one = json!({"user_us": used.user_us, "sys_us": used.sys_us,
                "cpu_us": used.cpu_ns / 1000, "us_per_delta": each(used.cpu_ns)});
            pids.insert(pid.to_string(), one);
        }
        report["window_deltas"] = deltas.into();
        report["window_seconds"] = round((self.ns - before.ns) as f64 / 1e9).into();
        report["client_cpu_us"] = (own_ns / 1000).into();
        report["client_cpu_us_per_delta"] = each(own_ns).into();
        report["pids"] = pids.into();
    }
}

fn main() {
    let args = Args::read(USAGE, OPTIONS, FLAGS);
    listen::raise_open_files();
    let pids = args.numbers("pid");
    let plan = Arc::new(Plan::read(&args));
    let progress = Arc::new(Progress::default());
    let (stop, stopped) = watch::channel(false);
    let threads: Vec<_> = (0..plan.threads)
        .map(|thread| {
            let (plan, progress) = (Arc::clone(&plan), Arc::clone(&progress));
            let stopped = stopped.clone();
            std::thread::spawn(move || client::run(thread, plan, progress, &stopped))
        })
        .collect();
    let all_ended = || progress.ended.load(Relaxed) >= plan.streams;
    let from_ns = plan.schedule.record_from_ns();
    wait_until(from_ns, all_ended);
    let before = Sample::take(&progress, &pids);
    if args.has("hold") || args.has("hold-until-line") {
        hold(&plan, &progress, &args);
    } else {
        let seconds_ns = plan.seconds_ns.map(|ns| plan.schedule.start_ns + ns);
        wait_until(seconds_ns.unwrap_or(u64::MAX), all_ended);
    }
    let after = Sample::take(&progress, &pids);
    stop.send_replace(true);
    let mut sum = Tally::default();
    for thread in threads {
        match thread.join() {
            Ok(Ok(tally)) => sum.add(&tally),
            Ok(Err(error)) => fail(&format!("streams: {error}")),
            Err(_) => fail("streams: a thread died"),
        }
    }
    let mut report = sum.report();
    report["streams"] = plan.streams.into();
    report["seconds"] =
        round((after.ns.saturating_sub(plan.schedule.start_ns)) as f64 / 1e9).into();
    after.report(&before, &mut report);
    println!("{report}");
}

fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// Looks every 10 ms whether it is time or `over`.
fn wait_until(ns: u64, over: impl Fn() -> bool) {
    while !over() && clock::monotonic_ns() < ns {
        let left = ns - clock::monotonic_ns().min(ns);
        std::thread::sleep(Duration::from_nanos(left.min(10_000_000)));
    }
}

/// Waits until the streams that still run are ready, says so, and then until it is told to stop.
fn hold(plan: &Plan, progress: &Progress, args: &Args) {
    wait_until(plan.schedule.start_ns + plan.timeout_ns, || {
        progress.ready.load(Relaxed) + progress.unready.load(Relaxed) >= plan.streams
    });
    println!("{}", json!({"ready": progress.ready.load(Relaxed)}));
    if args.has("hold") {
        std::thread::sleep(Duration::from_secs_f64(args.number("hold", 0.0)));
    } else {
        // The end of the input, or its failure, says the same as a line.
        drop(io::stdin().read_line(&mut String::new()));
    }
}
