//! Confirmations of single uses, decided by the delegator whose delegation requires them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::approval::{require_console, require_decider};
use super::{leaf, visible};
use crate::domain::audit::{Event, EventKind, Operation};
use crate::domain::ceremony::store::Position;
use crate::domain::ceremony::{self, Ceremony, CeremonyState};
use crate::domain::delegation::list::Cursor;
use crate::domain::delegation::{DelegationPath, DelegationState};
use crate::domain::refusal::{Error, Refusal};
use crate::platform::clock::rfc3339;
use crate::services::page::{Page, PageRequest, cut};
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply};
use actchain_protocol::authorization_details::Details;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfirmationDecision {
    Approve,
    Deny,
}

/// A confirmation, by its id and the id of its delegation.
#[derive(Debug, Clone, Copy)]
pub struct CeremonyId<'a> {
    pub delegation: &'a str,
    pub id: Uuid,
}

/// A confirmation as shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CeremonyView {
    pub id: Uuid,
    pub state: CeremonyState,
    pub delegation_id: String,
    pub client_id: String,
    pub scopes: BTreeSet<String>,
    pub audiences: BTreeSet<String>,
    pub authorization_details: Option<Details>,
    pub capability: Option<String>,
    pub requested_at: String,
    pub expires_at: String,
    pub decided_at: Option<String>,
    pub used_at: Option<String>,
}

impl CeremonyView {
    fn of(one: &Ceremony, now: OffsetDateTime) -> Self {
        Self {
            id: one.id,
            state: one.stage(now),
            delegation_id: one.delegation_id.clone(),
            client_id: one.client_id.clone(),
            scopes: one.scopes.clone(),
            audiences: one.audiences.clone(),
            authorization_details: one.details.clone(),
            capability: one.capability.clone(),
            requested_at: rfc3339(one.requested_at),
            expires_at: rfc3339(one.expires_at),
            decided_at: one.approved_at.or(one.denied_at).map(rfc3339),
            used_at: one.used_at.map(rfc3339),
        }
    }
}

/// A page of the confirmations of a delegation, newest first.
pub async fn list(
    ctx: &RequestContext<'_>,
    id: &str,
    page: &PageRequest,
) -> Result<Page<CeremonyView>, Error> {
    let limit = page.limit()?;
    let after = match page.cursor.as_deref() {
        None => None,
        Some(text) => Some(position(text).ok_or(Refusal::Malformed("cursor is not from this server"))?),
    };
    let mut connection = ctx.pool.acquire().await?;
    visible(ctx, &mut connection, id).await?;
    let mut found = ceremony::store::list(&mut connection, id, after.as_ref(), limit + 1).await?;
    let last = cut(&mut found, limit);
    let next = last.map(|one| Cursor { requested_at: one.requested_at, id: one.id.to_string() }.to_text());
    Ok(Page { items: found.iter().map(|one| CeremonyView::of(one, ctx.now)).collect(), next })
}

fn position(text: &str) -> Option<Position> {
    let Cursor { requested_at, id } = Cursor::parse(text)?;
    Some(Position { requested_at, id: Uuid::parse_str(&id).ok()? })
}

/// Decides a pending confirmation.
pub async fn decide(
    ctx: &RequestContext<'_>,
    ceremony: CeremonyId<'_>,
    decision: ConfirmationDecision,
) -> Result<Reply<CeremonyView>, Error> {
    let CeremonyId { delegation, id } = ceremony;
    let ceremony = id;
    let (operation, kind) = match decision {
        ConfirmationDecision::Approve => {
            (Operation::ApproveCeremony, EventKind::CeremonyApproved { ceremony })
        }
        ConfirmationDecision::Deny => (Operation::DenyCeremony, EventKind::CeremonyDenied { ceremony }),
    };
    let (approved_at, denied_at) = match decision {
        ConfirmationDecision::Approve => (Some(ctx.now), None),
        ConfirmationDecision::Deny => (None, Some(ctx.now)),
    };
    let check = async |connection: &mut PgConnection| {
        let path = visible(ctx, connection, delegation).await?;
        let found = ceremony::store::find(connection, delegation, id).await?;
        let found = found.ok_or(Refusal::NotFound)?;
        require_decider(ctx, leaf(&path)?)?;
        if decision == ConfirmationDecision::Approve {
            require_console(ctx)?;
        }
        match path.state(ctx.now).0 {
            DelegationState::Active => Ok((path, found)),
            state => Err(Refusal::InvalidStateTransition(state).into()),
        }
    };
    let change = async |connection: &mut PgConnection, (path, found): (DelegationPath, Ceremony)| {
        let decided = Ceremony { approved_at, denied_at, ..found.clone() };
        if !ceremony::store::mark_decided(connection, &decided, ctx.now).await? {
            return Err(Refusal::CeremonyDecided(found.stage(ctx.now)).into());
        }
        let event = Event { target: Some(found.client_id.clone()), ..ctx.event_about(kind, &path) };
        Ok(Effect::made(CeremonyView::of(&decided, ctx.now), event))
    };
    ctx.attempt(
        Attempt::on_delegation(operation, delegation),
        ctx.transition(ChangeLock::Shared, check, change),
    )
    .await
}
