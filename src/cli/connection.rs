//! `actchain connection list|show|import|rotate|disconnect|rekey|providers`: the vault, for operators with a shell on
//! the machine. Credentials are read from a file or standard input, never from an argument, which every process could
//! read. Credentials are never printed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::context::{self, CommandContext, Opening};
use super::output::{OutputFormat, print_json, print_members, print_refusal, text, to_value};
use crate::domain::principal::Principal;
use crate::domain::provider;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::vault::ConnectionState;
use crate::domain::vault::credential_cache::CredentialCache;
use crate::platform::fault::{Context, Fault};
use crate::services::keys;
use crate::services::page::{Page, PageRequest};
use crate::services::request_context::RequestContext;
use crate::services::vault::{self, ConnectionQuery, Import, NewConnection, ProviderView};

/// The page size of listings, in connections.
const PAGE: u32 = 100;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List all connections, oldest first
    List(ListArgs),
    /// Show one connection; never its credential
    Show {
        id: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Store a credential for a user
    Import(ImportArgs),
    /// Replace the stored credential
    Rotate {
        id: String,
        /// The credential as a JSON object; «-» reads standard input
        #[arg(short = 'f', long, value_name = "FILE")]
        file: PathBuf,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Disconnect it: its credential cannot be retrieved any more, and the provider is asked to revoke it
    Disconnect {
        id: String,
        /// The reason, for the audit log
        #[arg(long, default_value = "disconnected by an operator")]
        reason: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Rewrap all keys with the current master key, make a new data key, and seal all secrets with it; servers can keep
    /// running. An interrupted run is resumed
    Rekey {
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// List the declared providers; never their secrets
    Providers {
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
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
    state: Option<ConnectionState>,
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
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
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

fn state(text: &str) -> Result<ConnectionState, String> {
    text.parse().map_err(|_| "a state is active, needs_reconnect or disconnected".to_owned())
}

pub(super) async fn run(config: Opening, command: Command) -> Result<ExitCode, Fault> {
    // Reads the credential first: an unreadable file needs no database.
    let import = match &command {
        Command::Import(ImportArgs { file, .. }) | Command::Rotate { file, .. } => Some(credential(file)?),
        _ => None,
    };
    context::as_operator(config, async |ctx, context| {
        carry_out(ctx, context, command, import).await.or_else(print_refusal)
    })
    .await
}

async fn carry_out(
    ctx: &RequestContext<'_>,
    context: &CommandContext,
    command: Command,
    import: Option<Import>,
) -> Result<ExitCode, Error> {
    match command {
        Command::List(args) => list(ctx, args).await,
        Command::Show { id, format } => Ok(print_members(&vault::show(ctx, &id).await?, format)?),
        Command::Import(args) => {
            let vault = opened(ctx, context).await?;
            let request = NewConnection {
                provider: args.provider,
                name: args.name,
                owner: Some(Principal::new(args.owner_iss, args.owner_sub)),
                credential: import,
                scopes: None,
                connection: None,
            };
            Ok(print_members(&vault::create(ctx, &vault, &request).await?.value, args.format)?)
        }
        Command::Rotate { id, format, .. } => {
            let vault = opened(ctx, context).await?;
            let import = import.unwrap_or_default();
            Ok(print_members(&vault::rotate(ctx, &vault, &id, &import).await?.value, format)?)
        }
        Command::Disconnect { id, reason, format } => {
            let vault = opened(ctx, context).await?;
            let disconnection = vault::disconnect(ctx, &vault, &id, Some(&reason)).await?.value;
            if disconnection.provider_revoked == Some(false) {
                eprintln!(
                    "actchain: the provider could not be informed; a running server tries again for a day"
                );
            }
            Ok(print_members(&disconnection, format)?)
        }
        Command::Rekey { format } => Ok(rekey(ctx, context, format).await?),
        Command::Providers { format } => Ok(providers(ctx, format).await?),
    }
}

/// Opens the vault after checking that the master key is the one of this database.
async fn opened(ctx: &RequestContext<'_>, context: &CommandContext) -> Result<CredentialCache, Fault> {
    let vault = context.vault()?;
    keys::ensure_data_key(ctx.pool, vault.keys.master(), ctx.now).await?;
    Ok(vault)
}

async fn rekey(
    ctx: &RequestContext<'_>,
    context: &CommandContext,
    format: OutputFormat,
) -> Result<ExitCode, Fault> {
    let vault = context.vault()?;
    let report = |sealed, left| eprintln!("resealed: {sealed}, left: {left}");
    let done = vault::rekey(ctx.pool, &vault.keys, ctx.now, report).await?;
    if format == OutputFormat::Json {
        print_json(&done)?;
    } else {
        let how = if done.resumed { "made by an interrupted run before" } else { "made now" };
        println!("keys rewrapped:   {}", done.wrapped);
        println!("secrets resealed: {}", done.sealed);
        println!("data key:         {}, {how}", done.data_key);
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
    let object = actchain_protocol::json::parse_object(text.as_bytes()).map(Value::Object);
    object.and_then(|object| serde_json::from_value(object).ok()).ok_or_else(|| {
        Fault::new(format!(
            "{what}: not a JSON object with access_token, token_type, expires_in, refresh_token and scope, with key, or \
             with username and password"
        ))
    })
}

async fn list(ctx: &RequestContext<'_>, args: ListArgs) -> Result<ExitCode, Error> {
    let owner = match (args.owner_iss, args.owner_sub) {
        (Some(iss), Some(sub)) => Some(Principal::new(iss, sub)),
        (None, None) => None,
        _ => return Err(Refusal::Malformed("owner_iss and owner_sub belong together").into()),
    };
    let page = PageRequest { cursor: None, limit: Some(PAGE) };
    let mut query = ConnectionQuery { owner, provider: args.provider, state: args.state, page };
    let mut all = Vec::new();
    loop {
        let Page { items, next } = vault::list(ctx, &query).await?;
        for item in &items {
            all.push(to_value(item)?);
        }
        if next.is_none() {
            return Ok(show_all(&all, args.format)?);
        }
        query.page.cursor = next;
    }
}

fn show_all(items: &[Value], format: OutputFormat) -> Result<ExitCode, Fault> {
    if format == OutputFormat::Json {
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

async fn providers(ctx: &RequestContext<'_>, format: OutputFormat) -> Result<ExitCode, Fault> {
    let mut connection = ctx.pool.acquire().await?;
    let found = provider::store::list(&mut connection).await?;
    let items = found.into_iter().map(|one| to_value(&ProviderView { id: one.id, settings: one.settings }));
    let items = items.collect::<Result<Vec<_>, _>>()?;
    if format == OutputFormat::Json {
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
