//! `actchain principal erase`.

use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use serde_json::json;

use super::context::{self, Opening};
use super::output::{OutputFormat, print_json, print_refusal};
use crate::domain::principal::Principal;
use crate::platform::fault::Fault;
use crate::services::erasure::{ErasureOutcome, erase};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a user unreadable in the audit log, for ever; the log still verifies
    #[command(after_help = "Examples:
  actchain client revoke-all alice --iss https://idp.example.com
  actchain principal erase https://idp.example.com alice --yes")]
    Erase {
        /// The issuer in the user's tokens
        iss: String,
        /// The subject in the user's tokens
        sub: String,
        /// Erase: nothing brings the user back
        #[arg(long, required = true)]
        yes: bool,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
}

pub(super) async fn run(opening: Opening, command: Command) -> Result<ExitCode, Fault> {
    let Command::Erase { iss, sub, yes: _, format } = command;
    let outcome =
        context::as_operator(opening, async |ctx, _| Ok(erase(ctx, &Principal::new(iss, sub)).await)).await?;
    match outcome {
        Ok(outcome) => show(&outcome, format),
        Err(error) => print_refusal(error),
    }
}

fn show(outcome: &ErasureOutcome, format: OutputFormat) -> Result<ExitCode, Fault> {
    let (state, code) = match outcome {
        ErasureOutcome::Erased(_) => ("erased", ExitCode::SUCCESS),
        ErasureOutcome::NotInLog => ("not_in_log", ExitCode::SUCCESS),
        ErasureOutcome::InUse(_) => ("in_use", ExitCode::FAILURE),
    };
    if format == OutputFormat::Json {
        let mut body = match outcome {
            ErasureOutcome::Erased(erasure) => json!(erasure),
            ErasureOutcome::NotInLog => json!({}),
            ErasureOutcome::InUse(active) => json!({"active": active}),
        };
        if let Some(members) = body.as_object_mut() {
            members.insert("state".to_owned(), state.into());
        }
        print_json(&body)?;
        return Ok(code);
    }
    match outcome {
        ErasureOutcome::Erased(erasure) => {
            let rest = erasure.remaining;
            println!("erased: the log knows the user only as {}", erasure.pseudonym);
            println!("personal data cleared of {} events", erasure.events);
            println!(
                "still named outside the log by {} delegations, {} standing grants, {} tokens, {} connections, {} agents, {} revocations, {} decisions",
                rest.delegations,
                rest.standing_grants,
                rest.tokens,
                rest.connections,
                rest.agents,
                rest.revocations,
                rest.decisions
            );
        }
        ErasureOutcome::NotInLog => println!("nothing to erase: the log does not name this user"),
        ErasureOutcome::InUse(active) => eprintln!(
            "actchain: nothing was erased: the user has {} delegations and {} standing grants that have not ended, and {} \
             connections whose credentials are not deleted. End them with actchain client revoke-all and actchain connection disconnect. \
             A credential is deleted when its provider has answered. Then repeat this",
            active.delegations, active.standing_grants, active.connections
        ),
    }
    Ok(code)
}
