//! `actchain client list|show|disable|enable|key|revoke-all|rotate-secret`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use time::Duration;

use super::context::CommandContext;
use super::{context, print_json};
use crate::cli::context::Opening;
use crate::domain::capability::CapabilityLevels;
use crate::domain::client::{self, Client};
use crate::domain::principal::Principal;
use crate::domain::refusal::Error;
use crate::platform::clock;
use crate::platform::fault::Fault;
use crate::services::principals::ClientKey;
use crate::services::request_context::{ApiResponse, Call, Desk};
use crate::services::{clients, principals};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List all registered clients
    List {
        #[arg(long)]
        json: bool,
    },
    /// Show one client; never its secrets
    Show {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Refuse the client from the next request on, at every position in a chain
    Disable {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Accept the client again
    Enable {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// List the keys of a client, remove a key, or restore a removed key
    #[command(subcommand)]
    Key(KeyCommand),
    /// Revoke everything that a client or a user has now; later delegations stay valid
    RevokeAll {
        /// The client id, or the user's `sub` with --iss
        sub: String,
        /// The user's issuer; a client of this server if absent
        #[arg(long)]
        iss: Option<String>,
        /// The reason, for the audit log
        #[arg(long, default_value = "cut off by an operator")]
        reason: String,
        #[arg(long)]
        json: bool,
    },
    /// Generate a new secret, shown only now; the old secret ends at once
    RotateSecret {
        id: String,
        /// Accept the old secret for this long: seconds, or a duration such as 15m, 1h30m, 7d
        #[arg(long, value_name = "DURATION", value_parser = clock::seconds)]
        keep_old: Option<u32>,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum KeyCommand {
    /// Thumbprints of registered, pinned and removed keys
    List {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Remove a key: it is refused from the next request on, and tokens bound to it or obtained with it are revoked
    Remove {
        id: String,
        /// The thumbprint of the key
        #[arg(allow_hyphen_values = true)]
        jkt: String,
        #[arg(long)]
        json: bool,
    },
    /// Accept a removed key again; tokens issued before its removal stay revoked
    Restore {
        id: String,
        /// The thumbprint of the key
        #[arg(allow_hyphen_values = true)]
        jkt: String,
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(config: Opening, command: Command) -> Result<ExitCode, Fault> {
    context::with(config, async |context, pool| {
        let now = context.clock.now();
        match command {
            Command::List { json } => {
                let mut connection = pool.acquire().await?;
                let clients = client::store::list(&context.rows(pool).await?, &mut connection).await?;
                show_all(&clients, json)
            }
            Command::Show { id, json } => {
                let mut connection = pool.acquire().await?;
                match client::store::find(&context.rows(pool).await?, &mut connection, &id).await? {
                    Some(client) => show(&client, json),
                    None => Ok(no_such_client(&id)),
                }
            }
            Command::Disable { id, json } => {
                at_management_api(
                    context,
                    pool,
                    async |desk, call| principals::disable(desk, call, &id).await,
                    json,
                )
                .await
            }
            Command::Enable { id, json } => {
                at_management_api(
                    context,
                    pool,
                    async |desk, call| principals::enable(desk, call, &id).await,
                    json,
                )
                .await
            }
            Command::Key(KeyCommand::List { id, json }) => {
                let mut connection = pool.acquire().await?;
                match client::store::find(&context.rows(pool).await?, &mut connection, &id).await? {
                    Some(client) => show_keys(&client, json),
                    None => Ok(no_such_client(&id)),
                }
            }
            Command::Key(KeyCommand::Restore { id, jkt, json }) => {
                restore_key(context, pool, (&id, &jkt), json).await
            }
            Command::Key(KeyCommand::Remove { id, jkt, json }) => {
                let remove = async |desk: &Desk<'_>, call: &Call| {
                    principals::remove_key(desk, call, (&id, &jkt)).await
                };
                at_management_api(context, pool, remove, json).await
            }
            Command::RevokeAll { iss, sub, reason, json } => {
                let who = Principal::new(iss.unwrap_or_else(|| context.config.issuer()), sub);
                let revoke_all = async |desk: &Desk<'_>, call: &Call| {
                    principals::revoke_all(desk, call, &who, &reason).await
                };
                at_management_api(context, pool, revoke_all, json).await
            }
            Command::RotateSecret { id, keep_old, json } => {
                let keep = keep_old.map(|seconds| Duration::seconds(seconds.into()));
                let secret = clients::rotate_secret(pool, &context.rows(pool).await?, &id, keep, now).await?;
                if json {
                    print_json(&json!({"client_id": id, "client_secret": secret.expose_secret()}))?;
                } else {
                    println!("secret of {id}, shown this once: {}", secret.expose_secret());
                }
                Ok(ExitCode::SUCCESS)
            }
        }
    })
    .await
}

fn view(client: &Client) -> Value {
    json!({
        "client_id": client.client_id,
        "kind": client.kind,
        "name": client.name,
        "auth": client.auth,
        "secrets": client.secrets.len(),
        "keys": client.keys.iter().map(|key| key.thumbprint()).collect::<Vec<_>>(),
        "jwks_uri": client.jwks_uri,
        "scopes": client.scopes,
        "audiences": client.audiences,
        "authorization_details_types": client.detail_types,
        "grant_types": client.grant_types,
        "dpop": client.dpop,
        "dpop_keys": client.dpop_keys,
        "removed_keys": client.removed_keys,
        "actor_subjects": client.actor_subjects,
        "max_token_ttl": client.max_token_ttl,
        "disabled_at": client.disabled_at.map(crate::platform::clock::rfc3339),
    })
}

fn show_all(clients: &[Client], json: bool) -> Result<ExitCode, Fault> {
    if json {
        print_json(&json!({"items": clients.iter().map(view).collect::<Vec<_>>()}))?;
        return Ok(ExitCode::SUCCESS);
    }
    for client in clients {
        let state = if client.disabled_at.is_some() { "disabled" } else { "enabled" };
        println!("{:<32} {:<16} {state:<9} {}", client.client_id, format!("{:?}", client.kind), client.name);
    }
    Ok(ExitCode::SUCCESS)
}

fn show(client: &Client, json: bool) -> Result<ExitCode, Fault> {
    if json {
        print_json(&view(client))?;
    } else if let Value::Object(members) = view(client) {
        for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
            println!("{name:<28} {value}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show_keys(client: &Client, json: bool) -> Result<ExitCode, Fault> {
    let all: BTreeSet<String> = client.declared_keys().union(&client.removed_keys).cloned().collect();
    let registered = |jkt: &String| client.keys.iter().any(|key| key.thumbprint() == jkt);
    if json {
        let items: Vec<Value> = all
            .iter()
            .map(|jkt| {
                json!({"jkt": jkt, "registered": registered(jkt), "pinned": client.dpop_keys.contains(jkt),
                       "removed": client.removed_keys.contains(jkt)})
            })
            .collect();
        print_json(&json!({"client_id": client.client_id, "items": items}))?;
        return Ok(ExitCode::SUCCESS);
    }
    for jkt in &all {
        let states = [
            (registered(jkt), "registered"),
            (client.dpop_keys.contains(jkt), "pinned"),
            (client.removed_keys.contains(jkt), "removed"),
        ];
        let states: Vec<&str> = states.into_iter().filter_map(|(is, name)| is.then_some(name)).collect();
        println!("{jkt}  {}", states.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

async fn restore_key(
    context: &CommandContext,
    pool: &PgPool,
    (client_id, jkt): (&str, &str),
    json: bool,
) -> Result<ExitCode, Fault> {
    let key = ClientKey { client_id, jkt };
    at_management_api(context, pool, async |desk, call| principals::restore_key(desk, call, &key).await, json)
        .await
}

/// Performs an operation of the management API as the operator, and prints its result.
async fn at_management_api<F>(
    context: &CommandContext,
    pool: &PgPool,
    work: F,
    json: bool,
) -> Result<ExitCode, Fault>
where
    F: AsyncFnOnce(&Desk<'_>, &Call) -> Result<ApiResponse, Error>,
{
    let issuer = context.config.issuer();
    let capability_levels = CapabilityLevels::new(&context.config.delegations.capabilities)?;
    let rows = context.rows(pool).await?;
    let desk = Desk {
        pool,
        issuer: &issuer,
        capability_levels: &capability_levels,
        config: &context.config,
        rows: &rows,
    };
    match work(&desk, &Call::of_operator(context.clock.now())).await {
        Ok(done) if json => print_json(&done.body).map(|()| ExitCode::SUCCESS),
        Ok(done) => {
            for (name, value) in
                done.body.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null())
            {
                println!("{name:<28} {value}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(Error::Refused(refusal)) => {
            eprintln!("actchain: {}: {}", refusal.reason(), super::sentence(refusal));
            Ok(ExitCode::FAILURE)
        }
        Err(Error::Failed(fault)) => Err(fault),
    }
}

fn no_such_client(id: &str) -> ExitCode {
    eprintln!("actchain: there is no client {id}");
    ExitCode::FAILURE
}
