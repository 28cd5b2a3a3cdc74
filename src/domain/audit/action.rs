//! Names of audit events.

/// An action, with its stable name in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
pub enum Action {
    /// Client credentials grant: a token for the client itself.
    #[strum(serialize = "oauth.token.issued")]
    TokenIssued,
    /// Token exchange: a token issued from another token.
    #[strum(serialize = "oauth.token.exchanged")]
    TokenExchanged,
    /// A token request was refused.
    #[strum(serialize = "oauth.token.refused")]
    TokenRefused,
    /// A token was revoked by its client.
    #[strum(serialize = "oauth.token.revoked")]
    TokenRevoked,
    /// A delegation was requested or created.
    #[strum(serialize = "delegation.created")]
    DelegationCreated,
    /// A requested delegation was approved, or the new key of its agent was confirmed.
    #[strum(serialize = "delegation.activated")]
    DelegationActivated,
    /// A delegation was denied or revoked.
    #[strum(serialize = "delegation.revoked")]
    DelegationRevoked,
    /// A delegation expired or reached its maximum number of uses.
    #[strum(serialize = "delegation.expired")]
    DelegationExpired,
    /// The expiry of a delegation was changed.
    #[strum(serialize = "delegation.renewed")]
    DelegationRenewed,
    /// A client reported uses of a delegation.
    #[strum(serialize = "delegation.used")]
    DelegationUsed,
    /// An agent requested a key rotation.
    #[strum(serialize = "delegation.key_rotation_requested")]
    DelegationKeyRotationRequested,
    /// A change of a delegation was refused.
    #[strum(serialize = "delegation.refused")]
    DelegationRefused,
    /// The delegator confirmed a use that needs a confirmation.
    #[strum(serialize = "delegation.ceremony_approved")]
    CeremonyApproved,
    /// The delegator denied a use that needs a confirmation.
    #[strum(serialize = "delegation.ceremony_denied")]
    CeremonyDenied,
    /// Everything that a principal had until now was revoked.
    #[strum(serialize = "principal.revoked")]
    PrincipalRevoked,
    /// A key was removed from a client.
    #[strum(serialize = "client.key_removed")]
    ClientKeyRemoved,
    /// An operator restored a removed key of a client.
    #[strum(serialize = "client.key_restored")]
    ClientKeyRestored,
    /// An ephemeral agent was created for one delegation.
    #[strum(serialize = "client.agent_created")]
    AgentCreated,
    /// An ephemeral agent was deactivated.
    #[strum(serialize = "client.agent_deactivated")]
    AgentDeactivated,
    /// A client was registered or changed.
    #[strum(serialize = "client.changed")]
    ClientChanged,
    /// A client was disabled.
    #[strum(serialize = "client.disabled")]
    ClientDisabled,
    /// A client was enabled again.
    #[strum(serialize = "client.enabled")]
    ClientEnabled,
    /// A client's secret was replaced.
    #[strum(serialize = "client.secret_rotated")]
    ClientSecretRotated,
    /// A signing key was created, activated, retired or removed; `detail.stage` says which.
    #[strum(serialize = "key.changed")]
    KeyChanged,
    /// An issuer was registered or changed.
    #[strum(serialize = "admin.issuer_changed")]
    IssuerChanged,
    /// An issuer was removed.
    #[strum(serialize = "admin.issuer_removed")]
    IssuerRemoved,
    /// A resource was registered or changed.
    #[strum(serialize = "admin.resource_changed")]
    ResourceChanged,
    /// A resource was removed.
    #[strum(serialize = "admin.resource_removed")]
    ResourceRemoved,
    /// A credential provider was declared or changed.
    #[strum(serialize = "admin.provider_changed")]
    ProviderChanged,
    /// A witness cosigned a checkpoint.
    #[strum(serialize = "audit.witness_cosigned")]
    WitnessCosigned,
    /// A partition was archived to a file.
    #[strum(serialize = "admin.audit_archived")]
    AuditArchived,
    /// A credential was added to an agent's request, which is about to be sent to the provider.
    #[strum(serialize = "vault.proxy.called")]
    VaultProxyCalled,
    /// The result of a proxied request.
    #[strum(serialize = "vault.proxy.answered")]
    VaultProxyAnswered,
    /// A credential was returned to an agent.
    #[strum(serialize = "vault.token.retrieved")]
    VaultTokenRetrieved,
    /// A retrieval of a credential was refused.
    #[strum(serialize = "vault.token.refused")]
    VaultTokenRefused,
    /// A user was redirected to a provider to authorize this server.
    #[strum(serialize = "vault.connection.requested")]
    ConnectionRequested,
    /// A browser returned from the provider with an authorization code, or the user completed an
    /// authorization that another browser returned with.
    #[strum(serialize = "vault.connection.authorized")]
    ConnectionAuthorized,
    /// A connection was made.
    #[strum(serialize = "vault.connection.created")]
    ConnectionCreated,
    /// The credential of a connection was replaced.
    #[strum(serialize = "vault.connection.rotated")]
    ConnectionRotated,
    /// The access token of a connection was refreshed.
    #[strum(serialize = "vault.connection.refreshed")]
    ConnectionRefreshed,
    /// The provider no longer accepts the credential of a connection.
    #[strum(serialize = "vault.connection.needs_reconnect")]
    ConnectionNeedsReconnect,
    /// A connection was disconnected.
    #[strum(serialize = "vault.connection.disconnected")]
    ConnectionDisconnected,
    /// A change of a connection was refused.
    #[strum(serialize = "vault.connection.refused")]
    ConnectionRefused,
    /// A data key was created, rewrapped or retired.
    #[strum(serialize = "vault.key_rotated")]
    VaultKeyRotated,
    /// The log, or a part of the log, was exported.
    #[strum(serialize = "admin.audit_exported")]
    AuditExported,
    /// A sink was declared or changed.
    #[strum(serialize = "admin.sink_changed")]
    SinkChanged,
    #[strum(serialize = "admin.sink_removed")]
    SinkRemoved,
    /// Dead letters of a sink were queued for delivery again.
    #[strum(serialize = "admin.sink_replayed")]
    SinkReplayed,
    /// An event could not be delivered to a sink.
    #[strum(serialize = "admin.sink_dead_letter")]
    SinkDeadLetter,
}

impl Action {
    /// The stable name in events.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The event code; only delegation state changes have a code.
    pub fn code(self) -> Option<&'static str> {
        match self {
            Self::DelegationCreated => Some("0x3001"),
            Self::DelegationActivated => Some("0x3002"),
            Self::DelegationRevoked => Some("0x3003"),
            Self::DelegationExpired => Some("0x3004"),
            _ => None,
        }
    }
}
