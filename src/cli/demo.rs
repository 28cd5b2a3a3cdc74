//! placeholder
use crate::platform::fault::Fault;
use std::process::ExitCode;
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Leave the demo's data directory behind
    #[arg(long)]
    keep: bool,
}
pub(super) async fn run(_args: Args) -> Result<ExitCode, Fault> {
    Ok(ExitCode::SUCCESS)
}
