//! `actchain apply`: applies a manifest; idempotent, all or nothing. The plan names each member that changes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use actchain_client::ApiCall;
use clap::ArgAction::SetTrue;
use serde_json::Value;

use super::context::{self, Opening};
use super::output::{self, OutputFormat};
use super::remote::{RemoteArgs, RemoteServer};
use crate::platform::fault::{Context, Fault};
use crate::platform::yaml;
use crate::services::apply::{
    ApplyReport, ApplyRequest, Change, Manifest, Mode, ShownSecret, apply, read_all,
};

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
    #[command(flatten)]
    remote: RemoteArgs,
    /// Print the JSON Schema of the manifest, and do nothing else
    #[arg(long, conflicts_with_all = ["files", "dry_run", "replace", "server"])]
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

pub(super) async fn run(
    opening: impl FnOnce() -> Result<Opening, Fault>,
    args: Args,
) -> Result<ExitCode, Fault> {
    let texts = args.files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let manifest = read_all(&texts)?;
    if let Some(server) = args.remote.server()? {
        return print(&apply_at(&server, &args, &texts).await?, args.format);
    }
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Apply };
    let outcome = context::as_operator(opening()?, async |ctx, context| {
        let vault = if manifest.has_sealed_secrets() { Some(context.vault()?) } else { None };
        let replace = BTreeSet::from_iter(args.replace);
        let request = ApplyRequest { mode, replace, ..ApplyRequest::apply_all(manifest) };
        Ok(apply(ctx, vault.as_ref(), request).await?.value)
    })
    .await?;
    print(&outcome.into(), args.format)
}

/// Applies the manifest at a server elsewhere. One file is sent as it is, so that errors name its lines.
async fn apply_at(
    server: &RemoteServer,
    args: &Args,
    texts: &[(String, String)],
) -> Result<ApplyReport, Fault> {
    let (kind, body) = match texts {
        [(_, text)] => ("application/yaml", text.clone().into_bytes()),
        several => ("application/json", merged(several)?),
    };
    let path = format!("/api/v1/apply?dry_run={}&replace={}", args.dry_run, args.replace.join(","));
    let call = ApiCall { method: "POST", path: &path, headers: vec![("content-type", kind)], body };
    serde_json::from_slice(&server.call(&call).await?).context("reading the answer")
}

/// The entries of several files as one JSON document.
fn merged(files: &[(String, String)]) -> Result<Vec<u8>, Fault> {
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (origin, text) in files {
        let (entries, _): (BTreeMap<String, Vec<Value>>, _) = yaml::read(origin, text)?;
        for (kind, entries) in entries {
            all.entry(kind).or_default().extend(entries);
        }
    }
    serde_json::to_vec(&all).context("writing the manifest")
}

/// Prints what was or would be changed, and the warnings on standard error.
fn print(report: &ApplyReport, format: OutputFormat) -> Result<ExitCode, Fault> {
    if format == OutputFormat::Json {
        output::print_json(report)?;
    } else {
        print_lines(report);
    }
    for warning in &report.warnings {
        eprintln!("actchain: warning: {warning}");
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &PathBuf) -> Result<(String, String), Fault> {
    let origin = path.display().to_string();
    let text =
        if origin == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    Ok((origin.clone(), text.context(&format!("reading {origin}"))?))
}

fn print_lines(report: &ApplyReport) {
    for line in &report.plan {
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
    for ShownSecret { id, secret, .. } in &report.secrets {
        println!("secret of {id}, shown this once: {secret}");
    }
    let changes = report.plan.iter().filter(|line| line.change != Change::Unchanged).count();
    let word = if changes == 1 { "change" } else { "changes" };
    if report.dry_run {
        println!("{changes} {word} to make; nothing was changed");
    } else {
        println!("{changes} {word} made");
    }
}
