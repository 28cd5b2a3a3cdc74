//! `actchain audit witness`: runs a witness, which cosigns checkpoints of other logs. Uses no database.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;

use super::arguments::verifier_keys;
use crate::cli::context::Signals;
use crate::cli::stdio;
use crate::http;
use crate::platform::clock::Clock;
use crate::platform::config::LogConfig;
use crate::platform::fault::{Context, Fault};
use crate::platform::telemetry;
use crate::services::witness::Witness;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The folder of the witness: its key, and the last checkpoint of each log
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The name of a new witness, such as witness.example.com
    #[arg(long)]
    name: Option<String>,
    /// A key of a log to watch, as «name+id+key»; all keys of one log are trusted
    #[arg(long, required = true)]
    log: Vec<String>,
    /// Where to listen; TLS is the task of a proxy in front
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7380")]
    listen: SocketAddr,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Fault> {
    telemetry::start_logs(&LogConfig::default())?;
    let listener = TcpListener::bind(args.listen).context(&format!("listening on {}", args.listen))?;
    let mut signals = Signals::listen()?;
    let witness = Witness::open(&args.dir, args.name.as_deref(), verifier_keys(&args.log)?)?;
    let key = witness.verifier().text();
    let server = http::witness::start(witness, Clock::System, listener)?;
    let (address, handle) = (server.address, server.handle());
    stdio::print_if_read(format_args!("witness {key} on http://{address}"));
    let mut running = tokio::spawn(server.run());
    tokio::select! {
        () = signals.stop() => {}
        ended = &mut running => {
            ended.context("serving")??;
            return Err(Fault::new("the HTTP server ended by itself"));
        }
    }
    handle.stop(true).await;
    running.await.context("stopping")??;
    Ok(ExitCode::SUCCESS)
}
