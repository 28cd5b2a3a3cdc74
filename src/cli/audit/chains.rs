//! `actchain audit chains`: complete chains, as `GET /api/v1/audit-logs/chains` returns them.

use std::process::ExitCode;

use clap::ArgAction::SetTrue;
use serde_json::Value;

use super::arguments::filter;
use crate::cli::arguments::{delegation_state, instant};
use crate::cli::context::{self, Opening};
use crate::cli::output::{OutputFormat, print_json, to_value};
use crate::domain::audit::chain_keys::KeyContinuity;
use crate::domain::audit::search::Order;
use crate::domain::delegation::DelegationState;
use crate::domain::refusal::Error;
use crate::platform::fault::Fault;
use crate::services::audit::chains;
use crate::services::audit::query::{AuditQuery, ChainConditions};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  actchain audit chains --from 2026-11-01 --filter subject_sub=alice
  actchain audit chains 019ac1c0-7f6e-7d63-8f0a-0c4f2e6b9a11 --json")]
pub(in crate::cli) struct Args {
    /// Show the chain with this txn in full; without it, list a page of chains
    txn: Option<String>,
    /// Only chains with an event that matches, such as subject_sub=alice; repeat to narrow further
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "txn")]
    filter: Vec<String>,
    /// Only chains with an event at or after this instant (RFC 3339) or date
    #[arg(long, value_name = "TIME", conflicts_with = "txn")]
    from: Option<String>,
    /// Only chains with an event before this instant or date
    #[arg(long, value_name = "TIME", conflicts_with = "txn")]
    to: Option<String>,
    /// Only chains whose delegation is now requested, active, expired or revoked
    #[arg(long, value_parser = delegation_state, conflicts_with = "txn")]
    state: Option<DelegationState>,
    /// Only chains whose keys are consistent, no_key or key_mismatch
    #[arg(long, value_name = "RESULT", value_parser = key_continuity, conflicts_with = "txn")]
    key_continuity: Option<KeyContinuity>,
    /// The order of the chains: newest or oldest first
    #[arg(long, default_value = "newest", value_parser = order)]
    order: Order,
    /// How many chains to list, 1 to 100; 20 if absent
    #[arg(long, conflicts_with = "txn")]
    limit: Option<usize>,
    /// The cursor that the previous page printed
    #[arg(long, conflicts_with = "txn")]
    cursor: Option<String>,
    #[arg(long = "json", action = SetTrue)]
    format: OutputFormat,
}

fn key_continuity(name: &str) -> Result<KeyContinuity, String> {
    name.parse().map_err(|_| "it is consistent, no_key or key_mismatch".to_owned())
}

fn order(name: &str) -> Result<Order, String> {
    match name {
        "newest" => Ok(Order::Newest),
        "oldest" => Ok(Order::Oldest),
        _ => Err("an order is newest or oldest".to_owned()),
    }
}

pub(super) async fn run(config: Opening, args: Args) -> Result<ExitCode, Fault> {
    let mut filter = filter(&args.filter)?;
    filter.from = args.from.as_deref().map(instant).transpose()?.or(filter.from);
    filter.to = args.to.as_deref().map(instant).transpose()?.or(filter.to);
    let chains = ChainConditions { state: args.state, key_continuity: args.key_continuity };
    let (order, limit, cursor) = (args.order, args.limit, args.cursor);
    let audit_query = AuditQuery { filter, order, limit, cursor, chains };
    context::as_operator(config, async |ctx, _| {
        let found = match &args.txn {
            Some(txn) => chains::show(ctx, txn).await.map(|chain| to_value(&chain)),
            None => chains::list(ctx, &audit_query).await.map(|page| to_value(&page)),
        };
        let body = match found {
            Ok(body) => body?,
            Err(Error::Failed(fault)) => return Err(fault),
            Err(Error::Refused(refusal)) => return Err(Fault::new(refusal.sentence())),
        };
        match (args.format, &args.txn) {
            (OutputFormat::Json, _) => print_json(&body)?,
            (OutputFormat::Text, Some(_)) => print_in_full(&body),
            (OutputFormat::Text, None) => print_page(&body),
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}

fn print_page(page: &Value) {
    let chains = page.get("items").and_then(Value::as_array);
    let is_last = page.get("next").is_none_or(Value::is_null);
    if is_last && chains.is_none_or(Vec::is_empty) {
        println!("no chains");
    }
    for chain in chains.into_iter().flatten() {
        print_head(chain, page.get("people"));
    }
    if let Some(next) = page.get("next").and_then(Value::as_str) {
        println!("more: --cursor {next}");
    }
}

/// Prints one line about a chain. Users are shown by name, unless they were erased.
fn print_head(chain: &Value, people: Option<&Value>) {
    let named = text(chain, "/subject/sub");
    let person = |name: &str| people.and_then(|people| people.get(name)?.get("sub")?.as_str());
    // An actor of another issuer may be a person, too.
    let shown = |name| person(name).unwrap_or(name);
    let names = |name: &str| {
        let list = chain.get(name).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(shown).collect::<Vec<_>>().join(" -> ")
    };
    println!(
        "{}  {}  {}  {}  {} events, {} refusals  {}  keys {}",
        text(chain, "/txn"),
        text(chain, "/first_at"),
        shown(named),
        names("actors"),
        number(chain, "/events"),
        number(chain, "/refusals"),
        text(chain, "/state"),
        text(chain, "/key_continuity"),
    );
}

fn print_in_full(chain: &Value) {
    print_head(chain, chain.get("people"));
    for hop in chain.get("hops").and_then(Value::as_array).into_iter().flatten() {
        let mut line = format!(
            "  event {}  {}  {}  {} ({})",
            number(hop, "/seq"),
            text(hop, "/at"),
            text(hop, "/client_id"),
            text(hop, "/action"),
            text(hop, "/outcome"),
        );
        for name in ["reason", "scope", "target", "delegation_id", "delegation_state", "key_continuity"] {
            if let Some(value) = hop.get(name).and_then(Value::as_str) {
                line.push_str(&format!("  {name} {value:?}"));
            }
        }
        if let Some(parent) = hop.get("parent").and_then(Value::as_u64) {
            line.push_str(&format!("  from the token of event {parent}"));
        }
        println!("{line}");
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("-")
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}
