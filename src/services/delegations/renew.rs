//! Renewal of a delegation: a later expiry, within the expiry of its ancestors.

use serde_json::json;
use time::Duration;

use super::approval::decides;
use super::request::after;
use super::{invalid_state_transition, leaf, view_again, visible};
use crate::domain::audit::Action;
use crate::domain::client;
use crate::domain::delegation::{self, GrantedTtl, Provenance, State};
use crate::domain::refusal::{Error, Refusal};
use crate::platform::clock::rfc3339;
use crate::services::request_context::{ApiResponse, AuditTarget, Call, Desk, record_delegation_refusal};
use crate::services::transaction::AuditedTransaction;

/// Sets the expiry of an active delegation to `expires_in` seconds from now, or earlier where a limit requires.
pub async fn renew(desk: &Desk<'_>, call: &Call, id: &str, expires_in: u32) -> Result<ApiResponse, Error> {
    let result = try_to(desk, call, id, expires_in).await;
    record_delegation_refusal(desk, call, ("renew", AuditTarget::Delegation(id)), result).await
}

async fn try_to(desk: &Desk<'_>, call: &Call, id: &str, expires_in: u32) -> Result<ApiResponse, Error> {
    let mut work = AuditedTransaction::begin(desk.pool).await?;
    if let Some(done) = call.authorize_and_claim(desk, &mut work).await? {
        return Ok(done);
    }
    let path = visible(work.connection(), desk, call, id).await?;
    let one = leaf(&path)?;
    decides(desk, call, one)?;
    let (state, _) = path.state(call.now);
    if state != State::Active {
        return Err(Refusal::InvalidStateTransition(state).into());
    }
    let above = path.0.iter().filter(|above| above.id != one.id).map(|above| above.facts.expires_at).min();
    let made_for_it = client::store::find(desk.rows, work.connection(), &one.delegate).await?;
    let made_for_it = made_for_it.is_some_and(|client| client.ephemeral.is_some());
    let since = one.facts.activated_at.unwrap_or(one.requested_at);
    let longest = after(call.now, desk.config.delegations.max_ttl);
    let longest = match made_for_it {
        true => longest.min(since + Duration::seconds(desk.config.agents.max_ttl.into())),
        false => longest,
    };
    // A delegation from a `may_act` claim is not renewed.
    let with_token = (one.origin == Provenance::MayAct).then_some(one.facts.expires_at);
    // A requested lifetime is an upper bound: a longer one is shortened.
    let asked = after(call.now, expires_in);
    let ends = [Some(longest), above, with_token].into_iter().flatten().fold(asked, std::cmp::Ord::min);
    if ends <= one.facts.expires_at {
        return Err(Refusal::ExpiryNotLater.into());
    }
    let lifetime = if ends < asked { GrantedTtl::Shortened } else { GrantedTtl::AsAsked };
    if !delegation::transitions::mark_renewed(desk.rows, work.connection(), one, ends, call.now).await? {
        return Err(invalid_state_transition(desk.rows, work.connection(), id, call.now).await?);
    }
    let mut event = call.event_about(desk, Action::DelegationRenewed, &path);
    event.detail = Some(json!({"from": rfc3339(one.facts.expires_at), "to": rfc3339(ends)}));
    let view = view_again(desk.rows, work.connection(), id, call.now).await?.with_lifetime(lifetime);
    let done = ApiResponse::with(view)?;
    call.store_response(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    Ok(done)
}
