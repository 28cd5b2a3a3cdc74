//! `actchain client list|show|disable|enable|rotate-secret`.

use std::process::ExitCode;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use time::Duration;

use super::{foundation, print_json};
use crate::domain::client::{self, Client};
use crate::flows::clients::{self, Changed};
use crate::platform::config::Config;
use crate::platform::fault::Fault;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// All clients
    List {
        #[arg(long)]
        json: bool,
    },
    /// One client; never its secrets
    Show {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Refuse it from the next request on, wherever in a chain it stands
    Disable {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Let it work again
    Enable {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Give it a new secret, shown this once; the old one ends at once
    RotateSecret {
        id: String,
        /// Accept the old secret for so many seconds more
        #[arg(long, value_name = "SECONDS")]
        keep_old: Option<u32>,
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(config: Config, command: Command) -> Result<ExitCode, Fault> {
    foundation::with(config, async |foundation, pool| {
        let now = foundation.clock.now();
        match command {
            Command::List { json } => {
                let mut connection = pool.acquire().await?;
                let clients = client::store::list(&mut connection).await?;
                show_all(&clients, json)
            }
            Command::Show { id, json } => {
                let mut connection = pool.acquire().await?;
                match client::store::find(&mut connection, &id).await? {
                    Some(client) => show(&client, json),
                    None => Ok(no_such_client(&id)),
                }
            }
            Command::Disable { id, json } => {
                tell(&id, "disabled", clients::disable(pool, &id, now).await?, json)
            }
            Command::Enable { id, json } => {
                tell(&id, "enabled", clients::enable(pool, &id, now).await?, json)
            }
            Command::RotateSecret { id, keep_old, json } => {
                let keep = keep_old.map(|seconds| Duration::seconds(seconds.into()));
                let secret = clients::rotate_secret(pool, &id, keep, now).await?;
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

fn tell(id: &str, done: &str, changed: Changed, json: bool) -> Result<ExitCode, Fault> {
    if changed == Changed::NoSuchClient {
        return Ok(no_such_client(id));
    }
    if json {
        print_json(&json!({"client_id": id, "state": done, "changed": changed == Changed::Yes}))?;
    } else {
        let already = if changed == Changed::Already { " already" } else { "" };
        println!("{id} is {done}{already}");
    }
    Ok(ExitCode::SUCCESS)
}

fn no_such_client(id: &str) -> ExitCode {
    eprintln!("actchain: there is no client {id}");
    ExitCode::FAILURE
}
