//! Delegations: stored, revocable authorities that a holder gives an agent. Facts are stored, states derived.

pub mod list;
pub mod moves;
pub mod reach;
pub mod store;
mod terms;
mod view;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

pub use self::terms::{Narrowing, Wider};
pub use self::view::View;
use super::capability::{Ceiling, Ladder};
use super::limit::Limit;
use super::principal::Principal;
use super::refusal::Refusal;
use crate::platform::clock::rfc3339;
use crate::platform::jose::PublicKey;
use crate::protocol::authorization_details::Details;

/// Where a delegation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
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

impl State {
    /// Its name, as shown and compared.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
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
    /// Its holder gave it.
    Granted,
    /// An agent asked for it.
    Requested,
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
    /// Whether everything that its delegator or its delegate had when it was asked for has been ended.
    pub cut_off: bool,
    /// Whether its agent changes its key and the delegator has not confirmed that yet.
    pub rebinding: bool,
    /// How often it may be used.
    pub max_uses: Option<i64>,
    /// How often it was, where that is counted.
    pub uses: i64,
}

impl Facts {
    /// The state at an instant.
    pub fn state(&self, now: OffsetDateTime) -> State {
        if self.revoked_at.is_some() || self.cut_off {
            State::Revoked
        } else if now >= self.expires_at || self.used_up() {
            State::Expired
        } else if self.activated_at.is_none() || self.rebinding {
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
            State::Revoked if self.revoked_at.is_none() => Err(Refusal::PrincipalCutOff),
            State::Revoked => Err(Refusal::DelegationRevoked),
            State::Expired if now < self.expires_at => Err(Refusal::CommandLimit),
            State::Expired => Err(Refusal::DelegationExpired),
        }
    }

    /// How many uses are left, where they are limited.
    pub fn uses_left(&self) -> Option<i64> {
        self.max_uses.map(|most| most.saturating_sub(self.uses).max(0))
    }

    /// Whether no use is left.
    pub fn used_up(&self) -> bool {
        self.max_uses.is_some_and(|most| self.uses >= most)
    }
}

/// What a delegation allows. A limit that is absent does not restrict; an empty one allows nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// Scopes.
    pub scopes: Limit,
    /// Targets.
    pub audiences: Limit,
    /// `authorization_details`; `None` does not restrict.
    pub details: Option<Details>,
    /// The highest capability.
    pub ceiling: Ceiling,
    /// Capabilities and scopes for which each exchange needs a fresh confirmation of the delegator.
    pub ceremonies: BTreeSet<String>,
    /// The most actors that a token under it may name.
    pub max_depth: Option<u32>,
}

impl Terms {
    /// No restriction at all.
    pub fn unrestricted() -> Self {
        Self {
            scopes: Limit::Any,
            audiences: Limit::Any,
            details: None,
            ceiling: None,
            ceremonies: BTreeSet::new(),
            max_depth: None,
        }
    }

    /// Whether something of these scopes and this capability needs a confirmation. What is not on the ladder is a scope.
    pub fn needs_ceremony(&self, scopes: &BTreeSet<String>, capability: &Ceiling, ladder: &Ladder) -> bool {
        self.ceremonies.iter().any(|name| scopes.contains(name) || ladder.reaches(capability, name))
    }
}

/// What an agent says it is; for people, never for decisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentDescription {
    /// What kind of agent.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Which model it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
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
    /// Who gave it, or is asked to.
    pub delegator: Principal,
    /// The client that holds it.
    pub delegate: String,
    /// What it allows.
    pub terms: Terms,
    /// Where it comes from.
    pub origin: Origin,
    /// When it was asked for.
    pub requested_at: OffsetDateTime,
    /// Who asked for it, where somebody did.
    pub requested_by: Option<Principal>,
    /// What its state follows from.
    pub facts: Facts,
    /// Seconds from its approval on, as long as it waits for one.
    pub lifetime: Option<u32>,
    /// What for.
    pub reason: Option<String>,
    /// What its agent says it is.
    pub agent: Option<AgentDescription>,
    /// Why it was taken back.
    pub revoke_reason: Option<String>,
    /// The new key of its agent, a JWK, until the delegator confirms or denies it.
    pub pending_jwk: Option<Value>,
}

impl Delegation {
    /// Thumbprint of the key that waits for the delegator; `None` where no usable key waits.
    pub fn pending_jkt(&self) -> Option<String> {
        let members = self.pending_jwk.as_ref()?.as_object()?;
        PublicKey::from_jwk(members).ok().map(|key| key.thumbprint().to_owned())
    }

    /// What it allows, as the log records it, so that it can be proven later. `null` does not restrict.
    pub fn recorded_terms(&self) -> serde_json::Map<String, Value> {
        let terms = json!({
            "delegator": self.delegator,
            "delegate": self.delegate,
            "origin": self.origin,
            "scopes": self.terms.scopes.to_stored(),
            "audiences": self.terms.audiences.to_stored(),
            "authorization_details": self.terms.details,
            "capability_ceiling": self.terms.ceiling,
            "ceremony_required_for": self.terms.ceremonies,
            "max_uses": self.facts.max_uses,
            "max_depth": self.terms.max_depth,
            "expires_at": rfc3339(self.facts.expires_at),
        });
        match terms {
            Value::Object(members) => members,
            _ => serde_json::Map::new(),
        }
    }

    /// Whether its limits are the same as another's; times and state aside.
    pub fn same_terms(&self, other: &Self) -> bool {
        self.path == other.path
            && self.delegator == other.delegator
            && self.delegate == other.delegate
            && self.terms == other.terms
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

    /// The state that counts, and which of the ancestors brought it about, if one did.
    pub fn state(&self, now: OffsetDateTime) -> (State, Option<&str>) {
        let Some((leaf, above)) = self.0.split_last() else { return (State::Revoked, None) };
        let own = leaf.facts.state(now);
        if matches!(own, State::Revoked | State::Expired) {
            return (own, None);
        }
        let ended = above.iter().find(|one| one.facts.state(now) != State::Active);
        match ended {
            None => (own, None),
            Some(one) => (one.facts.state(now), Some(one.id.as_str())),
        }
    }

    /// Whether there is nothing left to end: it, or something above, was taken back or has come to its time. What is only
    /// used up may still have tokens.
    pub fn is_over(&self, now: OffsetDateTime) -> bool {
        let over = |facts: &Facts| facts.revoked_at.is_some() || facts.cut_off || now >= facts.expires_at;
        self.0.iter().any(|one| over(&one.facts))
    }

    /// Whether somebody is on this path: gave or holds one of its delegations. A client is somebody by our own issuer.
    pub fn involves(&self, who: &Principal, own_issuer: &str) -> bool {
        self.0.iter().any(|one| {
            one.delegator == *who || one.root == *who || (who.iss == own_issuer && one.delegate == who.sub)
        })
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
        let facts = Facts {
            activated_at: Some(now),
            expires_at,
            revoked_at: None,
            cut_off: false,
            rebinding: false,
            max_uses: Some(2),
            uses: 0,
        };
        (facts, now)
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
        let cut_off = Facts { cut_off: true, ..active.clone() };
        assert_eq!((cut_off.state(now), cut_off.check(now)), (State::Revoked, Err(Refusal::PrincipalCutOff)));
        let rebinding = Facts { rebinding: true, ..active.clone() };
        assert_eq!(rebinding.state(now), State::Requested);
        let requested = Facts { activated_at: None, ..active };
        assert_eq!(requested.check(now), Err(Refusal::DelegationRequested));
    }
}
