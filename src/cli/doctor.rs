//! `actchain doctor`: configuration, database, clock, keys, reachability of issuers. Exits 0 if nothing is wrong.

use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use serde_json::json;
use sqlx::postgres::PgPool;

use super::context::{self, CommandContext, Opening};
use super::output::{OutputFormat, print_json};
use crate::platform::fault::Fault;
use crate::services::doctor::{DoctorFinding, Installation};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

pub(super) async fn run(opening: Result<Opening, Fault>, args: Args) -> Result<ExitCode, Fault> {
    let mut findings = Vec::new();
    match opening {
        Err(fault) => findings.push(DoctorFinding::of::<()>("configuration", Err(fault))),
        Ok(opening) => {
            // Without a data directory, nothing else can be checked.
            opening.require_present()?;
            findings.push(DoctorFinding::of("configuration", Ok(())));
            let examined = context::with(opening, async |context, pool| {
                let mut findings = Vec::new();
                installation(context, pool).examine(&mut findings).await?;
                Ok(findings)
            });
            match examined.await {
                Ok(more) => findings.extend(more),
                Err(fault) => findings.push(DoctorFinding::of::<()>("database", Err(fault))),
            }
        }
    }
    let well = findings.iter().all(|finding| finding.problem.is_none());
    if args.format == OutputFormat::Json {
        let list: Vec<_> = findings
            .iter()
            .map(|one| json!({"check": one.check, "ok": one.problem.is_none(), "problem": one.problem, "warnings": one.warnings}))
            .collect();
        print_json(&json!({"ok": well, "checks": list}))?;
    } else {
        for finding in &findings {
            match &finding.problem {
                None => println!("ok    {}", finding.check),
                Some(wrong) => println!("WRONG {}: {wrong}", finding.check),
            }
            for warning in &finding.warnings {
                println!("warn  {}: {warning}", finding.check);
            }
        }
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn installation<'a>(context: &'a CommandContext, pool: &'a PgPool) -> Installation<'a> {
    let elsewhere = context.cluster.as_ref().and_then(|cluster| cluster.elsewhere());
    let elsewhere = elsewhere.map(|home| format!(", whose files are in {}", home.display()));
    Installation {
        config: &context.config,
        clock: &context.clock,
        pool,
        place: format!("{}{}", context.place(), elsewhere.unwrap_or_default()),
        seal: context.seal(),
    }
}
