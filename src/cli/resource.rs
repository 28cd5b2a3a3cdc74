//! `actchain resource list|show|remove`. `actchain apply` declares resources.

use std::process::ExitCode;

use serde_json::{Value, json};
use sqlx::postgres::PgPool;

use super::context::CommandContext;
use super::{context, print_json, print_members, registration};
use crate::cli::context::Opening;
use crate::domain::capability::CapabilityLevels;
use crate::domain::registry;
use crate::platform::fault::Fault;
use crate::services::registrations::{remove_resource, resources};
use crate::services::request_context::{Call, Desk};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List all resources with their scopes; this server is one of them
    List {
        #[arg(long)]
        json: bool,
    },
    /// Show one resource with its scopes
    Show {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Remove a resource; refused while a client or a delegation names it
    Remove {
        id: String,
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
                let scopes =
                    one.get("scopes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                let scopes: Vec<&str> = scopes.iter().filter_map(Value::as_str).collect();
                println!("{:<48} {}", registration::text(one, "id"), scopes.join(" "));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { id, json } => {
            let all = registered(context, pool).await?;
            match all.iter().find(|one| registration::text(one, "id") == id) {
                Some(one) => print_members(one, json),
                None => Ok(registration::not_found("resource", &id)),
            }
        }
        Command::Remove { id, json } => {
            let issuer = context.config.issuer();
            let capability_levels = CapabilityLevels::new(&context.config.delegations.capabilities)?;
            let rows = context.rows(pool).await?;
            let config = &context.config;
            let desk =
                Desk { pool, issuer: &issuer, capability_levels: &capability_levels, rows: &rows, config };
            let call = Call::of_operator(context.clock.now());
            let removal = remove_resource(&desk, &call, &id).await?;
            registration::show(&removal, ("resource", &id), json)
        }
    })
    .await
}

async fn registered(context: &CommandContext, pool: &PgPool) -> Result<Vec<Value>, Fault> {
    let rows = context.rows(pool).await?;
    let mut connection = pool.acquire().await?;
    let registry = registry::store::load(&rows, &mut connection, &context.config.issuer()).await?;
    Ok(resources(&registry))
}
