//! The actions of audit events, each with the members of its `detail`.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::action_list::actions;
use super::detail::{
    AuthorizationRefusal, CallEnd, ChangedRules, ConnectedBy, DeclaredChange, DeletedAgent, ErasureCause,
    GrantSuspension, OperationRefusal, ProxiedRequest, RedirectBrowser, RegisteredAgent, RegistrarOperation,
    RestoredBackup, RevocationCause, SealingChange, SessionEnd, SignInDetail, SignInRefusal, SignedToken,
    SuspensionCause, TokenRefusal,
};
use super::outcome::EventOutcome;
use crate::domain::client::ClientException;
use crate::domain::delegation::RecordedTerms;
use crate::domain::issuer::MetadataMember;
use crate::domain::key::{KeyPurpose, KeyState};
use crate::domain::principal::Principal;
use crate::domain::standing_grant::RecordedGrant;
use crate::domain::standing_grant::coverage::GrantLimit;
use crate::domain::step::StepDetail;

actions! {
    /// A client got a token for itself (`client_credentials`).
    TokenIssued Success "oauth.token.issued" (SignedToken);
    /// A token was exchanged for another.
    TokenExchanged Success "oauth.token.exchanged" {
        exp: i64,
        kid: String,
        /// Whether the subject token was verified by introspection at its issuer; absent for a signed token.
        #[serde(skip_serializing_if = "Option::is_none")] introspected: Option<bool>,
        /// The id of the refresh token in the answer.
        #[serde(default, skip_serializing_if = "Option::is_none")] refresh_token: Option<Uuid>,
        /// The exceptions that the client used, by the members of its declaration.
        #[serde(default, skip_serializing_if = "Vec::is_empty")] exceptions: Vec<ClientException>,
    };
    /// A token was issued with a refresh token, for the same root subject and chain. `parent_jti` is the id of the refresh
    /// token.
    TokenRefreshed Success "oauth.token.refreshed" (SignedToken);
    /// A token request of a known client was refused.
    TokenRefused Refused "oauth.token.refused" (TokenRefusal);
    /// A client revoked its own access token or refresh token. `jti` is the id of that token.
    TokenRevoked Success "oauth.token.revoked";
    /// A request of a known client to revoke a token was refused.
    TokenRevocationRefused Refused "oauth.token.revocation_refused" { #[serde(skip_serializing_if = "Option::is_none")] cause: Option<String> };
    /// A request of a known client to introspect a token was refused.
    TokenIntrospectionRefused Refused "oauth.token.introspection_refused" { #[serde(skip_serializing_if = "Option::is_none")] cause: Option<String> };

    /// A delegation was declared, created or requested, or was created for a `may_act` claim.
    DelegationCreated Success "delegation.created" code "0x3001" {
        terms: Box<RecordedTerms>,
        #[serde(skip_serializing_if = "Option::is_none")] expires_in: Option<u32>,
    };
    /// A request to create a delegation was refused.
    DelegationCreationRefused Refused "delegation.creation_refused" (OperationRefusal);
    /// A delegation was created active, or approved, or the new key of its ephemeral agent was approved.
    DelegationActivated Success "delegation.activated" code "0x3002" {
        terms: Box<RecordedTerms>,
        /// Whether the approval was about a new key of the agent.
        new_key: bool,
        /// Thumbprint of the key of an ephemeral agent.
        #[serde(skip_serializing_if = "Option::is_none")] jkt: Option<String>,
    };
    /// An approval of a delegation was refused.
    DelegationApprovalRefused Refused "delegation.approval_refused" (OperationRefusal);
    /// A delegation was denied or revoked, or its task ended, or its issuer was removed.
    DelegationRevoked Success "delegation.revoked" code "0x3003" {
        cause: RevocationCause,
    };
    /// A denial of a delegation was refused.
    DelegationDenialRefused Refused "delegation.denial_refused" (OperationRefusal);
    /// A revocation of a delegation was refused.
    DelegationRevocationRefused Refused "delegation.revocation_refused" (OperationRefusal);
    /// The lifetime is over (`reason` `delegation_expired`), or no use is left (`command_limit`). An expiry takes effect at
    /// once; a job records it within half a minute. The last use is recorded in its own transaction.
    DelegationExpired Success "delegation.expired" code "0x3004" {
        #[serde(skip_serializing_if = "Option::is_none")] expires_at: Option<String>,
        /// Whether it was a request without a decision.
        #[serde(skip_serializing_if = "Option::is_none")] lapsed: Option<bool>,
        /// The token that was the last use.
        #[serde(skip_serializing_if = "Option::is_none")] jti: Option<String>,
    };
    /// A delegation got a later end.
    DelegationRenewed Success "delegation.renewed" { from: String, to: String };
    /// A delegation may not be used until its delegator or an administrator approves it again.
    DelegationSuspended Success "delegation.suspended" { cause: SuspensionCause };
    /// The delegator or an administrator approved a suspended delegation.
    DelegationResumed Success "delegation.resumed";
    /// A renewal of a delegation was refused.
    DelegationRenewalRefused Refused "delegation.renewal_refused" (OperationRefusal);
    /// An agent reported a step of its work. Input, output and reasoning are beside the document.
    DelegationStep Success "delegation.step" (StepDetail);
    /// A report of steps was refused.
    DelegationStepRefused Refused "delegation.step_refused" (OperationRefusal);
    /// The texts of the steps of a session, or all that are older than `sessions.text_retention`, were erased.
    SessionTextsErased Success "session.texts_erased" { steps: i64, cause: ErasureCause };
    /// A request to erase the texts of a session was refused.
    SessionTextsErasureRefused Refused "session.texts_erasure_refused" (OperationRefusal);
    /// An agent requested another key; tokens bound to the old key are inactive.
    DelegationKeyRotationRequested Success "delegation.key_rotation_requested" { old: Vec<String>, new: String };
    /// A request for another key was refused.
    DelegationKeyRotationRefused Refused "delegation.key_rotation_refused" (OperationRefusal);
    /// A delegator approved one use. The request for this decision is an `oauth.token.refused` with the reason
    /// `ceremony_required`.
    CeremonyApproved Success "delegation.ceremony_approved" { ceremony: Uuid };
    /// An approval of one use was refused.
    CeremonyApprovalRefused Refused "delegation.ceremony_approval_refused" (OperationRefusal);
    /// A delegator denied one use.
    CeremonyDenied Success "delegation.ceremony_denied" { ceremony: Uuid };
    /// A denial of one use was refused.
    CeremonyDenialRefused Refused "delegation.ceremony_denial_refused" (OperationRefusal);

    /// A user consented to requests of an agent within limits, or an administrator did so for the user.
    StandingGrantCreated Success "standing_grant.created" (Box<RecordedGrant>);
    /// A request to create a standing grant was refused.
    StandingGrantCreationRefused Refused "standing_grant.creation_refused" (OperationRefusal);
    /// A standing grant got a later end.
    StandingGrantRenewed Success "standing_grant.renewed" { from: String, to: String };
    /// A renewal of a standing grant was refused.
    StandingGrantRenewalRefused Refused "standing_grant.renewal_refused" (OperationRefusal);
    /// A standing grant was revoked, and with it all delegations that became active under it.
    StandingGrantRevoked Success "standing_grant.revoked";
    /// A revocation of a standing grant was refused.
    StandingGrantRevocationRefused Refused "standing_grant.revocation_refused" (OperationRefusal);
    /// The agent proved itself by something that the grantor has not confirmed. Until then nothing passes under the grant.
    StandingGrantSuspended Success "standing_grant.suspended" (GrantSuspension);
    /// The grantor confirmed the keys of the agent.
    StandingGrantRevalidated Success "standing_grant.revalidated" { old: BTreeSet<String>, new: BTreeSet<String> };
    /// A confirmation of the keys of an agent was refused.
    StandingGrantRevalidationRefused Refused "standing_grant.revalidation_refused" (OperationRefusal);
    /// A request of the agent became active at once.
    StandingGrantUsed Success "standing_grant.used";
    /// A request of the agent exceeds a limit of the grant, and waits for the user.
    StandingGrantRejected Refused "standing_grant.rejected" { limit: GrantLimit };
    /// The lifetime of a standing grant is over. A job records it within half a minute.
    StandingGrantExpired Success "standing_grant.expired" { expires_at: String };

    /// A revoke-all: everything that the subject had until then was revoked.
    PrincipalRevoked Success "principal.revoked";
    /// A user was erased from the log. `target` is the pseudonym; personal data of `events` events was cleared.
    PrincipalErased Success "principal.erased" { events: i64 };
    /// A revoke-all was refused.
    PrincipalRevocationRefused Refused "principal.revocation_refused" (OperationRefusal);
    /// A request to end a task was refused. What a task ends are `delegation.revoked` and `client.agent_deactivated`.
    TaskEndRefused Refused "task.end_refused" (OperationRefusal);

    /// A person signed out of the console.
    ConsoleSignedOut Success "console.signed_out";
    /// A person signed in to the console at its issuer.
    ConsoleSignedIn Success "console.signed_in" (SignInDetail);
    /// A sign-in to the console was refused. `target` is the issuer.
    ConsoleRefused Refused "console.refused" (SignInRefusal);
    /// A session in the console ended, other than by signing out. `target` is the issuer that ended it.
    ConsoleSessionEnded Success "console.session_ended" {
        /// The session that ended.
        ended: Uuid,
        cause: SessionEnd,
    };
    /// An operator made a link to the console that is good once.
    ConsoleLinkMade Success "console.link_made" { expires_at: String };
    /// An operator entered the console by a link.
    ConsoleOperatorEntered Success "console.operator_entered" { expires_at: String };

    /// A client publishes other keys at its `jwks_uri`, or a server has read them for the first time (`old` is empty).
    ClientKeysPublished Success "client.keys_published" { old: BTreeSet<String>, new: BTreeSet<String> };
    /// A key was removed from a client.
    ClientKeyRemoved Success "client.key_removed" { jkt: String };
    /// A removal of a key was refused.
    ClientKeyRemovalRefused Refused "client.key_removal_refused" (OperationRefusal);
    /// An operator restored a removed key of a client.
    ClientKeyRestored Success "client.key_restored" { jkt: String };
    /// A restoration of a key was refused.
    ClientKeyRestorationRefused Refused "client.key_restoration_refused" (OperationRefusal);
    /// An ephemeral agent was created for one delegation.
    AgentCreated Success "client.agent_created" {
        owner: Principal,
        #[serde(skip_serializing_if = "Option::is_none")] jkt: Option<String>,
    };
    /// An ephemeral agent ended with its task or its delegation.
    AgentDeactivated Success "client.agent_deactivated";
    /// A client was declared, or its declaration changed.
    ClientChanged Success "client.changed" {
        change: DeclaredChange,
        /// Names of the changed members.
        #[serde(default, skip_serializing_if = "Vec::is_empty")] members: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")] removed_keys: Vec<String>,
    };
    /// A client was disabled.
    ClientDisabled Success "client.disabled";
    /// A request to disable a client was refused.
    ClientDisableRefused Refused "client.disable_refused" (OperationRefusal);
    /// A client was enabled again.
    ClientEnabled Success "client.enabled";
    /// A request to enable a client was refused.
    ClientEnableRefused Refused "client.enable_refused" (OperationRefusal);
    /// A client got a new secret.
    ClientSecretRotated Success "client.secret_rotated";
    /// A request for a new secret of a client was refused.
    ClientSecretRotationRefused Refused "client.secret_rotation_refused" (OperationRefusal);
    /// A manifest of an administrator was refused. What a manifest changes has an event for each entry.
    ManifestRefused Refused "admin.manifest_refused" (OperationRefusal);

    /// A signing key was created, began to sign, ceased to sign or was removed.
    KeyChanged Success "key.changed" { stage: KeyState, purpose: KeyPurpose, alg: String };
    /// An issuer was declared, or its declaration changed.
    IssuerChanged Success "admin.issuer_changed" { change: DeclaredChange };
    /// The metadata of an issuer with `discover: true` differs from what stays in force. At most once a day for the same members.
    IssuerMetadataChanged Success "admin.issuer_metadata_changed" {
        changed: Vec<MetadataMember>,
        /// Accepted algorithms that the metadata does not offer any more.
        #[serde(default, skip_serializing_if = "Vec::is_empty")] algorithms: Vec<String>,
    };
    /// An issuer was removed. `revoked` is the number of root delegations of its users that were revoked with it.
    IssuerRemoved Success "admin.issuer_removed" { revoked: u64 };
    /// A resource was declared, or its declaration changed.
    ResourceChanged Success "admin.resource_changed" { change: DeclaredChange };
    /// A resource was removed.
    ResourceRemoved Success "admin.resource_removed";
    /// A provider was declared, or its declaration changed.
    ProviderChanged Success "admin.provider_changed" { change: DeclaredChange };
    /// A [registrar](manifest.md#registrars) was declared, or its declaration changed.
    RegistrarChanged Success "admin.registrar_changed" { change: DeclaredChange };
    /// An ephemeral agent was registered at a registrar. `target` is the agent.
    RegistrarRegistered Success "registrar.registered" (RegisteredAgent);
    /// A deactivated agent is no longer registered at a registrar. `target` is the agent.
    RegistrarDeleted Success "registrar.deleted" (DeletedAgent);
    /// The fifth attempt to register or delete an agent failed; further attempts follow. `target` is the agent.
    RegistrarDelayed Success "registrar.delayed" { registrar: String, operation: RegistrarOperation, attempts: u32, error: String };
    /// A declaration of a provider was refused.
    ProviderChangeRefused Refused "admin.provider_change_refused" (OperationRefusal);

    /// A [sink](audit-sinks.md) was declared, or its declaration changed. Only the host of the URL is recorded.
    SinkChanged Success "admin.sink_changed" {
        change: DeclaredChange,
        #[serde(skip_serializing_if = "Option::is_none")] host: Option<String>,
        format: String,
    };
    /// A declaration of a sink was refused.
    SinkChangeRefused Refused "admin.sink_change_refused" (OperationRefusal);
    /// An administrator enabled a sink.
    SinkEnabled Success "admin.sink_enabled";
    /// A request to enable a sink was refused.
    SinkEnableRefused Refused "admin.sink_enable_refused" (OperationRefusal);
    /// A sink was disabled by an administrator, or by the server because the sink answered with `status` 410.
    SinkDisabled Success "admin.sink_disabled" {
        #[serde(skip_serializing_if = "Option::is_none")] status: Option<u16>,
    };
    /// A request to disable a sink was refused.
    SinkDisableRefused Refused "admin.sink_disable_refused" (OperationRefusal);
    /// A sink got another secret.
    SinkSecretRotated Success "admin.sink_secret_rotated";
    /// A request for another secret of a sink was refused.
    SinkSecretRotationRefused Refused "admin.sink_secret_rotation_refused" (OperationRefusal);
    /// An administrator removed a sink with its dead letters.
    SinkRemoved Success "admin.sink_removed" { cursor: u64, dead_letters: i64 };
    /// A removal of a sink was refused.
    SinkRemovalRefused Refused "admin.sink_removal_refused" (OperationRefusal);
    /// Dead letters are sent again.
    SinkReplayed Success "admin.sink_replayed" { dead_letters: u64 };
    /// A request to send dead letters again was refused.
    SinkReplayRefused Refused "admin.sink_replay_refused" (OperationRefusal);
    /// A sink did not accept an event.
    SinkDeadLetter Success "admin.sink_dead_letter" {
        seq: u64,
        attempts: u32,
        /// Status of the last answer, if there was an answer.
        #[serde(skip_serializing_if = "Option::is_none")] status: Option<u16>,
    };
    /// Rules were declared, removed, or switched off or on.
    RulesChanged Success "rules.changed" (ChangedRules);
    /// The events from `from` to `to` were archived before they were sent to a sink.
    SinkSkipped Success "admin.sink_skipped" { from: u64, to: u64 };

    /// A witness cosigned a checkpoint for the first time.
    WitnessCosigned Success "audit.witness_cosigned" {
        /// Size of the checkpoint.
        size: u64,
    };
    /// A backup was restored, and `actchain restored` revoked all tokens of before.
    BackupRestored Success "admin.backup_restored" (RestoredBackup);
    /// A partition of the log was moved to a file and dropped.
    AuditArchived Success "admin.audit_archived" {
        partition: i32,
        from: u64,
        to: u64,
        /// SHA-256 of the file.
        sha256: String,
        file: String,
    };
    /// The log was exported over the API.
    AuditExported Success "admin.audit_exported" {
        format: String,
        /// Users by their names in the log; null for a value that has none, and for an address.
        filter: BTreeMap<String, Option<String>>,
        from_seq: u64,
        size: u64,
        /// Whether the file has the names of users and their personal data.
        people: bool,
    };

    /// An agent got a credential. `target` is the connection, `subject` its owner, `parent_jti` the agent's token.
    VaultTokenRetrieved Success "vault.token.retrieved" {
        provider: String,
        /// Version of the connection.
        version: i64,
        scopes: Option<BTreeSet<String>>,
        /// Whether the answer was encrypted to the agent's key.
        sealed: bool,
    };
    /// An agent was refused a credential.
    VaultTokenRefused Refused "vault.token.refused" {
        sealed: bool,
        #[serde(skip_serializing_if = "Option::is_none")] cause: Option<String>,
    };
    /// A token of a chain was issued for the authorization server of a provider alone, to be exchanged there. `jti` is the
    /// issued token, `target` the provider.
    VaultSubjectTokenIssued Success "vault.subject_token.issued" { provider: String, exp: i64, kid: String };
    /// The proxy is about to send a request with a credential.
    VaultProxyCalled Success "vault.proxy.called" {
        provider: String,
        /// Version of the connection.
        version: i64,
        scopes: Option<BTreeSet<String>>,
        request: ProxiedRequest,
    };
    /// An agent was refused a request through the proxy.
    VaultProxyRefused Refused "vault.proxy.refused" { request: ProxiedRequest };
    /// The proxied request ended.
    VaultProxyAnswered Success "vault.proxy.answered" {
        request: ProxiedRequest,
        #[serde(skip_serializing_if = "Option::is_none")] status: Option<u16>,
        /// Length of the body that was forwarded.
        bytes: u64,
        ended: CallEnd,
    };
    /// The proxied request had no answer to forward.
    VaultProxyFailed Refused "vault.proxy.failed" {
        request: ProxiedRequest,
        #[serde(skip_serializing_if = "Option::is_none")] status: Option<u16>,
    };
    /// An owner was sent to a provider to authorize this server.
    ConnectionRequested Success "vault.connection.requested" {
        provider: String,
        scopes: BTreeSet<String>,
        /// Whether the connection exists already.
        reconnects: bool,
    };
    /// A request to be sent to a provider was refused.
    ConnectionRequestRefused Refused "vault.connection.request_refused" (OperationRefusal);
    /// A browser returned with a code, with which the owner can finish the authorization; or the owner finished it.
    ConnectionAuthorized Success "vault.connection.authorized" {
        provider: String,
        browser: RedirectBrowser,
        finished: bool,
    };
    /// An authorization was refused: by the provider, by its user, or by this server.
    ConnectionAuthorizationRefused Refused "vault.connection.authorization_refused" (AuthorizationRefusal);
    /// A connection was made.
    ConnectionCreated Success "vault.connection.created" {
        provider: String,
        scopes: Option<BTreeSet<String>>,
        how: ConnectedBy,
    };
    /// A request to make a connection from an imported credential was refused.
    ConnectionCreationRefused Refused "vault.connection.creation_refused" (OperationRefusal);
    /// The credential of a connection was replaced.
    ConnectionRotated Success "vault.connection.rotated" {
        provider: String,
        scopes: Option<BTreeSet<String>>,
        how: ConnectedBy,
    };
    /// A request to replace the credential of a connection was refused.
    ConnectionRotationRefused Refused "vault.connection.rotation_refused" (OperationRefusal);
    /// The server renewed the access token of a connection.
    ConnectionRefreshed Success "vault.connection.refreshed" {
        provider: String,
        scopes: Option<BTreeSet<String>>,
        /// Whether an agent or the provider had rejected the previous token.
        rejected: bool,
    };
    /// The provider no longer accepts the credential of a connection.
    ConnectionNeedsReconnect Success "vault.connection.needs_reconnect" { provider: String, error: String };
    /// A connection was disconnected.
    ConnectionDisconnected Success "vault.connection.disconnected" { provider: String };
    /// A request to disconnect a connection was refused.
    ConnectionDisconnectionRefused Refused "vault.connection.disconnection_refused" (OperationRefusal);
    /// The server deleted the credential of a disconnected connection.
    ConnectionCredentialDeleted Success "vault.connection.credential_deleted" {
        provider: String,
        /// Whether the provider revoked the tokens, if it can.
        #[serde(skip_serializing_if = "Option::is_none")] provider_revoked: Option<bool>,
    };
    /// A data key of the vault, or a secret that all servers share, was created; a key was wrapped again with the master key;
    /// secrets were sealed again.
    VaultKeyRotated Success "vault.key_rotated" (SealingChange);
}
