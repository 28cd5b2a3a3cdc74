//! What waits for a decision, and what was decided: pages of both. Decisions are written with the change that they are about.

use std::collections::HashMap;

use sqlx::PgConnection;
use uuid::Uuid;

use super::queries::views;
use super::shown::ShownDifference;
use crate::domain::ceremony;
use crate::domain::ceremony::view::CeremonyView;
use crate::domain::decision::{
    self, DeciderRole, DecisionOutcome, MatterFilter, MatterKind, PastDecision, RecordedDecision,
};
use crate::domain::delegation::Delegation;
use crate::domain::delegation::list::Cursor;
use crate::domain::delegation::store::{self, UseTimes};
use crate::domain::delegation::view::View;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::{Context as _, Fault};
use crate::services::caller::{Caller, PrivilegedCaller};
use crate::services::page::{Page, PageRequest, cut};
use crate::services::request_context::RequestContext;
use actchain_protocol::random;

/// Whose decisions a list is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatterScope {
    /// Those of the caller.
    Own,
    /// Those of all delegators, for administrators.
    AllDelegators,
}

/// Something that waits for a decision, as shown.
#[derive(Debug, Clone)]
pub struct WaitingView {
    pub kind: MatterKind,
    pub delegation: View,
    /// The use that waits for a confirmation.
    pub one_use: Option<CeremonyView>,
}

/// A decision, as shown.
#[derive(Debug, Clone)]
pub struct DecidedView {
    pub decision: RecordedDecision,
    pub narrowed: Vec<ShownDifference>,
    /// The delegation in its present state.
    pub delegation: View,
    pub used: UseTimes,
}

/// The matter of a delegation that waits.
pub fn matter_of(one: &View) -> MatterKind {
    let new_key = one.ephemeral.as_ref().and_then(|agent| agent.pending_jkt.as_ref());
    MatterKind::of_delegation(one.suspended_at.as_ref(), new_key)
}

/// Restricts a filter to what the caller may see: users to their own.
fn scoped(
    ctx: &RequestContext<'_>,
    scope: MatterScope,
    filter: &MatterFilter,
) -> Result<Option<MatterFilter>, Refusal> {
    let own = ctx.caller.principal(ctx.issuer);
    match (&ctx.caller, scope, own) {
        (Caller::Admin(_) | Caller::Operator, MatterScope::AllDelegators, _) => Ok(Some(filter.clone())),
        (Caller::User(_) | Caller::Admin(_), MatterScope::Own, Some(own)) => {
            Ok(Some(MatterFilter { delegator: Some(own), ..filter.clone() }))
        }
        // An operator delegates nothing.
        (Caller::Admin(_) | Caller::Operator, MatterScope::Own, None) => Ok(None),
        _ => Err(Refusal::InsufficientScope),
    }
}

fn position(page: &PageRequest) -> Result<Option<Cursor>, Refusal> {
    let malformed = Refusal::Malformed("cursor is not from this server");
    page.cursor.as_deref().map(|text| Cursor::parse(text).ok_or(malformed)).transpose()
}

/// A page of what waits for a decision, newest first.
pub async fn waiting(
    ctx: &RequestContext<'_>,
    scope: MatterScope,
    filter: &MatterFilter,
    page: &PageRequest,
) -> Result<Page<WaitingView>, Error> {
    let (limit, after) = (page.limit()?, position(page)?);
    let Some(filter) = scoped(ctx, scope, filter)? else { return Ok(Page::empty()) };
    let mut connection = ctx.pool.acquire().await?;
    let mut found = decision::waiting(&mut connection, &filter, after.as_ref(), limit + 1, ctx.now).await?;
    let next = cut(&mut found, limit).map(|one| one.cursor().to_text());
    let ids: Vec<String> = found.iter().map(|one| one.delegation_id.clone()).collect();
    let shown = by_id(ctx, &mut connection, &ids).await?;
    let mut items = Vec::with_capacity(found.len());
    for one in found {
        let Some(delegation) = shown.get(&one.delegation_id).cloned() else { continue };
        let one_use = match one.ceremony {
            None => None,
            Some(id) => {
                // It may have been decided or deleted meanwhile.
                let found = ceremony::store::find(&mut connection, &one.delegation_id, id).await?;
                let Some(found) = found else { continue };
                Some(CeremonyView::of(&found, ctx.now))
            }
        };
        let kind = if one_use.is_some() { MatterKind::Use } else { matter_of(&delegation) };
        items.push(WaitingView { kind, delegation, one_use });
    }
    Ok(Page { items, next })
}

/// A page of decisions, newest first.
pub async fn decided(
    ctx: &RequestContext<'_>,
    scope: MatterScope,
    filter: &MatterFilter,
    page: &PageRequest,
) -> Result<Page<DecidedView>, Error> {
    let limit = page.limit()?;
    let after = match position(page)? {
        None => None,
        Some(Cursor { requested_at, id }) => {
            let id =
                Uuid::parse_str(&id).map_err(|_| Refusal::Malformed("cursor is not from this server"))?;
            Some(PastDecision { decided_at: requested_at, id })
        }
    };
    let Some(filter) = scoped(ctx, scope, filter)? else { return Ok(Page::empty()) };
    let mut connection = ctx.pool.acquire().await?;
    let mut found = decision::page(&mut connection, &filter, after, limit + 1).await?;
    let next = cut(&mut found, limit)
        .map(|last| Cursor { requested_at: last.decided_at, id: last.id.to_string() }.to_text());
    Ok(Page { items: shown(ctx, &mut connection, found).await?, next })
}

/// The decisions about a delegation, or about one use of it, newest first, if the caller can see them.
pub async fn decisions_about(
    ctx: &RequestContext<'_>,
    id: &str,
    ceremony: Option<Uuid>,
) -> Result<Vec<DecidedView>, Error> {
    const MOST: i64 = 20;
    let mut connection = ctx.pool.acquire().await?;
    let found = decision::find_about(&mut connection, id, ceremony, MOST).await?;
    let all = shown(ctx, &mut connection, found).await?;
    let own = ctx.caller.principal(ctx.issuer);
    let may = |one: &DecidedView| {
        ctx.caller.administers()
            || own.as_ref().is_some_and(|own| *own == one.delegation.root || *own == one.delegation.delegator)
    };
    Ok(all.into_iter().filter(may).collect())
}

async fn shown(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    found: Vec<RecordedDecision>,
) -> Result<Vec<DecidedView>, Error> {
    let ids: Vec<String> = found.iter().map(|one| one.delegation_id.clone()).collect();
    let delegations = by_id(ctx, connection, &ids).await?;
    let used = store::use_times(connection, &ids).await?;
    let mut items = Vec::with_capacity(found.len());
    for decision in found {
        let Some(delegation) = delegations.get(&decision.delegation_id).cloned() else { continue };
        let narrowed = match &decision.narrowed {
            None => Vec::new(),
            Some(value) => serde_json::from_value(value.clone()).context("reading a decision")?,
        };
        let used = used.get(&decision.delegation_id).copied().unwrap_or_default();
        items.push(DecidedView { decision, narrowed, delegation, used });
    }
    Ok(items)
}

async fn by_id(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    ids: &[String],
) -> Result<HashMap<String, View>, Error> {
    let shown = views(ctx, connection, ids).await?;
    Ok(shown.into_iter().map(|one| (one.id.clone(), one)).collect())
}

/// The matter of a decision that is being written.
pub(super) struct DecidedMatter<'a> {
    pub(super) delegation: &'a Delegation,
    pub(super) ceremony: Option<Uuid>,
    pub(super) kind: MatterKind,
    pub(super) outcome: DecisionOutcome,
    pub(super) narrowed: Vec<ShownDifference>,
}

/// Writes a decision by the caller.
pub(super) async fn record(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    matter: DecidedMatter<'_>,
) -> Result<(), Fault> {
    let delegator = &matter.delegation.delegator;
    let by_role = match &ctx.caller {
        caller if caller.is(delegator, ctx.issuer) => DeciderRole::Delegator,
        Caller::Operator | Caller::Admin(PrivilegedCaller::Operator(_)) => DeciderRole::Operator,
        _ => DeciderRole::Administrator,
    };
    let narrowed = match matter.narrowed.is_empty() {
        true => None,
        false => Some(serde_json::to_value(&matter.narrowed).context("writing a decision")?),
    };
    let one = RecordedDecision {
        id: random::id(ctx.now)?,
        delegation_id: matter.delegation.id.clone(),
        ceremony: matter.ceremony,
        kind: matter.kind,
        outcome: matter.outcome,
        delegator: delegator.clone(),
        delegate: matter.delegation.delegate.clone(),
        decided_at: ctx.now,
        by: ctx.caller.principal(ctx.issuer),
        by_role,
        narrowed,
    };
    decision::insert(connection, &one).await
}

/// The matter of a stored delegation that waits.
pub(super) fn matter_of_stored(one: &Delegation) -> MatterKind {
    MatterKind::of_delegation(one.facts.suspended_at.as_ref(), one.facts.key_rotating.then_some(&()))
}
