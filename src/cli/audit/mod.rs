//! `actchain audit verify|verify-receipt|export|chains|evidence|checkpoint|archive|show|witness|tail`.

mod archive;
mod chains;
mod evidence;
mod export;
mod verify;
mod verify_receipt;
mod witness;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use time::OffsetDateTime;

use super::{context, print_json};
use crate::cli::context::Opening;
use crate::domain::audit::store;
use crate::platform::clock;
use crate::platform::fault::{Context, Fault};
use crate::services::audit;
use actchain_protocol::signed_note::{self, Checkpoint, VerifierKey};

/// How often `tail -f` reads new events.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Check the whole log, in the database or in an export
    #[command(visible_alias = "verify-chain")]
    Verify(verify::Args),
    /// Export the log: JSON Lines that verify offline, CSV or SARIF
    Export(export::Args),
    /// List chains, or print one chain in full
    Chains(chains::Args),
    /// Prove who acted for a user, with which authority: a folder that verifies offline
    Evidence(evidence::Args),
    /// Sign a checkpoint over the current log, and print it
    Checkpoint,
    /// Move old partitions into files that verify by themselves
    Archive(archive::Args),
    /// Print an event from an archive file
    Show(archive::Show),
    /// Check a receipt against the log, or a proof file by itself
    VerifyReceipt(verify_receipt::Args),
    /// Run a witness, which cosigns checkpoints of logs
    Witness(witness::Args),
    /// Print the latest events
    Tail {
        /// How many of the latest events to print
        #[arg(short = 'n', long, default_value_t = 10)]
        lines: u64,
        /// Continue to print events as they are recorded
        #[arg(short, long)]
        follow: bool,
    },
}

pub(super) async fn run(
    config: impl FnOnce() -> Result<Opening, Fault>,
    command: Command,
) -> Result<ExitCode, Fault> {
    match command {
        Command::Verify(args) => verify::run(config, args).await,
        Command::Export(args) => export::run(config()?, args).await,
        Command::Chains(args) => chains::run(config()?, args).await,
        Command::Evidence(args) => evidence::run(config()?, args).await,
        Command::Checkpoint => checkpoint(config()?).await,
        Command::Archive(args) => archive::run(config()?, args).await,
        Command::Show(args) => archive::show(&args),
        Command::VerifyReceipt(args) => verify_receipt::run(config, args).await,
        Command::Witness(args) => witness::run(args).await,
        Command::Tail { lines, follow } => tail(config()?, lines, follow).await,
    }
}

/// Reads an instant (RFC 3339), or a date, which means midnight UTC.
fn instant(text: &str) -> Result<OffsetDateTime, Fault> {
    clock::instant(text).ok_or_else(|| {
        Fault::new(format!(
            "{text:?} is neither an RFC 3339 time nor a date, such as 2026-11-01T08:00:00Z or 2026-11-01"
        ))
    })
}

fn verifier_keys(texts: &[String]) -> Result<Vec<VerifierKey>, Fault> {
    let key = |text: &String| {
        VerifierKey::parse(text).ok_or_else(|| Fault::new(format!("{text} is no verifier key")))
    };
    texts.iter().map(key).collect()
}

/// Reads a checkpoint from a file. Refuses a file whose line endings or encoding were converted.
fn read_checkpoint(path: &Path) -> Result<String, Fault> {
    let note = std::fs::read_to_string(path).context(&format!("reading {}", path.display()))?;
    if note.starts_with('\u{feff}') || note.contains('\r') {
        return Err(Fault::new(format!(
            "{} was converted on its way: it has a byte order mark, or its lines end in CRLF",
            path.display()
        )));
    }
    match signed_note::parts(&note).and_then(|(text, _)| Checkpoint::parse(&text)) {
        Some(_) => Ok(note),
        None => Err(Fault::new(format!("{} is no checkpoint", path.display()))),
    }
}

async fn checkpoint(config: Opening) -> Result<ExitCode, Fault> {
    context::with(config, async |context, pool| {
        let issuer = context.config.issuer();
        let seal = context.seal()?;
        print!("{}", audit::checkpoint(pool, &seal, &issuer, context.clock.now()).await?);
        Ok(ExitCode::SUCCESS)
    })
    .await
}

async fn tail(config: Opening, lines: u64, follow: bool) -> Result<ExitCode, Fault> {
    context::with(config, async |_, pool| {
        let mut connection = pool.acquire().await?;
        let mut next = store::head(&mut connection).await?.size().saturating_sub(lines);
        loop {
            let size = store::head(&mut connection).await?.size();
            let mut rows = Box::pin(store::documents(&mut connection, next, size));
            while let Some((_, document)) = rows.try_next().await? {
                println!("{document}");
            }
            drop(rows);
            next = size;
            if !follow {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await
}
