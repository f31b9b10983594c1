//! What the simulator knows of itself: that it was not what a measurement waited for.
//!
//! Every core counts for itself; `GET /sim/stats` adds up. `lateness_us` is how long after its due
//! time a delta was handed to the kernel. Deltas that could not go out on time because the reader
//! was slow are not in it, they are counted as `blocked`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{clock, cpu, histogram};

/// One thread's counters.
#[derive(Debug)]
pub struct Core {
    /// Connections taken.
    pub connections: AtomicU64,
    /// Requests read.
    pub requests: AtomicU64,
    /// Deltas sent.
    pub deltas: AtomicU64,
    /// Streams running now.
    pub open: AtomicI64,
    /// Streams whose client closed before the end.
    pub gone: AtomicU64,
    /// Times that deltas were due while the reader had not taken those before.
    pub blocked: AtomicU64,
    lateness: Mutex<Histogram<u64>>,
    /// The thread's folder in /proc.
    thread: OnceLock<PathBuf>,
}

/// The counters of all threads, and since when they count.
#[derive(Debug)]
pub struct Stats {
    /// One for each thread.
    pub cores: Vec<Core>,
    since: Mutex<Since>,
}

#[derive(Debug, Clone, Copy)]
struct Since {
    ns: u64,
    cpu_ns: u64,
}

impl Core {
    fn new() -> Self {
        Self {
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            deltas: AtomicU64::new(0),
            open: AtomicI64::new(0),
            gone: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            lateness: Mutex::new(histogram::new()),
            thread: OnceLock::new(),
        }
    }

    /// Makes the calling thread the one whose CPU time is counted here.
    pub fn begin(&self) -> std::io::Result<()> {
        let folder = cpu::own_thread()?;
        self.thread.get_or_init(|| folder);
        Ok(())
    }

    /// Deltas went out so many nanoseconds after they were due.
    pub fn late(&self, ns: u64) {
        locked(&self.lateness).saturating_record(ns);
    }
}

impl Stats {
    /// Counters for so many threads, counting from now.
    pub fn new(threads: usize) -> Self {
        Self {
            cores: (0..threads).map(|_| Core::new()).collect(),
            since: Mutex::new(Since {
                ns: clock::monotonic_ns(),
                cpu_ns: 0,
            }),
        }
    }

    /// The report of `GET /sim/stats`, over all threads since the start or the last reset.
    pub fn json(&self) -> Value {
        let sum = |count: fn(&Core) -> &AtomicU64| -> u64 {
            self.cores
                .iter()
                .map(|core| count(core).load(Relaxed))
                .sum()
        };
        let mut lateness = histogram::new();
        for core in &self.cores {
            lateness
                .add(&*locked(&core.lateness))
                .expect("the same bounds");
        }
        let since = *locked(&self.since);
        let deltas = sum(|core| &core.deltas);
        let seconds = clock::monotonic_ns().saturating_sub(since.ns) as f64 / 1e9;
        let cpu_us = self.cpu_ns().saturating_sub(since.cpu_ns) as f64 / 1e3;
        let open: i64 = self.cores.iter().map(|core| core.open.load(Relaxed)).sum();
        json!({
            "connections": sum(|core| &core.connections),
            "requests": sum(|core| &core.requests),
            "deltas": deltas,
            "open": open,
            "gone": sum(|core| &core.gone),
            "blocked": sum(|core| &core.blocked),
            "seconds": seconds,
            "deltas_per_second": deltas as f64 / seconds,
            "cpu_us": cpu_us,
            "cpu_us_per_delta": (deltas > 0).then(|| cpu_us / deltas as f64),
            "lateness_us": histogram::json(&lateness),
        })
    }

    /// Counts from zero again; streams that run stay open.
    pub fn reset(&self) {
        for core in &self.cores {
            for count in [
                &core.connections,
                &core.requests,
                &core.deltas,
                &core.gone,
                &core.blocked,
            ] {
                count.store(0, Relaxed);
            }
            locked(&core.lateness).reset();
        }
        *locked(&self.since) = Since {
            ns: clock::monotonic_ns(),
            cpu_ns: self.cpu_ns(),
        };
    }

    /// CPU time of the simulator's threads; a thread that has not begun counts nothing.
    fn cpu_ns(&self) -> u64 {
        let threads = self.cores.iter().filter_map(|core| core.thread.get());
        threads
            .filter_map(|folder| cpu::of_thread(folder).ok())
            .sum()
    }
}

/// A counter is whole after every line that touches it, so a panic elsewhere does not spoil it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_add_up_and_start_again() {
        let stats = Stats::new(2);
        for core in &stats.cores {
            core.begin().unwrap();
            core.deltas.store(5, Relaxed);
            core.open.store(1, Relaxed);
            core.late(2_000);
        }
        // The scheduler adds a running thread's time at its ticks.
        while stats.cpu_ns() == 0 {
            std::hint::spin_loop();
        }
        let shown = stats.json();
        assert_eq!(shown["deltas"], 10);
        assert_eq!(shown["lateness_us"]["count"], 2);
        assert!(shown["cpu_us_per_delta"].as_f64().unwrap() > 0.0);
        stats.reset();
        let shown = stats.json();
        assert_eq!((&shown["deltas"], &shown["open"]), (&json!(0), &json!(2)));
        assert_eq!(shown["lateness_us"]["count"], 0);
    }
}
