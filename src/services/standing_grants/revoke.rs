//! Revocation of a standing grant: one guarded row; all delegations that became active under it, and their descendants, are
//! inactive before the response.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::{event_about, visible};
use crate::domain::audit::{EventKind, Operation};
use crate::domain::delegation::impact::{BOUND, RevocationScope};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::standing_grant::store::delegations_of;
use crate::domain::standing_grant::transitions::mark_revoked;
use crate::domain::standing_grant::{StandingGrant, StandingGrantState};
use crate::services::delegations::{Affected, count_affected};
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply};

/// A revoked standing grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingGrantRevocation {
    pub id: String,
    pub state: StandingGrantState,
    /// `None` if they could not be counted.
    pub affected: Option<Affected>,
}

/// Revokes a standing grant. Allowed for its grantor, administrators and operators.
pub async fn revoke(ctx: &RequestContext<'_>, id: &str) -> Result<Reply<StandingGrantRevocation>, Error> {
    let attempt = Attempt::on_standing_grant(Operation::RevokeStandingGrant, id);
    ctx.attempt(attempt, try_to_revoke(ctx, id)).await
}

async fn try_to_revoke(ctx: &RequestContext<'_>, id: &str) -> Result<Reply<StandingGrantRevocation>, Error> {
    let check = async |connection: &mut PgConnection| {
        let one = visible(ctx, connection, id).await?;
        match one.state(ctx.now) {
            StandingGrantState::Active | StandingGrantState::Suspended => Ok(one),
            state => Err(Refusal::InvalidGrantTransition(state).into()),
        }
    };
    let mut roots = Vec::new();
    let change = async |connection: &mut PgConnection, one: StandingGrant| {
        roots = delegations_of(connection, id, BOUND + 1, ctx.now).await?;
        if !mark_revoked(connection, id, ctx.now).await? {
            let state = visible(ctx, connection, id).await?.state(ctx.now);
            return Err(Refusal::InvalidGrantTransition(state).into());
        }
        let event = event_about(ctx, EventKind::StandingGrantRevoked, &one);
        let value =
            StandingGrantRevocation { id: id.to_owned(), state: StandingGrantState::Revoked, affected: None };
        Ok(Effect::made(value, event))
    };
    let mut reply = ctx.transition(ChangeLock::Exclusive, check, change).await?;
    if !reply.replayed {
        reply.value.affected = count_affected(ctx, &RevocationScope::Delegations(&roots)).await;
        ctx.update_stored_result(&reply.value).await;
    }
    Ok(reply)
}
