//! Approves (perhaps with narrower limits) or denies a pending delegation. Of two concurrent decisions one succeeds.

use serde_json::json;
use sqlx::PgConnection;

use super::request::{Approval, after, check_reason};
use super::{invalid_state_transition, leaf, view_again, visible};
use crate::domain::audit::Action;
use crate::domain::client::{self, Client};
use crate::domain::delegation::{self, Delegation, DelegationPath, DelegationRecord, GrantedTtl, State};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry;
use crate::platform::fault::Fault;
use crate::services::request_context::{
    ApiResponse, AuditTarget, Call, Desk, Entry, record_delegation_refusal,
};
use crate::services::transaction::AuditedTransaction;

/// Approves a pending delegation, or the pending key of its ephemeral agent.
pub async fn approve(
    desk: &Desk<'_>,
    call: &Call,
    id: &str,
    approval: &Approval,
) -> Result<ApiResponse, Error> {
    let result = try_to_approve(desk, call, id, approval).await;
    record_delegation_refusal(desk, call, ("approve", AuditTarget::Delegation(id)), result).await
}

/// Denies a pending delegation, which is then revoked.
pub async fn deny(
    desk: &Desk<'_>,
    call: &Call,
    id: &str,
    reason: Option<&str>,
) -> Result<ApiResponse, Error> {
    let result = try_to_deny(desk, call, id, reason).await;
    record_delegation_refusal(desk, call, ("deny", AuditTarget::Delegation(id)), result).await
}

/// Only the delegator, identified by its token, or an administrator can decide.
pub(super) fn decides(desk: &Desk<'_>, call: &Call, one: &Delegation) -> Result<(), Refusal> {
    let delegator = call.caller.is(&one.delegator, desk.issuer);
    if delegator || call.caller.administers() { Ok(()) } else { Err(Refusal::InsufficientScope) }
}

/// The path of a delegation that waits for a decision by this caller.
async fn waiting(
    connection: &mut PgConnection,
    desk: &Desk<'_>,
    call: &Call,
    id: &str,
) -> Result<DelegationPath, Error> {
    let path = visible(connection, desk, call, id).await?;
    decides(desk, call, leaf(&path)?)?;
    match path.state(call.now).0 {
        State::Requested => Ok(path),
        state => Err(Refusal::InvalidStateTransition(state).into()),
    }
}

async fn try_to_approve(
    desk: &Desk<'_>,
    call: &Call,
    id: &str,
    approval: &Approval,
) -> Result<ApiResponse, Error> {
    let approved = approval.approved_terms(desk.capability_levels)?;
    let mut connection = desk.pool.acquire().await?;
    let path = visible(&mut connection, desk, call, id).await?;
    drop(connection);
    decides(desk, call, leaf(&path)?)?;
    let key_rotating = leaf(&path)?.facts.key_rotating;
    let check = async |connection: &mut PgConnection| {
        let path = waiting(connection, desk, call, id).await?;
        if leaf(&path)?.facts.key_rotating != key_rotating {
            return Err(Refusal::InvalidStateTransition(path.state(call.now).0).into());
        }
        Ok(path)
    };
    // A new key takes the place of an old one: nothing may be recorded on the old one meanwhile.
    let entered = match key_rotating {
        true => call.begin_exclusive(desk, check).await?,
        false => {
            let mut work = AuditedTransaction::begin(desk.pool).await?;
            match call.authorize_and_claim(desk, &mut work).await? {
                Some(done) => Entry::Before(done),
                None => {
                    let path = check(work.connection()).await?;
                    Entry::Now(work, path)
                }
            }
        }
    };
    let (mut work, path) = match entered {
        Entry::Before(done) => return Ok(done),
        Entry::Now(work, path) => (work, path),
    };
    let asked = leaf(&path)?;
    let registry = registry::store::load(desk.rows, work.connection(), desk.issuer).await?;
    approval.check_declared(&registry, desk.capability_levels)?;
    let (terms, max_uses) = approved
        .of((&asked.terms, asked.facts.max_uses), desk.capability_levels)
        .map_err(Refusal::ExceedsParent)?;
    let (expires_at, lifetime) = match key_rotating {
        true => (asked.facts.expires_at, GrantedTtl::AsAsked),
        false => ends(desk, call, approval, &path)?,
    };
    if key_rotating && !approval.is_empty() {
        return Err(Refusal::Malformed("A new key is confirmed as it is, without other changes").into());
    }
    let delegate = client::store::find(desk.rows, work.connection(), &asked.delegate).await?;
    let delegate = delegate.ok_or_else(|| Fault::new("a delegation without its agent"))?;
    if delegate.is_inactive() {
        return Err(Refusal::DelegateDisabled.into());
    }
    let jkt = match key_rotating {
        true => Some(confirm_key(desk, &mut work, call, asked).await?),
        false => key_of(&delegate, asked)?,
    };
    // A key rotation keeps the original activation time.
    let activated_at = asked.facts.activated_at.or(Some(call.now));
    let facts = DelegationRecord { activated_at, expires_at, max_uses, ..asked.facts.clone() };
    let approved = Delegation { terms, facts, ..asked.clone() };
    if !delegation::transitions::mark_approved(desk.rows, work.connection(), asked, &approved, call.now)
        .await?
    {
        return Err(invalid_state_transition(desk.rows, work.connection(), id, call.now).await?);
    }
    let mut event = call.event_about(desk, Action::DelegationActivated, &path);
    let mut detail = approved.recorded_terms();
    detail.insert("new_key".to_owned(), key_rotating.into());
    detail.insert("jkt".to_owned(), json!(jkt));
    event.detail = Some(detail.into());
    let view = view_again(desk.rows, work.connection(), id, call.now).await?.with_lifetime(lifetime);
    let done = ApiResponse::with(view)?;
    call.store_response(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    Ok(done)
}

/// When an approved delegation ends: as long as was asked for, or shorter.
fn ends(
    desk: &Desk<'_>,
    call: &Call,
    approval: &Approval,
    path: &DelegationPath,
) -> Result<(time::OffsetDateTime, GrantedTtl), Fault> {
    let asked =
        leaf(path)?.requested_ttl.ok_or_else(|| Fault::new("a request that does not say for how long"))?;
    let given = approval.expires_in.unwrap_or(asked);
    // The configured maximum may be lower than at the request.
    let longest = asked.min(desk.config.delegations.max_ttl);
    let lifetime = if given > longest { GrantedTtl::Shortened } else { GrantedTtl::AsAsked };
    Ok((after(call.now, given.min(longest)), lifetime))
}

/// Makes the pending key the agent's only key, unless the key was removed from a client meanwhile. Returns its
/// thumbprint.
async fn confirm_key(
    desk: &Desk<'_>,
    work: &mut AuditedTransaction,
    call: &Call,
    one: &Delegation,
) -> Result<String, Error> {
    let jwk = one.pending_jwk.as_ref().ok_or_else(|| Fault::new("no key waits"))?;
    let members = jwk.as_object().ok_or_else(|| Fault::new("a key that is no object"))?;
    let jkt = super::request::public_key(members)?.thumbprint().to_owned();
    if client::store::is_removed_key(work.connection(), &jkt).await? {
        return Err(Refusal::KeyNotReusable.into());
    }
    let jwks = json!({"keys": [jwk]});
    let pinned = std::slice::from_ref(&jkt);
    client::changes::put_keys(desk.rows, work.connection(), &one.delegate, (Some(&jwks), pinned), call.now)
        .await?;
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

async fn try_to_deny(
    desk: &Desk<'_>,
    call: &Call,
    id: &str,
    reason: Option<&str>,
) -> Result<ApiResponse, Error> {
    check_reason(reason)?;
    let check = async |connection: &mut PgConnection| waiting(connection, desk, call, id).await;
    let (mut work, path) = match call.begin_exclusive(desk, check).await? {
        Entry::Before(done) => return Ok(done),
        Entry::Now(work, path) => (work, path),
    };
    let said = reason.unwrap_or("denied");
    if !delegation::transitions::mark_denied(work.connection(), id, said, call.now).await? {
        return Err(invalid_state_transition(desk.rows, work.connection(), id, call.now).await?);
    }
    let mut event = call.event_about(desk, Action::DelegationRevoked, &path);
    event.detail = Some(json!({"reason": said, "denied": true}));
    let done = ApiResponse::with(view_again(desk.rows, work.connection(), id, call.now).await?)?;
    call.store_response(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    Ok(done)
}
