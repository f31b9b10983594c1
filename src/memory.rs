//! The allocator's two settings: freed memory goes back to the system, and at once.
//!
//! mimalloc keeps freed pages for a later allocation of the same thread, and looks at them again
//! only when that thread allocates: a server that falls quiet after a busy hour would keep them for
//! good. Where another allocator is linked (tests, profilers) nothing here has an effect.

/// `mi_option_purge_delay` of mimalloc.h, which the bindings do not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Lets freed pages go back to the system without delay. To be called before any thread starts.
#[expect(unsafe_code, reason = "the allocator's options have no safe interface")]
pub fn purge_at_once() {
    // SAFETY: the option exists, and no other thread runs yet (the call is not thread-safe).
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
}

/// Gives back what the calling thread has freed and not used again.
#[expect(unsafe_code, reason = "the allocator has no safe interface")]
pub fn collect() {
    // SAFETY: works on the calling thread's own heap, at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "the allocator's options have no safe interface")]
    fn the_option_is_the_purge_delay() {
        // SAFETY: reading an option that exists.
        let get = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(get(), 1000, "the default of mimalloc v3, in milliseconds");
        purge_at_once();
        assert_eq!(get(), 0);
        collect();
    }
}
