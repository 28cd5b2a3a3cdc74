//! `actchain sink list|show|dead-letters|replay|disable|enable|rotate-secret|remove`. `actchain apply` declares sinks.

use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use serde_json::Value;

use super::context::{self, CommandContext, Opening};
use super::output::{OutputFormat, print_members, print_refusal, to_value};
use crate::domain::refusal::Error;
use crate::platform::fault::Fault;
use crate::services::request_context::RequestContext;
use crate::services::sinks::{self, EnabledState};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List all sinks and their delivery state
    List {
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Show one sink; never its secret
    Show(One),
    /// List the events that the sink did not accept
    DeadLetters {
        #[command(flatten)]
        one: One,
        /// Only events with a `seq` after this one
        #[arg(long, value_name = "SEQ")]
        after: Option<u64>,
    },
    /// Send all dead letters again, once each
    Replay(One),
    /// Stop the delivery; the sink's cursor stays
    Disable(One),
    /// Resume the delivery at the sink's cursor
    Enable(One),
    /// Generate a new secret, shown only now; the old secret also signs for a day
    RotateSecret(One),
    /// Remove the sink with its dead letters
    Remove(One),
}

#[derive(Debug, clap::Args)]
pub(super) struct One {
    id: String,
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

pub(super) async fn run(config: Opening, command: Command) -> Result<ExitCode, Fault> {
    context::as_operator(config, async |ctx, context| {
        carry_out(ctx, context, &command).await.or_else(print_refusal)
    })
    .await
}

async fn carry_out(
    ctx: &RequestContext<'_>,
    context: &CommandContext,
    command: &Command,
) -> Result<ExitCode, Error> {
    let shown = match command {
        Command::List { .. } => to_value(&sinks::list(ctx).await?),
        Command::Show(one) => to_value(&sinks::show(ctx, &one.id).await?),
        Command::DeadLetters { one, after } => to_value(&sinks::dead_letters(ctx, &one.id, *after).await?),
        Command::Replay(one) => to_value(&sinks::replay(ctx, &one.id).await?.value),
        Command::Disable(one) => {
            to_value(&sinks::set_enabled(ctx, &one.id, EnabledState::Disabled).await?.value)
        }
        Command::Enable(one) => {
            to_value(&sinks::set_enabled(ctx, &one.id, EnabledState::Enabled).await?.value)
        }
        Command::RotateSecret(one) => to_value(&sinks::rotate(ctx, &context.vault()?, &one.id).await?.value),
        Command::Remove(one) => to_value(&sinks::remove(ctx, &one.id).await?.value),
    };
    Ok(show(command, &shown?)?)
}

fn show(command: &Command, body: &Value) -> Result<ExitCode, Fault> {
    let format = match command {
        Command::List { format } => *format,
        Command::DeadLetters { one, .. }
        | Command::Show(one)
        | Command::Replay(one)
        | Command::Disable(one)
        | Command::Enable(one)
        | Command::RotateSecret(one)
        | Command::Remove(one) => one.format,
    };
    let Some(items) = body.get("items").and_then(Value::as_array).filter(|_| format == OutputFormat::Text)
    else {
        return print_members(body, format);
    };
    for item in items {
        let of = |name: &str| match item.get(name) {
            None | Some(Value::Null) => "-".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        match command {
            Command::List { .. } => println!(
                "{:<24} {:<12} {:<8} next {:<10} dead letters {:<6} {}  {}",
                of("id"),
                match item.get("notification") {
                    None | Some(Value::Null) => of("format"),
                    Some(_) => "notification".to_owned(),
                },
                if item.get("enabled") == Some(&Value::Bool(true)) { "enabled" } else { "disabled" },
                of("cursor"),
                of("dead_letters"),
                of("url"),
                of("last_error")
            ),
            _ => println!("{:<10} {:<4} {}  {}", of("seq"), of("attempts"), of("at"), of("error")),
        }
    }
    if let Some(next) = body.get("next").and_then(Value::as_u64) {
        println!("more: --after {next}");
    }
    Ok(ExitCode::SUCCESS)
}
