//! `actchain audit verify|verify-receipt|export|chains|evidence|checkpoint|archive|show|witness|tail`.

mod archive;
mod arguments;
mod chains;
mod evidence;
mod export;
mod verify;
mod verify_receipt;
mod witness;

use std::process::ExitCode;
use std::time::Duration;

use futures_util::TryStreamExt as _;

pub(super) use self::arguments::read_checkpoint;
use super::context::{self, Opening};
use crate::domain::audit::store;
use crate::domain::audit::witness::Witnesses;
use crate::platform::fault::Fault;
use crate::services::audit::{self, cosignatures};

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
    Checkpoint(Checkpoint),
    /// Move old partitions into files that verify by themselves
    Archive(archive::Args),
    /// Print an event from an archive file
    Show(archive::Show),
    /// Check a receipt against the log, or a proof file by itself
    VerifyReceipt(verify_receipt::Args),
    /// Run a witness, which cosigns checkpoints of logs
    Witness(witness::Args),
    /// Print the latest events
    Tail(Tail),
}

#[derive(Debug, clap::Args)]
pub(super) struct Checkpoint {
    /// Sign nothing, and print the newest checkpoint that the configured witnesses have cosigned, with their signatures
    #[arg(long)]
    cosigned: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Tail {
    /// How many of the latest events to print
    #[arg(short = 'n', long, default_value_t = 10)]
    lines: u64,
    /// Continue to print events as they are recorded
    #[arg(short, long)]
    follow: bool,
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
        Command::Checkpoint(args) => checkpoint(config()?, &args).await,
        Command::Archive(args) => archive::run(config()?, args).await,
        Command::Show(args) => archive::show(&args),
        Command::VerifyReceipt(args) => verify_receipt::run(config, args).await,
        Command::Witness(args) => witness::run(args).await,
        Command::Tail(args) => tail(config()?, &args).await,
    }
}

async fn checkpoint(config: Opening, args: &Checkpoint) -> Result<ExitCode, Fault> {
    context::with(config, async |context, pool| {
        if args.cosigned {
            let audit = &context.config.audit;
            let witnesses = Witnesses::new(&audit.witnesses, audit.witness_quorum)?;
            let mut connection = pool.acquire().await?;
            print!("{}", cosignatures::newest_cosigned_checkpoint(&mut connection, &witnesses).await?);
            return Ok(ExitCode::SUCCESS);
        }
        let issuer = context.config.issuer();
        let seal = context.seal()?;
        print!("{}", audit::checkpoint(pool, &seal, &issuer, context.clock.now()).await?);
        Ok(ExitCode::SUCCESS)
    })
    .await
}

async fn tail(config: Opening, args: &Tail) -> Result<ExitCode, Fault> {
    context::with(config, async |_, pool| {
        let mut connection = pool.acquire().await?;
        let mut next = store::head(&mut connection).await?.size().saturating_sub(args.lines);
        loop {
            let size = store::head(&mut connection).await?.size();
            let mut rows = Box::pin(store::documents(&mut connection, next, size));
            while let Some((_, document)) = rows.try_next().await? {
                println!("{document}");
            }
            drop(rows);
            next = size;
            if !args.follow {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await
}
