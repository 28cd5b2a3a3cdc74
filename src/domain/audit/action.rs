//! What events are called.

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A client got a token for itself.
    TokenIssued,
    /// A token was made from another.
    TokenExchanged,
    /// A token was refused.
    TokenRefused,
    /// A token was revoked by its client.
    TokenRevoked,
    /// A delegation was given or asked for.
    DelegationCreated,
    /// A delegation that was asked for was approved, or its agent's new key was confirmed.
    DelegationActivated,
    /// A delegation was denied or taken back.
    DelegationRevoked,
    /// A delegation came to its end, or to its last use.
    DelegationExpired,
    /// The end of a delegation was moved.
    DelegationRenewed,
    /// Uses were reported.
    DelegationUsed,
    /// An agent asked for another key.
    DelegationKeyRotationRequested,
    /// A move of a delegation was refused.
    DelegationRefused,
    /// A use that needs a confirmation was confirmed.
    CeremonyApproved,
    /// It was not.
    CeremonyDenied,
    /// Everything that a principal had up to now was ended.
    PrincipalRevoked,
    /// A key was removed from a client.
    ClientKeyRemoved,
    /// An operator restored a removed key of a client.
    ClientKeyRestored,
    /// An agent was made for one delegation.
    AgentCreated,
    /// Such an agent has ended.
    AgentDeactivated,
    /// A client was registered or changed.
    ClientChanged,
    /// A client was disabled.
    ClientDisabled,
    /// A client was enabled again.
    ClientEnabled,
    /// A client's secret was replaced.
    ClientSecretRotated,
    /// A signing key was made, began to sign, ceased to sign, or was removed; `detail.stage` says which.
    KeyChanged,
    /// An issuer was registered or changed.
    IssuerChanged,
    /// An issuer was removed.
    IssuerRemoved,
    /// A resource was registered or changed.
    ResourceChanged,
    /// A resource was removed.
    ResourceRemoved,
    /// A provider of credentials was declared or changed.
    ProviderChanged,
    /// A witness vouched for a checkpoint.
    WitnessCosigned,
    /// Events were moved to a file, and stand there.
    AuditArchived,
    /// A credential was put into an agent's request to its provider, which is about to be sent.
    VaultProxyCalled,
    /// What became of such a request.
    VaultProxyAnswered,
    /// A credential was answered to an agent.
    VaultTokenRetrieved,
    /// One was not.
    VaultTokenRefused,
    /// An owner was sent to a provider to authorize us.
    ConnectionRequested,
    /// A browser came back from there with a code; or its owner finished what another browser had brought.
    ConnectionAuthorized,
    /// A connection was made.
    ConnectionCreated,
    /// Another credential was stored in its place.
    ConnectionRotated,
    /// Its access token was renewed.
    ConnectionRefreshed,
    /// Its provider honours its credential no more.
    ConnectionNeedsReconnect,
    /// It was ended.
    ConnectionDisconnected,
    /// A move of a connection was refused.
    ConnectionRefused,
    /// A data key was made, wrapped anew or retired.
    VaultKeyRotated,
    /// Somebody took the log along, or part of it.
    AuditExported,
    /// A sink was declared or changed.
    SinkChanged,
    /// It was removed.
    SinkRemoved,
    /// Dead letters of a sink are to be sent again.
    SinkReplayed,
    /// An event could not be delivered to a sink.
    SinkDeadLetter,
}

impl Action {
    /// The stable name.
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

    /// The event code, where there is one.
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
