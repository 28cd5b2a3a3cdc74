//! Ceremonies: fresh confirmations by a delegator, each for one use of what the delegation reserves for confirmation.

pub mod store;
pub mod view;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::capability::Ceiling;
use crate::platform::fault::{Context as _, Fault};
use actchain_protocol::authorization_details::Details;
use actchain_protocol::digest::sha256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum CeremonyState {
    Pending,
    Approved,
    Denied,
    Used,
    /// Expired before it was decided or used.
    Expired,
}

impl CeremonyState {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Ceremony {
    pub id: Uuid,
    /// The delegation whose delegator has to confirm.
    pub delegation_id: String,
    pub client_id: String,
    /// Digest of the matter; see [`Matter::fingerprint`].
    pub fingerprint: [u8; 32],
    /// Scopes of the token to be issued.
    pub scopes: BTreeSet<String>,
    pub audiences: BTreeSet<String>,
    /// `authorization_details` of the token to be issued.
    pub details: Option<Details>,
    /// Capability of the token to be issued.
    pub capability: Ceiling,
    pub requested_at: OffsetDateTime,
    /// Until then it can be decided and used.
    pub expires_at: OffsetDateTime,
    pub approved_at: Option<OffsetDateTime>,
    pub denied_at: Option<OffsetDateTime>,
    pub used_at: Option<OffsetDateTime>,
}

/// A confirmation to request, with the limits of pending confirmations.
#[derive(Debug, Clone, PartialEq)]
pub struct Asking {
    pub ceremony: Ceremony,
    /// Maximum number of pending confirmations at the delegation.
    pub most: usize,
    /// Maximum number of these that the client may have requested.
    pub most_of_client: usize,
}

/// A confirmation that is neither used nor expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The delegation whose delegator confirms.
    pub delegation_id: String,
    pub client_id: String,
    /// Digest of the matter; see [`Matter::fingerprint`].
    pub fingerprint: [u8; 32],
    /// Pending, approved or denied.
    pub stage: CeremonyState,
}

impl Ceremony {
    /// The data that other requests need while the confirmation is open.
    pub fn open(&self, now: OffsetDateTime) -> Open {
        Open {
            delegation_id: self.delegation_id.clone(),
            client_id: self.client_id.clone(),
            fingerprint: self.fingerprint,
            stage: self.stage(now),
        }
    }

    pub fn stage(&self, now: OffsetDateTime) -> CeremonyState {
        if self.used_at.is_some() {
            CeremonyState::Used
        } else if self.denied_at.is_some() {
            CeremonyState::Denied
        } else if now >= self.expires_at {
            CeremonyState::Expired
        } else if self.approved_at.is_some() {
            CeremonyState::Approved
        } else {
            CeremonyState::Pending
        }
    }
}

/// The matter of a confirmation: an exchange that differs in any member needs another confirmation.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Matter<'a> {
    pub delegation_id: &'a str,
    pub client_id: &'a str,
    /// Thumbprint of the DPoP key.
    pub jkt: Option<&'a str>,
    /// The delegation under which the token would be issued.
    pub issued_under: &'a str,
    pub scopes: &'a BTreeSet<String>,
    pub audiences: &'a BTreeSet<String>,
    pub details: Option<&'a Details>,
    pub capability: Option<&'a str>,
}

impl Matter<'_> {
    /// A digest of all members. JSON separates the members unambiguously, in a fixed order.
    pub fn fingerprint(&self) -> Result<[u8; 32], Fault> {
        let members = serde_json::to_string(self).context("writing the matter of a confirmation")?;
        Ok(sha256(&[members.as_bytes()]))
    }
}
