//! A request of an agent under a standing grant of the user: it becomes active at once, or says which limit it exceeds.

use sqlx::PgConnection;

use super::request::{NewDelegation, after};
use crate::domain::audit::{Event, EventKind};
use crate::domain::delegation::view::{ExceededGrant, GrantedTtl, View};
use crate::domain::delegation::{
    Delegation, DelegationLimits, DelegationPath, DelegationRecord, LimitDimension,
};
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::standing_grant::coverage::{GrantLimit, NearestGrant, RequestedByAgent, find_covering};
use crate::domain::standing_grant::store::{GrantParties, between};
use crate::domain::standing_grant::{GrantedLimits, StandingGrant};
use crate::platform::fault::Fault;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;

/// What the standing grants of a user say about a request.
#[derive(Debug)]
pub(super) enum Consent {
    /// There is none between the user and the agent, or the request is not for a user.
    Unasked,
    Covered(Box<StandingGrant>),
    Exceeded(Box<StandingGrant>, GrantLimit),
}

/// Finds the standing grant that covers a request of an agent.
pub(super) async fn consent(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    request: &NewDelegation,
    delegator: &Principal,
) -> Result<Consent, Error> {
    let Caller::Agent(holder) = &ctx.caller else { return Ok(Consent::Unasked) };
    // A delegation for an ephemeral agent is for another client than the one that the user knows.
    if request.ephemeral.is_some() {
        return Ok(Consent::Unasked);
    }
    let parties = GrantParties { grantor: delegator, client_id: &holder.client.client_id };
    let grants = between(ctx.rows, connection, parties).await?;
    let (limits, _) = request.terms(ctx.capability_levels)?;
    let asked = RequestedByAgent {
        jkt: &holder.jkt,
        limits: &limits,
        capability_levels: ctx.capability_levels,
        now: ctx.now,
    };
    Ok(match find_covering(grants, &asked) {
        NearestGrant::Covers(grant) => Consent::Covered(grant),
        NearestGrant::Exceeded(grant, limit) => Consent::Exceeded(grant, limit),
        NearestGrant::Nothing => Consent::Unasked,
    })
}

/// The requested delegation as it becomes active under a standing grant: lifetime, uses and depth are at most those of the
/// grant, and the delegation ends with the grant.
pub(super) fn active_under(
    ctx: &RequestContext<'_>,
    grant: &StandingGrant,
    one: Delegation,
    asked: Option<u32>,
) -> Result<(Delegation, GrantedTtl), Fault> {
    let GrantedLimits { max_ttl, max_uses, max_depth, .. } = &grant.limits;
    let seconds = one.requested_ttl.ok_or_else(|| Fault::new("a request that does not say for how long"))?;
    let ends = after(ctx.now, seconds.min(*max_ttl)).min(grant.facts.expires_at);
    let ttl = match asked {
        Some(asked) if ends < after(ctx.now, asked) => GrantedTtl::Shortened,
        _ => GrantedTtl::AsAsked,
    };
    let least = |left: Option<i64>, right: Option<i64>| left.into_iter().chain(right).min();
    let uses = least(one.facts.max_uses, *max_uses);
    let depth = one.terms.max_depth.into_iter().chain(*max_depth).min();
    let active = Delegation {
        terms: DelegationLimits { max_depth: depth, ..one.terms.clone() },
        facts: DelegationRecord::unused(Some(ctx.now), ends, uses),
        requested_ttl: None,
        standing_grant_id: Some(grant.id.clone()),
        ..one
    };
    Ok((active, ttl))
}

impl Consent {
    /// The event of an automatic decision about the last delegation of a path.
    pub(super) fn event(&self, ctx: &RequestContext<'_>, path: &DelegationPath) -> Option<Event> {
        let (grant, kind, reason) = match self {
            Self::Unasked => return None,
            Self::Covered(grant) => (grant, EventKind::StandingGrantUsed, None),
            Self::Exceeded(grant, limit) => {
                let kind = EventKind::StandingGrantRejected { limit: *limit };
                (grant, kind, Some(reason(*limit).reason()))
            }
        };
        Some(Event {
            standing_grant_id: Some(grant.id.clone()),
            target: Some(grant.client_id.clone()),
            reason,
            ..ctx.event_about(kind, path)
        })
    }

    /// Adds to an answer which standing grant the request exceeds, and where.
    pub(super) fn explain(&self, view: View) -> View {
        match self {
            Self::Unasked | Self::Covered(_) => view,
            Self::Exceeded(grant, limit) => {
                let exceeded = ExceededGrant { standing_grant_id: grant.id.clone(), limit: *limit };
                View { standing_grant_exceeded: Some(exceeded), ..view }
            }
        }
    }
}

/// The reason of the same refusal elsewhere.
fn reason(limit: GrantLimit) -> Refusal {
    match limit {
        GrantLimit::Expired => Refusal::DelegationExpired,
        GrantLimit::Suspended => Refusal::DelegationRequested,
        GrantLimit::Keys => Refusal::DpopProofKeyUnknown,
        GrantLimit::Scopes => Refusal::ScopeExceedsGrant,
        GrantLimit::Audiences => Refusal::ResourceRefused,
        GrantLimit::AuthorizationDetails => Refusal::AuthorizationDetailsExceedGrant,
        GrantLimit::CapabilityCeiling => Refusal::CapabilityTooHigh,
        GrantLimit::OfflineAccess => Refusal::ExceedsGrantor(LimitDimension::OfflineAccess),
    }
}
