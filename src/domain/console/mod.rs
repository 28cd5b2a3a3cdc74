//! Sessions of people in the console, and the links by which operators enter.

mod mac;
pub mod store;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{AsRefStr, EnumString};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::principal::Principal;

/// How long an operator's link can be used.
pub const LINK_LIFE: Duration = Duration::minutes(5);
/// How long an operator's session lasts.
pub const OPERATOR_LIFE: Duration = Duration::hours(1);
/// How long an ended session is kept.
pub const KEPT: Duration = Duration::days(30);

/// What a person may do in the console.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    AsRefStr,
    EnumString,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ConsoleRole {
    /// Decides about what concerns the person.
    User,
    Auditor,
    Admin,
    /// An operator, with the rights of an administrator.
    Operator,
}

/// A session as events name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionReference {
    /// The id of the session; no secret.
    pub session: Uuid,
    /// The role in which the person acted.
    pub role: ConsoleRole,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleSession {
    pub id: Uuid,
    /// Digest of the secret in the cookie.
    pub secret_sha256: [u8; 32],
    pub role: ConsoleRole,
    /// `None` for an operator.
    pub who: Option<Principal>,
    /// `sid` of the issuer.
    pub issuer_session: Option<String>,
    pub signed_in_at: OffsetDateTime,
    /// When the issuer authenticated the person.
    pub authenticated_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
    pub last_seen_at: OffsetDateTime,
    pub ended_at: Option<OffsetDateTime>,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
}

impl ConsoleSession {
    pub fn reference(&self) -> SessionReference {
        SessionReference { session: self.id, role: self.role }
    }

    /// Whether the session has not ended.
    pub fn is_lasting(&self, now: OffsetDateTime) -> bool {
        self.ended_at.is_none() && now < self.expires_at
    }

    /// Whether the session can be used: it has not ended, and was used within `idle`.
    pub fn is_open(&self, now: OffsetDateTime, idle: Duration) -> bool {
        self.is_lasting(now) && now < self.last_seen_at + idle
    }

    /// Whether the person was authenticated within `fresh`. The shell that made an operator's link may do everything.
    pub fn is_fresh(&self, now: OffsetDateTime, fresh: Duration) -> bool {
        self.role == ConsoleRole::Operator || now < self.authenticated_at + fresh
    }
}

/// A link by which an operator enters once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleLink {
    pub id: Uuid,
    pub secret_sha256: [u8; 32],
    pub expires_at: OffsetDateTime,
}
