//! `actchain resource list|show|remove`. `actchain apply` declares resources.

use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use serde_json::{Value, json};

use super::context::{self, Opening};
use super::output::{OutputFormat, not_found, print_json, print_members, text};
use super::registration;
use crate::domain::registry;
use crate::platform::fault::Fault;
use crate::services::registrations::{remove_resource, resources};
use crate::services::request_context::RequestContext;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List all resources with their scopes; this server is one of them
    List {
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Show one resource with its scopes
    Show {
        id: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Remove a resource; refused while a client or a delegation names it
    Remove {
        id: String,
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
                let scopes =
                    one.get("scopes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                let scopes: Vec<&str> = scopes.iter().filter_map(Value::as_str).collect();
                println!("{:<48} {}", text(one, "/id"), scopes.join(" "));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { id, format } => {
            let all = registered(ctx).await?;
            match all.iter().find(|one| text(one, "/id") == id) {
                Some(one) => print_members(one, format),
                None => Ok(not_found("resource", &id)),
            }
        }
        Command::Remove { id, format } => {
            let removal = remove_resource(ctx, &id).await?;
            registration::show(&removal, "resource", &id, format)
        }
    })
    .await
}

async fn registered(ctx: &RequestContext<'_>) -> Result<Vec<Value>, Fault> {
    let mut connection = ctx.pool.acquire().await?;
    let registry = registry::store::load(ctx.rows, &mut connection, ctx.issuer).await?;
    Ok(resources(&registry))
}
