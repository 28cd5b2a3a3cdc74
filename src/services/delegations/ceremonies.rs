//! Confirmations of single uses, decided by the delegator whose delegation requires them.

use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::approval::decides;
use super::{Page, leaf, visible};
use crate::domain::audit::Action;
use crate::domain::ceremony::{self, Ceremony};
use crate::domain::delegation::State;
use crate::domain::delegation::list::Cursor;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::clock::rfc3339;
use crate::services::request_context::{ApiResponse, AuditTarget, Call, Desk, record_delegation_refusal};
use crate::services::transaction::AuditedTransaction;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfirmationDecision {
    /// Yes, this once.
    Approve,
    Deny,
}

/// A page of the confirmations of a delegation, newest first.
pub async fn list(desk: &Desk<'_>, call: &Call, id: &str, page: &Page) -> Result<ApiResponse, Error> {
    let limit = page.limit()?;
    let after = match page.cursor.as_deref() {
        None => None,
        Some(text) => Some(position(text).ok_or(Refusal::Malformed("cursor is none of ours"))?),
    };
    let mut connection = desk.pool.acquire().await?;
    visible(&mut connection, desk, call, id).await?;
    // One additional row shows whether there is a next page.
    let mut found = ceremony::store::list(&mut connection, id, after, limit + 1).await?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = found.len() > most;
    found.truncate(most);
    let last = found.last().filter(|_| more);
    let next = last.map(|one| Cursor { requested_at: one.requested_at, id: one.id.to_string() }.to_text());
    let items: Vec<Value> = found.iter().map(|one| view(one, call.now)).collect();
    Ok(ApiResponse::with(json!({"items": items, "next": next}))?)
}

fn position(text: &str) -> Option<(OffsetDateTime, Uuid)> {
    let Cursor { requested_at, id } = Cursor::parse(text)?;
    Some((requested_at, Uuid::parse_str(&id).ok()?))
}

/// Decides a pending confirmation.
pub async fn decide(
    desk: &Desk<'_>,
    call: &Call,
    (delegation, id): (&str, Uuid),
    decision: ConfirmationDecision,
) -> Result<ApiResponse, Error> {
    let made = match decision {
        ConfirmationDecision::Approve => "approve a ceremony",
        ConfirmationDecision::Deny => "deny a ceremony",
    };
    let result = try_to(desk, call, (delegation, id), decision).await;
    record_delegation_refusal(desk, call, (made, AuditTarget::Delegation(delegation)), result).await
}

async fn try_to(
    desk: &Desk<'_>,
    call: &Call,
    (delegation, id): (&str, Uuid),
    decision: ConfirmationDecision,
) -> Result<ApiResponse, Error> {
    let mut work = AuditedTransaction::begin(desk.pool).await?;
    if let Some(done) = call.authorize_and_claim(desk, &mut work).await? {
        return Ok(done);
    }
    let path = visible(work.connection(), desk, call, delegation).await?;
    let found = ceremony::store::find(work.connection(), delegation, id).await?;
    let found = found.ok_or(Refusal::NotFound)?;
    decides(desk, call, leaf(&path)?)?;
    let (state, _) = path.state(call.now);
    if state != State::Active {
        return Err(Refusal::InvalidStateTransition(state).into());
    }
    let (action, at) = match decision {
        ConfirmationDecision::Approve => (Action::CeremonyApproved, (Some(call.now), None)),
        ConfirmationDecision::Deny => (Action::CeremonyDenied, (None, Some(call.now))),
    };
    if !ceremony::store::mark_decided(work.connection(), id, at, call.now).await? {
        return Err(Refusal::CeremonyDecided(found.stage(call.now)).into());
    }
    let mut event = call.event_about(desk, action, &path);
    event.target = Some(found.client_id.clone());
    event.detail = Some(json!({"ceremony": id}));
    let decided = Ceremony { approved_at: at.0, denied_at: at.1, ..found };
    let done = ApiResponse::with(view(&decided, call.now))?;
    call.store_response(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    Ok(done)
}

fn view(one: &Ceremony, now: OffsetDateTime) -> Value {
    json!({
        "id": one.id,
        "state": one.stage(now),
        "delegation_id": one.delegation_id,
        "client_id": one.client_id,
        "scopes": one.scopes,
        "audiences": one.audiences,
        "authorization_details": one.details,
        "capability": one.capability,
        "requested_at": rfc3339(one.requested_at),
        "expires_at": rfc3339(one.expires_at),
        "decided_at": one.approved_at.or(one.denied_at).map(rfc3339),
        "used_at": one.used_at.map(rfc3339),
    })
}
