//! `actchain issuer list|show|remove`. Issuers are declared by `actchain apply`.

use std::process::ExitCode;

use serde_json::{Value, json};
use sqlx::postgres::PgPool;

use super::foundation::Foundation;
use super::{foundation, print_json, print_members, registration};
use crate::cli::foundation::Opening;
use crate::domain::capability::Ladder;
use crate::domain::registry;
use crate::flows::desk::{Call, Desk};
use crate::flows::registrations::{Delegations, issuers, remove_issuer};
use crate::platform::fault::Fault;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// All trusted issuers
    List {
        #[arg(long)]
        json: bool,
    },
    /// One issuer
    Show {
        iss: String,
        #[arg(long)]
        json: bool,
    },
    /// Remove an issuer. Its users' delegations and tokens end, so that is refused while there are any, unless it is asked
    /// for
    Remove {
        iss: String,
        /// Revoke the delegations that its users have given, with all tokens that were made under them
        #[arg(long)]
        revoke_delegations: bool,
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
                println!("{}", registration::text(one, "iss"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { iss, json } => {
            let all = registered(foundation, pool).await?;
            match all.iter().find(|one| registration::text(one, "iss") == iss) {
                Some(one) => print_members(one, json),
                None => Ok(registration::not_found("issuer", &iss)),
            }
        }
        Command::Remove { iss, revoke_delegations, json } => {
            let delegations = if revoke_delegations { Delegations::Revoke } else { Delegations::Keep };
            let issuer = foundation.config.issuer();
            let ladder = Ladder::new(&foundation.config.delegations.capabilities)?;
            let rows = foundation.rows(pool).await?;
            let config = &foundation.config;
            let desk = Desk { pool, issuer: &issuer, ladder: &ladder, rows: &rows, config };
            let call = Call::of_operator(foundation.clock.now());
            let removal = remove_issuer(&desk, &call, &iss, delegations).await?;
            registration::show(&removal, ("issuer", &iss), json)
        }
    })
    .await
}

async fn registered(foundation: &Foundation, pool: &PgPool) -> Result<Vec<Value>, Fault> {
    let rows = foundation.rows(pool).await?;
    let mut connection = pool.acquire().await?;
    let registry = registry::store::load(&rows, &mut connection, &foundation.config.issuer()).await?;
    Ok(issuers(&registry))
}
