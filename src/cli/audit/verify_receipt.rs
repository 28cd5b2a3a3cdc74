//! `actchain audit verify-receipt`: checks a receipt against the log, or a proof file by itself. Exits 0 if the event
//! is proven, 1 if it is disproved, 2 if it could not be checked.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgAction::SetTrue;

use super::arguments::{read_checkpoint, verifier_keys};
use crate::cli::context::{self, Opening};
use crate::cli::output::{OutputFormat, print_json};
use crate::platform::clock::Clock;
use crate::platform::fault::{Context, Fault};
use crate::platform::outbound::{AddressPolicy, Outbound};
use crate::services::audit::verify_receipt::{self, ProofResult, ProofSource, ReceiptTrustAnchors};
use actchain_protocol::receipt::Receipt;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The value of the `Actchain-Receipt` header: «seq=…, leaf=:…:»
    #[arg(long, required_unless_present = "proof", conflicts_with = "proof")]
    receipt: Option<String>,
    /// The issuer's URL of the server to query; the configured database if absent
    #[arg(long, value_name = "URL", conflicts_with = "proof")]
    server: Option<String>,
    /// The only key to trust, as «name+id+key», that was stored outside this server; if absent, the keys that the log
    /// publishes
    #[arg(long)]
    key: Vec<String>,
    /// A checkpoint that was stored outside this server; the log must be consistent with it
    #[arg(long, value_name = "FILE", conflicts_with = "proof")]
    checkpoint: Option<PathBuf>,
    /// Where to write the proof (c2sp.org/tlog-proof)
    #[arg(long, value_name = "FILE", conflicts_with = "proof")]
    out: Option<PathBuf>,
    /// A proof to check offline
    #[arg(long, value_name = "FILE", requires = "event", requires = "key")]
    proof: Option<PathBuf>,
    /// The event that the proof is about, as it is stored
    #[arg(long, value_name = "FILE", requires = "proof")]
    event: Option<PathBuf>,
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

pub(super) async fn run(
    config: impl FnOnce() -> Result<Opening, Fault>,
    args: Args,
) -> Result<ExitCode, Fault> {
    let keys = verifier_keys(&args.key)?;
    let proven = match (&args.proof, &args.event) {
        (Some(proof), Some(event)) => {
            let event = std::fs::read(event).context(&format!("reading {}", event.display()))?;
            if event.starts_with(b"\xef\xbb\xbf") || event.ends_with(b"\r\n") {
                return Err(Fault::new(
                    "the event was converted on its way, so that it cannot be checked: it has a byte order mark or ends in CRLF",
                ));
            }
            // The line break after the copied line is not part of the event.
            let event = event.strip_suffix(b"\n").unwrap_or(&event);
            verify_receipt::check_file(&read(proof)?, event, &keys)?
        }
        _ => {
            let text = args.receipt.as_deref().unwrap_or_default();
            let receipt =
                Receipt::parse(text).ok_or_else(|| Fault::new(format!("{text:?} is no receipt")))?;
            let known_checkpoint = args.checkpoint.as_deref().map(read_checkpoint).transpose()?;
            let anchors = ReceiptTrustAnchors { keys, known_checkpoint };
            verify(config, &receipt, args.server.as_deref(), &anchors).await?
        }
    };
    if let (Some(path), Some(file)) = (&args.out, &proven.file) {
        std::fs::write(path, file).context(&format!("writing {}", path.display()))?;
    }
    print(&proven, args.format)?;
    Ok(if proven.proven { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(path: &PathBuf) -> Result<String, Fault> {
    std::fs::read_to_string(path).context(&format!("reading {}", path.display()))
}

async fn verify(
    config: impl FnOnce() -> Result<Opening, Fault>,
    receipt: &Receipt,
    server: Option<&str>,
    anchors: &ReceiptTrustAnchors,
) -> Result<ProofResult, Fault> {
    if let Some(server) = server {
        let server = server.trim_end_matches('/');
        let config = config()?;
        let outbound =
            Outbound::of_command(config.config(), AddressPolicy::of_issuer(server), Clock::System.now())?;
        return verify_receipt::verify(receipt, ProofSource::Server(&outbound, server), anchors).await;
    }
    context::with(config()?, async |_, pool| {
        let mut connection = pool.acquire().await?;
        verify_receipt::verify(receipt, ProofSource::Database(&mut connection), anchors).await
    })
    .await
}

fn print(proven: &ProofResult, format: OutputFormat) -> Result<(), Fault> {
    if format == OutputFormat::Json {
        return print_json(proven);
    }
    let size = proven.size.map(|size| format!(" in the log of {size} events")).unwrap_or_default();
    match proven.reason {
        None => println!("proven: event {}{size}", proven.seq),
        Some(reason) => {
            let reason = serde_json::to_value(reason).context("naming what is wrong")?;
            println!("DISPROVED: event {}{size}: {}", proven.seq, reason.as_str().unwrap_or_default());
        }
    }
    Ok(())
}
