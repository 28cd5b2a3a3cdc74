//! Confirmations of single uses, decided by the delegator whose delegation requires them.

use sqlx::PgConnection;
use uuid::Uuid;

use super::approval::{require_console, require_decider};
use super::decisions::{DecidedMatter, record};
use super::shown::ShownRequest;
use super::{leaf, visible};
use crate::domain::audit::{Event, EventKind, Operation};
use crate::domain::ceremony::store::Position;
use crate::domain::ceremony::view::CeremonyView;
use crate::domain::ceremony::{self, Ceremony, CeremonyState};
use crate::domain::decision::{DecisionOutcome, MatterKind};
use crate::domain::delegation::list::Cursor;
use crate::domain::delegation::{DelegationPath, DelegationState};
use crate::domain::refusal::{Error, Refusal};
use crate::services::page::{Page, PageRequest, cut};
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply};

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

/// A confirmation of a delegation that the caller can see.
pub async fn show(ctx: &RequestContext<'_>, ceremony: CeremonyId<'_>) -> Result<CeremonyView, Error> {
    let mut connection = ctx.pool.acquire().await?;
    visible(ctx, &mut connection, ceremony.delegation).await?;
    let found = ceremony::store::find(&mut connection, ceremony.delegation, ceremony.id).await?;
    Ok(CeremonyView::of(&found.ok_or(Refusal::NotFound)?, ctx.now))
}

fn position(text: &str) -> Option<Position> {
    let Cursor { requested_at, id } = Cursor::parse(text)?;
    Some(Position { requested_at, id: Uuid::parse_str(&id).ok()? })
}

/// Decides a pending confirmation. With `shown`, nothing but that is approved.
pub async fn decide(
    ctx: &RequestContext<'_>,
    ceremony: CeremonyId<'_>,
    decision: ConfirmationDecision,
    shown: Option<&ShownRequest>,
) -> Result<Reply<CeremonyView>, Error> {
    let CeremonyId { delegation, id } = ceremony;
    let ceremony = id;
    let (operation, kind) = match decision {
        ConfirmationDecision::Approve => {
            (Operation::ApproveCeremony, EventKind::CeremonyApproved { ceremony })
        }
        ConfirmationDecision::Deny => (Operation::DenyCeremony, EventKind::CeremonyDenied { ceremony }),
    };
    let (approved_at, denied_at, outcome) = match decision {
        ConfirmationDecision::Approve => (Some(ctx.now), None, DecisionOutcome::Approved),
        ConfirmationDecision::Deny => (None, Some(ctx.now), DecisionOutcome::Denied),
    };
    let check = async |connection: &mut PgConnection| {
        let path = visible(ctx, connection, delegation).await?;
        let found = ceremony::store::find_for_update(connection, delegation, id).await?;
        let found = found.ok_or(Refusal::NotFound)?;
        require_decider(ctx, leaf(&path)?)?;
        if decision == ConfirmationDecision::Approve {
            require_console(ctx)?;
        }
        match (path.state(ctx.now).0, found.stage(ctx.now)) {
            (DelegationState::Active, CeremonyState::Pending) => {}
            (DelegationState::Active, stage) => return Err(Refusal::CeremonyDecided(stage).into()),
            (state, _) => return Err(Refusal::InvalidStateTransition(state).into()),
        }
        if let Some(shown) = shown
            && *shown != ShownRequest::of_use(&CeremonyView::of(&found, ctx.now))?
        {
            return Err(Refusal::RequestChanged.into());
        }
        Ok((path, found))
    };
    let change = async |connection: &mut PgConnection, (path, found): (DelegationPath, Ceremony)| {
        let decided = Ceremony { approved_at, denied_at, ..found.clone() };
        if !ceremony::store::mark_decided(connection, &decided, ctx.now).await? {
            return Err(Refusal::CeremonyDecided(found.stage(ctx.now)).into());
        }
        let matter = DecidedMatter {
            delegation: leaf(&path)?,
            ceremony: Some(found.id),
            kind: MatterKind::Use,
            outcome,
            narrowed: Vec::new(),
        };
        record(ctx, connection, matter).await?;
        let event = Event { target: Some(found.client_id.clone()), ..ctx.event_about(kind, &path) };
        Ok(Effect::made(CeremonyView::of(&decided, ctx.now), event))
    };
    ctx.attempt(
        Attempt::on_delegation(operation, delegation),
        ctx.transition(ChangeLock::Shared, check, change),
    )
    .await
}
