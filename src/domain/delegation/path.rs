//! What a delegation with its ancestors allows: nothing unless all of them are active.

use time::OffsetDateTime;

use super::{Delegation, DelegationPath, DelegationRecord, DelegationState, End, Inactive};
use crate::domain::principal::Principal;

impl DelegationPath {
    pub fn leaf(&self) -> Option<&Delegation> {
        self.0.last()
    }

    /// The standing grant under which the last delegation, or its nearest ancestor with one, became active.
    pub fn standing_grant_id(&self) -> Option<String> {
        self.0.iter().rev().find_map(|one| one.standing_grant_id.clone())
    }

    /// Fails unless the delegation and all its ancestors are active.
    pub fn check(&self, now: OffsetDateTime) -> Result<(), Inactive> {
        self.0.iter().try_for_each(|delegation| delegation.facts.check(now))
    }

    /// The state, and the ancestor that caused it, if an ancestor did. The earliest end on the path decides, so a
    /// final state never changes: a delegation whose parent was revoked does not expire later. Only a revocation of
    /// the delegation itself makes a used-up delegation revoked.
    pub fn state(&self, now: OffsetDateTime) -> (DelegationState, Option<&str>) {
        let Some((leaf, above)) = self.0.split_last() else { return (DelegationState::Revoked, None) };
        let own = leaf.facts.first_end(now);
        let ends = above.iter().filter_map(|one| Some((one.facts.first_end(now)?, one.id.as_str())));
        // Of several ancestors that ended at the same time, the one nearest to the root counts.
        let ended = ends.reduce(|first, next| if next.0 < first.0 { next } else { first });
        let ended = ended.filter(|(end, _)| own.is_none_or(|own| *end < own));
        match ended {
            Some(((_, End::Expired), _)) if leaf.facts.revoked_at.is_some() => {
                (DelegationState::Revoked, None)
            }
            Some(((_, end), by)) => (end.into(), Some(by)),
            None if own.is_some() => (leaf.facts.state(now), None),
            None => match above.iter().find(|one| one.facts.waits()) {
                Some(one) => (DelegationState::Requested, Some(one.id.as_str())),
                None => (leaf.facts.state(now), None),
            },
        }
    }

    /// Whether a revocation would change nothing: the delegation or an ancestor is revoked or past its expiry. A
    /// delegation that is only used up may still have tokens.
    pub fn is_over(&self, now: OffsetDateTime) -> bool {
        let over = |facts: &DelegationRecord| {
            facts.revoked_at.is_some() || facts.principal_revoked_at.is_some() || now >= facts.expires_at
        };
        self.0.iter().any(|one| over(&one.facts))
    }

    /// Whether a principal is the root, a delegator or a delegate on this path. A client is a principal of this
    /// server's issuer.
    pub fn involves(&self, who: &Principal, own_issuer: &str) -> bool {
        self.0.iter().any(|one| {
            one.delegator == *who || one.root == *who || (who.iss == own_issuer && one.delegate == who.sub)
        })
    }

    pub fn ids(&self) -> Vec<String> {
        self.0.iter().map(|delegation| delegation.id.clone()).collect()
    }
}
