//! `actchain audit archive|show`: moves old partitions of the log into files, and prints events from them.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use uuid::Uuid;

use crate::cli::arguments::instant;
use crate::cli::context::{self, Opening};
use crate::cli::output::{OutputFormat, print_json};
use crate::platform::fault::Fault;
use crate::services::audit::LogSigner;
use crate::services::audit::archive::{self, ArchiveLookup, ArchiveOptions};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Only partitions whose events are all older: an RFC 3339 instant, or a date, which means midnight UTC
    #[arg(long, value_name = "TIME")]
    before: String,
    /// The folder to write the files to
    #[arg(long)]
    dir: PathBuf,
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Show {
    /// The file that `audit archive` has written
    #[arg(long, value_name = "FILE")]
    archive: PathBuf,
    /// The event with this number (`seq`)
    #[arg(long, required_unless_present = "id", conflicts_with = "id")]
    seq: Option<u64>,
    /// The event with this id (a UUID)
    #[arg(long)]
    id: Option<Uuid>,
}

pub(super) async fn run(config: Opening, args: Args) -> Result<ExitCode, Fault> {
    let before = instant(&args.before)?;
    context::with(config, async |context, _| {
        let issuer = context.config.issuer();
        let signer = LogSigner { seal: &context.seal()?, issuer: &issuer };
        let options = ArchiveOptions { before, folder: &args.dir };
        // The server's database role may not drop partitions.
        let now = context.clock.now();
        let done = archive::archive(&context.database, signer, options, now).await?;
        if args.format == OutputFormat::Json {
            print_json(&serde_json::json!({"archived": done}))?;
        } else if done.is_empty() {
            println!("nothing is old enough");
        } else {
            for one in &done {
                println!("events {} to {} are in {}", one.from, one.to.saturating_sub(1), one.file.display());
            }
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}

pub(super) fn show(args: &Show) -> Result<ExitCode, Fault> {
    let lookup = match (args.seq, args.id) {
        (Some(seq), _) => ArchiveLookup::Seq(seq),
        (None, Some(id)) => ArchiveLookup::Id(id),
        (None, None) => return Err(Fault::new("--seq or --id is missing")),
    };
    match archive::show(&args.archive, &lookup)? {
        Some(event) => {
            println!("{event}");
            Ok(ExitCode::SUCCESS)
        }
        None => {
            eprintln!("actchain: the file has no such event");
            Ok(ExitCode::FAILURE)
        }
    }
}
