//! CPU time of processes and threads, as the kernel's files tell it.

use std::fs;
use std::io;
use std::path::Path;

/// CPU time used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In user mode, in ticks of 10 ms.
    pub user_us: u64,
    /// In the kernel, in ticks of 10 ms.
    pub sys_us: u64,
    /// Both, exact: the scheduler's own sum over the threads that live.
    pub cpu_ns: u64,
}

impl Cpu {
    /// What a process has used; an error when there is no such process.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (user_us, sys_us) = ticks_us(&stat).ok_or(io::ErrorKind::InvalidData)?;
        let mut cpu_ns = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread that has ended since counts no more, as it will next time.
            cpu_ns += of_thread(&task?.path()).unwrap_or_default();
        }
        Ok(Self {
            user_us,
            sys_us,
            cpu_ns,
        })
    }

    /// What was used since an earlier reading.
    pub fn since(self, before: Self) -> Self {
        Self {
            user_us: self.user_us.saturating_sub(before.user_us),
            sys_us: self.sys_us.saturating_sub(before.sys_us),
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
        }
    }
}

/// Nanoseconds that a thread, named by its folder in /proc, has run.
pub fn of_thread(folder: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(folder.join("schedstat"))?;
    let word = text.split(' ').next().unwrap_or_default();
    word.parse().map_err(io::Error::other)
}

/// The calling thread's folder in /proc, by which other threads can ask for it.
pub fn own_thread() -> io::Result<std::path::PathBuf> {
    Ok(Path::new("/proc").join(fs::read_link("/proc/thread-self")?))
}

/// User and system time of a line of `/proc/PID/stat`; the name in it may hold blanks and brackets.
fn ticks_us(stat: &str) -> Option<(u64, u64)> {
    let mut words = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    // Ticks are 10 ms on every Linux that this runs on (USER_HZ is part of the kernel's interface).
    let mut next = || Some(words.next()?.parse::<u64>().ok()? * 10_000);
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name() {
        let line = "7 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 42 17 0 0 20 0";
        assert_eq!(ticks_us(line), Some((420_000, 170_000)));
        assert_eq!(ticks_us("7 (x) R 1"), None);
    }

    #[test]
    fn time_used_is_seen() {
        let thread = own_thread().unwrap();
        let before = Cpu::of_process(std::process::id()).unwrap();
        let begun = of_thread(&thread).unwrap();
        while of_thread(&thread).unwrap() < begun + 20_000_000 {
            std::hint::spin_loop();
        }
        // In ticks, since other tests' threads end meanwhile and take their exact time with them.
        let used = Cpu::of_process(std::process::id()).unwrap().since(before);
        assert!(used.user_us + used.sys_us >= 10_000, "{used:?}");
        assert!(Cpu::of_process(u32::MAX).is_err());
    }
}
