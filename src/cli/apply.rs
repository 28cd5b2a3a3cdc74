//! `actchain apply`: declares what should be there; idempotent; all or nothing.

use std::path::PathBuf;
use std::process::ExitCode;

use secrecy::ExposeSecret as _;
use serde_json::json;

use super::foundation;
use crate::cli::foundation::Opening;
use crate::domain::capability::Ladder;
use crate::flows::apply::{Change, Mode, Outcome, apply, read_all};
use crate::platform::fault::{During, Fault};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// YAML files; «-» reads standard input
    #[arg(short = 'f', long = "file", required = true)]
    files: Vec<PathBuf>,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Opening, args: Args) -> Result<ExitCode, Fault> {
    let texts = args.files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let declaration = read_all(&texts)?;
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Carry };
    let outcome = foundation::with(config, async |foundation, pool| {
        let issuer = foundation.config.issuer();
        let ladder = Ladder::new(&foundation.config.delegations.capabilities)?;
        // Nothing but providers and sinks needs the master key.
        let needs = !(declaration.providers.is_empty() && declaration.sinks.is_empty());
        let vault = if needs { Some(foundation.vault()?) } else { None };
        apply(pool, (&issuer, &ladder, vault.as_ref()), (declaration, mode), foundation.clock.now()).await
    })
    .await?;
    // A secret of a dry run belongs to nobody.
    let outcome = match mode {
        Mode::Carry => outcome,
        Mode::DryRun => Outcome { secrets: Vec::new(), ..outcome },
    };
    if args.json {
        print_json(&outcome, mode)?
    } else {
        print_lines(&outcome, mode)
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &PathBuf) -> Result<(String, String), Fault> {
    let origin = path.display().to_string();
    let text =
        if origin == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    Ok((origin.clone(), text.during(&format!("reading {origin}"))?))
}

fn print_lines(outcome: &Outcome, mode: Mode) {
    for line in &outcome.lines {
        let sign = match line.change {
            Change::Create => '+',
            Change::Update => '~',
            Change::Keep => '=',
        };
        let note = line.note.as_deref().map(|note| format!("  ({note})")).unwrap_or_default();
        println!("{sign} {} {}{note}", line.kind, line.id);
    }
    for (client_id, secret) in &outcome.secrets {
        println!("secret of {client_id}, shown this once: {}", secret.expose_secret());
    }
    let changes = outcome.lines.iter().filter(|line| line.change != Change::Keep).count();
    match mode {
        Mode::Carry => println!("{changes} changes made"),
        Mode::DryRun => println!("{changes} changes to make; nothing was changed"),
    }
}

fn print_json(outcome: &Outcome, mode: Mode) -> Result<(), Fault> {
    let secrets: serde_json::Map<String, serde_json::Value> = outcome
        .secrets
        .iter()
        .map(|(client_id, secret)| (client_id.clone(), secret.expose_secret().into()))
        .collect();
    super::print_json(&json!({"dry_run": mode == Mode::DryRun, "plan": outcome.lines, "secrets": secrets}))
}
