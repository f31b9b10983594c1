//! This host: memory, its limits, open files, and how the kernel hands out memory.

use std::fs;

use super::Report;
use crate::budget::Budget;
use crate::config::{Config, Redis};

const MIB: u64 = 1 << 20;
/// What the process may need beyond twice `limits.memory` for a moment: the kernel's own, an upgrade's
/// second binary.
const MARGIN_BYTES: u64 = 32 * MIB;
/// Below this the disk is about to be full.
const DISK_BYTES_MIN: u64 = 256 * MIB;

pub fn check(report: &mut Report, config: &Config, budget: &Budget) {
    let memory = budget.memory as u64;
    let mib = |bytes: u64| bytes / MIB;
    if let Some(limit) = cgroup_limit() {
        report.expect(
            "memory limit",
            limit >= memory + MARGIN_BYTES,
            format!(
                "the control group allows {} MiB, limits.memory is {}",
                mib(limit),
                mib(memory)
            ),
            format!(
                "MemoryMax={}M in the unit, or a smaller limits.memory",
                mib(2 * memory + MARGIN_BYTES)
            ),
        );
    }
    if let Some(total) = meminfo("MemTotal:") {
        report.expect(
            "memory plan",
            memory <= total / 2,
            format!(
                "limits.memory is {} MiB of the host's {}",
                mib(memory),
                mib(total)
            ),
            format!("limits.memory = \"{}M\"", mib(total / 8)),
        );
    }
    if let Ok((_, hard)) = rlimit::getrlimit(rlimit::Resource::NOFILE) {
        let needed = budget.files_max as u64;
        report.expect(
            "open files",
            hard >= needed,
            format!("{hard} open files are allowed, {needed} may be needed"),
            format!("LimitNOFILE={needed} in the unit, or ulimit -Hn {needed}"),
        );
    }
    if let Ok(disk) = rustix::fs::statvfs(&config.store.dir) {
        let free = disk.f_bavail * disk.f_frsize;
        report.expect(
            "disk",
            free >= DISK_BYTES_MIN,
            format!(
                "{} MiB are free in {}",
                mib(free),
                config.store.dir.display()
            ),
            format!(
                "du -xh --max-depth=1 {} shows what takes the room",
                config.store.dir.display()
            ),
        );
    }
    if config.store.redis.as_ref().is_some_and(is_here) {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let huge = read("/sys/kernel/mm/transparent_hugepage/enabled");
        report.expect(
            "huge pages",
            !huge.contains("[always]"),
            "transparent huge pages are always on: Redis on this host grows and stalls when it forks",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        );
    }
}

/// Whether it runs on this host.
fn is_here(redis: &Redis) -> bool {
    let here = |host: &str| {
        host == "localhost"
            || host
                .parse()
                .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    };
    redis.hosts.iter().any(|(host, _)| here(host))
}

fn meminfo(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

/// The least limit of the control groups that this process is in, of either version; `None` without one.
fn cgroup_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut folder = path;
        loop {
            let limit = fs::read_to_string(format!("{root}{folder}/{file}"));
            // `max`, or a number of pages that no host has, stands for none.
            let limit = limit.ok().and_then(|text| text.trim().parse::<u64>().ok());
            let limit = limit.filter(|bytes| *bytes < 1 << 60);
            least = least.into_iter().chain(limit).min();
            match folder.rfind('/') {
                Some(at) if !folder.is_empty() => folder = &folder[..at],
                _ => break,
            }
        }
    }
    least
}
