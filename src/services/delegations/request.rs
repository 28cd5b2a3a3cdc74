//! The members of a delegation request, and the checks that need no other data.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::domain::capability::CapabilityLevels;
use crate::domain::delegation::{AgentDescription, ApprovedTerms, DelegationLimits};
use crate::domain::limit::Limit;
use crate::domain::principal::Principal;
use crate::domain::refusal::{Declared, Refusal};
use crate::domain::registry::Registry;
use crate::domain::vault;
use actchain_protocol::authorization_details::Details;
use actchain_protocol::jose::PublicKey;
use actchain_protocol::json;
use actchain_protocol::{resource, scope};

const MOST_NAMES: usize = 100;
const MOST_REASON: usize = 500;
const MOST_TEXT: usize = 100;

/// A requested delegation. A member left out has the delegator's value.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NewDelegation {
    /// The delegate; an agent that requests a delegation for itself leaves it out.
    pub delegate: Option<String>,
    #[serde(deserialize_with = "json::object")]
    pub delegator: Option<Principal>,
    /// Id of the parent delegation.
    pub parent: Option<String>,
    pub scopes: Option<Vec<String>>,
    pub audiences: Option<Vec<String>>,
    pub authorization_details: Option<Value>,
    /// The highest allowed capability.
    pub capability_ceiling: Option<String>,
    /// Capabilities and scopes whose every use the delegator has to confirm.
    pub ceremony_required_for: Vec<String>,
    pub max_uses: Option<u32>,
    pub max_depth: Option<u32>,
    /// Whether the delegate may get refresh tokens.
    pub offline_access: Option<bool>,
    pub expires_in: Option<u32>,
    pub reason: Option<String>,
    /// Description of the agent, by the agent itself.
    #[serde(deserialize_with = "json::object")]
    pub agent: Option<AgentDescription>,
    /// Creates an ephemeral agent for this delegation.
    #[serde(deserialize_with = "json::object")]
    pub ephemeral: Option<EphemeralRequest>,
}

/// An ephemeral agent for one delegation.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EphemeralRequest {
    pub jwk: Map<String, Value>,
    pub task_id: String,
}

/// The limits that an approval narrows.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Approval {
    pub scopes: Option<Vec<String>>,
    pub audiences: Option<Vec<String>>,
    pub authorization_details: Option<Value>,
    /// The highest allowed capability.
    pub capability_ceiling: Option<String>,
    /// Capabilities and scopes whose every use the delegator has to confirm, in addition to the requested ones.
    pub ceremony_required_for: Vec<String>,
    pub max_uses: Option<u32>,
    pub max_depth: Option<u32>,
    /// `false` removes offline access.
    pub offline_access: Option<bool>,
    pub expires_in: Option<u32>,
}

impl NewDelegation {
    pub(super) fn limits(&self) -> Approval {
        Approval {
            scopes: self.scopes.clone(),
            audiences: self.audiences.clone(),
            authorization_details: self.authorization_details.clone(),
            capability_ceiling: self.capability_ceiling.clone(),
            ceremony_required_for: self.ceremony_required_for.clone(),
            max_uses: self.max_uses,
            max_depth: self.max_depth,
            offline_access: self.offline_access,
            expires_in: self.expires_in,
        }
    }

    /// The terms and uses, if they are well-formed.
    pub(in crate::services) fn terms(
        &self,
        capability_levels: &CapabilityLevels,
    ) -> Result<(DelegationLimits, Option<i64>), Refusal> {
        let approved = self.limits().approved_terms(capability_levels)?;
        let terms = DelegationLimits {
            scopes: approved.scopes.map_or(Limit::Any, Limit::Only),
            audiences: approved.audiences.map_or(Limit::Any, Limit::Only),
            details: approved.details,
            ceiling: approved.ceiling,
            ceremonies: approved.ceremonies,
            max_depth: approved.max_depth,
            offline_access: approved.offline_access == Some(true),
        };
        Ok((terms, approved.max_uses))
    }

    /// Checks the length of the texts for people.
    pub(super) fn check_texts(&self) -> Result<(), Refusal> {
        check_reason(self.reason.as_deref())?;
        let described = self.agent.iter().flat_map(|agent| [&agent.kind, &agent.model]).flatten();
        if described.into_iter().any(|text| !is_text(text, MOST_TEXT)) {
            return Err(Refusal::Malformed("agent.type and agent.model are texts of at most 100 characters"));
        }
        Ok(())
    }
}

impl EphemeralRequest {
    /// The key, if it is a usable public key.
    pub(super) fn key(&self) -> Result<PublicKey, Refusal> {
        // An id that no URL path can contain (RFC 3986 §5.2.4) could not be used to end the task.
        let nameable = !self.task_id.contains('/') && ![".", ".."].contains(&self.task_id.as_str());
        let fits = is_text(&self.task_id, MOST_TEXT) && nameable;
        if !fits {
            return Err(Refusal::Malformed(
                "ephemeral.task_id is a text of 1 to 100 characters without a slash, other than one dot or two",
            ));
        }
        public_key(&self.jwk)
    }
}

/// Parses a public key of a supported type.
pub(super) fn public_key(jwk: &Map<String, Value>) -> Result<PublicKey, Refusal> {
    PublicKey::from_jwk(jwk)
        .ok()
        .ok_or(Refusal::Malformed("The jwk is not a public key that this server can use"))
}

impl Approval {
    /// The limits, if they are well-formed.
    pub(in crate::services) fn approved_terms(
        &self,
        capability_levels: &CapabilityLevels,
    ) -> Result<ApprovedTerms, Refusal> {
        let scopes = self.scopes.iter().chain([&self.ceremony_required_for]).flatten();
        if !scopes.into_iter().all(|name| scope::is_token(name)) {
            return Err(Refusal::ScopeMalformed);
        }
        if !self.audiences.iter().flatten().all(|name| resource::is_audience(name)) {
            return Err(Refusal::ResourceMalformed);
        }
        let most = [self.scopes.as_ref(), self.audiences.as_ref(), Some(&self.ceremony_required_for)];
        if most.into_iter().flatten().any(|names| names.len() > MOST_NAMES) {
            return Err(Refusal::Malformed("A list has more than 100 names"));
        }
        let details = match &self.authorization_details {
            None => None,
            Some(value) => {
                let details =
                    Details::from_value(value).filter(|details| details.0.iter().all(vault::is_usable));
                Some(details.ok_or(Refusal::AuthorizationDetailsMalformed)?)
            }
        };
        if self.capability_ceiling.as_ref().is_some_and(|name| !capability_levels.knows(name)) {
            return Err(Refusal::CapabilityUnknown);
        }
        if self.max_uses == Some(0) || self.max_depth == Some(0) || self.expires_in == Some(0) {
            return Err(Refusal::Malformed("max_uses, max_depth and expires_in are at least 1"));
        }
        let set = |names: &Vec<String>| names.iter().cloned().collect::<BTreeSet<_>>();
        Ok(ApprovedTerms {
            scopes: self.scopes.as_ref().map(set),
            audiences: self.audiences.as_ref().map(set),
            details,
            ceiling: self.capability_ceiling.clone(),
            ceremonies: set(&self.ceremony_required_for),
            max_uses: self.max_uses.map(i64::from),
            max_depth: self.max_depth,
            offline_access: self.offline_access,
        })
    }

    /// Refuses names that no resource declares: such a scope would allow nothing, and such a confirmation would never be
    /// required.
    pub(in crate::services) fn check_declared(
        &self,
        registry: &Registry,
        capability_levels: &CapabilityLevels,
    ) -> Result<(), Refusal> {
        let first =
            |names: &[String], known: &dyn Fn(&str) -> bool| names.iter().position(|name| !known(name));
        let scope = |name: &str| registry.has_scope(name);
        let details = self.authorization_details.as_ref().and_then(Details::from_value);
        let types: Vec<String> =
            details.iter().flat_map(|details| &details.0).map(|one| one.kind.clone()).collect();
        let undeclared = [
            (Declared::Scopes, first(self.scopes.as_deref().unwrap_or_default(), &scope)),
            (
                Declared::Audiences,
                first(self.audiences.as_deref().unwrap_or_default(), &|name| {
                    registry.resources.contains_key(name)
                }),
            ),
            (
                Declared::Ceremonies,
                first(&self.ceremony_required_for, &|name| capability_levels.knows(name) || scope(name)),
            ),
            (Declared::Details, first(&types, &|name| registry.has_detail_type(name))),
        ];
        match undeclared.into_iter().find_map(|(list, place)| Some((list, place?))) {
            Some((list, place)) => Err(Refusal::Undeclared(list, place)),
            None => Ok(()),
        }
    }

    /// Whether no limit is narrowed.
    pub(super) fn is_empty(&self) -> bool {
        let limits = [self.max_uses, self.max_depth, self.expires_in];
        self.scopes.is_none()
            && self.audiences.is_none()
            && self.authorization_details.is_none()
            && self.capability_ceiling.is_none()
            && self.ceremony_required_for.is_empty()
            && self.offline_access.is_none()
            && limits.iter().all(Option::is_none)
    }
}

/// The reason for people: at most 500 characters, no control characters except line breaks.
pub(in crate::services) fn check_reason(reason: Option<&str>) -> Result<(), Refusal> {
    let fits = reason.is_none_or(|text| {
        text.chars().count() <= MOST_REASON && !text.chars().any(|c| c.is_control() && c != '\n')
    });
    if fits { Ok(()) } else { Err(Refusal::Malformed("reason is a text of at most 500 characters")) }
}

fn is_text(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

pub(in crate::services) fn after(now: OffsetDateTime, seconds: u32) -> OffsetDateTime {
    now + time::Duration::seconds(seconds.into())
}
