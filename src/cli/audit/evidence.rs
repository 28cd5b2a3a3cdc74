//! `actchain audit evidence`: who acted for a user, with which authority, as a folder that verifies offline.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgAction::SetTrue;

use crate::cli::arguments::instant;
use crate::cli::context::{self, Opening};
use crate::cli::output::{OutputFormat, print_json};
use crate::platform::fault::Fault;
use crate::services::audit::evidence::{self, EvidenceOptions};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  actchain audit evidence --subject alice --from 2026-11-01 --to 2026-11-02 -o evidence
  actchain audit verify evidence --key \"$(cat log.key)\"")]
pub(in crate::cli) struct Args {
    /// The user on whose behalf agents acted: the `sub` at its issuer
    #[arg(long, value_name = "SUB")]
    subject: String,
    /// The issuer of the user; required if several issuers have this user
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// Only chains in which this client acted
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// From this instant (RFC 3339) or date, which begins at midnight UTC
    #[arg(long, value_name = "TIME")]
    from: String,
    /// Up to, but not including, this instant or date; until now if absent
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// The folder to create; an existing folder must be empty
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

pub(super) async fn run(config: Opening, args: Args) -> Result<ExitCode, Fault> {
    let from = instant(&args.from)?;
    let to = args.to.as_deref().map(instant).transpose()?;
    context::as_operator(config, async |ctx, context| {
        let seal = context.seal()?;
        let to = to.unwrap_or(ctx.now);
        if from >= to {
            return Err(Fault::new("--from is not before --to"));
        }
        let (subject, issuer, client) = (args.subject, args.issuer, args.client);
        let options = EvidenceOptions { subject, issuer, client, from, to };
        let written = evidence::gather(ctx, &seal, &options, &args.out).await?;
        if written.first > 0 {
            eprintln!("actchain: events before {} are archived and were not searched", written.first);
        }
        if args.format == OutputFormat::Json {
            print_json(&written)?;
        } else {
            println!(
                "{} events in {} chains under {} delegations are in {}",
                written.events,
                written.chains,
                written.delegations,
                written.folder.display()
            );
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}
