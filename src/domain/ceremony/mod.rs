//! Ceremonies: fresh confirmations by a delegator, each for one use of what its delegation reserves for them.

pub mod store;

use std::collections::BTreeSet;

use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::capability::Ceiling;
use crate::platform::digest::sha256;
use crate::protocol::authorization_details::Details;

/// Where a ceremony stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Waits for the delegator.
    Pending,
    /// May be used once.
    Approved,
    /// The delegator said no.
    Denied,
    Used,
    /// Nobody decided, or nobody used it, in time.
    Expired,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Used => "used",
            Self::Expired => "expired",
        }
    }
}

/// A confirmation that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Ceremony {
    pub id: Uuid,
    /// The delegation whose delegator has to confirm.
    pub delegation_id: String,
    pub client_id: String,
    /// Stands for who asks for what under which key.
    pub fingerprint: [u8; 32],
    /// Scopes of the token.
    pub scopes: BTreeSet<String>,
    pub audiences: BTreeSet<String>,
    /// Its `authorization_details`.
    pub details: Option<Details>,
    /// Its capability.
    pub capability: Ceiling,
    /// When it was asked for.
    pub requested_at: OffsetDateTime,
    /// Until when it can be decided and used.
    pub expires_at: OffsetDateTime,
    /// When it was approved.
    pub approved_at: Option<OffsetDateTime>,
    /// When it was denied.
    pub denied_at: Option<OffsetDateTime>,
    /// When it was used.
    pub used_at: Option<OffsetDateTime>,
}

/// A confirmation that is to be asked for, and how many may wait.
#[derive(Debug, Clone, PartialEq)]
pub struct Asking {
    /// The confirmation.
    pub ceremony: Ceremony,
    /// How many may wait at its delegation.
    pub most: usize,
    /// How many of these its client may have asked for.
    pub most_of_client: usize,
}

/// A confirmation that was not used yet and can be decided or used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The delegation whose delegator confirms.
    pub delegation_id: String,
    pub client_id: String,
    /// Stands for who asks for what under which key.
    pub fingerprint: [u8; 32],
    /// Pending, approved or denied.
    pub stage: Stage,
}

impl Ceremony {
    /// What others have to know of it while it is open.
    pub fn open(&self, now: OffsetDateTime) -> Open {
        Open {
            delegation_id: self.delegation_id.clone(),
            client_id: self.client_id.clone(),
            fingerprint: self.fingerprint,
            stage: self.stage(now),
        }
    }

    /// Where it stands at an instant.
    pub fn stage(&self, now: OffsetDateTime) -> Stage {
        if self.used_at.is_some() {
            Stage::Used
        } else if self.denied_at.is_some() {
            Stage::Denied
        } else if now >= self.expires_at {
            Stage::Expired
        } else if self.approved_at.is_some() {
            Stage::Approved
        } else {
            Stage::Pending
        }
    }
}

/// What a confirmation is about: an exchange that asks for anything else needs another.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Matter<'a> {
    /// The delegation.
    pub delegation_id: &'a str,
    pub client_id: &'a str,
    /// Under which key.
    pub jkt: Option<&'a str>,
    /// The delegation that the token would be issued under.
    pub issued_under: &'a str,
    pub scopes: &'a BTreeSet<String>,
    pub audiences: &'a BTreeSet<String>,
    /// `authorization_details`.
    pub details: Option<&'a Details>,
    pub capability: Option<&'a str>,
}

impl Matter<'_> {
    /// A digest over all of it. JSON keeps the parts apart; the members come in a fixed order.
    pub fn fingerprint(&self) -> [u8; 32] {
        // Texts and lists of texts always have a JSON form.
        sha256(&[serde_json::to_string(self).unwrap_or_default().as_bytes()])
    }
}
