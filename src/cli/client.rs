//! `actchain client list|show|disable|enable|key|revoke-all|rotate-secret`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use serde_json::{Value, json};
use time::Duration;

use super::context::{self, Opening};
use super::output::{OutputFormat, not_found, print_json, print_members, print_refusal};
use crate::domain::client::{self, Client};
use crate::domain::principal::Principal;
use crate::domain::refusal::Error;
use crate::platform::clock;
use crate::platform::fault::Fault;
use crate::services::clients::ClientView;
use crate::services::principals::ClientKey;
use crate::services::transition::Reply;
use crate::services::{clients, principals};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List all registered clients
    List {
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Show one client; never its secrets
    Show {
        id: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Refuse the client from the next request on, at every position in a chain
    Disable {
        id: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Accept the client again
    Enable {
        id: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
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
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Generate a new secret, shown only now; the old secret ends at once
    RotateSecret {
        id: String,
        /// Accept the old secret for this long: seconds, or a duration such as 15m, 1h30m, 7d
        #[arg(long, value_name = "DURATION", value_parser = clock::seconds)]
        keep_old: Option<u32>,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum KeyCommand {
    /// Thumbprints of registered, pinned and removed keys
    List {
        id: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Remove a key: it is refused from the next request on, and tokens bound to it or obtained with it are revoked
    Remove {
        id: String,
        /// The thumbprint of the key
        #[arg(allow_hyphen_values = true)]
        jkt: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Accept a removed key again; tokens issued before its removal stay revoked
    Restore {
        id: String,
        /// The thumbprint of the key
        #[arg(allow_hyphen_values = true)]
        jkt: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
}

pub(super) async fn run(config: Opening, command: Command) -> Result<ExitCode, Fault> {
    context::as_operator(config, async |ctx, _| match command {
        Command::List { format } => {
            let mut connection = ctx.pool.acquire().await?;
            let clients = client::store::list(ctx.rows, &mut connection).await?;
            show_all(clients, format)
        }
        Command::Show { id, format } => {
            let mut connection = ctx.pool.acquire().await?;
            match client::store::find(ctx.rows, &mut connection, &id).await? {
                Some(client) => print_members(&ClientView::from(client), format),
                None => Ok(not_found("client", &id)),
            }
        }
        Command::Disable { id, format } => print_reply(principals::disable(ctx, &id).await, format),
        Command::Enable { id, format } => print_reply(principals::enable(ctx, &id).await, format),
        Command::Key(KeyCommand::List { id, format }) => {
            let mut connection = ctx.pool.acquire().await?;
            match client::store::find(ctx.rows, &mut connection, &id).await? {
                Some(client) => show_keys(&client, format),
                None => Ok(not_found("client", &id)),
            }
        }
        Command::Key(KeyCommand::Restore { id, jkt, format }) => {
            let key = ClientKey { client_id: &id, jkt: &jkt };
            print_reply(principals::restore_key(ctx, key).await, format)
        }
        Command::Key(KeyCommand::Remove { id, jkt, format }) => {
            let key = ClientKey { client_id: &id, jkt: &jkt };
            print_reply(principals::remove_key(ctx, key).await, format)
        }
        Command::RevokeAll { iss, sub, reason, format } => {
            let who = Principal::new(iss.unwrap_or_else(|| ctx.issuer.to_owned()), sub);
            print_reply(principals::revoke_all(ctx, &who, &reason).await, format)
        }
        Command::RotateSecret { id, keep_old, format } => {
            let overlap = Duration::seconds(keep_old.unwrap_or_default().into());
            match clients::rotate_secret(ctx, &id, overlap).await {
                Ok(reply) if format == OutputFormat::Text => {
                    let secret = reply.value.client_secret.unwrap_or_default();
                    println!("secret of {id}, shown this once: {secret}");
                    Ok(ExitCode::SUCCESS)
                }
                result => print_reply(result, format),
            }
        }
    })
    .await
}

fn show_all(clients: Vec<Client>, format: OutputFormat) -> Result<ExitCode, Fault> {
    if format == OutputFormat::Json {
        print_json(&json!({"items": clients.into_iter().map(ClientView::from).collect::<Vec<_>>()}))?;
        return Ok(ExitCode::SUCCESS);
    }
    for client in clients {
        let state = if client.disabled_at.is_some() { "disabled" } else { "enabled" };
        println!("{:<32} {:<16} {state:<9} {}", client.client_id, format!("{:?}", client.kind), client.name);
    }
    Ok(ExitCode::SUCCESS)
}

fn show_keys(client: &Client, format: OutputFormat) -> Result<ExitCode, Fault> {
    let all: BTreeSet<String> = client.declared_keys().union(&client.removed_keys).cloned().collect();
    let registered = |jkt: &String| client.keys.iter().any(|key| key.thumbprint() == jkt);
    if format == OutputFormat::Json {
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

fn print_reply<T: serde::Serialize>(
    result: Result<Reply<T>, Error>,
    format: OutputFormat,
) -> Result<ExitCode, Fault> {
    match result {
        Ok(reply) => print_members(&reply.value, format),
        Err(error) => print_refusal(error),
    }
}
