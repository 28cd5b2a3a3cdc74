//! Standing grants: a user's lasting consent to delegations of one agent, within limits. Rows have facts; states are
//! derived.

pub mod coverage;
pub mod list;
mod mac;
pub mod store;
pub mod suspension;
pub mod transitions;
pub mod view;

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::capability::Ceiling;
use super::principal::Principal;
use crate::platform::clock::rfc3339;
use actchain_protocol::authorization_details::Details;

#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    sqlx::Type,
    strum::IntoStaticStr,
    strum::EnumString,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum StandingGrantState {
    Active,
    /// The keys of the agent are not those that the grantor confirmed.
    Suspended,
    Expired,
    Revoked,
}

impl StandingGrantState {
    /// The name on the wire and in the database.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Who created a standing grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum GrantCreator {
    User,
    /// An administrator, for the grantor.
    Admin,
    /// An operator, for the grantor.
    Operator,
}

/// Why a standing grant is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum KeySuspicion {
    /// The agent proved a key that is not pinned.
    KeyNotPinned,
    /// The registered keys of the agent, or the way it authenticates, changed.
    RegistrationChanged,
    /// A pinned key was removed from the agent.
    KeyRemoved,
    /// A backup was restored: a later revocation can be lost.
    BackupRestored,
}

/// A suspension that lasts until the grantor confirms the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySuspension {
    pub at: OffsetDateTime,
    pub cause: KeySuspicion,
    /// Thumbprint of the key that was not pinned, or that was removed.
    pub seen_key: Option<String>,
}

/// The facts from which the state is derived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantFacts {
    pub expires_at: OffsetDateTime,
    pub revoked_at: Option<OffsetDateTime>,
    /// The first revoke-all that covers the grantor or the agent.
    pub principal_revoked_at: Option<OffsetDateTime>,
    pub suspension: Option<KeySuspension>,
}

/// What a standing grant allows, and the most that each delegation gets.
#[derive(Debug, Clone, PartialEq)]
pub struct GrantedLimits {
    pub scopes: BTreeSet<String>,
    pub audiences: BTreeSet<String>,
    /// `authorization_details`; `None` does not restrict.
    pub details: Option<Details>,
    pub ceiling: Ceiling,
    /// Longest lifetime of a delegation, in seconds.
    pub max_ttl: u32,
    pub max_uses: Option<i64>,
    pub max_depth: Option<u32>,
    /// Whether delegations may have offline access.
    pub offline_access: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StandingGrant {
    pub id: String,
    /// The user whose authority is granted.
    pub grantor: Principal,
    /// The agent whose requests are covered.
    pub client_id: String,
    /// Thumbprints of the keys that the grantor has confirmed.
    pub keys: BTreeSet<String>,
    pub limits: GrantedLimits,
    pub created_at: OffsetDateTime,
    pub created_by: GrantCreator,
    pub facts: GrantFacts,
}

/// The limits of a standing grant as the audit log records them. `null` does not restrict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RecordedGrant {
    pub grantor: Principal,
    /// The agent whose requests are covered.
    pub client_id: String,
    /// Thumbprints of the pinned keys.
    pub keys: BTreeSet<String>,
    pub scopes: BTreeSet<String>,
    pub audiences: BTreeSet<String>,
    #[schemars(with = "Option<Vec<serde_json::Map<String, Value>>>")]
    pub authorization_details: Option<Details>,
    pub capability_ceiling: Ceiling,
    pub max_ttl: u32,
    pub max_uses: Option<i64>,
    pub max_depth: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub offline_access: bool,
    pub expires_at: String,
    /// Who created it: the user itself, or an administrator or operator for the user.
    pub created_by: GrantCreator,
}

impl StandingGrant {
    /// The state at a time. Equal to the SQL function `standing_grant_state`.
    pub fn state(&self, now: OffsetDateTime) -> StandingGrantState {
        let GrantFacts { expires_at, revoked_at, principal_revoked_at, suspension } = &self.facts;
        if revoked_at.is_some() || principal_revoked_at.is_some_and(|at| at < *expires_at) {
            StandingGrantState::Revoked
        } else if *expires_at <= now {
            StandingGrantState::Expired
        } else if suspension.is_some() {
            StandingGrantState::Suspended
        } else {
            StandingGrantState::Active
        }
    }

    pub fn recorded(&self) -> Box<RecordedGrant> {
        let limits = &self.limits;
        Box::new(RecordedGrant {
            grantor: self.grantor.clone(),
            client_id: self.client_id.clone(),
            keys: self.keys.clone(),
            scopes: limits.scopes.clone(),
            audiences: limits.audiences.clone(),
            authorization_details: limits.details.clone(),
            capability_ceiling: limits.ceiling.clone(),
            max_ttl: limits.max_ttl,
            max_uses: limits.max_uses,
            max_depth: limits.max_depth,
            offline_access: limits.offline_access,
            expires_at: rfc3339(self.facts.expires_at),
            created_by: self.created_by,
        })
    }
}
