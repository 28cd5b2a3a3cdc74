//! Registered issuers and resources: listed, and removed if nothing depends on them. `apply` registers them.

use serde::Serialize;
use serde_json::Value;

use super::apply::{Members, view};
use super::console_ends;
use super::page::{Page, PageRequest, page_of};
use super::request_context::RequestContext;
use super::transaction::{AuditedTransaction, Authorized};
use crate::domain::audit::detail::{RevocationCause, SessionEnd};
use crate::domain::audit::{Event, EventKind};
use crate::domain::console;
use crate::domain::delegation::impact::{Impact, RevocationScope, impact};
use crate::domain::delegation::{store, transitions};
use crate::domain::refusal::Error;
use crate::domain::registry::{self, Registry, dependents};
use crate::platform::fault::Fault;

#[derive(Debug)]
pub enum Removal<T> {
    Removed(T),
    NotFound,
    /// Something depends on the entry; each sentence names the dependent and the remedy.
    InUse(Vec<String>),
}

#[derive(Debug, Serialize)]
pub struct ResourceRemoval {
    pub id: String,
}

#[derive(Debug, Serialize)]
pub struct IssuerRemoval {
    pub iss: String,
    /// Number of revoked delegations.
    pub revoked: usize,
    pub affected: Impact,
    /// Number of connections of its users, which are kept.
    pub connections_kept: i64,
}

/// What happens to the delegations of an issuer's users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delegations {
    /// An issuer with such delegations is not removed.
    Keep,
    /// The delegations are revoked in the same transaction.
    Revoke,
}

/// Maximum number of names in a sentence.
const MAX_NAMED: usize = 5;

fn with_id(name: &str, id: &str, members: Members) -> Value {
    let mut all = Members::new();
    all.insert(name.to_owned(), id.into());
    all.extend(members);
    Value::Object(all)
}

/// The registered issuers, as in `issuer list` and `issuer show`.
pub fn issuers(registry: &Registry) -> Vec<Value> {
    registry.issuers.values().map(|one| with_id("iss", &one.iss, view::issuer(one))).collect()
}

/// The registered resources, including this server.
pub fn resources(registry: &Registry) -> Vec<Value> {
    registry.resources.values().map(|one| with_id("id", &one.id, view::resource(one))).collect()
}

/// A page of the registered issuers.
pub async fn list_issuers(
    ctx: &RequestContext<'_>,
    prefix: Option<&str>,
    page: &PageRequest,
) -> Result<Page<Value>, Error> {
    let registry = load(ctx).await?;
    let ids = registry.issuers.keys().cloned();
    Ok(page_of(ids.zip(issuers(&registry)).collect(), prefix, page)?)
}

/// A page of the registered resources, including this server.
pub async fn list_resources(
    ctx: &RequestContext<'_>,
    prefix: Option<&str>,
    page: &PageRequest,
) -> Result<Page<Value>, Error> {
    let registry = load(ctx).await?;
    let ids = registry.resources.keys().cloned();
    Ok(page_of(ids.zip(resources(&registry)).collect(), prefix, page)?)
}

async fn load(ctx: &RequestContext<'_>) -> Result<Registry, Error> {
    ctx.caller.require_administrator()?;
    let mut connection = ctx.pool.acquire().await?;
    Ok(registry::store::load(ctx.rows, &mut connection, ctx.issuer).await?)
}

fn sentence(ids: &[String], what: &str, advice: &str) -> Option<String> {
    let named = ids.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = ids.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!ids.is_empty()).then(|| format!("{what} {named}{more}: {advice}"))
}

/// Removes a resource that neither a client nor an active or requested delegation names.
///
/// # Errors
/// A fault of the database; then nothing was changed.
pub async fn remove_resource(ctx: &RequestContext<'_>, id: &str) -> Result<Removal<ResourceRemoval>, Fault> {
    let mut work = AuditedTransaction::begin_serialized(ctx.pool).await?;
    work.upgrade(Authorized::without_request()).await?;
    let clients = dependents::clients_of_resource(work.connection(), id).await?;
    let delegations = dependents::delegations_of_resource(work.connection(), id, ctx.now).await?;
    let todo = "take it out of their audiences (actchain apply)";
    let in_use: Vec<String> = [
        sentence(&clients, "it is an audience of the clients", todo),
        sentence(
            &delegations,
            "it is an audience of the delegations",
            "revoke them (actchain delegation revoke)",
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !registry::store::mark_resource_removed(work.connection(), id).await? {
        return Ok(Removal::NotFound);
    }
    if !in_use.is_empty() {
        return Ok(Removal::InUse(in_use));
    }
    registry::store::raise_version(work.connection()).await?;
    let event = Event { target: Some(id.to_owned()), ..ctx.event(EventKind::ResourceRemoved) };
    work.commit(&[event]).await?;
    Ok(Removal::Removed(ResourceRemoval { id: id.to_owned() }))
}

/// Removes an issuer. Tokens under the delegations of its users become inactive. The delegations are revoked only on
/// request.
///
/// # Errors
/// A fault of the database; nothing is changed then.
pub async fn remove_issuer(
    ctx: &RequestContext<'_>,
    iss: &str,
    delegations: Delegations,
) -> Result<Removal<IssuerRemoval>, Fault> {
    let now = ctx.now;
    let mut work = AuditedTransaction::begin_serialized(ctx.pool).await?;
    work.upgrade(Authorized::without_request()).await?;
    let names = registry::store::identifiers(work.connection(), iss).await?;
    let clients = dependents::clients_of_issuer(work.connection(), &names).await?;
    let roots = dependents::delegations_of_issuer(work.connection(), &names, now).await?;
    let affected = match roots.is_empty() {
        true => Impact::default(),
        false => impact(work.connection(), &RevocationScope::Delegations(&roots), now).await?,
    };
    let mut in_use = Vec::new();
    in_use.extend(sentence(
        &clients,
        "actor_subjects of the clients",
        "name it; take it out of them (actchain apply)",
    ));
    if delegations == Delegations::Keep {
        let at_least = if affected.at_least { "at least " } else { "" };
        let end = format!(
            "with --revoke-delegations they are revoked; {at_least}{} delegations and {} tokens end then",
            affected.delegations, affected.tokens
        );
        in_use.extend(sentence(&roots, "its users are the delegators of the delegations", &end));
    }
    if !registry::store::mark_issuer_removed(work.connection(), iss).await? {
        return Ok(Removal::NotFound);
    }
    if !in_use.is_empty() {
        return Ok(Removal::InUse(in_use));
    }
    let connections_kept = dependents::connections_of_issuer(work.connection(), &names).await?;
    registry::store::raise_version(work.connection()).await?;
    let signed_out = console::store::end_of_issuers(work.connection(), &names, now).await?;
    let reason = "its issuer was removed";
    let revoked = transitions::mark_all_revoked(work.connection(), &roots, reason, now).await?;
    let kind = EventKind::IssuerRemoved { revoked: u64::try_from(revoked.len()).unwrap_or(u64::MAX) };
    let mut events = vec![Event { target: Some(iss.to_owned()), ..ctx.event(kind) }];
    for path in store::all_paths(ctx.rows, work.connection(), &revoked).await? {
        let cause = RevocationCause::IssuerRemoved;
        let kind = EventKind::DelegationRevoked { cause };
        events.push(ctx.event_about(kind, &path));
    }
    events.extend(console_ends::ended_by(ctx, signed_out, SessionEnd::IssuerChanged));
    work.commit(&events).await?;
    let (iss, revoked) = (iss.to_owned(), revoked.len());
    Ok(Removal::Removed(IssuerRemoval { iss, revoked, affected, connections_kept }))
}
