//! Registered issuers and resources: listed, and removed if nothing depends on them. `apply` registers them.

use serde_json::{Value, json};

use super::apply::{Members, view};
use super::request_context::{Call, Desk};
use super::transaction::{AuditedTransaction, Authorized};
use crate::domain::audit::Action;
use crate::domain::delegation::impact::{Impact, RevocationScope, impact};
use crate::domain::delegation::{store, transitions};
use crate::domain::registry::{self, Registry, dependents};
use crate::platform::fault::Fault;

/// Result of a removal.
#[derive(Debug)]
pub enum Removal {
    /// The entry is removed; with what was revoked.
    Removed(Value),
    NotFound,
    /// Something depends on the entry; each sentence names the dependent and the remedy.
    InUse(Vec<String>),
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

fn sentence(ids: &[String], what: &str, todo: &str) -> Option<String> {
    let named = ids.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = ids.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!ids.is_empty()).then(|| format!("{what} {named}{more}: {todo}"))
}

/// Removes a resource that neither a client nor an active or requested delegation names.
///
/// # Errors
/// A fault of the database; then nothing was changed.
pub async fn remove_resource(desk: &Desk<'_>, call: &Call, id: &str) -> Result<Removal, Fault> {
    let mut work = AuditedTransaction::begin_serialized(desk.pool).await?;
    work.upgrade(Authorized::without_request()).await?;
    let clients = dependents::clients_of_resource(work.connection(), id).await?;
    let given = dependents::delegations_of_resource(work.connection(), id, call.now).await?;
    let todo = "take it out of their audiences (actchain apply)";
    let in_use: Vec<String> = [
        sentence(&clients, "it is an audience of the clients", todo),
        sentence(&given, "it is an audience of the delegations", "revoke them (actchain delegation revoke)"),
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
    let mut event = call.event(Action::ResourceRemoved);
    event.target = Some(id.to_owned());
    work.commit(&[event]).await?;
    Ok(Removal::Removed(json!({"id": id})))
}

/// Removes an issuer. Tokens under the delegations of its users become inactive. The delegations are revoked only on
/// request.
///
/// # Errors
/// A fault of the database; nothing is changed then.
pub async fn remove_issuer(
    desk: &Desk<'_>,
    call: &Call,
    iss: &str,
    delegations: Delegations,
) -> Result<Removal, Fault> {
    let now = call.now;
    let mut work = AuditedTransaction::begin_serialized(desk.pool).await?;
    work.upgrade(Authorized::without_request()).await?;
    let clients = dependents::clients_of_issuer(work.connection(), iss).await?;
    let roots = dependents::delegations_of_issuer(work.connection(), iss, now).await?;
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
        in_use.extend(sentence(&roots, "its users have given the delegations", &end));
    }
    if !registry::store::mark_issuer_removed(work.connection(), iss).await? {
        return Ok(Removal::NotFound);
    }
    if !in_use.is_empty() {
        return Ok(Removal::InUse(in_use));
    }
    let connections = dependents::connections_of_issuer(work.connection(), iss).await?;
    registry::store::raise_version(work.connection()).await?;
    let reason = "its issuer was removed";
    let revoked = transitions::mark_all_revoked(work.connection(), &roots, reason, now).await?;
    let said = json!({
        "iss": iss, "revoked": revoked.len(), "affected": affected, "connections_kept": connections
    });
    let mut event = call.event(Action::IssuerRemoved);
    event.target = Some(iss.to_owned());
    event.detail = Some(json!({"revoked": revoked.len()}));
    let mut events = vec![event];
    for path in store::all_paths(desk.rows, work.connection(), &revoked).await? {
        let mut event = call.event_about(desk, Action::DelegationRevoked, &path);
        event.detail = Some(json!({"reason": reason}));
        events.push(event);
    }
    work.commit(&events).await?;
    Ok(Removal::Removed(said))
}
