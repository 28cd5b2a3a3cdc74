//! Names of audit events.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Client credentials grant: a token for the client itself.
    TokenIssued,
    /// Token exchange: a token issued from another token.
    TokenExchanged,
    /// A token request was refused.
    TokenRefused,
    /// A token was revoked by its client.
    TokenRevoked,
    /// A delegation was requested or created.
    DelegationCreated,
    /// A requested delegation was approved, or the new key of its agent was confirmed.
    DelegationActivated,
    /// A delegation was denied or revoked.
    DelegationRevoked,
    /// A delegation expired or reached its maximum number of uses.
    DelegationExpired,
    /// The expiry of a delegation was changed.
    DelegationRenewed,
    /// A client reported uses of a delegation.
    DelegationUsed,
    /// An agent requested a key rotation.
    DelegationKeyRotationRequested,
    /// A change of a delegation was refused.
    DelegationRefused,
    /// The delegator confirmed a use that needs a confirmation.
    CeremonyApproved,
    /// The delegator denied a use that needs a confirmation.
    CeremonyDenied,
    /// Everything that a principal had until now was revoked.
    PrincipalRevoked,
    /// A key was removed from a client.
    ClientKeyRemoved,
    /// An operator restored a removed key of a client.
    ClientKeyRestored,
    /// An ephemeral agent was created for one delegation.
    AgentCreated,
    /// An ephemeral agent was deactivated.
    AgentDeactivated,
    /// A client was registered or changed.
    ClientChanged,
    /// A client was disabled.
    ClientDisabled,
    /// A client was enabled again.
    ClientEnabled,
    /// A client's secret was replaced.
    ClientSecretRotated,
    /// A signing key was created, activated, retired or removed; `detail.stage` says which.
    KeyChanged,
    /// An issuer was registered or changed.
    IssuerChanged,
    /// An issuer was removed.
    IssuerRemoved,
    /// A resource was registered or changed.
    ResourceChanged,
    /// A resource was removed.
    ResourceRemoved,
    /// A credential provider was declared or changed.
    ProviderChanged,
    /// A witness cosigned a checkpoint.
    WitnessCosigned,
    /// A partition was archived to a file.
    AuditArchived,
    /// A credential was added to an agent's request, which is about to be sent to the provider.
    VaultProxyCalled,
    /// The result of a proxied request.
    VaultProxyAnswered,
    /// A credential was returned to an agent.
    VaultTokenRetrieved,
    /// A retrieval of a credential was refused.
    VaultTokenRefused,
    /// A user was redirected to a provider to authorize this server.
    ConnectionRequested,
    /// A browser returned from the provider with an authorization code, or the user completed an
    /// authorization that another browser returned with.
    ConnectionAuthorized,
    /// A connection was made.
    ConnectionCreated,
    /// The credential of a connection was replaced.
    ConnectionRotated,
    /// The access token of a connection was refreshed.
    ConnectionRefreshed,
    /// The provider no longer accepts the credential of a connection.
    ConnectionNeedsReconnect,
    /// A connection was disconnected.
    ConnectionDisconnected,
    /// A change of a connection was refused.
    ConnectionRefused,
    /// A data key was created, rewrapped or retired.
    VaultKeyRotated,
    /// The log, or a part of the log, was exported.
    AuditExported,
    /// A sink was declared or changed.
    SinkChanged,
    SinkRemoved,
    /// Dead letters of a sink were queued for delivery again.
    SinkReplayed,
    /// An event could not be delivered to a sink.
    SinkDeadLetter,
}

impl Action {
    /// The stable name in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::TokenIssued => "oauth.token.issued",
            Self::TokenExchanged => "oauth.token.exchanged",
            Self::TokenRefused => "oauth.token.refused",
            Self::TokenRevoked => "oauth.token.revoked",
            Self::DelegationCreated => "delegation.created",
            Self::DelegationActivated => "delegation.activated",
            Self::DelegationRevoked => "delegation.revoked",
            Self::DelegationExpired => "delegation.expired",
            Self::DelegationRenewed => "delegation.renewed",
            Self::DelegationUsed => "delegation.used",
            Self::DelegationKeyRotationRequested => "delegation.key_rotation_requested",
            Self::DelegationRefused => "delegation.refused",
            Self::CeremonyApproved => "delegation.ceremony_approved",
            Self::CeremonyDenied => "delegation.ceremony_denied",
            Self::PrincipalRevoked => "principal.revoked",
            Self::ClientKeyRemoved => "client.key_removed",
            Self::ClientKeyRestored => "client.key_restored",
            Self::AgentCreated => "client.agent_created",
            Self::AgentDeactivated => "client.agent_deactivated",
            Self::ClientChanged => "client.changed",
            Self::ClientDisabled => "client.disabled",
            Self::ClientEnabled => "client.enabled",
            Self::ClientSecretRotated => "client.secret_rotated",
            Self::KeyChanged => "key.changed",
            Self::IssuerChanged => "admin.issuer_changed",
            Self::IssuerRemoved => "admin.issuer_removed",
            Self::ResourceChanged => "admin.resource_changed",
            Self::ResourceRemoved => "admin.resource_removed",
            Self::ProviderChanged => "admin.provider_changed",
            Self::WitnessCosigned => "audit.witness_cosigned",
            Self::AuditArchived => "admin.audit_archived",
            Self::VaultProxyCalled => "vault.proxy.called",
            Self::VaultProxyAnswered => "vault.proxy.answered",
            Self::VaultTokenRetrieved => "vault.token.retrieved",
            Self::VaultTokenRefused => "vault.token.refused",
            Self::ConnectionRequested => "vault.connection.requested",
            Self::ConnectionAuthorized => "vault.connection.authorized",
            Self::ConnectionCreated => "vault.connection.created",
            Self::ConnectionRotated => "vault.connection.rotated",
            Self::ConnectionRefreshed => "vault.connection.refreshed",
            Self::ConnectionNeedsReconnect => "vault.connection.needs_reconnect",
            Self::ConnectionDisconnected => "vault.connection.disconnected",
            Self::ConnectionRefused => "vault.connection.refused",
            Self::VaultKeyRotated => "vault.key_rotated",
            Self::AuditExported => "admin.audit_exported",
            Self::SinkChanged => "admin.sink_changed",
            Self::SinkRemoved => "admin.sink_removed",
            Self::SinkReplayed => "admin.sink_replayed",
            Self::SinkDeadLetter => "admin.sink_dead_letter",
        }
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
