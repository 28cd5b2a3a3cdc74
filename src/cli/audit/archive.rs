//! `actchain audit archive|show`: old partitions of the log into files, and events out of them.

use std::path::PathBuf;
use std::process::ExitCode;

use uuid::Uuid;

use super::{context, instant, print_json};
use crate::cli::context::Opening;
use crate::platform::fault::Fault;
use crate::services::audit::archive::{self, ArchiveLookup, ArchiveOptions};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Only partitions all of whose events are older: an instant (RFC 3339), or a date, whose beginning in UTC is meant
    #[arg(long, value_name = "TIME")]
    before: String,
    /// The folder for the files
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Show {
    /// The file
    #[arg(long, value_name = "FILE")]
    archive: PathBuf,
    /// By its number
    #[arg(long, required_unless_present = "id", conflicts_with = "id")]
    seq: Option<u64>,
    /// By its id
    #[arg(long)]
    id: Option<Uuid>,
}

pub(super) async fn run(config: Opening, args: Args) -> Result<ExitCode, Fault> {
    let before = instant(&args.before)?;
    context::with(config, async |context, _| {
        let issuer = context.config.issuer();
        let seal = context.seal()?;
        let options = ArchiveOptions { before, folder: &args.dir };
        // Not as the server's role, which may not drop anything.
        let now = context.clock.now();
        let done = archive::archive(&context.database, (&seal, &issuer), options, now).await?;
        if args.json {
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
