//! The `actchain` program.

use std::process::ExitCode;

use actchain::cli::{Cli, run};
use clap::Parser as _;

fn main() -> ExitCode {
    run(Cli::parse())
}
