//! Delegations: stored, revocable authorities that a holder gives an agent. Facts are stored, states derived.

pub mod store;

use serde::Serialize;
use time::OffsetDateTime;

use super::limit::Limit;
use super::principal::Principal;
use super::refusal::Refusal;
use crate::protocol::authorization_details::Details;

/// Where a delegation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for its delegator.
    Requested,
    /// May be used, if everything above it may.
    Active,
    /// Has come to its end, or has no use left.
    Expired,
    /// Was taken back.
    Revoked,
}

/// Where a delegation comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Origin {
    /// `actchain apply`.
    Declared,
    /// The `may_act` claim of a subject token.
    MayAct,
}

/// What the state follows from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// When it was approved.
    pub activated_at: Option<OffsetDateTime>,
    /// When it ends.
    pub expires_at: OffsetDateTime,
    /// When it was taken back.
    pub revoked_at: Option<OffsetDateTime>,
    /// How often it may be used.
    pub max_uses: Option<i64>,
    /// How often it was, where that is counted.
    pub uses: i64,
}

impl Facts {
    /// The state at an instant.
    pub fn state(&self, now: OffsetDateTime) -> State {
        if self.revoked_at.is_some() {
            State::Revoked
        } else if now >= self.expires_at || self.used_up() {
            State::Expired
        } else if self.activated_at.is_none() {
            State::Requested
        } else {
            State::Active
        }
    }

    /// Why it may not be used, if it may not.
    pub fn check(&self, now: OffsetDateTime) -> Result<(), Refusal> {
        match self.state(now) {
            State::Active => Ok(()),
            State::Requested => Err(Refusal::DelegationRequested),
            State::Revoked => Err(Refusal::DelegationRevoked),
            State::Expired if now < self.expires_at => Err(Refusal::CommandLimit),
            State::Expired => Err(Refusal::DelegationExpired),
        }
    }

    /// Whether no use is left.
    pub fn used_up(&self) -> bool {
        self.max_uses.is_some_and(|most| self.uses >= most)
    }
}

/// A delegation.
#[derive(Debug, Clone, PartialEq)]
pub struct Delegation {
    /// Its id.
    pub id: String,
    /// Its ancestors, root first, and itself at the end.
    pub path: Vec<String>,
    /// The one above it.
    pub parent: Option<String>,
    /// The subject of the whole tree.
    pub root: Principal,
    /// Who gave it.
    pub delegator: Principal,
    /// The client that holds it.
    pub delegate: String,
    /// Scopes.
    pub scopes: Limit,
    /// Targets.
    pub audiences: Limit,
    /// `authorization_details`; `None` does not restrict.
    pub details: Option<Details>,
    /// The most actors that a token under it may name.
    pub max_depth: Option<u32>,
    /// Where it comes from.
    pub origin: Origin,
    /// When it was asked for.
    pub requested_at: OffsetDateTime,
    /// What its state follows from.
    pub facts: Facts,
    /// Why it was taken back.
    pub revoke_reason: Option<String>,
}

impl Delegation {
    /// Whether its limits are the same as another's; times and state aside.
    pub fn same_terms(&self, other: &Self) -> bool {
        self.path == other.path
            && self.delegator == other.delegator
            && self.delegate == other.delegate
            && self.scopes == other.scopes
            && self.audiences == other.audiences
            && self.details == other.details
            && self.max_depth == other.max_depth
            && self.facts.max_uses == other.facts.max_uses
    }
}

/// A delegation with everything above it, root first.
#[derive(Debug, Clone, PartialEq)]
pub struct Path(pub Vec<Delegation>);

impl Path {
    /// The delegation itself.
    pub fn leaf(&self) -> Option<&Delegation> {
        self.0.last()
    }

    /// Active only if all of it is.
    pub fn check(&self, now: OffsetDateTime) -> Result<(), Refusal> {
        self.0.iter().try_for_each(|delegation| delegation.facts.check(now))
    }

    /// The ids, root first.
    pub fn ids(&self) -> Vec<String> {
        self.0.iter().map(|delegation| delegation.id.clone()).collect()
    }
}

/// Whether the text can be a delegation id.
pub fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::Duration;

    fn facts() -> (Facts, OffsetDateTime) {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::days(20_000);
        let expires_at = now + Duration::seconds(10);
        (Facts { activated_at: Some(now), expires_at, revoked_at: None, max_uses: Some(2), uses: 0 }, now)
    }

    #[test]
    fn states_follow_from_facts() {
        let (active, now) = facts();
        assert_eq!(active.state(now), State::Active);
        assert_eq!(active.check(now + Duration::seconds(10)), Err(Refusal::DelegationExpired));
        let revoked = Facts { revoked_at: Some(now), ..active.clone() };
        assert_eq!(revoked.state(now + Duration::days(1)), State::Revoked, "revoked stays revoked");
        let used = Facts { uses: 2, ..active.clone() };
        assert_eq!((used.state(now), used.check(now)), (State::Expired, Err(Refusal::CommandLimit)));
        let requested = Facts { activated_at: None, ..active };
        assert_eq!(requested.check(now), Err(Refusal::DelegationRequested));
    }
}
