//! `actchain connection list|show|import|rotate|disconnect|rekey|providers`: the vault, for operators with a shell on
//! the machine. Credentials are read from a file or standard input, never from an argument, which every process could
//! read. Credentials are never printed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use zeroize::Zeroizing;

use super::context::CommandContext;
use super::{context, print_json, print_members};
use crate::cli::context::Opening;
use crate::domain::capability::CapabilityLevels;
use crate::domain::principal::Principal;
use crate::domain::provider;
use crate::domain::refusal::Error;
use crate::domain::vault::State;
use crate::domain::vault::credential_cache::CredentialCache;
use crate::platform::fault::{Context, Fault};
use crate::services::keys;
use crate::services::request_context::{Call, Desk};
use crate::services::vault::{self, Import, ListQuery, NewConnection};

/// The page size of listings, in connections.
const PAGE: u32 = 100;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List all connections, oldest first
    List(ListArgs),
    /// Show one connection; never its credential
    Show {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Store a credential for a user
    Import(ImportArgs),
    /// Replace the stored credential
    Rotate {
        id: String,
        /// The credential as a JSON object; «-» reads standard input
        #[arg(short = 'f', long, value_name = "FILE")]
        file: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Disconnect it: its credential cannot be retrieved any more, and the provider is asked to revoke it
    Disconnect {
        id: String,
        /// The reason, for the audit log
        #[arg(long, default_value = "disconnected by an operator")]
        reason: String,
        #[arg(long)]
        json: bool,
    },
    /// Rewrap all keys with the current master key, make a new data key, and seal all secrets with it; servers can keep
    /// running. An interrupted run is resumed
    Rekey {
        #[arg(long)]
        json: bool,
    },
    /// List the declared providers; never their secrets
    Providers {
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// The issuer of the owner
    #[arg(long, value_name = "ISS", requires = "owner_sub")]
    owner_iss: Option<String>,
    #[arg(long, value_name = "SUB", requires = "owner_iss")]
    owner_sub: Option<String>,
    #[arg(long, value_name = "ID")]
    provider: Option<String>,
    /// Only connections that are active, needs_reconnect or disconnected
    #[arg(long, value_parser = state)]
    state: Option<State>,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    #[arg(long, value_name = "ID")]
    provider: String,
    /// The issuer of the owner
    #[arg(long, value_name = "ISS")]
    owner_iss: String,
    #[arg(long, value_name = "SUB")]
    owner_sub: String,
    /// A name for people, shown in lists
    #[arg(long)]
    name: Option<String>,
    /// The credential as a JSON object; «-» reads standard input
    #[arg(short = 'f', long, value_name = "FILE")]
    file: PathBuf,
    #[arg(long)]
    json: bool,
}

fn state(text: &str) -> Result<State, String> {
    let all = [State::Active, State::NeedsReconnect, State::Disconnected];
    all.into_iter()
        .find(|state| state.name() == text)
        .ok_or_else(|| "a state is active, needs_reconnect or disconnected".to_owned())
}

pub(super) async fn run(config: Opening, command: Command) -> Result<ExitCode, Fault> {
    // Reads the credential first: an unreadable file needs no database.
    let import = match &command {
        Command::Import(ImportArgs { file, .. }) | Command::Rotate { file, .. } => Some(credential(file)?),
        _ => None,
    };
    context::with(config, async |context, pool| match carry_out((context, pool), command, import).await {
        Ok(code) => Ok(code),
        Err(Error::Failed(fault)) => Err(fault),
        Err(Error::Refused(refusal)) => {
            eprintln!("actchain: {}: {}", refusal.reason(), super::sentence(refusal));
            Ok(ExitCode::FAILURE)
        }
    })
    .await
}

async fn carry_out(
    (context, pool): (&CommandContext, &PgPool),
    command: Command,
    import: Option<Import>,
) -> Result<ExitCode, Error> {
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
    let call = Call::of_operator(context.clock.now());
    match command {
        Command::List(args) => list(&desk, &call, args).await,
        Command::Show { id, json } => Ok(print_members(&vault::show(&desk, &call, &id).await?.body, json)?),
        Command::Import(args) => {
            let vault = opened(context, pool).await?;
            let wanted = NewConnection {
                provider: args.provider,
                name: args.name,
                owner: Some(Principal::new(args.owner_iss, args.owner_sub)),
                credential: import,
                scopes: None,
                connection: None,
            };
            let done = vault::create((&desk, &vault), &call, &wanted).await?;
            Ok(print_members(&done.body, args.json)?)
        }
        Command::Rotate { id, json, .. } => {
            let vault = opened(context, pool).await?;
            let import = import.unwrap_or_default();
            let done = vault::rotate((&desk, &vault), &call, (&id, &import)).await?;
            Ok(print_members(&done.body, json)?)
        }
        Command::Disconnect { id, reason, json } => {
            let vault = opened(context, pool).await?;
            let done = vault::disconnect((&desk, &vault), &call, (&id, Some(&reason))).await?;
            if done.body.get("provider_revoked") == Some(&Value::Bool(false)) {
                eprintln!("actchain: the provider could not be told; a running server tries again for a day");
            }
            Ok(print_members(&done.body, json)?)
        }
        Command::Rekey { json } => Ok(rekey((context, pool), json).await?),
        Command::Providers { json } => Ok(providers(pool, json).await?),
    }
}

/// The vault, once it is known that the master key at hand is the one of this database; otherwise nothing is begun.
async fn opened(context: &CommandContext, pool: &PgPool) -> Result<CredentialCache, Fault> {
    let vault = context.vault()?;
    keys::ensure_data_key(pool, vault.keys.master(), context.clock.now()).await?;
    Ok(vault)
}

async fn rekey((context, pool): (&CommandContext, &PgPool), json: bool) -> Result<ExitCode, Fault> {
    let vault = context.vault()?;
    let report = |sealed, left| eprintln!("sealed anew: {sealed}, left: {left}");
    let done = vault::rekey(pool, &vault.keys, context.clock.now(), report).await?;
    if json {
        print_json(&done)?;
    } else {
        let how = if done.resumed { "which a run before had begun with" } else { "made now" };
        println!("keys wrapped anew:   {}", done.wrapped);
        println!("secrets sealed anew: {}", done.sealed);
        println!("data key:            {}, {how}", done.data_key);
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads a credential. Error messages never quote the file: its text can be the secret.
fn credential(path: &Path) -> Result<Import, Fault> {
    let what = format!("reading {}", path.display());
    let text = if path.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    let text = Zeroizing::new(text.context(&what)?);
    let object = crate::platform::json::parse_object(text.as_bytes()).map(Value::Object);
    object.and_then(|object| serde_json::from_value(object).ok()).ok_or_else(|| {
        Fault::new(format!(
            "{what}: not a JSON object with access_token, token_type, expires_in, refresh_token and scope, with key, or \
             with username and password"
        ))
    })
}

async fn list(desk: &Desk<'_>, call: &Call, args: ListArgs) -> Result<ExitCode, Error> {
    let mut query = ListQuery {
        owner_iss: args.owner_iss,
        owner_sub: args.owner_sub,
        provider: args.provider,
        state: args.state,
        limit: Some(PAGE),
        cursor: None,
    };
    let mut items = Vec::new();
    loop {
        let mut page = vault::list(desk, call, &query).await?.body;
        if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
            items.extend(more);
        }
        query.cursor = page.get("next").and_then(Value::as_str).map(str::to_owned);
        if query.cursor.is_none() {
            return Ok(show_all(&items, args.json)?);
        }
    }
}

fn show_all(items: &[Value], json: bool) -> Result<ExitCode, Fault> {
    if json {
        print_json(&json!({"items": items}))?;
        return Ok(ExitCode::SUCCESS);
    }
    for item in items {
        let line = format!(
            "{:<38} {:<15} {:<16} {} ({})  {}",
            text(item, "/id"),
            text(item, "/state"),
            text(item, "/provider"),
            text(item, "/owner/sub"),
            text(item, "/owner/iss"),
            text(item, "/name")
        );
        println!("{}", line.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

async fn providers(pool: &PgPool, json: bool) -> Result<ExitCode, Fault> {
    let mut connection = pool.acquire().await?;
    let found = provider::store::list(&mut connection).await?;
    let items = found.iter().map(|one| vault::provider_view(&one.id, &one.settings));
    let items = items.collect::<Result<Vec<_>, _>>()?;
    if json {
        print_json(&json!({"items": items}))?;
        return Ok(ExitCode::SUCCESS);
    }
    for item in &items {
        let line = format!(
            "{:<24} {:<8} {:<24} {}",
            text(item, "/id"),
            text(item, "/kind"),
            text(item, "/name"),
            text(item, "/oauth/token_endpoint")
        );
        println!("{}", line.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

fn text<'a>(item: &'a Value, pointer: &str) -> &'a str {
    item.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
