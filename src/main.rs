//! The `actchain` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    actchain::cli::main()
}
