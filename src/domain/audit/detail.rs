//! Parts of the details of events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::client::ClientException;
use crate::domain::refusal::Refusal;
use crate::domain::standing_grant::KeySuspicion;

/// A signed access token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignedToken {
    pub exp: i64,
    pub kid: String,
    /// The exceptions that the client used, by the members of its declaration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<ClientException>,
}

/// Details of a refused token request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenRefusal {
    /// Expiry of the token that was not issued, if it was decided already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// A registered resource that differs from the refused target only in spelling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registered_target: Option<String>,
    /// The confirmation that was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceremony: Option<Uuid>,
    /// Expiry of that confirmation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// The first check that failed, if the reason covers several checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// Details of a refused operation of the management API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OperationRefusal {
    /// The state that explains the refusal, if a state does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// Details of a refused authorization at a provider.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuthorizationRefusal {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// An error code of the provider, or what was observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How often a code of the owner was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tries: Option<i32>,
}

/// Details of a sign-in to the console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignInDetail {
    pub expires_at: String,
    /// When the issuer authenticated the person, if it said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<String>,
}

/// Why a sign-in to the console was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignInProblem {
    /// The issuer or the person did not agree.
    Declined,
    /// The answer came from another issuer than the one that was asked.
    OtherIssuer,
    /// The issuer did not honour its own code.
    CodeRefused,
    /// The issuer does not answer as it should.
    IssuerUnavailable,
    /// The ID token is not valid for this sign-in.
    IdTokenInvalid,
    /// The ID token does not say when the person was authenticated, although the request asked for it.
    AuthTimeMissing,
    /// The person was authenticated too long ago.
    AuthTimeTooOld,
    /// The person was not authenticated in one of the declared ways (`acr`).
    AuthenticationContext,
    /// A revoke-all covers what was authenticated before it.
    Revoked,
    /// The declaration of the issuer changed, or the issuer was removed, meanwhile.
    Changed,
    /// The issuer ended the session there meanwhile.
    LoggedOut,
}

/// Details of a refused sign-in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignInRefusal {
    pub cause: SignInProblem,
    /// An error code of the issuer, or the check of the ID token that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Why texts were erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErasureCause {
    /// The user or an administrator asked for it.
    Requested,
    /// `sessions.text_retention` was over.
    Retention,
}

/// Why a session in the console ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionEnd {
    /// The person ended it from another session.
    Person,
    /// The issuer ended it.
    Issuer,
    /// It was not used for `console.idle`.
    Idle,
    /// It was as old as `console.session`.
    Expired,
    /// A revoke-all of the person.
    RevokeAll,
    /// The `sign_in` of the issuer changed, or the issuer was removed.
    IssuerChanged,
    /// The person was erased.
    PersonErased,
    BackupRestored,
}

/// Why a delegation was suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SuspensionCause {
    BackupRestored,
    /// A rule with the action `suspend` matched; the finding is in the event of the step.
    Rule,
}

/// Ids of rules, by what changed about them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ChangedRules {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub switched_off: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub switched_on: Vec<String>,
}

/// How a declared entry differs from the stored one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeclaredChange {
    Create,
    Update,
}

/// Why a delegation was revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RevocationCause {
    Revoked,
    Denied,
    TaskEnded,
    IssuerRemoved,
}

/// A request through the proxy, without ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProxiedRequest {
    pub method: String,
    pub host: String,
}

/// How a proxied request with an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallEnd {
    /// The client has disconnected.
    Cancelled,
    /// The whole response was forwarded.
    Complete,
    /// The response was interrupted, took too long, or was too large.
    Cut,
}

/// The browser that returned from a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RedirectBrowser {
    /// The browser that began the authorization.
    Same,
    Another,
}

/// How a connection got its credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectedBy {
    /// An authorization at the provider.
    Oauth,
    /// Its owner gave the credential.
    Import,
    /// The provider exchanged a token of a chain.
    Exchange,
}

/// What a registrar is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RegistrarOperation {
    Register,
    Delete,
}

/// A change of the keys and secrets that seal other secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum SealingChange {
    /// A data key, or a secret that all servers share, was created.
    Created,
    /// The key was wrapped again.
    Rewrapped {
        /// Id of the master key.
        master_key: String,
    },
    /// Secrets were sealed again under the key.
    Resealed {
        secrets: u64,
        /// Number of secrets that are sealed under other keys.
        left: u64,
    },
}

/// What `actchain restored` revoked and suspended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RestoredBackup {
    /// Tokens that were recorded up to this epoch are revoked.
    pub revoked_epoch: i64,
    /// Number of delegations that were suspended for a review.
    pub suspended: u64,
    /// Number of active connections whose refresh tokens can be older than those of the provider.
    pub refreshable_connections: i64,
    /// Size of the checkpoint that was kept outside the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<u64>,
    /// Number of events of that checkpoint that the restored log does not have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_events: Option<u64>,
}

/// An ephemeral agent at a registrar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegisteredAgent {
    pub registrar: String,
    /// Client id at the registrar.
    pub registered_as: String,
    /// Whether the registrar lets this server delete the registration (RFC 7592).
    pub deletable: bool,
    /// Whether the answer to an earlier request was lost: the registrar may have registered the agent twice.
    pub answer_lost: bool,
}

/// The end of a registration at a registrar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeletedAgent {
    pub registrar: String,
    /// Client id at the registrar; null if no registration is known.
    pub registered_as: Option<String>,
    /// Whether the registration was deleted; false if there was none, or none that this server can delete.
    pub deleted: bool,
    /// Whether the answer to a request to register was lost: the registrar may have registered the agent.
    pub answer_lost: bool,
}

/// Why a standing grant was suspended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GrantSuspension {
    pub cause: KeySuspicion,
    /// Thumbprints of the pinned keys.
    pub keys: Vec<String>,
    /// Thumbprint of the key that was not pinned, or that was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_key: Option<String>,
}

impl OperationRefusal {
    pub fn of(refusal: Refusal) -> Self {
        Self { state: refusal.state().map(str::to_owned) }
    }
}

impl TokenRefusal {
    pub fn of(refusal: Refusal) -> Self {
        Self::default().because_of(refusal)
    }

    /// The same details with the cause of a refusal.
    pub fn because_of(self, refusal: Refusal) -> Self {
        Self { cause: cause(refusal), ..self }
    }
}

pub fn cause(refusal: Refusal) -> Option<String> {
    refusal.cause().map(str::to_owned)
}
