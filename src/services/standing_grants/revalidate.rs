//! Confirmation of the keys of an agent: ends the suspension of a standing grant. The grantor names the keys that were
//! pinned and those that are pinned from now on, so that nothing else is confirmed than what was shown.

use std::collections::BTreeSet;

use serde::Deserialize;
use sqlx::PgConnection;

use super::{
    KeyRegistration, agent, check_key_sets, check_keys, event_about, require_giver, thumbprints, view_again,
    visible,
};
use crate::domain::audit::{EventKind, Operation};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry;
use crate::domain::standing_grant::store::GrantParties;
use crate::domain::standing_grant::transitions::mark_revalidated;
use crate::domain::standing_grant::view::StandingGrantView;
use crate::domain::standing_grant::{StandingGrant, StandingGrantState};
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply};

/// The keys that the grantor has seen.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfirmation {
    /// Thumbprints of the keys that are pinned from now on.
    pub keys: Vec<String>,
    /// Thumbprints of the keys that are pinned at present.
    pub replaces: Vec<String>,
    /// Version of the agent's registration that the grantor has seen.
    pub client_version: Option<i64>,
}

/// Pins the confirmed keys. Allowed for the grantor, and for administrators where they may create standing grants.
pub async fn revalidate(
    ctx: &RequestContext<'_>,
    id: &str,
    confirmation: &KeyConfirmation,
) -> Result<Reply<StandingGrantView>, Error> {
    let attempt = Attempt::on_standing_grant(Operation::RevalidateStandingGrant, id);
    ctx.attempt(attempt, try_to_revalidate(ctx, id, confirmation)).await
}

async fn try_to_revalidate(
    ctx: &RequestContext<'_>,
    id: &str,
    confirmation: &KeyConfirmation,
) -> Result<Reply<StandingGrantView>, Error> {
    let (keys, replaces) = (thumbprints(&confirmation.keys)?, thumbprints(&confirmation.replaces)?);
    let check = async |connection: &mut PgConnection| {
        let one = visible(ctx, connection, id).await?;
        let registry = registry::store::load(ctx.rows, connection, ctx.issuer).await?;
        require_giver(ctx, &registry, &one.grantor)?;
        match one.state(ctx.now) {
            StandingGrantState::Suspended => {}
            state => return Err(Refusal::InvalidGrantTransition(state).into()),
        }
        if one.keys != replaces {
            return Err(Refusal::RequestChanged.into());
        }
        let agent = agent(ctx, connection, &one.client_id).await?;
        let registered = KeyRegistration::of(connection, &agent).await?;
        // A second change during the suspension was not shown.
        if confirmation.client_version.is_some_and(|seen| seen != registered.version) {
            return Err(Refusal::RequestChanged.into());
        }
        check_keys(&agent, &registered.keys, &keys)?;
        let parties = GrantParties { grantor: &one.grantor, client_id: &one.client_id };
        check_key_sets(ctx, connection, parties, Some(&one.id), &keys).await?;
        Ok(one)
    };
    let change = async |connection: &mut PgConnection, one: StandingGrant| {
        if !mark_revalidated(ctx.rows, connection, &one, &keys, ctx.now).await? {
            return Err(Refusal::RequestChanged.into());
        }
        let (old, new): (BTreeSet<String>, BTreeSet<String>) = (one.keys.clone(), keys.clone());
        let event = event_about(ctx, EventKind::StandingGrantRevalidated { old, new }, &one);
        Ok(Effect::made(view_again(ctx, connection, id).await?, event))
    };
    // Status lists of the old epoch say that the tokens are suspended.
    ctx.transition(ChangeLock::Exclusive, check, change).await
}
