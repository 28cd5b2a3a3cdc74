//! Sessions of people in the console, sign-ins that have begun, and the links by which operators enter.

mod change_feed;
mod mac;
pub mod sign_ins;
pub mod store;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{AsRefStr, EnumString};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

pub use self::change_feed::{ChangeFeed, KnownSeq, LogChange};
use super::principal::Principal;
use actchain_protocol::base64url;

/// How long an operator's link can be used.
pub const LINK_LIFE: Duration = Duration::minutes(5);
/// How long an operator's session lasts.
pub const OPERATOR_LIFE: Duration = Duration::hours(1);
/// How long a sign-in may take.
pub const SIGN_IN_LIFE: Duration = Duration::minutes(10);
/// How long a logout token is remembered: longer than it is accepted, and longer than a sign-in takes.
pub const LOGOUT_KEPT: Duration = Duration::minutes(30);
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

/// Whether an issuer said when it authenticated a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthTime {
    Known,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleSession {
    pub id: Uuid,
    /// Digest of the secret in the cookie.
    pub secret_sha256: [u8; 32],
    pub role: ConsoleRole,
    /// The condition of the rule that gave the role, if a rule did.
    pub role_by: Option<String>,
    /// `None` for an operator.
    pub who: Option<Principal>,
    /// The person's `sub` in logout tokens of the issuer.
    pub issuer_subject: Option<String>,
    /// `sid` of the issuer.
    pub issuer_session: Option<String>,
    /// What is shown beside the name of the person.
    pub label: Option<String>,
    pub signed_in_at: OffsetDateTime,
    /// When the issuer authenticated the person; where it did not say, when it issued the token.
    pub authenticated_at: OffsetDateTime,
    pub auth_time: AuthTime,
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
        let is_recent = self.auth_time == AuthTime::Known && now < self.authenticated_at + fresh;
        self.role == ConsoleRole::Operator || is_recent
    }
}

/// Why a person signs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, AsRefStr, EnumString)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum SignInPurpose {
    Normal,
    /// The person is to be authenticated once more.
    Fresh,
}

/// A sign-in that has begun in a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingSignIn {
    pub state_sha256: [u8; 32],
    /// Digest of the secret in the browser's cookie.
    pub browser_sha256: [u8; 32],
    /// The issuer, by its name in the registry.
    pub iss: String,
    pub nonce: String,
    /// The sealed PKCE verifier.
    pub verifier: String,
    /// The page to return to, below the console.
    pub return_to: Option<String>,
    pub purpose: SignInPurpose,
    pub created_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
}

impl PendingSignIn {
    /// The additional authenticated data of the sealed verifier.
    pub fn row(state_sha256: &[u8; 32]) -> String {
        format!("console_sign_in/{}", base64url::encode(state_sha256))
    }
}

/// A link by which an operator enters once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleLink {
    pub id: Uuid,
    pub secret_sha256: [u8; 32],
    pub expires_at: OffsetDateTime,
}
