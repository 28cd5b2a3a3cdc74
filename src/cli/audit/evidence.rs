//! `actchain audit evidence`: who acted for a user, with which authority, as a folder that verifies offline.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{context, instant, print_json};
use crate::cli::context::Opening;
use crate::platform::fault::Fault;
use crate::services::audit::evidence::{self, EvidenceOptions, EvidenceReport};

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
    #[arg(long)]
    json: bool,
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
        if args.json {
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

/// Prints the result of a verification and returns its exit code.
pub(super) fn print(report: &EvidenceReport, json: bool) -> Result<ExitCode, Fault> {
    if json {
        print_json(report)?;
    } else if report.valid {
        let root = report.events.root.as_deref().unwrap_or_default();
        let (events, vouched) = (report.events.events, report.events.vouched);
        println!("valid: {events} events, each proven in the log of {vouched} events, root {root}");
        if report.keys_of_folder {
            println!(
                "the keys in keys.txt were believed: compare them with a key that was kept elsewhere (--key)"
            );
        }
    } else if let Some(integrity_error) = &report.events.integrity_error {
        println!("BROKEN at seq {}: {}", integrity_error.seq, super::verify::name(integrity_error)?);
    } else {
        println!("ALTERED: not what follows from the events: {}", report.altered.join(", "));
    }
    Ok(if report.valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
