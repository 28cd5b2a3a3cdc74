//! `actchain grant create|list|show|renew|revoke|revalidate`: standing grants, for operators with a shell on the machine.

use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use serde_json::Value;

use super::context::{self, Opening};
use super::output::{OutputFormat, print_json, print_members, print_refusal, text, to_value};
use crate::domain::principal::Principal;
use crate::domain::refusal::Error;
use crate::domain::standing_grant::StandingGrantState;
use crate::domain::standing_grant::list::StandingGrantFilter;
use crate::platform::clock;
use crate::platform::fault::Fault;
use crate::services::page::PageRequest;
use crate::services::request_context::RequestContext;
use crate::services::standing_grants::{self, KeyConfirmation, NewStandingGrant};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Create a standing grant for a user whose issuer lets operators
    #[command(
        after_help = "Example:\n  actchain grant create --grantor-iss https://idp.example.com --grantor alice \
                            --client assistant --scope mail.read --audience https://mail.example.com --expires-in 30d"
    )]
    Create(CreateArgs),
    /// List standing grants, newest first
    List {
        /// Only those that are active, suspended, expired or revoked
        #[arg(long, value_parser = grant_state)]
        state: Option<StandingGrantState>,
        #[arg(long, value_name = "ISS", requires = "grantor")]
        grantor_iss: Option<String>,
        #[arg(long, value_name = "SUB", requires = "grantor_iss")]
        grantor: Option<String>,
        #[arg(long, value_name = "CLIENT")]
        client: Option<String>,
        /// How many to list, 1 to 100
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
        /// The cursor that the previous page printed
        #[arg(long)]
        cursor: Option<String>,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Show one standing grant with its recent activity
    Show {
        id: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Extend the expiry of an active standing grant
    Renew {
        id: String,
        /// The time from now on: seconds, or a duration such as 15m, 1h30m, 7d
        #[arg(long, value_name = "DURATION", value_parser = clock::seconds)]
        expires_in: u32,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Revoke a standing grant, with all delegations that became active under it
    Revoke {
        id: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Confirm the keys of the agent of a suspended standing grant
    #[command(
        after_help = "Example, with the thumbprints that `actchain grant show` prints:\n  actchain grant revalidate \
                            0192… --replaces Tyhw… --key Mr8j…"
    )]
    Revalidate {
        id: String,
        /// Thumbprint of a key that is pinned from now on; repeat for several
        #[arg(long, value_name = "JKT", required = true, allow_hyphen_values = true)]
        key: Vec<String>,
        /// Thumbprint of a key that is pinned at present; repeat for all of them
        #[arg(long, value_name = "JKT", required = true, allow_hyphen_values = true)]
        replaces: Vec<String>,
        /// The `client_version` that `actchain grant show` printed: another registration is not confirmed
        #[arg(long, value_name = "N")]
        client_version: Option<i64>,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    /// The issuer of the user
    #[arg(long, value_name = "ISS")]
    grantor_iss: String,
    /// The user whose authority is granted
    #[arg(long, value_name = "SUB")]
    grantor: String,
    /// The client id of the agent
    #[arg(long, value_name = "CLIENT")]
    client: String,
    /// Thumbprint of a key to pin; repeat for several. Without it, the registered keys of the agent
    #[arg(long, value_name = "JKT", allow_hyphen_values = true)]
    key: Vec<String>,
    /// A scope; repeat for several
    #[arg(long, value_name = "SCOPE", required = true)]
    scope: Vec<String>,
    /// An audience; repeat for several
    #[arg(long, value_name = "TARGET", required = true)]
    audience: Vec<String>,
    #[arg(long, value_name = "NAME")]
    capability_ceiling: Option<String>,
    /// The most that requests may have: a JSON list of objects (RFC 9396). Without it, any details
    #[arg(long, value_name = "JSON", value_parser = details)]
    authorization_details: Option<Value>,
    /// The longest lifetime of each delegation: seconds, or a duration such as 15m, 1h30m
    #[arg(long, value_name = "DURATION", value_parser = clock::seconds)]
    max_ttl: Option<u32>,
    /// The most uses of each delegation
    #[arg(long, value_name = "N")]
    max_uses: Option<u32>,
    /// The most actors in a token under each delegation
    #[arg(long, value_name = "N")]
    max_depth: Option<u32>,
    /// Let delegations have offline access: refresh tokens, to act while the user is away
    #[arg(long)]
    offline_access: bool,
    /// The lifetime: seconds, or a duration such as 12h, 30d
    #[arg(long, value_name = "DURATION", value_parser = clock::seconds)]
    expires_in: Option<u32>,
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

fn details(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("a JSON list of objects is needed: {error}"))
}

fn grant_state(text: &str) -> Result<StandingGrantState, String> {
    text.parse().map_err(|_| "a state is active, suspended, expired or revoked".to_owned())
}

pub(super) async fn run(config: Opening, command: Command) -> Result<ExitCode, Fault> {
    context::as_operator(config, async |ctx, _| carry_out(ctx, command).await.or_else(print_refusal)).await
}

async fn carry_out(ctx: &RequestContext<'_>, command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Create(args) => {
            let format = args.format;
            Ok(print_members(&standing_grants::create(ctx, &args.request()).await?.value, format)?)
        }
        Command::List { state, grantor_iss, grantor, client, limit, cursor, format } => {
            let grantor = grantor_iss.zip(grantor).map(|(iss, sub)| Principal { iss, sub });
            let filter = StandingGrantFilter { grantor, client_id: client, state, ends_before: None };
            let page = PageRequest { cursor, limit: Some(limit) };
            Ok(show_all(&to_value(&standing_grants::list(ctx, &filter, &page).await?)?, format)?)
        }
        Command::Show { id, format } => Ok(print_members(&standing_grants::show(ctx, &id).await?, format)?),
        Command::Renew { id, expires_in, format } => {
            Ok(print_members(&standing_grants::renew(ctx, &id, expires_in).await?.value, format)?)
        }
        Command::Revoke { id, format } => {
            Ok(print_members(&standing_grants::revoke(ctx, &id).await?.value, format)?)
        }
        Command::Revalidate { id, key, replaces, client_version, format } => {
            let confirmation = KeyConfirmation { keys: key, replaces, client_version };
            let reply = standing_grants::revalidate(ctx, &id, &confirmation).await?;
            Ok(print_members(&reply.value, format)?)
        }
    }
}

impl CreateArgs {
    fn request(self) -> NewStandingGrant {
        NewStandingGrant {
            grantor: Some(Principal { iss: self.grantor_iss, sub: self.grantor }),
            client_id: self.client,
            keys: (!self.key.is_empty()).then_some(self.key),
            scopes: self.scope,
            audiences: self.audience,
            authorization_details: self.authorization_details,
            capability_ceiling: self.capability_ceiling,
            max_ttl: self.max_ttl,
            max_uses: self.max_uses,
            max_depth: self.max_depth,
            offline_access: self.offline_access,
            expires_in: self.expires_in,
        }
    }
}

fn show_all(list: &Value, format: OutputFormat) -> Result<ExitCode, Fault> {
    if format == OutputFormat::Json {
        print_json(list)?;
        return Ok(ExitCode::SUCCESS);
    }
    for item in list.get("items").and_then(Value::as_array).into_iter().flatten() {
        println!(
            "{:<38} {:<10} {:<24} -> {:<24} until {}",
            text(item, "/id"),
            text(item, "/state"),
            text(item, "/grantor/sub"),
            text(item, "/client_id"),
            text(item, "/expires_at")
        );
    }
    if let Some(next) = list.get("next").and_then(Value::as_str) {
        println!("more: --cursor {next}");
    }
    Ok(ExitCode::SUCCESS)
}
