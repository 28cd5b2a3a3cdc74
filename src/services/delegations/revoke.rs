//! Revocation of a delegation: one guarded row; all descendants are inactive before the response. The affected
//! delegations and tokens are counted after the commit, without a lock.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::request::check_reason;
use super::{invalid_state_transition, leaf, visible};
use crate::domain::audit::detail::RevocationCause;
use crate::domain::audit::{EventKind, Operation, PersonalText};
use crate::domain::delegation::impact::{Impact, RevocationScope, impact};
use crate::domain::delegation::{self, DelegationPath, DelegationState};
use crate::domain::refusal::{Error, Refusal};
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply};

/// A revoked delegation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    pub id: String,
    pub state: DelegationState,
    /// `None` if they could not be counted.
    pub affected: Option<Affected>,
}

/// What a revocation affected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affected {
    pub delegations: i64,
    pub tokens: i64,
    /// Whether counting stopped at a bound.
    pub at_least: bool,
}

/// Revokes a delegation. Allowed for its delegator, its delegate, its ancestors' principals and administrators.
pub async fn revoke(
    ctx: &RequestContext<'_>,
    id: &str,
    reason: Option<&str>,
) -> Result<Reply<Revocation>, Error> {
    ctx.attempt(Attempt::on_delegation(Operation::RevokeDelegation, id), try_to_revoke(ctx, id, reason)).await
}

async fn try_to_revoke(
    ctx: &RequestContext<'_>,
    id: &str,
    reason: Option<&str>,
) -> Result<Reply<Revocation>, Error> {
    check_reason(reason)?;
    let check = async |connection: &mut PgConnection| {
        let path = visible(ctx, connection, id).await?;
        let facts = &leaf(&path)?.facts;
        // A delegation without uses may still have tokens; a revoked or expired one has none.
        if facts.revoked_at.is_some() || facts.principal_revoked_at.is_some() || facts.expires_at <= ctx.now {
            return Err(Refusal::InvalidStateTransition(path.state(ctx.now).0).into());
        }
        Ok(path)
    };
    let mut was_over = false;
    let change = async |connection: &mut PgConnection, path: DelegationPath| {
        let stored = reason.unwrap_or("revoked");
        if !delegation::transitions::mark_revoked(connection, id, stored, ctx.now).await? {
            return Err(invalid_state_transition(ctx, connection, id).await?);
        }
        was_over = path.is_over(ctx.now);
        let kind = EventKind::DelegationRevoked { cause: RevocationCause::Revoked };
        let mut event = ctx.event_about(kind, &path);
        event.add_text(PersonalText::Reason, reason);
        let value = Revocation { id: id.to_owned(), state: DelegationState::Revoked, affected: None };
        Ok(Effect::made(value, event))
    };
    let mut reply = ctx.transition(ChangeLock::Exclusive, check, change).await?;
    if !reply.replayed {
        // An ancestor had ended before: nothing was left to revoke.
        reply.value.affected = match was_over {
            true => Some(Affected::default()),
            false => count_affected(ctx, &RevocationScope::Delegation(id)).await,
        };
        ctx.update_stored_result(&reply.value).await;
    }
    Ok(reply)
}

/// Counts what a revocation affected. The revocation is effective, so a failed count is not an error.
pub(in crate::services) async fn count_affected(
    ctx: &RequestContext<'_>,
    scope: &RevocationScope<'_>,
) -> Option<Affected> {
    let counting = async {
        let mut connection = ctx.pool.acquire().await?;
        impact(&mut connection, scope, ctx.now).await
    };
    match counting.await {
        Ok(Impact { delegations, tokens, at_least, .. }) => Some(Affected { delegations, tokens, at_least }),
        Err(fault) => {
            tracing::warn!(error = %fault, "what a revocation affected could not be counted");
            None
        }
    }
}
