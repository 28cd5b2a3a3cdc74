//! The `actchain` program.

use std::process::ExitCode;

/// An exchange allocates several hundred times, in each thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    actchain::cli::main()
}
