//! `actchain issuer list|show|remove`. `actchain apply` declares issuers.

use std::process::ExitCode;

use serde_json::{Value, json};
use sqlx::postgres::PgPool;

use super::context::CommandContext;
use super::{context, print_json, print_members, registration};
use crate::cli::context::Opening;
use crate::domain::capability::CapabilityLevels;
use crate::domain::registry;
use crate::platform::fault::Fault;
use crate::services::registrations::{Delegations, issuers, remove_issuer};
use crate::services::request_context::{Call, Desk};

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
    context::with(config, async |context, pool| match command {
        Command::List { json } => {
            let all = registered(context, pool).await?;
            if json {
                return print_json(&json!({"items": all})).map(|()| ExitCode::SUCCESS);
            }
            for one in &all {
                println!("{}", registration::text(one, "iss"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { iss, json } => {
            let all = registered(context, pool).await?;
            match all.iter().find(|one| registration::text(one, "iss") == iss) {
                Some(one) => print_members(one, json),
                None => Ok(registration::not_found("issuer", &iss)),
            }
        }
        Command::Remove { iss, revoke_delegations, json } => {
            let delegations = if revoke_delegations { Delegations::Revoke } else { Delegations::Keep };
            let issuer = context.config.issuer();
            let capability_levels = CapabilityLevels::new(&context.config.delegations.capabilities)?;
            let rows = context.rows(pool).await?;
            let config = &context.config;
            let desk =
                Desk { pool, issuer: &issuer, capability_levels: &capability_levels, rows: &rows, config };
            let call = Call::of_operator(context.clock.now());
            let removal = remove_issuer(&desk, &call, &iss, delegations).await?;
            registration::show(&removal, ("issuer", &iss), json)
        }
    })
    .await
}

async fn registered(context: &CommandContext, pool: &PgPool) -> Result<Vec<Value>, Fault> {
    let rows = context.rows(pool).await?;
    let mut connection = pool.acquire().await?;
    let registry = registry::store::load(&rows, &mut connection, &context.config.issuer()).await?;
    Ok(issuers(&registry))
}
