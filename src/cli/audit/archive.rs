//! `actchain audit archive|show`: old partitions of the log into files, and events out of them.

use std::path::PathBuf;
use std::process::ExitCode;

use uuid::Uuid;

use super::{foundation, instant, print_json};
use crate::cli::foundation::Opening;
use crate::flows::audit::archive::{self, Sought, Wanted};
use crate::platform::fault::Fault;

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
    foundation::with(config, async |foundation, _| {
        let issuer = foundation.config.issuer();
        let seal = foundation.seal()?;
        let wanted = Wanted { before, folder: &args.dir };
        // Not as the server's role, which may not drop anything.
        let now = foundation.clock.now();
        let done = archive::archive(&foundation.database, (&seal, &issuer), wanted, now).await?;
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
    let sought = match (args.seq, args.id) {
        (Some(seq), _) => Sought::Seq(seq),
        (None, Some(id)) => Sought::Id(id),
        (None, None) => return Err(Fault::new("--seq or --id is missing")),
    };
    match archive::show(&args.archive, &sought)? {
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
