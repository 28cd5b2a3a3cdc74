//! `actchain issuer list|show|remove`. `actchain apply` declares issuers.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{context, print_json, print_members, registration};
use crate::cli::context::Opening;
use crate::domain::registry;
use crate::platform::fault::Fault;
use crate::services::registrations::{Delegations, issuers, remove_issuer};
use crate::services::request_context::RequestContext;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List all trusted issuers
    List {
        #[arg(long)]
        json: bool,
    },
    /// Show one trusted issuer
    Show {
        iss: String,
        #[arg(long)]
        json: bool,
    },
    /// Remove an issuer. Refused while its users have delegations or tokens, unless --revoke-delegations is set
    Remove {
        iss: String,
        /// Revoke the delegations that its users have granted, and all tokens issued under them
        #[arg(long)]
        revoke_delegations: bool,
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(config: Opening, command: Command) -> Result<ExitCode, Fault> {
    context::as_operator(config, async |ctx, _| match command {
        Command::List { json } => {
            let all = registered(ctx).await?;
            if json {
                return print_json(&json!({"items": all})).map(|()| ExitCode::SUCCESS);
            }
            for one in &all {
                println!("{}", registration::text(one, "iss"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { iss, json } => {
            let all = registered(ctx).await?;
            match all.iter().find(|one| registration::text(one, "iss") == iss) {
                Some(one) => print_members(one, json),
                None => Ok(registration::not_found("issuer", &iss)),
            }
        }
        Command::Remove { iss, revoke_delegations, json } => {
            let delegations = if revoke_delegations { Delegations::Revoke } else { Delegations::Keep };
            let removal = remove_issuer(ctx, &iss, delegations).await?;
            registration::show(&removal, ("issuer", &iss), json)
        }
    })
    .await
}

async fn registered(ctx: &RequestContext<'_>) -> Result<Vec<Value>, Fault> {
    let mut connection = ctx.pool.acquire().await?;
    let registry = registry::store::load(ctx.rows, &mut connection, ctx.issuer).await?;
    Ok(issuers(&registry))
}
