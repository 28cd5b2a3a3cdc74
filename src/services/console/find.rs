//! Finds what a person has pasted: an id, a place in the log, a key, or a token. A token is verified, and kept nowhere.

use std::net::IpAddr;

use serde_json::Value;

use crate::app::App;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::Order;
use crate::domain::client;
use crate::domain::delegation::DelegationState;
use crate::domain::refusal::{Error, Refusal};
use crate::services::audit::query::{self, AuditQuery};
use crate::services::caller::Caller;
use crate::services::delegations::graph::{GraphQuery, graph};
use crate::services::page::PageRequest;
use crate::services::request_context::RequestContext;
use crate::services::{delegations, own_token, vault};
use actchain_protocol::jose;

/// The longest text that is searched for and is no token, in bytes.
const MAX_TEXT: usize = 512;

/// Where a person finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundPlace {
    /// A delegation that waits for a decision.
    Approval(String),
    Delegation(String),
    Agent(String),
    Connection(String),
    Session(String),
    /// A chain, at the hop of the event with this `seq`.
    Chain {
        txn: String,
        seq: Option<u64>,
    },
    /// The place of an event in the log.
    Event(u64),
    /// The events of requests from an address.
    Address(IpAddr),
}

/// The place of what a text names; `None` if it names nothing that the caller may see.
pub async fn find(app: &App, ctx: &RequestContext<'_>, text: &str) -> Result<Option<FoundPlace>, Error> {
    let text = text.trim();
    if jose::begins_as_jws(text) {
        return token(app, ctx, text).await;
    }
    if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        return Ok(None);
    }
    for place in [
        delegation(ctx, text).await?,
        agent(ctx, text).await?,
        connection(ctx, text).await?,
        key(ctx, text).await?,
    ] {
        if place.is_some() {
            return Ok(place);
        }
    }
    in_the_log(ctx, text).await
}

/// Makes "not there" and "not yours" alike.
fn seen<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Refused(Refusal::NotFound | Refusal::InsufficientScope | Refusal::Malformed(_))) => {
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

/// The chain of a token at its hop, else its delegation, else its client. Tokens that are not of this server, or have expired,
/// are no tokens.
async fn token(app: &App, ctx: &RequestContext<'_>, text: &str) -> Result<Option<FoundPlace>, Error> {
    let Some(claims) = own_token::find(app, text, ctx.now).await? else { return Ok(None) };
    if let Some(place) = of_newest(ctx, "jti", &claims.jti).await? {
        return Ok(Some(place));
    }
    match &claims.dlg {
        Some(id) => delegation(ctx, id).await,
        None => agent(ctx, &claims.client_id).await,
    }
}

async fn delegation(ctx: &RequestContext<'_>, id: &str) -> Result<Option<FoundPlace>, Error> {
    let found = seen(delegations::show(ctx, id).await)?;
    Ok(found.map(|one| match one.state {
        DelegationState::Requested => FoundPlace::Approval(one.id),
        _ => FoundPlace::Delegation(one.id),
    }))
}

/// An agent. Users find those that have acted for them.
async fn agent(ctx: &RequestContext<'_>, id: &str) -> Result<Option<FoundPlace>, Error> {
    let one = || PageRequest { cursor: None, limit: Some(1) };
    let query = GraphQuery { state: None, inbound: one(), outbound: one() };
    let Some(found) = seen(graph(ctx, id, &query).await)? else { return Ok(None) };
    let acts = !found.inbound.items.is_empty() || !found.outbound.items.is_empty();
    let visible = acts || !matches!(ctx.caller, Caller::User(_));
    Ok(visible.then(|| FoundPlace::Agent(id.to_owned())))
}

async fn connection(ctx: &RequestContext<'_>, id: &str) -> Result<Option<FoundPlace>, Error> {
    let found = seen(vault::show(ctx, id).await)?;
    Ok(found.map(|_| FoundPlace::Connection(id.to_owned())))
}

/// The agent with a registered or removed key, by its thumbprint.
async fn key(ctx: &RequestContext<'_>, jkt: &str) -> Result<Option<FoundPlace>, Error> {
    let found = client::store::find_by_key(&mut *ctx.pool.acquire().await?, jkt).await?;
    match found {
        Some(client_id) => agent(ctx, &client_id).await,
        None => Ok(None),
    }
}

/// The event that the text names by `seq` or id; the newest event of a chain, a token, a session, or a request.
async fn in_the_log(ctx: &RequestContext<'_>, text: &str) -> Result<Option<FoundPlace>, Error> {
    if let Ok(address) = text.parse() {
        return Ok(Some(FoundPlace::Address(address)));
    }
    if text.parse::<u64>().is_ok() {
        let found = seen(query::show(ctx, text).await)?;
        return Ok(found.and_then(|found| seq(&found.event)).map(FoundPlace::Event));
    }
    for name in ["id", "txn", "jti", "session_id", "request_id"] {
        if let Some(place) = of_newest(ctx, name, text).await? {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// The place of the newest event with this value; of a token, of the event that issued it.
async fn of_newest(ctx: &RequestContext<'_>, name: &str, text: &str) -> Result<Option<FoundPlace>, Error> {
    let mut filter = Filter::default();
    filter.set(name, text)?;
    // Later events name a token that they came of.
    let order = if name == "jti" { Order::Oldest } else { Order::Newest };
    let wanted = AuditQuery { filter, order, limit: Some(1), ..AuditQuery::default() };
    let found = seen(query::list(ctx, &wanted).await)?;
    let Some(event) = found.and_then(|page| page.items.into_iter().next()) else { return Ok(None) };
    let txn = event.get("txn").and_then(Value::as_str);
    Ok(match (name, txn) {
        ("session_id", _) => Some(FoundPlace::Session(text.to_owned())),
        ("txn", Some(txn)) => Some(FoundPlace::Chain { txn: txn.to_owned(), seq: None }),
        ("jti", Some(txn)) => Some(FoundPlace::Chain { txn: txn.to_owned(), seq: seq(&event) }),
        _ => seq(&event).map(FoundPlace::Event),
    })
}

fn seq(event: &Value) -> Option<u64> {
    event.get("seq").and_then(Value::as_u64)
}
