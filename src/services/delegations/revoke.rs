//! Revocation of a delegation: one guarded row; all descendants are inactive before the response. The affected
//! delegations and tokens are counted after the commit, without a lock.

use serde_json::json;
use sqlx::PgConnection;

use super::request::check_reason;
use super::{invalid_state_transition, leaf, visible};
use crate::domain::audit::Action;
use crate::domain::delegation::impact::{Impact, RevocationScope, impact};
use crate::domain::delegation::{self, State};
use crate::domain::refusal::{Error, Refusal};
use crate::services::request_context::{
    ApiResponse, AuditTarget, Call, Desk, Entry, record_delegation_refusal,
};

/// Revokes a delegation. Allowed for its delegator, its delegate, its ancestors' principals and administrators.
pub async fn revoke(
    desk: &Desk<'_>,
    call: &Call,
    id: &str,
    reason: Option<&str>,
) -> Result<ApiResponse, Error> {
    let result = try_to(desk, call, id, reason).await;
    record_delegation_refusal(desk, call, ("revoke", AuditTarget::Delegation(id)), result).await
}

async fn try_to(desk: &Desk<'_>, call: &Call, id: &str, reason: Option<&str>) -> Result<ApiResponse, Error> {
    check_reason(reason)?;
    let check = async |connection: &mut PgConnection| {
        let path = visible(connection, desk, call, id).await?;
        let facts = &leaf(&path)?.facts;
        // What is used up may still have tokens; what was revoked, cut off or has expired stays so.
        if facts.revoked_at.is_some() || facts.principal_revoked_at.is_some() || facts.expires_at <= call.now
        {
            return Err(Refusal::InvalidStateTransition(path.state(call.now).0).into());
        }
        Ok(path)
    };
    let (mut work, path) = match call.begin_exclusive(desk, check).await? {
        Entry::Before(done) => return Ok(done),
        Entry::Now(work, path) => (work, path),
    };
    let said = reason.unwrap_or("revoked");
    if !delegation::transitions::mark_revoked(work.connection(), id, said, call.now).await? {
        return Err(invalid_state_transition(desk.rows, work.connection(), id, call.now).await?);
    }
    let mut event = call.event_about(desk, Action::DelegationRevoked, &path);
    event.detail = Some(json!({"reason": said}));
    let mut done = ApiResponse::with(json!({"id": id, "state": State::Revoked, "affected": null}))?;
    call.store_response(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    // What had ended before, for what is above it, is not reached again.
    let affected = match path.is_over(call.now) {
        false => counted(desk, &RevocationScope::Delegation(id), call).await,
        true => Some(json!({"delegations": 0, "tokens": 0, "at_least": false})),
    };
    done.body = json!({"id": id, "state": State::Revoked, "affected": affected});
    if let Err(fault) = call.update_stored_response(desk, &done).await {
        tracing::warn!(error = %fault, "a count was not kept");
    }
    Ok(done)
}

/// Counts what a revocation affected. The revocation is effective, so a failed count is not an error.
pub(in crate::services) async fn counted(
    desk: &Desk<'_>,
    ending: &RevocationScope<'_>,
    call: &Call,
) -> Option<serde_json::Value> {
    let counting = async {
        let mut connection = desk.pool.acquire().await?;
        impact(&mut connection, ending, call.now).await
    };
    match counting.await {
        Ok(Impact { delegations, tokens, at_least, .. }) => {
            Some(json!({"delegations": delegations, "tokens": tokens, "at_least": at_least}))
        }
        Err(fault) => {
            tracing::warn!(error = %fault, "what an end affected could not be counted");
            None
        }
    }
}
