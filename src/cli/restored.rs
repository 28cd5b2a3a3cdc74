//! `actchain restored`: after a backup was put back, revokes all tokens of before and suspends delegations for a review.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use time::Duration;

use super::audit::read_checkpoint;
use super::context::{self, Opening};
use super::output::{OutputFormat, print_json};
use crate::platform::clock;
use crate::platform::fault::Fault;
use crate::services::restored::{RestoredReport, ReviewScope, review_restored};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Suspend delegations that changed within this time before the newest event: seconds, or a duration such as 90m, 24h
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = clock::seconds, conflicts_with = "all")]
    within: u32,
    /// Suspend all active delegations: any of them can have been revoked after the backup
    #[arg(long)]
    all: bool,
    /// A checkpoint that was stored outside this server; the log must be consistent with it, or its end is lost
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

pub(super) async fn run(opening: Opening, args: Args) -> Result<ExitCode, Fault> {
    let note = args.checkpoint.as_deref().map(read_checkpoint).transpose()?;
    let scope =
        if args.all { ReviewScope::All } else { ReviewScope::Within(Duration::seconds(args.within.into())) };
    let report =
        context::as_operator(opening, async |ctx, _| review_restored(ctx, scope, note.as_deref()).await)
            .await?;
    if args.format == OutputFormat::Json {
        print_json(&report)?;
    } else {
        show(&report);
    }
    Ok(ExitCode::SUCCESS)
}

fn show(report: &RestoredReport) {
    println!("the log is whole: {} events", report.events);
    match (report.checkpoint, report.missing_events) {
        (Some(size), Some(0)) => println!("it is consistent with the checkpoint of {size} events"),
        (Some(size), Some(missing)) => println!(
            "{missing} events of the checkpoint of {size} events are lost: revocations among them are not known here, so \
             consider --all"
        ),
        _ => {}
    }
    println!("all tokens that were issued before are revoked");
    println!(
        "{} delegations are suspended until their delegators approve them again",
        report.suspended.len()
    );
    report.suspended.iter().for_each(|id| println!("  {id}"));
    if report.suspended_grants > 0 {
        println!(
            "{} standing grants are suspended until their users confirm the keys of the agents again",
            report.suspended_grants
        );
    }
    if report.refreshable_connections > 0 {
        println!(
            "{} connections have refresh tokens that can be outdated: a provider that refuses one needs its owner to connect \
             again",
            report.refreshable_connections
        );
    }
}
