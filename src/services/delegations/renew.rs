//! Renewal of a delegation: a later expiry, within the expiry of its ancestors.

use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::approval::{require_console, require_decider};
use super::request::after;
use super::{invalid_state_transition, leaf, view_again, visible};
use crate::domain::audit::{EventKind, Operation};
use crate::domain::client;
use crate::domain::delegation::view::{GrantedTtl, View};
use crate::domain::delegation::{self, DelegationPath, DelegationState, Provenance};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::standing_grant;
use crate::platform::clock::rfc3339;
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply};

/// Sets the expiry of an active delegation to `expires_in` seconds from now, or earlier where a limit requires.
pub async fn renew(ctx: &RequestContext<'_>, id: &str, expires_in: u32) -> Result<Reply<View>, Error> {
    let check = async |connection: &mut PgConnection| {
        let path = visible(ctx, connection, id).await?;
        require_decider(ctx, leaf(&path)?)?;
        require_console(ctx)?;
        match path.state(ctx.now).0 {
            DelegationState::Active => Ok(path),
            state => Err(Refusal::InvalidStateTransition(state).into()),
        }
    };
    let change = async |connection: &mut PgConnection, path: DelegationPath| {
        let one = leaf(&path)?;
        // A requested lifetime is an upper bound: a longer one is shortened.
        let asked = after(ctx.now, expires_in);
        let ends = asked.min(latest_end(ctx, connection, &path).await?);
        if ends <= one.facts.expires_at {
            return Err(Refusal::ExpiryNotLater.into());
        }
        let lifetime = if ends < asked { GrantedTtl::Shortened } else { GrantedTtl::AsAsked };
        if !delegation::transitions::mark_renewed(ctx.rows, connection, one, ends, ctx.now).await? {
            return Err(invalid_state_transition(ctx, connection, id).await?);
        }
        let (from, to) = (rfc3339(one.facts.expires_at), rfc3339(ends));
        let event = ctx.event_about(EventKind::DelegationRenewed { from, to }, &path);
        Ok(Effect::made(view_again(ctx, connection, id).await?.with_lifetime(lifetime), event))
    };
    ctx.attempt(
        Attempt::on_delegation(Operation::RenewDelegation, id),
        ctx.transition(ChangeLock::Shared, check, change),
    )
    .await
}

/// The latest expiry that the configuration, the ancestors, the standing grant and the origin of the delegation allow.
async fn latest_end(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    path: &DelegationPath,
) -> Result<OffsetDateTime, Error> {
    let one = leaf(path)?;
    let ancestors = path.0.iter().filter(|ancestor| ancestor.id != one.id);
    let delegate = client::store::find(ctx.rows, connection, &one.delegate).await?;
    let is_ephemeral = delegate.is_some_and(|client| client.ephemeral.is_some());
    let standing_grant = match &one.standing_grant_id {
        Some(id) => standing_grant::store::find(ctx.rows, connection, id).await?,
        None => None,
    };
    let since = one.facts.activated_at.unwrap_or(one.requested_at);
    let limits = [
        ancestors.map(|ancestor| ancestor.facts.expires_at).min(),
        is_ephemeral.then_some(since + Duration::seconds(ctx.config.agents.max_ttl.into())),
        standing_grant.map(|grant| grant.facts.expires_at),
        // A delegation from a `may_act` claim is not renewed.
        (one.origin == Provenance::MayAct).then_some(one.facts.expires_at),
    ];
    let longest = after(ctx.now, ctx.config.delegations.max_ttl);
    Ok(limits.into_iter().flatten().fold(longest, OffsetDateTime::min))
}
