//! Erasure of a user from the audit log: the pseudonym loses its person, and events lose the personal data beside them.
//! Documents stay, so the log verifies as before. Only operators can erase, because nothing brings a person back.

use serde::Serialize;

use super::request_context::RequestContext;
use super::transaction::{AuditedTransaction, Authorized};
use crate::domain::audit::detail::SessionEnd;
use crate::domain::audit::{self, Event, EventKind};
use crate::domain::baseline;
use crate::domain::console;
use crate::domain::decision;
use crate::domain::person::store::{self, ActiveAuthority, OtherRows};
use crate::domain::principal::Principal;
use crate::domain::refresh_token;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry;
use crate::domain::session;
use crate::platform::fault::Fault;
use crate::services::caller::Caller;

/// The result of an erasure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErasureOutcome {
    Erased(Erasure),
    /// No event names the user, or the user was erased before.
    NotInLog,
    /// Nothing was erased: the next use of this authority would be an event about the user.
    InUse(ActiveAuthority),
}

/// What was erased, and what still names the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Erasure {
    /// The name that the log keeps.
    pub pseudonym: String,
    /// Number of events whose personal data was cleared.
    pub events: i64,
    /// Rows outside the log that have the user's `iss` and `sub`.
    pub remaining: OtherRows,
}

/// Erases a user of a trusted issuer from the log.
///
/// # Errors
/// [`Refusal::InsufficientScope`] for callers other than operators, [`Refusal::DelegatorUnknown`] if no issuer of such a
/// name is or was trusted.
pub async fn erase(ctx: &RequestContext<'_>, who: &Principal) -> Result<ErasureOutcome, Error> {
    if !matches!(ctx.caller, Caller::Operator) {
        return Err(Refusal::InsufficientScope.into());
    }
    // Two erasures of one user: the second one waits here, and finds nothing.
    let mut work = AuditedTransaction::begin_serialized(ctx.pool).await?;
    let Some(person) = store::find_by_sub(work.connection(), Some(&who.iss), &who.sub).await?.pop() else {
        // A mistyped issuer must not pass for an erased user.
        let registry = registry::store::load(ctx.rows, work.connection(), ctx.issuer).await?;
        let known = registry.issuer(&who.iss).is_some();
        return if known { Ok(ErasureOutcome::NotInLog) } else { Err(Refusal::DelegatorUnknown.into()) };
    };
    let pseudonym = person.pseudonym;
    let active = store::active_authority(work.connection(), who, ctx.now).await?;
    if active.is_some() {
        return Ok(ErasureOutcome::InUse(active));
    }
    // Everything that takes long comes before the lock that stops all servers.
    let size = audit::store::head(work.connection()).await?.size();
    let before = audit::store::clear_personal(work.connection(), &pseudonym, 0).await?;
    work.upgrade(Authorized::without_request()).await?;
    let active = store::active_authority(work.connection(), who, ctx.now).await?;
    if active.is_some() {
        return Ok(ErasureOutcome::InUse(active));
    }
    let meanwhile = audit::store::clear_personal(work.connection(), &pseudonym, size).await?;
    if !store::mark_erased(work.connection(), &pseudonym).await? {
        return Err(Fault::new("the person was erased by something other than a server").into());
    }
    let ended = console::store::forget_person(work.connection(), who).await?;
    session::store::forget_person(work.connection(), who).await?;
    baseline::store::forget_person(work.connection(), who).await?;
    decision::forget_person(work.connection(), who).await?;
    refresh_token::store::forget_person(work.connection(), who).await?;
    let cleared = before + meanwhile;
    let remaining = store::other_rows(work.connection(), who).await?;
    let event = Event {
        target: Some(pseudonym.clone()),
        ..ctx.event(EventKind::PrincipalErased { events: cleared })
    };
    let mut events = vec![event];
    // They are about a person without a name.
    let cause = SessionEnd::PersonErased;
    events.extend(ended.into_iter().map(|ended| ctx.event(EventKind::ConsoleSessionEnded { ended, cause })));
    work.commit(&events).await?;
    Ok(ErasureOutcome::Erased(Erasure { pseudonym, events: cleared, remaining }))
}
