//! The program: allocator, command line, exit code.

use std::process::ExitCode;

/// `bench/profile` builds without it: heaptrack sees the calls to the system's allocator only.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: cloudchat::memory::Allocator = cloudchat::memory::Allocator;

fn main() -> ExitCode {
    cloudchat::memory::purge_soon();
    cloudchat::cli::run(std::env::args_os())
}
