//! `actchain resource list|show|remove`. Resources are declared by `actchain apply`.

use std::process::ExitCode;

use serde_json::{Value, json};
use sqlx::postgres::PgPool;

use super::foundation::Foundation;
use super::{foundation, print_json, print_members, registration};
use crate::cli::foundation::Opening;
use crate::domain::capability::Ladder;
use crate::domain::registry;
use crate::flows::desk::{Call, Desk};
use crate::flows::registrations::{remove_resource, resources};
use crate::platform::fault::Fault;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// All resources, with their scopes; this server is one of them
    List {
        #[arg(long)]
        json: bool,
    },
    /// One resource
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
    foundation::with(config, async |foundation, pool| match command {
        Command::List { json } => {
            let all = registered(foundation, pool).await?;
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
            let all = registered(foundation, pool).await?;
            match all.iter().find(|one| registration::text(one, "id") == id) {
                Some(one) => print_members(one, json),
                None => Ok(registration::not_found("resource", &id)),
            }
        }
        Command::Remove { id, json } => {
            let issuer = foundation.config.issuer();
            let ladder = Ladder::new(&foundation.config.delegations.capabilities)?;
            let rows = foundation.rows(pool).await?;
            let config = &foundation.config;
            let desk = Desk { pool, issuer: &issuer, ladder: &ladder, rows: &rows, config };
            let call = Call::of_operator(foundation.clock.now());
            let removal = remove_resource(&desk, &call, &id).await?;
            registration::show(&removal, ("resource", &id), json)
        }
    })
    .await
}

async fn registered(foundation: &Foundation, pool: &PgPool) -> Result<Vec<Value>, Fault> {
    let rows = foundation.rows(pool).await?;
    let mut connection = pool.acquire().await?;
    let registry = registry::store::load(&rows, &mut connection, &foundation.config.issuer()).await?;
    Ok(resources(&registry))
}
