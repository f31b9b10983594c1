//! The allocator: mimalloc, told to give freed memory back, and soon.
//!
//! mimalloc keeps freed pages for a later allocation of the same thread, and looks at them again
//! only when that thread allocates: a server that falls quiet after a busy hour would keep them for
//! good ([`purge_soon`], [`collect`]). Not at once: under load a page is needed again within
//! milliseconds, and each one given back is a system call and fresh zeros. It gives back whole pages of 64 KiB only, so one object
//! that lives as long as its thread would keep what a busy hour has filled around it
//! ([`begin_fresh_pages`]). Where another allocator is linked (tests, profilers) nothing here has an
//! effect.

#[cfg(feature = "mimalloc")]
use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use libmimalloc_sys::mi_heap_t;
#[cfg(feature = "mimalloc")]
use mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h, which the bindings do not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// How long freed pages wait, in milliseconds.
const PURGE_DELAY_MS: std::ffi::c_long = 100;

/// What all threads share that began fresh pages; each has its own pages in it.
static SHARED: AtomicPtr<mi_heap_t> = AtomicPtr::new(ptr::null_mut());

thread_local! {
    /// Where this thread allocates from since [`begin_fresh_pages`].
    static FRESH: Cell<*mut mi_heap_t> = const { Cell::new(ptr::null_mut()) };
}

/// mimalloc as the program's allocator.
#[cfg(feature = "mimalloc")]
#[derive(Debug)]
pub struct Allocator;

#[cfg(feature = "mimalloc")]
#[expect(unsafe_code, reason = "allocators are not safe by nature")]
// SAFETY: every call is handed on as it is, to mimalloc or to one of its heaps, which is never
// deleted; blocks of all heaps are freed and moved from any thread.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (heap, size, align) = (FRESH.get(), layout.size(), layout.align());
        // SAFETY: as above.
        let block = match (heap.is_null(), is_aligned_anyway(layout)) {
            (true, true) => unsafe { libmimalloc_sys::mi_malloc(size) },
            (true, false) => unsafe { libmimalloc_sys::mi_malloc_aligned(size, align) },
            (false, true) => unsafe { libmimalloc_sys::mi_heap_malloc(heap, size) },
            (false, false) => unsafe { libmimalloc_sys::mi_heap_malloc_aligned(heap, size, align) },
        };
        block.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (heap, size, align) = (FRESH.get(), layout.size(), layout.align());
        // SAFETY: as above.
        let block = match (heap.is_null(), is_aligned_anyway(layout)) {
            (true, true) => unsafe { libmimalloc_sys::mi_zalloc(size) },
            (true, false) => unsafe { libmimalloc_sys::mi_zalloc_aligned(size, align) },
            (false, true) => unsafe { libmimalloc_sys::mi_heap_zalloc(heap, size) },
            (false, false) => unsafe { libmimalloc_sys::mi_heap_zalloc_aligned(heap, size, align) },
        };
        block.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { MiMalloc.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (heap, align) = (FRESH.get(), layout.align());
        // SAFETY: as above.
        match heap.is_null() {
            true => unsafe { MiMalloc.realloc(block, layout, size) },
            false => unsafe {
                libmimalloc_sys::mi_heap_realloc_aligned(heap, block.cast(), size, align).cast()
            },
        }
    }
}

/// Whether a block of the allocator is aligned without being asked for it: as in C, a block of 16 bytes or more
/// to 16 bytes, and any other to a word. Asking is slower, twice as slow for blocks of a KiB and more.
#[cfg(feature = "mimalloc")]
#[inline]
fn is_aligned_anyway(layout: Layout) -> bool {
    let (size, align) = (layout.size(), layout.align());
    align <= size_of::<usize>() || align <= 16 && size >= 16
}

/// Lets freed pages go back to the system after [`PURGE_DELAY_MS`]. To be called before any thread starts.
#[expect(unsafe_code, reason = "the allocator's options have no safe interface")]
pub fn purge_soon() {
    // SAFETY: the option exists, and no other thread runs yet (the call is not thread-safe).
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) };
}

/// From now on the calling thread allocates from pages of its own. To be called when it has set up
/// what lives as long as it does.
#[expect(unsafe_code, reason = "the allocator has no safe interface")]
pub fn begin_fresh_pages() {
    let mut heap = SHARED.load(Ordering::Acquire);
    if heap.is_null() {
        // SAFETY: makes a heap or gives null, which stands for the thread's first one.
        let new = unsafe { libmimalloc_sys::mi_heap_new() };
        heap = match SHARED.compare_exchange(heap, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => new,
            Err(other) => other,
        };
    }
    FRESH.set(heap);
}

/// Unmaps the pages of the program's code, since most of what has run so far has run for the last time. What is
/// needed again is mapped again from the page cache, and the kernel may drop the rest when others need memory. For a server that has started, or has nothing to do.
pub fn forget_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return; // then it stays
    };
    let here = forget_code as fn() as usize;
    if let Some(code) = maps.lines().find_map(|line| code_around(line, here)) {
        #[expect(
            unsafe_code,
            reason = "no safe call takes a mapping that it has not made"
        )]
        // SAFETY: a private mapping of a file that nobody has written to, since it cannot be written: its pages are
        // those of the file, before and after. Advice that is refused changes nothing.
        unsafe {
            libc::madvise(code.start as *mut _, code.len(), libc::MADV_DONTNEED)
        };
    }
}

/// The range of a line of `/proc/self/maps` (proc(5)) if it holds code of a file, and this address.
fn code_around(line: &str, address: usize) -> Option<Range<usize>> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let hex = |digits| usize::from_str_radix(digits, 16).ok();
    let range = hex(start)?..hex(end)?;
    // The fourth is the inode: 0 means no file (a packed program, for example), so the pages would not come back.
    let is_of_file = rest
        .split_whitespace()
        .nth(3)
        .is_some_and(|inode| inode != "0");
    (rest.starts_with("r-xp ") && is_of_file && range.contains(&address)).then_some(range)
}

/// Resident memory of the process in bytes, now and at its peak, as the kernel tells (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    /// `VmRSS`.
    pub resident: u64,
    /// `VmHWM`.
    pub peak: u64,
}

/// None if the kernel does not tell.
pub fn resident() -> Option<Resident> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib * 1024)
    };
    Some(Resident {
        resident: bytes("VmRSS:")?,
        peak: bytes("VmHWM:")?,
    })
}

/// Gives back what the calling thread has freed and not used again.
#[expect(unsafe_code, reason = "the allocator has no safe interface")]
pub fn collect() {
    // SAFETY: works on the calling thread's own heaps, at any time.
    unsafe {
        libmimalloc_sys::mi_collect(true);
        let heap = FRESH.get();
        if !heap.is_null() {
            libmimalloc_sys::mi_heap_collect(heap, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_a_file_is_forgotten() {
        let of_file = "1000-3000 r-xp 00001000 fe:00 1234        /usr/bin/cloudchat";
        assert_eq!(code_around(of_file, 0x2fff), Some(0x1000..0x3000));
        assert_eq!(code_around(of_file, 0x3000), None);
        for other in [
            "1000-3000 r--p 00001000 fe:00 1234        /usr/bin/cloudchat",
            "1000-3000 r-xp 00000000 00:00 0",
            "1000-3000",
            "",
        ] {
            assert_eq!(code_around(other, 0x2000), None, "{other}");
        }
        forget_code();
        assert!(
            std::hint::black_box(code_around(of_file, 0x1000)).is_some(),
            "it comes back"
        );
    }

    #[test]
    #[expect(unsafe_code, reason = "the allocator's options have no safe interface")]
    fn the_option_is_the_purge_delay() {
        // SAFETY: reading an option that exists.
        let get = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(get(), 1000, "the default of mimalloc v3, in milliseconds");
        purge_soon();
        assert_eq!(get(), PURGE_DELAY_MS);
        collect();
    }

    #[test]
    #[cfg(feature = "mimalloc")]
    #[expect(unsafe_code, reason = "allocators are not safe by nature")]
    fn blocks_are_aligned_without_being_asked() {
        let check = || {
            for size in (1..=300).chain([1000, 1025, 4097, 8200, 70_000]) {
                for align in [1, 2, 4, 8, 16, 32, 4096] {
                    let layout = Layout::from_size_align(size, align).unwrap();
                    // SAFETY: each block is freed once, with the layout that it was made with.
                    let addresses = unsafe {
                        let blocks = [Allocator.alloc(layout), Allocator.alloc_zeroed(layout)];
                        blocks.map(|block| {
                            let address = block.addr();
                            Allocator.dealloc(block, layout);
                            address
                        })
                    };
                    let is_aligned = |address| address != 0 && address % align == 0;
                    assert!(addresses.into_iter().all(is_aligned), "{layout:?}");
                }
            }
        };
        check();
        begin_fresh_pages();
        check();
    }

    /// Blocks from before and after the change live side by side, whoever frees them.
    #[test]
    #[cfg(feature = "mimalloc")]
    #[expect(unsafe_code, reason = "allocators are not safe by nature")]
    fn blocks_outlive_the_change_to_fresh_pages() {
        let small = Layout::from_size_align(40, 8).unwrap();
        let aligned = Layout::from_size_align(10_000, 4096).unwrap();
        // SAFETY: each block is used within its layout, and freed once with it.
        let (kept, page) = unsafe {
            let kept = Allocator.alloc(small);
            kept.write_bytes(7, 40);
            begin_fresh_pages();
            assert!(!FRESH.get().is_null());
            let kept = Allocator.realloc(kept, small, 400);
            assert_eq!(std::slice::from_raw_parts(kept, 40), [7; 40]);
            let page = Allocator.alloc_zeroed(aligned);
            assert_eq!(page.addr() % 4096, 0);
            assert_eq!(std::slice::from_raw_parts(page, 10_000), [0; 10_000]);
            let gone = Allocator.alloc(small);
            Allocator.dealloc(gone, small);
            collect();
            assert_eq!(std::slice::from_raw_parts(kept, 40), [7; 40]);
            (kept.expose_provenance(), page.expose_provenance())
        };
        let elsewhere = std::thread::spawn(move || {
            assert!(FRESH.get().is_null(), "each thread begins for itself");
            let grown = Layout::from_size_align(400, 8).unwrap();
            // SAFETY: as above.
            unsafe {
                Allocator.dealloc(ptr::with_exposed_provenance_mut(kept), grown);
                Allocator.dealloc(ptr::with_exposed_provenance_mut(page), aligned);
            }
        });
        elsewhere.join().unwrap();
        collect();
    }
}
