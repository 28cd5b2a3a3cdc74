//! `actchain delegation list|show|request|approve|deny|revoke|renew|tree`: delegations, for operators with a shell on
//! the machine.

use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use serde_json::Value;

use super::arguments::delegation_state;
use super::context::{self, Opening};
use super::delegation_tree;
use super::output::{OutputFormat, print_json, print_members, print_refusal, text, to_value};
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::list::DelegationFilter;
use crate::domain::delegation::view::View;
use crate::domain::principal::Principal;
use crate::domain::refusal::Error;
use crate::platform::clock;
use crate::platform::fault::Fault;
use crate::services::delegations::{self, Approval, NewDelegation};
use crate::services::page::PageRequest;
use crate::services::request_context::RequestContext;
use crate::services::transition::Reply;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List delegations, newest first
    List {
        /// Only those that are requested, active, expired or revoked
        #[arg(long, value_parser = delegation_state)]
        state: Option<DelegationState>,
        #[arg(long, value_name = "ISS")]
        delegator_iss: Option<String>,
        #[arg(long, value_name = "SUB")]
        delegator: Option<String>,
        #[arg(long, value_name = "CLIENT")]
        delegate: Option<String>,
        #[arg(long, value_name = "ID")]
        parent: Option<String>,
        /// How many to list, 1 to 100
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
        /// The cursor that the previous page printed
        #[arg(long)]
        cursor: Option<String>,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Show one delegation in full
    Show {
        id: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Request a delegation from a user, on behalf of an agent
    Request(RequestArgs),
    /// Approve a requested delegation, optionally with narrower limits
    Approve(ApproveArgs),
    /// Deny a requested delegation
    Deny {
        id: String,
        /// The reason, for the audit log
        #[arg(long, default_value = "denied by an operator")]
        reason: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Revoke a delegation and all its descendants
    Revoke {
        id: String,
        /// The reason, for the audit log
        #[arg(long, default_value = "revoked by an operator")]
        reason: String,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Extend the expiry of a delegation
    Renew {
        id: String,
        /// The time from now on: seconds, or a duration such as 15m, 1h30m, 7d
        #[arg(long, value_name = "DURATION", value_parser = clock::seconds)]
        expires_in: u32,
        #[arg(long = "json", action = SetTrue)]
        format: OutputFormat,
    },
    /// Draw the descendants of one delegation, or of all delegations of a user
    Tree(delegation_tree::Args),
}

#[derive(Debug, clap::Args)]
pub(super) struct RequestArgs {
    /// The client id of the agent
    #[arg(long, value_name = "CLIENT")]
    delegate: String,
    /// The issuer of the delegator
    #[arg(long, value_name = "ISS")]
    delegator_iss: String,
    /// The user who is to delegate
    #[arg(long, value_name = "SUB")]
    delegator: String,
    /// The purpose, shown to the delegator
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    limits: DelegationLimitArgs,
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

#[derive(Debug, clap::Args)]
pub(super) struct ApproveArgs {
    id: String,
    #[command(flatten)]
    limits: DelegationLimitArgs,
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

/// Limits; absent limits stay unchanged.
#[derive(Debug, clap::Args)]
struct DelegationLimitArgs {
    /// A scope; repeat for several
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// An audience; repeat for several
    #[arg(long, value_name = "TARGET")]
    audience: Vec<String>,
    #[arg(long, value_name = "NAME")]
    capability_ceiling: Option<String>,
    /// Capabilities and scopes that need a confirmation by the delegator for each use; repeat for several
    #[arg(long, value_name = "NAME")]
    ceremony: Vec<String>,
    #[arg(long, value_name = "N")]
    max_uses: Option<u32>,
    #[arg(long, value_name = "N")]
    max_depth: Option<u32>,
    /// Whether the agent may get a refresh token, and work while the user is away
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    offline_access: Option<bool>,
    /// The lifetime: seconds, or a duration such as 15m, 1h30m, 7d
    #[arg(long, value_name = "DURATION", value_parser = clock::seconds)]
    expires_in: Option<u32>,
}

impl DelegationLimitArgs {
    fn approval(&self) -> Approval {
        let names = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        Approval {
            scopes: names(&self.scope),
            audiences: names(&self.audience),
            authorization_details: None,
            capability_ceiling: self.capability_ceiling.clone(),
            ceremony_required_for: self.ceremony.clone(),
            max_uses: self.max_uses,
            max_depth: self.max_depth,
            offline_access: self.offline_access,
            expires_in: self.expires_in,
        }
    }
}

pub(super) async fn run(config: Opening, command: Command) -> Result<ExitCode, Fault> {
    context::as_operator(config, async |ctx, _| carry_out(ctx, command).await.or_else(print_refusal)).await
}

async fn carry_out(ctx: &RequestContext<'_>, command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::List { state, delegator_iss, delegator, delegate, parent, limit, cursor, format } => {
            let filter = DelegationFilter {
                state,
                delegator_iss,
                delegator_sub: delegator,
                delegate,
                parent,
                ..DelegationFilter::default()
            };
            let page = PageRequest { cursor, limit: Some(limit) };
            Ok(show_all(&to_value(&delegations::list(ctx, &filter, &page).await?)?, format)?)
        }
        Command::Show { id, format } => Ok(print_members(&delegations::show(ctx, &id).await?, format)?),
        Command::Request(args) => Ok(print_members(&request(ctx, &args).await?.value, args.format)?),
        Command::Approve(args) => {
            let reply = delegations::approve(ctx, &args.id, &args.limits.approval(), None).await?;
            Ok(print_members(&reply.value, args.format)?)
        }
        Command::Deny { id, reason, format } => {
            Ok(print_members(&delegations::deny(ctx, &id, Some(&reason)).await?.value, format)?)
        }
        Command::Revoke { id, reason, format } => {
            Ok(print_members(&delegations::revoke(ctx, &id, Some(&reason)).await?.value, format)?)
        }
        Command::Renew { id, expires_in, format } => {
            Ok(print_members(&delegations::renew(ctx, &id, expires_in).await?.value, format)?)
        }
        Command::Tree(args) => delegation_tree::run(ctx, &args).await,
    }
}

async fn request(ctx: &RequestContext<'_>, args: &RequestArgs) -> Result<Reply<View>, Error> {
    let limits = args.limits.approval();
    let wanted = NewDelegation {
        delegate: Some(args.delegate.clone()),
        delegator: Some(Principal::new(args.delegator_iss.clone(), args.delegator.clone())),
        scopes: limits.scopes,
        audiences: limits.audiences,
        capability_ceiling: limits.capability_ceiling,
        ceremony_required_for: limits.ceremony_required_for,
        max_uses: limits.max_uses,
        max_depth: limits.max_depth,
        offline_access: limits.offline_access,
        expires_in: limits.expires_in,
        reason: args.reason.clone(),
        ..NewDelegation::default()
    };
    delegations::create(ctx, &wanted).await
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
            text(item, "/delegator/sub"),
            text(item, "/delegate"),
            text(item, "/expires_at")
        );
    }
    if let Some(next) = list.get("next").and_then(Value::as_str) {
        println!("more: --cursor {next}");
    }
    Ok(ExitCode::SUCCESS)
}
