//! `actchain delegation show|revoke`.

use std::process::ExitCode;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{foundation, print_json};
use crate::domain::delegation::{self, Delegation};
use crate::flows::delegations;
use crate::platform::clock::rfc3339;
use crate::platform::config::Config;
use crate::platform::fault::Fault;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// One delegation
    Show {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Take it back, and with it everything below
    Revoke {
        id: String,
        /// Why, for the log
        #[arg(long, default_value = "revoked by an operator")]
        reason: String,
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(config: Config, command: Command) -> Result<ExitCode, Fault> {
    foundation::with(config, async |foundation, pool| {
        let now = foundation.clock.now();
        let (id, found, json) = match command {
            Command::Show { id, json } => {
                let mut connection = pool.acquire().await?;
                let found = delegation::store::find(&mut connection, &id).await?;
                (id, found, json)
            }
            Command::Revoke { id, reason, json } => {
                let found = delegations::revoke(pool, &id, &reason, now).await?;
                (id, found, json)
            }
        };
        let Some(found) = found else {
            eprintln!("actchain: there is no delegation {id}");
            return Ok(ExitCode::FAILURE);
        };
        show(&view(&found, now), json)
    })
    .await
}

fn view(one: &Delegation, now: OffsetDateTime) -> Value {
    let left = one.facts.max_uses.map(|most| most.saturating_sub(one.facts.uses));
    json!({
        "id": one.id,
        "state": one.facts.state(now),
        "delegator": one.delegator,
        "delegate": one.delegate,
        "parent": one.parent,
        "path": one.path,
        "scopes": one.scopes.to_stored(),
        "audiences": one.audiences.to_stored(),
        "authorization_details": one.details,
        "max_depth": one.max_depth,
        "uses": one.facts.uses,
        "uses_left": left,
        "requested_at": rfc3339(one.requested_at),
        "activated_at": one.facts.activated_at.map(rfc3339),
        "expires_at": rfc3339(one.facts.expires_at),
        "revoked_at": one.facts.revoked_at.map(rfc3339),
        "revoke_reason": one.revoke_reason,
    })
}

fn show(view: &Value, json: bool) -> Result<ExitCode, Fault> {
    if json {
        print_json(view)?;
    } else if let Value::Object(members) = view {
        for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
            println!("{name:<22} {value}");
        }
    }
    Ok(ExitCode::SUCCESS)
}
