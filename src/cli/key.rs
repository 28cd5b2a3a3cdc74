//! `actchain key list|rotate`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{foundation, print_json};
use crate::cli::foundation::Opening;
use crate::domain::key::{self, StoredKey};
use crate::flows::audit;
use crate::flows::keys::{self, Haste};
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// All keys that were not removed
    List {
        #[arg(long)]
        json: bool,
    },
    /// Let the next key sign tokens, and make another next one; or a new one sign checkpoints of the log
    Rotate {
        /// What the key signs
        #[arg(long, value_enum, default_value_t = Signs::Token)]
        purpose: Signs,
        /// Even if relying parties may not have fetched it yet
        #[arg(long)]
        force: bool,
        #[arg(long)]
        json: bool,
    },
}

/// What is rotated.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum Signs {
    /// Access tokens
    Token,
    /// Checkpoints of the audit log
    Log,
}

pub(super) async fn run(config: Opening, command: Command) -> Result<ExitCode, Fault> {
    foundation::with(config, async |foundation, pool| {
        let settings = &foundation.config.keys;
        match command {
            Command::List { json } => {
                let mut connection = pool.acquire().await?;
                list(&key::store::list(&mut connection).await?, json)
            }
            Command::Rotate { purpose: Signs::Log, json, .. } => {
                let (now, issuer) = (foundation.clock.now(), foundation.config.issuer());
                let seal = foundation.seal()?;
                keys::ensure(pool, &seal, settings, now).await?;
                let kid = keys::rotate_log(pool, &seal, now).await?;
                // Signed by both, for whoever knows the one before.
                audit::checkpoint(pool, &seal, &issuer, now).await?;
                let key = audit::published_key(&mut *pool.acquire().await?, &issuer).await?;
                if json {
                    print_json(&json!({"active": kid, "key": key}))?;
                } else {
                    println!("{key}\nsigns checkpoints now; keep it where you keep the one before it");
                }
                Ok(ExitCode::SUCCESS)
            }
            Command::Rotate { force, json, .. } => {
                let now = foundation.clock.now();
                let seal = foundation.seal()?;
                keys::ensure(pool, &seal, settings, now).await?;
                let haste = if force { Haste::Forced } else { Haste::Patient };
                let kid = keys::rotate(pool, &seal, (settings, haste), now).await?;
                let kid = kid.ok_or_else(|| Fault::new("nothing was rotated"))?;
                if json {
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

fn view(key: &StoredKey) -> Value {
    json!({
        "kid": key.kid,
        "purpose": key.purpose,
        "alg": key.alg.name(),
        "stage": key.stage(),
        "created_at": rfc3339(key.created_at),
        "activated_at": key.activated_at.map(rfc3339),
        "retired_at": key.retired_at.map(rfc3339),
    })
}

fn list(keys: &[StoredKey], json: bool) -> Result<ExitCode, Fault> {
    let present: Vec<Value> = keys.iter().filter(|key| key.removed_at.is_none()).map(view).collect();
    if json {
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
