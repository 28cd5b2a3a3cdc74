//! What waits for its delegator is approved, perhaps narrower, or denied. Of two decisions at once one counts.

use serde_json::json;
use sqlx::PgConnection;

use super::request::{Approval, after, check_reason};
use super::{leaf, view_again, visible, wrong_state};
use crate::domain::audit::Action;
use crate::domain::client::{self, Client};
use crate::domain::delegation::{self, Delegation, Facts, Lifetime, Path, State};
use crate::domain::refusal::{Refusal, Stop};
use crate::domain::registry;
use crate::flows::desk::{About, Call, Desk, Done, Entered, record_refusal};
use crate::flows::work::Work;
use crate::platform::fault::Fault;

/// Approves a delegation that waits, or the new key of its agent.
pub async fn approve(desk: &Desk<'_>, call: &Call, id: &str, approval: &Approval) -> Result<Done, Stop> {
    let result = try_to_approve(desk, call, id, approval).await;
    record_refusal(desk, call, ("approve", About::Delegation(id)), result).await
}

/// Denies a delegation that waits; it is revoked then.
pub async fn deny(desk: &Desk<'_>, call: &Call, id: &str, reason: Option<&str>) -> Result<Done, Stop> {
    let result = try_to_deny(desk, call, id, reason).await;
    record_refusal(desk, call, ("deny", About::Delegation(id)), result).await
}

/// Only the delegator decides, as whoever its token says it is; or an administrator.
pub(super) fn decides(desk: &Desk<'_>, call: &Call, one: &Delegation) -> Result<(), Refusal> {
    let delegator = call.caller.is(&one.delegator, desk.issuer);
    if delegator || call.caller.administers() { Ok(()) } else { Err(Refusal::InsufficientScope) }
}

/// The path of what waits for this caller to decide.
async fn waiting(
    connection: &mut PgConnection,
    desk: &Desk<'_>,
    call: &Call,
    id: &str,
) -> Result<Path, Stop> {
    let path = visible(connection, desk, call, id).await?;
    decides(desk, call, leaf(&path)?)?;
    match path.state(call.now).0 {
        State::Requested => Ok(path),
        state => Err(Refusal::WrongState(state).into()),
    }
}

async fn try_to_approve(desk: &Desk<'_>, call: &Call, id: &str, approval: &Approval) -> Result<Done, Stop> {
    let narrowing = approval.narrowing(desk.ladder)?;
    let mut connection = desk.pool.acquire().await?;
    let path = visible(&mut connection, desk, call, id).await?;
    drop(connection);
    decides(desk, call, leaf(&path)?)?;
    let rebinding = leaf(&path)?.facts.rebinding;
    let check = async |connection: &mut PgConnection| {
        let path = waiting(connection, desk, call, id).await?;
        if leaf(&path)?.facts.rebinding != rebinding {
            return Err(Refusal::WrongState(path.state(call.now).0).into());
        }
        Ok(path)
    };
    // A new key takes the place of an old one: nothing may be recorded on the old one meanwhile.
    let entered = match rebinding {
        true => call.ending(desk, check).await?,
        false => {
            let mut work = Work::begin(desk.pool).await?;
            match call.enter(desk, &mut work).await? {
                Some(done) => Entered::Before(done),
                None => {
                    let path = check(work.connection()).await?;
                    Entered::Now(work, path)
                }
            }
        }
    };
    let (mut work, path) = match entered {
        Entered::Before(done) => return Ok(done),
        Entered::Now(work, path) => (work, path),
    };
    let asked = leaf(&path)?;
    let registry = registry::store::load(desk.rows, work.connection(), desk.issuer).await?;
    approval.check_declared(&registry, desk.ladder)?;
    let (terms, max_uses) =
        narrowing.of((&asked.terms, asked.facts.max_uses), desk.ladder).map_err(Refusal::TooWide)?;
    let (expires_at, lifetime) = match rebinding {
        true => (asked.facts.expires_at, Lifetime::AsAsked),
        false => ends(call, approval, &path)?,
    };
    if rebinding && !approval.is_empty() {
        return Err(Refusal::Malformed("A new key is confirmed as it is, without other changes").into());
    }
    let delegate = client::store::find(desk.rows, work.connection(), &asked.delegate).await?;
    let delegate = delegate.ok_or_else(|| Fault::new("a delegation without its agent"))?;
    if delegate.is_out() {
        return Err(Refusal::DelegateDisabled.into());
    }
    let jkt = match rebinding {
        true => Some(confirm_key(desk, &mut work, call, asked).await?),
        false => key_of(&delegate, asked)?,
    };
    // What was active before is no younger for its new key.
    let activated_at = asked.facts.activated_at.or(Some(call.now));
    let facts = Facts { activated_at, expires_at, max_uses, ..asked.facts.clone() };
    let approved = Delegation { terms, facts, ..asked.clone() };
    if !delegation::moves::mark_approved(desk.rows, work.connection(), asked, &approved, call.now).await? {
        return Err(wrong_state(desk.rows, work.connection(), id, call.now).await?);
    }
    let mut event = call.event_about(desk, Action::DelegationActivated, &path);
    let mut detail = approved.recorded_terms();
    detail.insert("new_key".to_owned(), rebinding.into());
    detail.insert("jkt".to_owned(), json!(jkt));
    event.detail = Some(detail.into());
    let view = view_again(desk.rows, work.connection(), id, call.now).await?.with_lifetime(lifetime);
    let done = Done::with(view)?;
    call.keep(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    Ok(done)
}

/// When an approved delegation ends: as long as was asked for, or shorter.
fn ends(call: &Call, approval: &Approval, path: &Path) -> Result<(time::OffsetDateTime, Lifetime), Fault> {
    let asked = leaf(path)?.lifetime.ok_or_else(|| Fault::new("a request that does not say for how long"))?;
    let given = approval.expires_in.unwrap_or(asked);
    let lifetime = if given > asked { Lifetime::Shortened } else { Lifetime::AsAsked };
    Ok((after(call.now, given.min(asked)), lifetime))
}

/// Makes the pending key the agent's only one, unless it was removed from a client meanwhile; gives its thumbprint.
async fn confirm_key(
    desk: &Desk<'_>,
    work: &mut Work,
    call: &Call,
    one: &Delegation,
) -> Result<String, Stop> {
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

/// The key of an agent that was made for this delegation. A removed key leaves the agent without one: there is nothing to
/// approve.
fn key_of(delegate: &Client, one: &Delegation) -> Result<Option<String>, Refusal> {
    let made_for_it = delegate.ephemeral.as_ref().is_some_and(|agent| agent.home == one.id);
    if !made_for_it {
        return Ok(None);
    }
    let usable = delegate.dpop_keys.iter().find(|jkt| delegate.may_use_key(jkt));
    usable.cloned().map(Some).ok_or(Refusal::KeyNotReusable)
}

async fn try_to_deny(desk: &Desk<'_>, call: &Call, id: &str, reason: Option<&str>) -> Result<Done, Stop> {
    check_reason(reason)?;
    let check = async |connection: &mut PgConnection| waiting(connection, desk, call, id).await;
    let (mut work, path) = match call.ending(desk, check).await? {
        Entered::Before(done) => return Ok(done),
        Entered::Now(work, path) => (work, path),
    };
    let said = reason.unwrap_or("denied");
    if !delegation::moves::mark_denied(work.connection(), id, said, call.now).await? {
        return Err(wrong_state(desk.rows, work.connection(), id, call.now).await?);
    }
    let mut event = call.event_about(desk, Action::DelegationRevoked, &path);
    event.detail = Some(json!({"reason": said, "denied": true}));
    let done = Done::with(view_again(desk.rows, work.connection(), id, call.now).await?)?;
    call.keep(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    Ok(done)
}
