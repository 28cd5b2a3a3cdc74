//! `actchain issuer list|show|remove`. `actchain apply` declares issuers.

use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use serde_json::{Value, json};

use super::context::{self, Opening};
use super::output::{OutputFormat, not_found, print_json, print_members, text};
use super::registration;
use crate::domain::registry;
use crate::platform::fault::Fault;
use crate::services::registrations::{Delegations, issuers, remove_issuer};
use crate::services::request_context::RequestContext;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List all trusted issuers
    List {
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Show one trusted issuer
    Show {
        iss: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Remove an issuer. Refused while its users have delegations or tokens, unless --revoke-delegations is set
    Remove {
        iss: String,
        /// Revoke the delegations that its users have granted, and all tokens issued under them
        #[arg(long)]
        revoke_delegations: bool,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
}

pub(super) async fn run(config: Opening, command: Command) -> Result<ExitCode, Fault> {
    context::as_operator(config, async |ctx, _| match command {
        Command::List { format } => {
            let all = registered(ctx).await?;
            if format == OutputFormat::Json {
                return print_json(&json!({"items": all})).map(|()| ExitCode::SUCCESS);
            }
            for one in &all {
                println!("{}", text(one, "/iss"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { iss, format } => {
            let all = registered(ctx).await?;
            match all.iter().find(|one| text(one, "/iss") == iss) {
                Some(one) => print_members(one, format),
                None => Ok(not_found("issuer", &iss)),
            }
        }
        Command::Remove { iss, revoke_delegations, format } => {
            let delegations = if revoke_delegations { Delegations::Revoke } else { Delegations::Keep };
            let removal = remove_issuer(ctx, &iss, delegations).await?;
            registration::show(&removal, "issuer", &iss, format)
        }
    })
    .await
}

async fn registered(ctx: &RequestContext<'_>) -> Result<Vec<Value>, Fault> {
    let mut connection = ctx.pool.acquire().await?;
    let registry = registry::store::load(ctx.rows, &mut connection, ctx.issuer).await?;
    Ok(issuers(&registry))
}
