//! `actchain key list|show|rotate`.

use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use serde_json::{Value, json};

use super::context::{self, Opening};
use super::output::{OutputFormat, print_json, to_value};
use crate::domain::key::{self, KeyPurpose, KeyState, StoredKey};
use crate::platform::fault::Fault;
use crate::services::audit;
use crate::services::keys::{self, RotationPolicy};
use crate::services::signing_keys::SigningKeyView;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List all keys that were not removed
    List {
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Show the public key that verifies current signatures
    Show {
        /// The kind of key: for tokens or for checkpoints
        #[arg(long, value_enum, default_value_t = Signs::Token)]
        purpose: Signs,
    },
    /// Activate the next token key and generate another next key; or generate a new checkpoint key
    Rotate {
        /// The kind of key: for tokens or for checkpoints
        #[arg(long, value_enum, default_value_t = Signs::Token)]
        purpose: Signs,
        /// Even if relying parties may not have fetched the next key yet
        #[arg(long)]
        force: bool,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum Signs {
    /// Keys for access tokens
    Token,
    /// Checkpoints of the audit log
    Checkpoint,
}

pub(super) async fn run(config: Opening, command: Command) -> Result<ExitCode, Fault> {
    context::with(config, async |context, pool| {
        let settings = &context.config.keys;
        match command {
            Command::List { format } => {
                let mut connection = pool.acquire().await?;
                list(&key::store::list(&mut connection).await?, format)
            }
            Command::Show { purpose: Signs::Checkpoint } => {
                let issuer = context.config.issuer();
                println!("{}", audit::published_key(&mut *pool.acquire().await?, &issuer).await?);
                Ok(ExitCode::SUCCESS)
            }
            Command::Show { purpose: Signs::Token } => {
                let keys = key::store::list(&mut *pool.acquire().await?).await?;
                let active =
                    |key: &&StoredKey| key.purpose == KeyPurpose::Token && key.state() == KeyState::Active;
                let key = keys.iter().find(active).ok_or_else(|| Fault::new("no key signs tokens"))?;
                print_json(&key.public_jwk).map(|()| ExitCode::SUCCESS)
            }
            Command::Rotate { purpose: Signs::Checkpoint, format, .. } => {
                let (now, issuer) = (context.clock.now(), context.config.issuer());
                let seal = context.seal()?;
                keys::ensure(pool, &seal, settings, now).await?;
                let kid = keys::rotate_log(pool, &seal, now).await?;
                // The checkpoint is signed with both keys, for verifiers that know only the previous key.
                audit::checkpoint(pool, &seal, &issuer, now).await?;
                let key = audit::published_key(&mut *pool.acquire().await?, &issuer).await?;
                if format == OutputFormat::Json {
                    print_json(&json!({"active": kid, "key": key}))?;
                } else {
                    println!("{key}\nsigns checkpoints now; keep it where you keep the one before it");
                }
                Ok(ExitCode::SUCCESS)
            }
            Command::Rotate { force, format, .. } => {
                let now = context.clock.now();
                let seal = context.seal()?;
                keys::ensure(pool, &seal, settings, now).await?;
                let policy = if force { RotationPolicy::Forced } else { RotationPolicy::Patient };
                let kid = keys::rotate(pool, &seal, settings, policy, now).await?;
                let kid = kid.ok_or_else(|| Fault::new("nothing was rotated"))?;
                if format == OutputFormat::Json {
                    print_json(&json!({"active": kid}))?;
                } else {
                    println!("{kid} signs now");
                }
                Ok(ExitCode::SUCCESS)
            }
        }
    })
    .await
}

fn list(keys: &[StoredKey], format: OutputFormat) -> Result<ExitCode, Fault> {
    let present = keys.iter().filter(|key| key.removed_at.is_none()).map(SigningKeyView::from);
    let present = present.map(|key| to_value(&key)).collect::<Result<Vec<Value>, _>>()?;
    if format == OutputFormat::Json {
        print_json(&json!({"items": present}))?;
        return Ok(ExitCode::SUCCESS);
    }
    for key in &present {
        let text = |name: &str| key.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        println!(
            "{} {:<6} {:<8} {:<9} {}",
            text("kid"),
            text("purpose"),
            text("alg"),
            text("stage"),
            text("created_at")
        );
    }
    Ok(ExitCode::SUCCESS)
}
