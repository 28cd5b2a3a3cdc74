//! Whether a standing grant covers a request of an agent: each limit by the same grant. Pure.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{StandingGrant, StandingGrantState};
use crate::domain::capability::CapabilityLevels;
use crate::domain::delegation::DelegationLimits;
use crate::domain::limit::Limit;

/// Most standing grants between one user and one agent that have not ended.
pub const MAX_BETWEEN: usize = 100;
/// Most different sets of keys of these. Each proof of the agent is compared with each set.
pub const MAX_KEY_SETS: usize = 8;

/// Why a standing grant does not cover a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrantLimit {
    /// The lifetime of the grant is over.
    Expired,
    /// The grantor has to confirm the keys of the agent.
    Suspended,
    /// The request came under a key that is not pinned.
    Keys,
    Scopes,
    Audiences,
    AuthorizationDetails,
    CapabilityCeiling,
    OfflineAccess,
}

/// A request of an agent, as far as a standing grant limits it.
#[derive(Debug, Clone, Copy)]
pub struct RequestedByAgent<'a> {
    /// Thumbprint of the key that the agent has proven.
    pub jkt: &'a str,
    pub limits: &'a DelegationLimits,
    pub capability_levels: &'a CapabilityLevels,
    pub now: OffsetDateTime,
}

/// The standing grant that covers a request, or the one that exceeds it in the fewest limits.
#[derive(Debug, Clone, PartialEq)]
pub enum NearestGrant {
    Covers(Box<StandingGrant>),
    /// The first limit that the request exceeds.
    Exceeded(Box<StandingGrant>, GrantLimit),
    /// There is no standing grant between the two.
    Nothing,
}

impl StandingGrant {
    /// The limits that a request exceeds, the gravest first. A request that leaves out a limit asks for everything, and
    /// is within a grant without that limit alone.
    pub fn exceeded(&self, request: &RequestedByAgent<'_>) -> Vec<GrantLimit> {
        let state = self.state(request.now);
        let (granted, asked) = (&self.limits, request.limits);
        let within = |outer: &BTreeSet<String>, inner: &Limit| Limit::Only(outer.clone()).covers(inner);
        let details = match (&granted.details, &asked.details) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(outer), Some(inner)) => inner.within(outer),
        };
        let fits = [
            (
                state == StandingGrantState::Active || state == StandingGrantState::Suspended,
                GrantLimit::Expired,
            ),
            (state != StandingGrantState::Suspended, GrantLimit::Suspended),
            (self.keys.contains(request.jkt), GrantLimit::Keys),
            (within(&granted.scopes, &asked.scopes), GrantLimit::Scopes),
            (within(&granted.audiences, &asked.audiences), GrantLimit::Audiences),
            (details, GrantLimit::AuthorizationDetails),
            (
                request.capability_levels.covers(&granted.ceiling, &asked.ceiling),
                GrantLimit::CapabilityCeiling,
            ),
            (granted.offline_access || !asked.offline_access, GrantLimit::OfflineAccess),
        ];
        fits.into_iter().filter_map(|(fits, limit)| (!fits).then_some(limit)).collect()
    }
}

/// Chooses among the standing grants between a user and an agent. Their limits do not add up: one of them has to cover
/// the whole request.
pub fn find_covering(grants: Vec<StandingGrant>, request: &RequestedByAgent<'_>) -> NearestGrant {
    let mut nearest: Option<(Vec<GrantLimit>, StandingGrant)> = None;
    for grant in grants {
        let exceeded = grant.exceeded(request);
        if exceeded.is_empty() {
            return NearestGrant::Covers(Box::new(grant));
        }
        if nearest.as_ref().is_none_or(|(least, _)| exceeded.len() < least.len()) {
            nearest = Some((exceeded, grant));
        }
    }
    match nearest {
        Some((exceeded, grant)) => match exceeded.first() {
            Some(limit) => NearestGrant::Exceeded(Box::new(grant), *limit),
            None => NearestGrant::Covers(Box::new(grant)),
        },
        None => NearestGrant::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{GrantCreator, GrantFacts, GrantedLimits};
    use super::*;
    use crate::domain::capability::Ceiling;
    use crate::domain::principal::Principal;
    use crate::platform::clock::from_seconds;
    use proptest::prelude::*;

    fn levels() -> CapabilityLevels {
        CapabilityLevels::new(&["observe", "mutate", "admin"].map(str::to_owned)).unwrap()
    }

    fn names() -> impl Strategy<Value = BTreeSet<String>> {
        proptest::collection::btree_set("[a-c]", 0..4)
    }

    fn ceiling() -> impl Strategy<Value = Ceiling> {
        let names = proptest::sample::select(&["observe", "mutate", "admin"][..]);
        proptest::option::of(names).prop_map(|name| name.map(str::to_owned))
    }

    fn grant() -> impl Strategy<Value = StandingGrant> {
        (names(), names(), ceiling(), 0i64..3).prop_map(|(scopes, audiences, ceiling, ends)| StandingGrant {
            id: "g".into(),
            grantor: Principal::new("i", "u"),
            client_id: "c".into(),
            keys: BTreeSet::from(["k".to_owned()]),
            limits: GrantedLimits {
                scopes,
                audiences,
                details: None,
                ceiling,
                max_ttl: 60,
                max_uses: None,
                max_depth: None,
                offline_access: false,
            },
            created_at: from_seconds(0).unwrap(),
            created_by: GrantCreator::User,
            facts: GrantFacts {
                expires_at: from_seconds(ends).unwrap(),
                revoked_at: None,
                principal_revoked_at: None,
                suspension: None,
            },
        })
    }

    fn limits() -> impl Strategy<Value = DelegationLimits> {
        (proptest::option::of(names()), proptest::option::of(names()), ceiling()).prop_map(
            |(scopes, audiences, ceiling)| DelegationLimits {
                scopes: scopes.map_or(Limit::Any, Limit::Only),
                audiences: audiences.map_or(Limit::Any, Limit::Only),
                ceiling,
                ..DelegationLimits::unrestricted()
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_covered_is_within_one_grant(
            grants in proptest::collection::vec(grant(), 0..4), limits in limits(), jkt in "[kl]", now in 0i64..3,
        ) {
            let levels = levels();
            let now = from_seconds(now).unwrap();
            let request = RequestedByAgent { jkt: &jkt, limits: &limits, capability_levels: &levels, now };
            let allows = |grant: &StandingGrant| {
                let only = |limit: &Limit, outer: &BTreeSet<String>| match limit {
                    Limit::Any => false,
                    Limit::Only(names) => names.is_subset(outer),
                };
                jkt == "k" && now < grant.facts.expires_at && only(&limits.scopes, &grant.limits.scopes)
                    && only(&limits.audiences, &grant.limits.audiences)
                    // A request without a ceiling is within no ceiling, also not the highest one.
                    && (limits.ceiling.is_some() || grant.limits.ceiling.is_none())
                    && levels.names().iter().all(|name| {
                        levels.reaches(&grant.limits.ceiling, name) || !levels.reaches(&limits.ceiling, name)
                    })
            };
            match find_covering(grants.clone(), &request) {
                NearestGrant::Covers(grant) => prop_assert!(allows(&grant)),
                NearestGrant::Exceeded(..) => prop_assert!(!grants.is_empty() && !grants.iter().any(allows)),
                NearestGrant::Nothing => prop_assert!(grants.is_empty()),
            }
        }
    }
}
