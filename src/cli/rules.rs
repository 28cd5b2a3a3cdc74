//! `actchain rules list|show|remove|test|lint`. `actchain apply` declares rules and switches them off.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use serde_json::json;

use super::context::{self, Opening};
use super::output::{OutputFormat, not_found, print_json, print_members, print_refusal};
use crate::domain::finding::{FailedExample, Rule, failed_examples, lint, read_rules};
use crate::domain::refusal::Error;
use crate::platform::fault::{Context as _, Fault};
use crate::services::request_context::RequestContext;
use crate::services::rules::{self, RuleSource, RuleView};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List all rules: whether they are on, where they come from, severity and action
    List {
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Show one rule with its patterns and examples
    Show {
        id: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Remove a declared rule; a built-in rule is switched off by `rules_off` of the manifest
    Remove {
        id: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Examine the examples of a file of rules; exits 1 if one has another result than its list says
    ///
    /// Example: actchain rules test payroll.yaml && actchain apply -f payroll.yaml
    Test(File),
    /// Find rules of a file that can never match, match everything, have no examples, or are there twice; exits 1 if
    /// there are such rules
    ///
    /// Example: actchain rules lint payroll.yaml
    Lint(File),
}

#[derive(Debug, clap::Args)]
pub(super) struct File {
    /// A manifest that has only `rules`; «-» reads standard input
    file: PathBuf,
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

pub(super) async fn run(
    opening: impl FnOnce() -> Result<Opening, Fault>,
    command: Command,
) -> Result<ExitCode, Fault> {
    match command {
        Command::Test(file) => test(&file),
        Command::Lint(file) => find_mistakes(&file),
        stored => {
            context::as_operator(opening()?, async |ctx, _| {
                of_installation(ctx, &stored).await.or_else(print_refusal)
            })
            .await
        }
    }
}

async fn of_installation(ctx: &RequestContext<'_>, command: &Command) -> Result<ExitCode, Error> {
    match command {
        Command::List { format } => {
            let all = rules::list(ctx).await?;
            if *format == OutputFormat::Json {
                print_json(&json!({"items": all}))?;
            } else {
                all.iter().for_each(print_line);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { id, format } => {
            let all = rules::list(ctx).await?;
            match all.iter().find(|one| one.rule.id == *id) {
                Some(one) => Ok(print_members(one, *format)?),
                None => Ok(not_found("rule", id)),
            }
        }
        Command::Remove { id, format } => match rules::remove(ctx, id).await? {
            Some(removed) => Ok(print_members(&removed, *format)?),
            None => Ok(not_found("declared rule", id)),
        },
        Command::Test(_) | Command::Lint(_) => Ok(ExitCode::SUCCESS),
    }
}

fn print_line(one: &RuleView) {
    let RuleView { rule, source, enabled } = one;
    let source = match source {
        RuleSource::BuiltIn => "built-in",
        RuleSource::Declared => "declared",
    };
    let state = if *enabled { "on" } else { "off" };
    let (severity, action) = (rule.severity.to_string(), rule.action.to_string());
    println!("{:<12} {state:<4} {source:<9} {severity:<9} {action:<8} {}", rule.id, rule.title);
}

fn read(file: &File) -> Result<Vec<Rule>, Fault> {
    let origin = file.file.display().to_string();
    let text = match origin.as_str() {
        "-" => std::io::read_to_string(std::io::stdin()),
        _ => std::fs::read_to_string(&file.file),
    };
    Ok(read_rules(&origin, &text.context(&format!("reading {origin}"))?)?)
}

fn test(file: &File) -> Result<ExitCode, Fault> {
    let rules = read(file)?;
    let failed: Vec<FailedExample> = rules.iter().flat_map(failed_examples).collect();
    let examples: usize =
        rules.iter().map(|rule| rule.examples.matching.len() + rule.examples.no_match.len()).sum();
    if file.format == OutputFormat::Json {
        print_json(&json!({"rules": rules.len(), "examples": examples, "failed": failed}))?;
    } else {
        for FailedExample { rule, list, index } in &failed {
            let what = if *list == "match" { "is not found" } else { "is found" };
            println!("{rule}: examples.{list}[{index}] {what}");
        }
        println!("{} of {examples} examples of {} rules failed", failed.len(), rules.len());
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn find_mistakes(file: &File) -> Result<ExitCode, Fault> {
    let rules = read(file)?;
    let warnings = lint(&rules);
    if file.format == OutputFormat::Json {
        print_json(&json!({"rules": rules.len(), "warnings": warnings}))?;
    } else {
        for one in &warnings {
            let pattern = one.pattern.map(|index| format!(" patterns[{index}]")).unwrap_or_default();
            println!("{}:{pattern} {}", one.rule, one.problem);
        }
        println!("{} problems in {} rules", warnings.len(), rules.len());
    }
    Ok(if warnings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
