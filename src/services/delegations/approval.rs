//! Approves (perhaps with narrower limits) or denies a pending delegation. Of two concurrent decisions one succeeds.

use serde_json::json;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::decisions::{DecidedMatter, matter_of_stored, record};
use super::request::{Approval, after, check_reason};
use super::shown::ShownRequest;
use super::{invalid_state_transition, leaf, view, view_again, visible};
use crate::domain::audit::detail::RevocationCause;
use crate::domain::audit::{EventKind, Operation, PersonalText};
use crate::domain::client::changes::ClientKeys;
use crate::domain::client::{self, Client};
use crate::domain::decision::{DecisionOutcome, MatterKind};
use crate::domain::delegation::view::{GrantedTtl, View};
use crate::domain::delegation::{self, Delegation, DelegationPath, DelegationRecord, DelegationState};
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry;
use crate::platform::config::DecisionPlace;
use crate::platform::fault::Fault;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply};

/// Approves a pending delegation, or the pending key of its ephemeral agent. With `shown`, nothing but that is approved.
pub async fn approve(
    ctx: &RequestContext<'_>,
    id: &str,
    approval: &Approval,
    shown: Option<&ShownRequest>,
) -> Result<Reply<View>, Error> {
    let work = try_to_approve(ctx, id, approval, shown);
    ctx.attempt(Attempt::on_delegation(Operation::ApproveDelegation, id), work).await
}

/// Denies a pending delegation, which is then revoked.
pub async fn deny(ctx: &RequestContext<'_>, id: &str, reason: Option<&str>) -> Result<Reply<View>, Error> {
    ctx.attempt(Attempt::on_delegation(Operation::DenyDelegation, id), try_to_deny(ctx, id, reason)).await
}

/// Refuses callers other than the delegator, operators with a shell, and administrators where they may decide.
pub(super) fn require_decider(ctx: &RequestContext<'_>, one: &Delegation) -> Result<(), Refusal> {
    if may_decide(ctx, &one.delegator) { Ok(()) } else { Err(Refusal::InsufficientScope) }
}

/// Whether the caller decides about delegations of this delegator.
pub fn may_decide(ctx: &RequestContext<'_>, delegator: &Principal) -> bool {
    may_decide_for_users(ctx) || ctx.caller.is(delegator, ctx.issuer)
}

/// Whether the caller decides in place of any user.
pub fn may_decide_for_users(ctx: &RequestContext<'_>) -> bool {
    match &ctx.caller {
        Caller::Operator => true,
        Caller::Admin(_) => ctx.config.delegations.admins_decide,
        Caller::User(_) | Caller::Agent(_) | Caller::Auditor(_) => false,
    }
}

/// Refuses a token of a user where what gives authority is decided in the console: an agent can have the token of its user.
pub(in crate::services) fn require_console(ctx: &RequestContext<'_>) -> Result<(), Refusal> {
    let in_console = ctx.config.delegations.decide_in == DecisionPlace::Console;
    match &ctx.caller {
        Caller::User(user) if in_console && user.session.is_none() => Err(Refusal::ConsoleRequired),
        _ => Ok(()),
    }
}

/// The path of a delegation that waits for a decision by this caller. Its row is locked until the transaction ends.
async fn find_pending(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    id: &str,
) -> Result<DelegationPath, Error> {
    let path = visible(ctx, connection, id).await?;
    require_decider(ctx, leaf(&path)?)?;
    delegation::store::lock(connection, id).await?;
    let path = visible(ctx, connection, id).await?;
    match path.state(ctx.now).0 {
        DelegationState::Requested => Ok(path),
        state => Err(Refusal::InvalidStateTransition(state).into()),
    }
}

/// Refuses a decision about something else than what was shown.
async fn require_shown(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    path: &DelegationPath,
    shown: Option<&ShownRequest>,
) -> Result<(), Error> {
    let Some(shown) = shown else { return Ok(()) };
    let present = ShownRequest::of_delegation(&view(ctx, connection, path).await?)?;
    if *shown == present { Ok(()) } else { Err(Refusal::RequestChanged.into()) }
}

async fn try_to_approve(
    ctx: &RequestContext<'_>,
    id: &str,
    approval: &Approval,
    shown: Option<&ShownRequest>,
) -> Result<Reply<View>, Error> {
    approval.approved_terms(ctx.capability_levels)?;
    let mut connection = ctx.pool.acquire().await?;
    let path = visible(ctx, &mut connection, id).await?;
    drop(connection);
    require_decider(ctx, leaf(&path)?)?;
    require_console(ctx)?;
    if leaf(&path)?.facts.suspended_at.is_some() {
        return resume(ctx, id, approval, shown).await;
    }
    let key_rotating = leaf(&path)?.facts.key_rotating;
    let check = async |connection: &mut PgConnection| {
        let path = find_pending(ctx, connection, id).await?;
        require_shown(ctx, connection, &path, shown).await?;
        if leaf(&path)?.facts.key_rotating != key_rotating {
            return Err(Refusal::InvalidStateTransition(path.state(ctx.now).0).into());
        }
        Ok(path)
    };
    // A new key replaces the old key: no server may record anything under the old key during the change.
    let lock = if key_rotating { ChangeLock::Exclusive } else { ChangeLock::Shared };
    let change = async |connection: &mut PgConnection, path: DelegationPath| {
        let requested = leaf(&path)?;
        let (approved, ttl) = approved(ctx, connection, approval, requested).await?;
        let delegate = client::store::find(ctx.rows, connection, &requested.delegate).await?;
        let delegate = delegate.ok_or_else(|| Fault::new("a delegation without its agent"))?;
        if delegate.is_inactive() {
            return Err(Refusal::DelegateDisabled.into());
        }
        let jkt = match key_rotating {
            true => Some(confirm_key(ctx, connection, requested).await?),
            false => key_of(&delegate, requested)?,
        };
        if !delegation::transitions::mark_approved(ctx.rows, connection, requested, &approved, ctx.now)
            .await?
        {
            return Err(invalid_state_transition(ctx, connection, id).await?);
        }
        let granted = approval.expires_in.or(requested.requested_ttl);
        let narrowed = ShownRequest::of_limits(requested, requested.requested_ttl)?
            .differences(&ShownRequest::of_limits(&approved, granted)?);
        let matter = DecidedMatter {
            delegation: requested,
            ceremony: None,
            kind: matter_of_stored(requested),
            outcome: DecisionOutcome::Approved,
            narrowed,
        };
        record(ctx, connection, matter).await?;
        let terms = approved.recorded_terms();
        let kind = EventKind::DelegationActivated { terms, new_key: key_rotating, jkt };
        let event = ctx.event_about(kind, &path);
        Ok(Effect::made(view_again(ctx, connection, id).await?.with_lifetime(ttl), event))
    };
    ctx.transition(lock, check, change).await
}

/// Ends the suspension of a delegation. Its limits stay.
async fn resume(
    ctx: &RequestContext<'_>,
    id: &str,
    approval: &Approval,
    shown: Option<&ShownRequest>,
) -> Result<Reply<View>, Error> {
    if !approval.is_empty() {
        return Err(Refusal::Malformed("The approval of a suspended delegation cannot have changes").into());
    }
    let check = async |connection: &mut PgConnection| {
        let path = find_pending(ctx, connection, id).await?;
        require_shown(ctx, connection, &path, shown).await?;
        Ok(path)
    };
    let change = async |connection: &mut PgConnection, path: DelegationPath| {
        if !delegation::transitions::mark_resumed(connection, id, ctx.now).await? {
            return Err(invalid_state_transition(ctx, connection, id).await?);
        }
        let matter = DecidedMatter {
            delegation: leaf(&path)?,
            ceremony: None,
            kind: MatterKind::Review,
            outcome: DecisionOutcome::Approved,
            narrowed: Vec::new(),
        };
        record(ctx, connection, matter).await?;
        let event = ctx.event_about(EventKind::DelegationResumed, &path);
        Ok(Effect::made(view_again(ctx, connection, id).await?, event))
    };
    // Status lists of the old epoch say that the tokens are suspended.
    ctx.transition(ChangeLock::Exclusive, check, change).await
}

/// The delegation with the approved limits and expiry.
async fn approved(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    approval: &Approval,
    requested: &Delegation,
) -> Result<(Delegation, GrantedTtl), Error> {
    let registry = registry::store::load(ctx.rows, connection, ctx.issuer).await?;
    approval.check_declared(&registry, ctx.capability_levels)?;
    let (terms, max_uses) = approval
        .approved_terms(ctx.capability_levels)?
        .of(&requested.terms, requested.facts.max_uses, ctx.capability_levels)
        .map_err(Refusal::ExceedsParent)?;
    let (expires_at, ttl) = match requested.facts.key_rotating {
        false => approved_end(ctx, approval, requested)?,
        true if approval.is_empty() => (requested.facts.expires_at, GrantedTtl::AsAsked),
        true => {
            return Err(Refusal::Malformed("The approval of a new key cannot have other changes").into());
        }
    };
    // A key rotation keeps the original activation time.
    let activated_at = requested.facts.activated_at.or(Some(ctx.now));
    let facts = DelegationRecord { activated_at, expires_at, max_uses, ..requested.facts.clone() };
    Ok((Delegation { terms, facts, ..requested.clone() }, ttl))
}

/// When an approved delegation ends: after the requested lifetime, or earlier.
fn approved_end(
    ctx: &RequestContext<'_>,
    approval: &Approval,
    requested: &Delegation,
) -> Result<(OffsetDateTime, GrantedTtl), Fault> {
    let asked =
        requested.requested_ttl.ok_or_else(|| Fault::new("a request that does not say for how long"))?;
    let ttl = approval.expires_in.unwrap_or(asked);
    // The configured maximum may be lower than at the request.
    let longest = asked.min(ctx.config.delegations.max_ttl);
    let granted = if ttl > longest { GrantedTtl::Shortened } else { GrantedTtl::AsAsked };
    Ok((after(ctx.now, ttl.min(longest)), granted))
}

/// Makes the pending key the agent's only key, unless the key was removed from a client meanwhile. Returns its
/// thumbprint.
async fn confirm_key(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    one: &Delegation,
) -> Result<String, Error> {
    let jwk = one.pending_jwk.as_ref().ok_or_else(|| Fault::new("no key waits"))?;
    let members = jwk.as_object().ok_or_else(|| Fault::new("a key that is no object"))?;
    let jkt = super::request::public_key(members)?.thumbprint().to_owned();
    if client::store::is_removed_key(connection, &jkt).await? {
        return Err(Refusal::KeyNotReusable.into());
    }
    let jwks = json!({"keys": [jwk]});
    let keys = ClientKeys { jwks: Some(&jwks), dpop_keys: std::slice::from_ref(&jkt) };
    client::changes::put_keys(ctx.rows, connection, &one.delegate, keys, ctx.now).await?;
    Ok(jkt)
}

/// The key of an ephemeral agent of this delegation. An agent whose key was removed has no key to approve.
fn key_of(delegate: &Client, one: &Delegation) -> Result<Option<String>, Refusal> {
    let made_for_it = delegate.ephemeral.as_ref().is_some_and(|agent| agent.delegation_id == one.id);
    if !made_for_it {
        return Ok(None);
    }
    let usable = delegate.dpop_keys.iter().find(|jkt| delegate.may_use_key(jkt));
    usable.cloned().map(Some).ok_or(Refusal::KeyNotReusable)
}

async fn try_to_deny(ctx: &RequestContext<'_>, id: &str, reason: Option<&str>) -> Result<Reply<View>, Error> {
    check_reason(reason)?;
    let check = async |connection: &mut PgConnection| find_pending(ctx, connection, id).await;
    let change = async |connection: &mut PgConnection, path: DelegationPath| {
        let stored = reason.unwrap_or("denied");
        if !delegation::transitions::mark_denied(connection, id, stored, ctx.now).await? {
            return Err(invalid_state_transition(ctx, connection, id).await?);
        }
        let matter = DecidedMatter {
            delegation: leaf(&path)?,
            ceremony: None,
            kind: matter_of_stored(leaf(&path)?),
            outcome: DecisionOutcome::Denied,
            narrowed: Vec::new(),
        };
        record(ctx, connection, matter).await?;
        let kind = EventKind::DelegationRevoked { cause: RevocationCause::Denied };
        let mut event = ctx.event_about(kind, &path);
        event.add_text(PersonalText::Reason, reason);
        Ok(Effect::made(view_again(ctx, connection, id).await?, event))
    };
    ctx.transition(ChangeLock::Exclusive, check, change).await
}
