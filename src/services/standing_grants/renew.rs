//! Renewal of a standing grant: a later expiry, within the longest time that the configuration allows.

use sqlx::PgConnection;

use super::{event_about, require_giver, view_again, visible};
use crate::domain::audit::{EventKind, Operation};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry;
use crate::domain::standing_grant::transitions::mark_renewed;
use crate::domain::standing_grant::view::StandingGrantView;
use crate::domain::standing_grant::{StandingGrant, StandingGrantState};
use crate::platform::clock::rfc3339;
use crate::services::delegations::after;
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply};

/// Sets the expiry of an active standing grant to `expires_in` seconds from now, or to the latest that is allowed.
pub async fn renew(
    ctx: &RequestContext<'_>,
    id: &str,
    expires_in: u32,
) -> Result<Reply<StandingGrantView>, Error> {
    let check = async |connection: &mut PgConnection| {
        let one = visible(ctx, connection, id).await?;
        let registry = registry::store::load(ctx.rows, connection, ctx.issuer).await?;
        require_giver(ctx, &registry, &one.grantor)?;
        match one.state(ctx.now) {
            StandingGrantState::Active => Ok(one),
            state => Err(Refusal::InvalidGrantTransition(state).into()),
        }
    };
    let change = async |connection: &mut PgConnection, one: StandingGrant| {
        // A requested lifetime is an upper bound: a longer one is shortened.
        let seconds = expires_in.min(ctx.config.standing_grants.max_ttl);
        let ends = after(ctx.now, seconds);
        if ends <= one.facts.expires_at {
            return Err(Refusal::ExpiryNotLater.into());
        }
        if !mark_renewed(ctx.rows, connection, &one, ends, ctx.now).await? {
            let state = visible(ctx, connection, id).await?.state(ctx.now);
            return Err(Refusal::InvalidGrantTransition(state).into());
        }
        let (from, to) = (rfc3339(one.facts.expires_at), rfc3339(ends));
        let event = event_about(ctx, EventKind::StandingGrantRenewed { from, to }, &one);
        let shortened = (seconds < expires_in).then_some(true);
        let value = StandingGrantView { shortened, ..view_again(ctx, connection, id).await? };
        Ok(Effect::made(value, event))
    };
    let attempt = Attempt::on_standing_grant(Operation::RenewStandingGrant, id);
    ctx.attempt(attempt, ctx.transition(ChangeLock::Shared, check, change)).await
}
