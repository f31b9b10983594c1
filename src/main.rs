//! The program: allocator, command line, exit code.

use std::process::ExitCode;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cloudchat::memory::purge_at_once();
    cloudchat::cli::run(std::env::args_os())
}
