//! Reported commands: uses counted in addition to exchanges, on a delegation and all its ancestors. All or none are
//! counted, exactly, on any number of servers: the rows are locked in the ledger's order.

use serde_json::json;

use super::{leaf, visible};
use crate::domain::audit::{Action, Event};
use crate::domain::delegation::DelegationPath;
use crate::domain::refusal::{ClientProblem, Error, Refusal};
use crate::domain::{authority_lock, client, delegation};
use crate::platform::fault::Fault;
use crate::services::request_context::{
    ApiResponse, AuditTarget, Call, Caller, Desk, record_delegation_refusal,
};
use crate::services::transaction::AuditedTransaction;

/// Maximum number of commands in one report.
const MOST: u32 = 1_000_000;

/// Counts commands reported by the delegate, before or after their execution; returns the remaining uses.
pub async fn commands(desk: &Desk<'_>, call: &Call, id: &str, count: u32) -> Result<ApiResponse, Error> {
    let result = try_to(desk, call, id, count).await;
    record_delegation_refusal(desk, call, ("commands", AuditTarget::Delegation(id)), result).await
}

async fn try_to(desk: &Desk<'_>, call: &Call, id: &str, count: u32) -> Result<ApiResponse, Error> {
    if !(1..=MOST).contains(&count) {
        return Err(Refusal::Malformed("count is 1 to 1000000").into());
    }
    let mut work = AuditedTransaction::begin(desk.pool).await?;
    if let Some(done) = call.authorize_and_claim(desk, &mut work).await? {
        return Ok(done);
    }
    let mut path = visible(work.connection(), desk, call, id).await?;
    match &call.caller {
        Caller::Agent(holder) if holder.client.client_id == leaf(&path)?.delegate => {}
        _ => return Err(Refusal::InsufficientScope.into()),
    }
    let counts = delegation::transitions::lock_usage(work.connection(), &path.ids()).await?;
    for one in &mut path.0 {
        let uses = counts.get(&one.id).copied();
        one.facts.uses =
            uses.ok_or_else(|| Fault::new(format!("delegation {} has no count of uses", one.id)))?;
    }
    path.check(call.now)?;
    let agents: Vec<String> = path.0.iter().map(|one| one.delegate.clone()).collect();
    let out = client::store::out(work.connection(), &agents).await?;
    if out.contains(&leaf(&path)?.delegate) {
        return Err(Refusal::InvalidClient(ClientProblem::Disabled).into());
    }
    if !out.is_empty() {
        return Err(Refusal::ActorDisabled.into());
    }
    let left = path.0.iter().filter_map(|one| one.facts.uses_left()).min();
    let count = i64::from(count);
    if left.is_some_and(|left| count > left) {
        return Err(Refusal::TooFewUses.into());
    }
    let exhausted =
        delegation::transitions::mark_used(work.connection(), &path.ids(), count, call.now).await?;
    let mut event = call.event_about(desk, Action::DelegationUsed, &path);
    event.detail = Some(json!({"count": count}));
    let mut events = vec![event];
    if !exhausted.is_empty() {
        delegation::transitions::mark_expiry_logged(work.connection(), &exhausted).await?;
        // Tokens under it end with it.
        authority_lock::raise_epoch(work.connection()).await?;
        let ends = path.0.iter().enumerate().filter(|(_, one)| exhausted.contains(&one.id));
        events.extend(ends.map(|(depth, _)| {
            let ended = DelegationPath(path.0.iter().take(depth + 1).cloned().collect());
            Event {
                reason: Some(Refusal::CommandLimit.reason()),
                ..call.event_about(desk, Action::DelegationExpired, &ended)
            }
        }));
    }
    let path = visible(work.connection(), desk, call, id).await?;
    let done = ApiResponse::with(json!({
        "id": id,
        "state": path.state(call.now).0,
        "uses": leaf(&path)?.facts.uses,
        "uses_left": left.map(|left| left - count),
    }))?;
    call.store_response(desk, &mut work, &done).await?;
    work.commit(&events).await?;
    Ok(done)
}
