//! `actchain apply`: applies a manifest; idempotent, all or nothing. The plan names each member that changes.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::context::{self, Opening};
use super::output::{self, OutputFormat};
use crate::platform::fault::{Context, Fault};
use crate::services::apply::{ApplyOutcome, ApplyRequest, Change, Line, Manifest, Mode, apply, read_all};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The manifest: YAML files; «-» reads standard input
    #[arg(short = 'f', long = "file", required_unless_present = "schema")]
    files: Vec<PathBuf>,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Let this client lose its kind or its credentials; repeat for several
    #[arg(long, value_name = "CLIENT")]
    replace: Vec<String>,
    /// Print the JSON Schema of the manifest, and do nothing else
    #[arg(long, conflicts_with_all = ["files", "dry_run", "replace"])]
    schema: bool,
    /// Print the result as one JSON object
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

/// Prints the JSON Schema; `None` without `--schema`.
pub(super) fn print_schema(args: &Args) -> Option<Result<ExitCode, Fault>> {
    let print = || {
        let text = serde_json::to_string_pretty(&Manifest::schema()).context("writing the schema")?;
        println!("{text}");
        Ok(ExitCode::SUCCESS)
    };
    args.schema.then(print)
}

pub(super) async fn run(config: Opening, args: Args) -> Result<ExitCode, Fault> {
    let texts = args.files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let manifest = read_all(&texts)?;
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Apply };
    let outcome = context::as_operator(config, async |ctx, context| {
        let needs_vault = !(manifest.providers.is_empty() && manifest.sinks.is_empty());
        let vault = if needs_vault { Some(context.vault()?) } else { None };
        let request = ApplyRequest { manifest, mode, replace: BTreeSet::from_iter(args.replace) };
        apply(ctx, vault.as_ref(), request).await
    })
    .await?;
    // The secrets of a dry run are not stored, so they are not printed.
    let outcome = match mode {
        Mode::Apply => outcome,
        Mode::DryRun => ApplyOutcome { secrets: Vec::new(), ..outcome },
    };
    if args.format == OutputFormat::Json {
        print_json(&outcome, mode)?
    } else {
        print_lines(&outcome, mode)
    }
    for (kind, id, warning) in warnings(&outcome) {
        eprintln!("actchain: warning: {kind} {id} is {warning}");
    }
    Ok(ExitCode::SUCCESS)
}

fn warnings(outcome: &ApplyOutcome) -> impl Iterator<Item = (&'static str, &str, &str)> {
    let warned = |line: &'_ Line| line.warning.is_some();
    let lines = outcome.lines.iter().filter(move |line| warned(line));
    lines.map(|line| (line.kind, line.id.as_str(), line.warning.as_deref().unwrap_or_default()))
}

fn read(path: &PathBuf) -> Result<(String, String), Fault> {
    let origin = path.display().to_string();
    let text =
        if origin == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    Ok((origin.clone(), text.context(&format!("reading {origin}"))?))
}

fn print_lines(outcome: &ApplyOutcome, mode: Mode) {
    for line in &outcome.lines {
        let sign = match line.change {
            Change::Create => '+',
            Change::Update => '~',
            Change::Unchanged => '=',
        };
        let remark = line.note.as_deref().or(line.warning.as_deref());
        let remark = remark.map(|text| format!("  ({text})")).unwrap_or_default();
        println!("{sign} {} {}{remark}", line.kind, line.id);
        for member in &line.members {
            println!("    {member}");
        }
        for jkt in &line.removed_keys {
            println!("    the key {jkt} is removed for ever, and revokes what was issued to it");
        }
        for jkt in &line.unpinned_keys {
            println!("    the key {jkt} is no longer pinned: it is valid as long as jwks_uri publishes it");
        }
    }
    for (client_id, secret) in &outcome.secrets {
        println!("secret of {client_id}, shown this once: {}", secret.expose_secret());
    }
    let changes = outcome.lines.iter().filter(|line| line.change != Change::Unchanged).count();
    let word = if changes == 1 { "change" } else { "changes" };
    match mode {
        Mode::Apply => println!("{changes} {word} made"),
        Mode::DryRun => println!("{changes} {word} to make; nothing was changed"),
    }
}

fn print_json(outcome: &ApplyOutcome, mode: Mode) -> Result<(), Fault> {
    let secrets: serde_json::Map<String, serde_json::Value> = outcome
        .secrets
        .iter()
        .map(|(client_id, secret)| (client_id.clone(), secret.expose_secret().into()))
        .collect();
    let warnings: Vec<String> =
        warnings(outcome).map(|(kind, id, warning)| format!("{kind} {id} is {warning}")).collect();
    output::print_json(&json!({
        "dry_run": mode == Mode::DryRun, "plan": outcome.lines, "secrets": secrets, "warnings": warnings
    }))
}
