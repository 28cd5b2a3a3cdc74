//! `actchain audit verify|export|checkpoint|tail`. Verification only reads; it exits 0 for a valid log, 1 for a broken
//! one, 2 if it could not check.

mod prove;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::TryStreamExt as _;

use super::{foundation, print_json};
use crate::domain::audit::store;
use crate::flows::audit::{self, Kept, Report};
use crate::platform::config::Config;
use crate::platform::fault::{During, Fault};
use crate::protocol::signed_note::VerifierKey;

/// How often `tail -f` looks.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Check the whole log, in the database or in an export
    #[command(visible_alias = "verify-chain")]
    Verify(Verify),
    /// Write the log as JSON Lines that verify offline
    Export {
        /// Where to; standard output where absent
        #[arg(short, long)]
        out: Option<PathBuf>,
    },
    /// Sign a checkpoint over the log as it stands, and print it
    Checkpoint {
        /// Print the key that verifies it instead
        #[arg(long)]
        key: bool,
    },
    /// Check a receipt against the log, or a proof file by itself
    Prove(prove::Args),
    /// Print the latest events
    Tail {
        /// How many
        #[arg(short = 'n', long, default_value_t = 10)]
        lines: u64,
        /// Go on as more come
        #[arg(short, long)]
        follow: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// An export; the database where absent
    #[arg(long)]
    file: Option<PathBuf>,
    /// A checkpoint that was kept elsewhere
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// The only key to believe, as «name+id+key», that was kept elsewhere
    #[arg(long)]
    key: Vec<String>,
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    config: impl FnOnce() -> Result<Config, Fault>,
    command: Command,
) -> Result<ExitCode, Fault> {
    match command {
        Command::Verify(args) => verify(config, args).await,
        Command::Export { out } => export(config()?, out).await,
        Command::Checkpoint { key } => checkpoint(config()?, key).await,
        Command::Prove(args) => prove::run(config, args).await,
        Command::Tail { lines, follow } => tail(config()?, lines, follow).await,
    }
}

async fn verify(config: impl FnOnce() -> Result<Config, Fault>, args: Verify) -> Result<ExitCode, Fault> {
    let keys = verifier_keys(&args.key)?;
    let notes = args
        .checkpoint
        .iter()
        .map(|path| std::fs::read_to_string(path).during(&format!("reading {}", path.display())));
    let kept = Kept { keys, notes: notes.collect::<Result<_, _>>()? };
    let report = match &args.file {
        // A file is all that is needed: neither configuration nor database.
        Some(path) => audit::verify_export(path, &kept)?,
        None => {
            foundation::with(config()?, async |_, pool| {
                let mut connection = pool.acquire().await?;
                audit::verify_database(&mut connection, &kept).await
            })
            .await?
        }
    };
    if args.json {
        print_json(&report)?
    } else {
        print(&report)?
    }
    Ok(if report.valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verifier_keys(texts: &[String]) -> Result<Vec<VerifierKey>, Fault> {
    let key = |text: &String| {
        VerifierKey::parse(text).ok_or_else(|| Fault::new(format!("{text} is no verifier key")))
    };
    texts.iter().map(key).collect()
}

fn print(report: &Report) -> Result<(), Fault> {
    match &report.broken {
        None => println!(
            "valid: {} events, {} checkpoints, root {}",
            report.events,
            report.checkpoints,
            report.root.as_deref().unwrap_or_default()
        ),
        Some(broken) => {
            let why = serde_json::to_value(broken.why).during("naming what is broken")?;
            println!("BROKEN at seq {}: {}", broken.seq, why.as_str().unwrap_or_default());
        }
    }
    Ok(())
}

async fn export(config: Config, out: Option<PathBuf>) -> Result<ExitCode, Fault> {
    let issuer = config.issuer();
    foundation::with(config, async |foundation, pool| {
        let seal = foundation.seal()?;
        let note = audit::checkpoint(pool, &seal, &issuer, foundation.clock.now()).await?;
        let mut connection = pool.acquire().await?;
        let mut file: Box<dyn std::io::Write + Send> = match &out {
            Some(path) => {
                let file = std::fs::File::create(path).during(&format!("writing {}", path.display()))?;
                Box::new(std::io::BufWriter::new(file))
            }
            None => Box::new(std::io::BufWriter::new(std::io::stdout())),
        };
        let events = audit::export(&mut connection, &note, &issuer, &mut file).await?;
        if let Some(path) = &out {
            println!("{events} events and their checkpoint are in {}", path.display());
        }
        // The statement timeout was lifted on this one.
        connection.close_on_drop();
        Ok(ExitCode::SUCCESS)
    })
    .await
}

async fn checkpoint(config: Config, key: bool) -> Result<ExitCode, Fault> {
    let issuer = config.issuer();
    foundation::with(config, async |foundation, pool| {
        if key {
            let mut connection = pool.acquire().await?;
            println!("{}", audit::published_key(&mut connection, &issuer).await?);
        } else {
            let seal = foundation.seal()?;
            print!("{}", audit::checkpoint(pool, &seal, &issuer, foundation.clock.now()).await?);
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}

async fn tail(config: Config, lines: u64, follow: bool) -> Result<ExitCode, Fault> {
    foundation::with(config, async |_, pool| {
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
            tokio::time::sleep(LOOK).await;
        }
    })
    .await
}
