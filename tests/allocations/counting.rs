//! An allocator that counts what the server's threads do; they are known by their names.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Allocations of the workers, and their bytes.
static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
/// Bytes that workers and store have allocated and not freed. Both, because calls to the store
/// are made by one and freed by the other.
static LIVE: AtomicIsize = AtomicIsize::new(0);
/// How many of the next allocations are to be remembered by place, and their places.
static PLACES_WANTED: AtomicUsize = AtomicUsize::new(0);
static PLACES: Mutex<Vec<(usize, Backtrace)>> = Mutex::new(Vec::new());

thread_local! {
    /// This thread is remembering a place, which allocates.
    static IS_REMEMBERING: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(
    unsafe_code,
    reason = "counting allocations takes an allocator of one's own"
)]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocated(layout.size());
        // SAFETY: as promised by our caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        if thread() != Thread::Other {
            LIVE.fetch_sub(layout.size().cast_signed(), Relaxed);
        }
        // SAFETY: as promised by our caller.
        unsafe { System.dealloc(old, layout) }
    }
}

#[derive(PartialEq, Eq)]
enum Thread {
    Worker,
    Store,
    Other,
}

/// Asks the kernel each time: a thread gets its name only after its first allocations.
fn thread() -> Thread {
    let mut name = [0_u8; 16];
    #[expect(unsafe_code, reason = "std's name of a thread may allocate")]
    // SAFETY: the kernel writes at most 16 bytes (prctl(2), PR_GET_NAME).
    unsafe {
        libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr())
    };
    match &name {
        name if name.starts_with(b"worker-") => Thread::Worker,
        name if name.starts_with(b"store\0") => Thread::Store,
        _ => Thread::Other,
    }
}

fn allocated(bytes: usize) {
    let thread = thread();
    if thread == Thread::Other || IS_REMEMBERING.get() {
        return;
    }
    LIVE.fetch_add(bytes.cast_signed(), Relaxed);
    if thread != Thread::Worker {
        return;
    }
    CALLS.fetch_add(1, Relaxed);
    BYTES.fetch_add(bytes, Relaxed);
    let wanted = PLACES_WANTED.fetch_update(Relaxed, Relaxed, |wanted| wanted.checked_sub(1));
    if wanted.is_ok() {
        IS_REMEMBERING.set(true);
        places().push((bytes, Backtrace::force_capture()));
        IS_REMEMBERING.set(false);
    }
}

fn places() -> MutexGuard<'static, Vec<(usize, Backtrace)>> {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes in use by workers and store, against an unknown base.
pub fn live() -> isize {
    LIVE.load(Relaxed)
}

/// Counts from its start on; one at a time.
pub struct Count {
    calls: usize,
    bytes: usize,
}

impl Count {
    pub fn start() -> Self {
        Self {
            calls: CALLS.load(Relaxed),
            bytes: BYTES.load(Relaxed),
        }
    }

    /// As `start`; the places of the first few allocations can be told afterwards.
    pub fn with_places(wanted: usize) -> Self {
        places().clear();
        PLACES_WANTED.store(wanted, Relaxed);
        Self::start()
    }

    pub fn calls(&self) -> usize {
        CALLS.load(Relaxed) - self.calls
    }

    pub fn bytes(&self) -> usize {
        BYTES.load(Relaxed) - self.bytes
    }

    /// Where the first allocations were made: functions, innermost first.
    pub fn places(&self) -> String {
        PLACES_WANTED.store(0, Relaxed);
        let mut text = String::new();
        for (bytes, place) in places().drain(..) {
            writeln!(text, "{bytes} bytes").expect("writing to memory does not fail");
            let place = place.to_string();
            let frames = place.lines().filter(|line| line.contains(": "));
            let own = frames.filter(|frame| !frame.contains("counting"));
            for frame in own.take(40) {
                writeln!(text, "{frame}").expect("writing to memory does not fail");
            }
            text.push('\n');
        }
        text
    }
}
