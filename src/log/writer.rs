//! The way of finished lines to stderr: a bounded queue, and a thread of its own that writes it, so that nobody
//! else waits for whoever reads the log.
//!
//! `O_NONBLOCK` would not do: it belongs to the open file, which other processes share.

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::{LINE_BYTES_ORDINARY, Level, Stamp, WAIT_MAX, render, style};
use crate::clock;

/// Bytes of lines that wait or are being written; what does not fit is dropped and counted.
const QUEUE_BYTES_MAX: usize = 64 << 10;
/// There are two such buffers: one is filled while the other is written. They end in a line on what was dropped.
const BUFFER_BYTES: usize = QUEUE_BYTES_MAX + LINE_BYTES_ORDINARY;
/// Waiting bytes at which the thread does not wait for more.
const WAKE_BYTES: usize = QUEUE_BYTES_MAX / 4;
/// `PIPE_BUF`: what is written at once arrives whole, whoever else writes to the same pipe (pipe(7)).
const WRITE_BYTES_MAX: usize = 4096;
/// The thread only moves bytes.
const STACK_BYTES: usize = 64 << 10;
/// How long the end of the process waits for a reader that has stopped.
const END_MAX: Duration = Duration::from_secs(1);

/// Memory of the way: the buffers and the thread.
pub const BYTES_MAX: usize = 2 * BUFFER_BYTES + STACK_BYTES;

static QUEUE: Queue = Queue::new();

/// From now on lines are written by a thread of their own. The
/// thread ends with the process: whatever it meets, it goes on with the next lines.
///
/// # Errors
/// The system has no resources for a thread.
pub fn start() -> Result<(), String> {
    QUEUE.open();
    let thread = thread::Builder::new().name("log".to_owned());
    // Made here: a thread that never allocates has no pages of the allocator's.
    let text = Vec::with_capacity(BUFFER_BYTES);
    let thread = thread.stack_size(STACK_BYTES);
    let thread = thread.spawn(move || QUEUE.run(text, write));
    let started = thread.map_err(|error| format!("thread: {error}"));
    started
        .map(drop)
        .inspect_err(|_| QUEUE.lock().is_open = false)
}

/// Hands over whole lines in one piece; a hurried one is written at once. Without the thread they are written here, if
/// the reader takes them within [`END_MAX`] or has not stopped before.
pub fn send(lines: &[u8], is_hurried: bool) {
    static HAS_STOPPED: AtomicBool = AtomicBool::new(false);
    if QUEUE.push(lines, is_hurried) {
        return;
    }
    for some in lines.chunks(WRITE_BYTES_MAX) {
        let patience = match HAS_STOPPED.load(Ordering::Relaxed) {
            true => Duration::ZERO,
            false => END_MAX,
        };
        let takes = takes_more(patience);
        HAS_STOPPED.store(!takes, Ordering::Relaxed);
        if !takes {
            return;
        }
        write(some);
    }
}

/// Whether stderr takes [`WRITE_BYTES_MAX`] without making us wait (pipe(7), poll(2)), soon. Yes if there is no telling.
fn takes_more(patience: Duration) -> bool {
    let stderr = io::stderr();
    let mut asked = [PollFd::new(&stderr, PollFlags::OUT)];
    let patience = Timespec::try_from(patience).ok();
    rustix::event::poll(&mut asked, patience.as_ref()) != Ok(0)
}

/// Waits until all is written that was handed over before, for [`END_MAX`] at most.
pub fn finish() {
    QUEUE.finish(END_MAX);
}

/// What waits, and who.
struct Queue {
    state: Mutex<State>,
    /// For the thread: there is something to do.
    work: Condvar,
    /// For [`Queue::finish`]: all is written.
    done: Condvar,
}

struct State {
    text: Vec<u8>,
    /// Bytes that the thread has taken and not yet written.
    taken: usize,
    /// Lines that have not fitted since the thread last took some.
    dropped: u64,
    /// Something must not wait for more.
    is_hurried: bool,
    /// How the thread waits.
    waits: Waits,
    /// Somebody waits until all is written. (Waking nobody costs a system call, too.)
    has_end: bool,
    /// The thread is there.
    is_open: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// It is at work.
    No,
    /// For more lines to write together, [`WAIT_MAX`] long: so busy cores need not wake it each time.
    ForMore,
    /// For any line.
    ForAny,
}

impl Queue {
    const fn new() -> Self {
        let state = State {
            text: Vec::new(),
            taken: 0,
            dropped: 0,
            is_hurried: false,
            waits: Waits::No,
            has_end: false,
            is_open: false,
        };
        Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            done: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) {
        let mut state = self.lock();
        state.text.reserve_exact(BUFFER_BYTES);
        state.is_open = true;
    }

    /// False: there is no thread, and nothing has been done.
    fn push(&self, lines: &[u8], is_hurried: bool) -> bool {
        let mut state = self.lock();
        if !state.is_open {
            return false;
        }
        if state.text.len() + state.taken + lines.len() > QUEUE_BYTES_MAX {
            state.dropped += lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        } else {
            state.text.extend_from_slice(lines);
        }
        state.is_hurried |= is_hurried || state.text.len() > WAKE_BYTES;
        let wakes = match state.waits {
            Waits::No => false,
            Waits::ForMore => state.is_hurried,
            Waits::ForAny => true,
        };
        if wakes {
            state.waits = Waits::No;
            drop(state);
            self.work.notify_one();
        }
        true
    }

    /// Writes what comes, for ever; `text` is its first buffer.
    fn run(&self, mut text: Vec<u8>, write: impl Fn(&[u8])) {
        loop {
            self.take(&mut text);
            let mut rest = text.as_slice();
            while !rest.is_empty() {
                let (lines, others) = rest.split_at(whole(rest));
                write(lines);
                self.lock().taken -= lines.len();
                rest = others;
            }
        }
    }

    /// What was taken before is written; waits for more and takes it.
    fn take(&self, text: &mut Vec<u8>) {
        text.clear();
        let mut state = self.lock();
        if state.has_end && state.is_empty() {
            self.done.notify_all();
        }
        if !state.is_hurried {
            state.waits = Waits::ForMore;
            let is_waiting = |state: &mut State| state.waits == Waits::ForMore;
            let woken = self.work.wait_timeout_while(state, WAIT_MAX, is_waiting);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.is_empty() {
            state.waits = Waits::ForAny;
            let is_waiting = |state: &mut State| state.waits == Waits::ForAny;
            let woken = self.work.wait_while(state, is_waiting);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state.waits = Waits::No;
        state.is_hurried = false;
        std::mem::swap(&mut state.text, text);
        let dropped = std::mem::take(&mut state.dropped);
        // Behind what fitted.
        if dropped > 0 {
            text.extend_from_slice(dropped_line(dropped).as_bytes());
        }
        state.taken = text.len();
    }

    fn finish(&self, longest: Duration) {
        let mut state = self.lock();
        if state.is_open {
            (state.is_hurried, state.has_end) = (true, true);
            state.waits = Waits::No;
            self.work.notify_one();
            let is_waiting = |state: &mut State| !state.is_empty();
            // However it ended, there is nothing more to do.
            drop(self.done.wait_timeout_while(state, longest, is_waiting));
        }
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.dropped == 0 && self.taken == 0
    }
}

fn dropped_line(dropped: u64) -> String {
    let (mut line, event) = (String::new(), "log lines dropped");
    let (stamp, now) = (&mut Stamp::default(), clock::since_epoch());
    render(&mut line, stamp, style(), now, Level::Warn, |line| {
        line.event(Level::Warn, event, &[("dropped", dropped.into())]);
    });
    line
}

/// Bytes of the whole lines at the beginning of `text` that may be written at once; of one line if that is longer.
fn whole(text: &[u8]) -> usize {
    let end = |line_end: usize| line_end + 1;
    let is_end = |byte: &u8| *byte == b'\n';
    let most = &text[..text.len().min(WRITE_BYTES_MAX)];
    let last = most.iter().rposition(is_end);
    let last = last.or_else(|| text.iter().position(is_end));
    last.map_or(text.len(), end)
}

/// Writes whole lines in one piece. A log that cannot be written (closed pipe, full disk) must not stop the service,
/// and there is no second place to complain to: they are lost.
fn write(mut lines: &[u8]) {
    /// Stderr without its lock: one `write(2)` of a few KiB is whole by itself.
    static STDERR: LazyLock<Option<File>> = LazyLock::new(|| {
        let stderr = io::stderr().as_fd().try_clone_to_owned();
        stderr.ok().map(File::from)
    });
    let Some(mut stderr) = STDERR.as_ref() else {
        return;
    };
    while !lines.is_empty() {
        match stderr.write(lines) {
            Ok(n) if n > 0 => lines = &lines[n..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever shares it has made it so.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(WAIT_MAX),
            Ok(_) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    /// A queue whose thread hands what it writes to a reader that may stop; the reader comes first.
    fn queue() -> (Arc<Queue>, mpsc::Receiver<String>) {
        let queue = Arc::new(Queue::new());
        queue.open();
        let (written, reader) = mpsc::sync_channel(0);
        let writing = Arc::clone(&queue);
        thread::spawn(move || {
            writing.run(Vec::new(), |lines| {
                let lines = String::from_utf8(lines.to_vec()).expect("lines are UTF-8");
                // The test is over when nobody reads.
                written.send(lines).unwrap_or_else(|_| thread::park());
            });
        });
        (queue, reader)
    }

    #[test]
    fn what_a_stopped_reader_misses_is_counted_and_the_rest_is_in_order() {
        let (queue, reader) = queue();
        let line = |n: u64| format!("n={n} {}\n", "x".repeat(100));
        let pushed = 2000;
        for n in 0..pushed {
            queue.push(line(n).as_bytes(), n % 7 == 0);
        }
        queue.finish(Duration::from_millis(1));
        // The thread may have begun when lines were missing already, and told of the others later.
        let (mut next, mut dropped, mut bytes) = (0, 0, 0);
        while next + dropped < pushed {
            let lines = reader.recv().expect("the thread goes on");
            assert!(lines.len() <= WRITE_BYTES_MAX && lines.ends_with('\n'));
            for text in lines.split_inclusive('\n') {
                match text.trim_end().split_once("dropped=") {
                    Some((_, n)) => dropped += n.parse::<u64>().expect("it is a number"),
                    None => {
                        assert_eq!(text, line(next));
                        (next, bytes) = (next + 1, bytes + text.len());
                    }
                }
            }
        }
        assert!(
            (QUEUE_BYTES_MAX / 2..=QUEUE_BYTES_MAX).contains(&bytes),
            "{bytes}"
        );
        assert_eq!(dropped, pushed - next);
        // The thread may have to notice yet that the last lines are gone.
        queue.finish(Duration::from_secs(60));
        queue.push(b"after\n", false);
        assert_eq!(reader.recv().as_deref(), Ok("after\n"), "and it goes on");
    }

    #[test]
    fn the_end_waits_for_the_reader_but_not_for_ever() {
        let (queue, reader) = queue();
        queue.push(b"one\n", false);
        let begin = clock::now();
        queue.finish(Duration::from_millis(50));
        assert!(begin.elapsed() >= Duration::from_millis(50));
        let reads = thread::spawn(move || (reader.recv(), reader));
        queue.finish(Duration::from_secs(60));
        assert!(begin.elapsed() < Duration::from_secs(60));
        let (read, _reader) = reads.join().expect("it reads");
        assert_eq!(read.as_deref(), Ok("one\n"));
        queue.finish(Duration::from_secs(60));
    }

    #[test]
    fn without_a_thread_nothing_is_queued() {
        let queue = Queue::new();
        assert!(!queue.push(b"line\n", true));
        queue.finish(Duration::from_secs(60));
        let long = [&[b'x'; WRITE_BYTES_MAX][..], b"\nshort\n"].concat();
        assert_eq!(whole(&long), WRITE_BYTES_MAX + 1);
        assert_eq!(whole(b"a\nb\n"), 4);
    }
}
