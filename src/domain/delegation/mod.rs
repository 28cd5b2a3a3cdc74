//! Delegations: stored, revocable authorities that a holder gives an agent. Facts are stored, states derived.

pub mod candidates;
pub mod impact;
pub mod list;
mod mac;
pub mod store;
mod terms;
pub mod transitions;
mod view;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

pub use self::terms::{ApprovedTerms, LimitDimension};
pub use self::view::{GrantedTtl, View};
use super::capability::{CapabilityLevels, Ceiling};
use super::limit::Limit;
use super::name;
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
pub enum Provenance {
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
pub struct DelegationRecord {
    /// When it was approved.
    pub activated_at: Option<OffsetDateTime>,
    /// When it ends.
    pub expires_at: OffsetDateTime,
    /// When it was taken back.
    pub revoked_at: Option<OffsetDateTime>,
    /// When everything that its delegator or its delegate had was first ended.
    pub principal_revoked_at: Option<OffsetDateTime>,
    /// Whether its agent changes its key and the delegator has not confirmed that yet.
    pub key_rotating: bool,
    /// How often it may be used.
    pub max_uses: Option<i64>,
    /// How often it was used, or something below it.
    pub uses: i64,
    /// When its last use was taken, where that is known.
    pub used_up_at: Option<OffsetDateTime>,
}

/// What ended a delegation. Of two ends at one instant, the lesser one decides: an expiry before a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Expired,
    Revoked,
}

impl From<End> for State {
    fn from(end: End) -> Self {
        match end {
            End::Expired => Self::Expired,
            End::Revoked => Self::Revoked,
        }
    }
}

impl DelegationRecord {
    /// The first of its own ends, and its instant.
    fn first_end(&self, now: OffsetDateTime) -> Option<(OffsetDateTime, End)> {
        // A count that is full has an instant; for one without, the beginning is early enough.
        let used_up_at = self.used_up().then(|| {
            let known = self.used_up_at.or(self.activated_at);
            known.unwrap_or(OffsetDateTime::UNIX_EPOCH)
        });
        let ends = [
            (Some(self.expires_at).filter(|end| now >= *end), End::Expired),
            (used_up_at, End::Expired),
            (self.revoked_at, End::Revoked),
            (self.principal_revoked_at, End::Revoked),
        ];
        ends.into_iter().filter_map(|(at, end)| Some((at?, end))).min()
    }

    /// The state at an instant, without what is above it. One that was revoked is revoked, even if it was used up before.
    pub fn state(&self, now: OffsetDateTime) -> State {
        match self.first_end(now) {
            _ if self.revoked_at.is_some() => State::Revoked,
            Some((_, end)) => end.into(),
            None if self.waits() => State::Requested,
            None => State::Active,
        }
    }

    fn waits(&self) -> bool {
        self.activated_at.is_none() || self.key_rotating
    }

    /// Why it may not be used, if it may not: the gravest reason, whichever came first.
    ///
    /// # Errors
    /// A refusal unless it is active.
    pub fn check(&self, now: OffsetDateTime) -> Result<(), Refusal> {
        if self.revoked_at.is_some() {
            Err(Refusal::DelegationRevoked)
        } else if self.principal_revoked_at.is_some() {
            Err(Refusal::PrincipalRevoked)
        } else if now >= self.expires_at {
            Err(Refusal::DelegationExpired)
        } else if self.used_up() {
            Err(Refusal::CommandLimit)
        } else if self.waits() {
            Err(Refusal::DelegationRequested)
        } else {
            Ok(())
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
pub struct DelegationLimits {
    pub scopes: Limit,
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

impl DelegationLimits {
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
    pub fn needs_ceremony(
        &self,
        scopes: &BTreeSet<String>,
        capability: &Ceiling,
        capability_levels: &CapabilityLevels,
    ) -> bool {
        self.ceremonies
            .iter()
            .any(|name| scopes.contains(name) || capability_levels.reaches(capability, name))
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
    pub terms: DelegationLimits,
    /// Where it comes from.
    pub origin: Provenance,
    /// When it was asked for.
    pub requested_at: OffsetDateTime,
    /// Who asked for it, where somebody did.
    pub requested_by: Option<Principal>,
    /// What its state follows from.
    pub facts: DelegationRecord,
    /// Seconds from its approval on, as long as it waits for one.
    pub requested_ttl: Option<u32>,
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
pub struct DelegationPath(pub Vec<Delegation>);

impl DelegationPath {
    /// The delegation itself.
    pub fn leaf(&self) -> Option<&Delegation> {
        self.0.last()
    }

    /// Active only if all of it is.
    pub fn check(&self, now: OffsetDateTime) -> Result<(), Refusal> {
        self.0.iter().try_for_each(|delegation| delegation.facts.check(now))
    }

    /// The state, and which of the ancestors brought it about, if one did. The first end on the path decides, by its
    /// instant, and so a state that is final never changes: what a revoked parent ended does not expire later. Only a
    /// revocation of the delegation itself makes one that was used up revoked.
    pub fn state(&self, now: OffsetDateTime) -> (State, Option<&str>) {
        let Some((leaf, above)) = self.0.split_last() else { return (State::Revoked, None) };
        let own = leaf.facts.first_end(now);
        let ends = above.iter().filter_map(|one| Some((one.facts.first_end(now)?, one.id.as_str())));
        // Of several ancestors that ended at one instant it is the one nearest to the root.
        let ended = ends.reduce(|first, next| if next.0 < first.0 { next } else { first });
        let ended = ended.filter(|(end, _)| own.is_none_or(|own| *end < own));
        match ended {
            Some(((_, End::Expired), _)) if leaf.facts.revoked_at.is_some() => (State::Revoked, None),
            Some(((_, end), by)) => (end.into(), Some(by)),
            None if own.is_some() => (leaf.facts.state(now), None),
            None => match above.iter().find(|one| one.facts.waits()) {
                Some(one) => (State::Requested, Some(one.id.as_str())),
                None => (leaf.facts.state(now), None),
            },
        }
    }

    /// Whether there is nothing left to end: it, or something above, was taken back or has come to its time. What is only
    /// used up may still have tokens.
    pub fn is_over(&self, now: OffsetDateTime) -> bool {
        let over = |facts: &DelegationRecord| {
            facts.revoked_at.is_some() || facts.principal_revoked_at.is_some() || now >= facts.expires_at
        };
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
        && name::is_addressable(text)
}

#[cfg(test)]
mod tests;
