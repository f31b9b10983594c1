//! The program: allocator, command line, exit code.

use std::process::ExitCode;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h, which the bindings do not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() -> ExitCode {
    give_memory_back_at_once();
    cloudchat::cli::run(std::env::args_os())
}

/// By default freed pages wait for a later allocation before they go back to the system, and stay
/// for good when the process falls quiet after a busy hour.
#[expect(unsafe_code, reason = "the allocator's options have no safe interface")]
fn give_memory_back_at_once() {
    // SAFETY: the option exists, and no other thread runs yet (the call is not thread-safe).
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "the allocator's options have no safe interface")]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: reads a number; this is the only test of this program.
        let delay = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        // The default in milliseconds, which no neighbour in the list of options has.
        assert_eq!(delay(), 1000);
        give_memory_back_at_once();
        assert_eq!(delay(), 0);
    }
}
