//! Operations of the management API and of operators whose refusal is recorded, and the actions of refusals.

use super::action::EventKind;
use super::detail::{AuthorizationRefusal, OperationRefusal, SignedToken, TokenRefusal, cause};
use crate::domain::refusal::Refusal;
use crate::platform::fault::Fault;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    CreateDelegation,
    ApproveDelegation,
    DenyDelegation,
    RevokeDelegation,
    RenewDelegation,
    ReportSteps,
    EraseSessionTexts,
    RotateDelegationKey,
    CreateStandingGrant,
    RenewStandingGrant,
    RevokeStandingGrant,
    RevalidateStandingGrant,
    ApproveCeremony,
    DenyCeremony,
    RevokePrincipal,
    EndTask,
    RemoveClientKey,
    RestoreClientKey,
    DisableClient,
    EnableClient,
    RotateClientSecret,
    ApplyManifest,
    DeclareProvider,
    DeclareSink,
    EnableSink,
    DisableSink,
    RotateSinkSecret,
    RemoveSink,
    ReplaySink,
    RequestConnection,
    FinishAuthorization,
    CreateConnection,
    RotateConnection,
    DisconnectConnection,
}

impl Operation {
    /// The event of its refusal.
    pub fn refused(self, refusal: Refusal) -> EventKind {
        let detail = OperationRefusal::of(refusal);
        match self {
            Self::CreateDelegation => EventKind::DelegationCreationRefused(detail),
            Self::ApproveDelegation => EventKind::DelegationApprovalRefused(detail),
            Self::DenyDelegation => EventKind::DelegationDenialRefused(detail),
            Self::RevokeDelegation => EventKind::DelegationRevocationRefused(detail),
            Self::RenewDelegation => EventKind::DelegationRenewalRefused(detail),
            Self::ReportSteps => EventKind::DelegationStepRefused(detail),
            Self::EraseSessionTexts => EventKind::SessionTextsErasureRefused(detail),
            Self::RotateDelegationKey => EventKind::DelegationKeyRotationRefused(detail),
            Self::CreateStandingGrant => EventKind::StandingGrantCreationRefused(detail),
            Self::RenewStandingGrant => EventKind::StandingGrantRenewalRefused(detail),
            Self::RevokeStandingGrant => EventKind::StandingGrantRevocationRefused(detail),
            Self::RevalidateStandingGrant => EventKind::StandingGrantRevalidationRefused(detail),
            Self::ApproveCeremony => EventKind::CeremonyApprovalRefused(detail),
            Self::DenyCeremony => EventKind::CeremonyDenialRefused(detail),
            Self::RevokePrincipal => EventKind::PrincipalRevocationRefused(detail),
            Self::EndTask => EventKind::TaskEndRefused(detail),
            Self::RemoveClientKey => EventKind::ClientKeyRemovalRefused(detail),
            Self::RestoreClientKey => EventKind::ClientKeyRestorationRefused(detail),
            Self::DisableClient => EventKind::ClientDisableRefused(detail),
            Self::EnableClient => EventKind::ClientEnableRefused(detail),
            Self::RotateClientSecret => EventKind::ClientSecretRotationRefused(detail),
            Self::ApplyManifest => EventKind::ManifestRefused(detail),
            Self::DeclareProvider => EventKind::ProviderChangeRefused(detail),
            Self::DeclareSink => EventKind::SinkChangeRefused(detail),
            Self::EnableSink => EventKind::SinkEnableRefused(detail),
            Self::DisableSink => EventKind::SinkDisableRefused(detail),
            Self::RotateSinkSecret => EventKind::SinkSecretRotationRefused(detail),
            Self::RemoveSink => EventKind::SinkRemovalRefused(detail),
            Self::ReplaySink => EventKind::SinkReplayRefused(detail),
            Self::RequestConnection => EventKind::ConnectionRequestRefused(detail),
            Self::FinishAuthorization => EventKind::ConnectionAuthorizationRefused(AuthorizationRefusal {
                state: detail.state,
                ..AuthorizationRefusal::default()
            }),
            Self::CreateConnection => EventKind::ConnectionCreationRefused(detail),
            Self::RotateConnection => EventKind::ConnectionRotationRefused(detail),
            Self::DisconnectConnection => EventKind::ConnectionDisconnectionRefused(detail),
        }
    }
}

impl EventKind {
    /// What is recorded instead where a guard of the ledger refuses.
    ///
    /// # Errors
    /// A fault for events that the ledger cannot refuse.
    pub(super) fn refused(self, refusal: Refusal) -> Result<Self, Fault> {
        Ok(match self {
            Self::TokenIssued(SignedToken { exp, kid, .. })
            | Self::TokenExchanged { exp, kid, .. }
            | Self::TokenRefreshed(SignedToken { exp, kid, .. }) => {
                let planned = TokenRefusal { exp: Some(exp), kid: Some(kid), ..TokenRefusal::default() };
                Self::TokenRefused(planned.because_of(refusal))
            }
            // A confirmation is not requested then.
            Self::TokenRefused(detail) => {
                let detail = TokenRefusal { ceremony: None, expires_at: None, ..detail };
                Self::TokenRefused(detail.because_of(refusal))
            }
            Self::VaultTokenRetrieved { sealed, .. } | Self::VaultTokenRefused { sealed, .. } => {
                Self::VaultTokenRefused { sealed, cause: cause(refusal) }
            }
            Self::VaultSubjectTokenIssued { .. } => {
                Self::VaultTokenRefused { sealed: false, cause: cause(refusal) }
            }
            Self::VaultProxyCalled { request, .. } | Self::VaultProxyRefused { request } => {
                Self::VaultProxyRefused { request }
            }
            Self::TokenRevoked { .. }
            | Self::TokenRevocationRefused { .. }
            | Self::TokenIntrospectionRefused { .. }
            | Self::DelegationCreated { .. }
            | Self::DelegationCreationRefused { .. }
            | Self::DelegationActivated { .. }
            | Self::DelegationApprovalRefused { .. }
            | Self::DelegationRevoked { .. }
            | Self::DelegationDenialRefused { .. }
            | Self::DelegationRevocationRefused { .. }
            | Self::DelegationExpired { .. }
            | Self::DelegationRenewed { .. }
            | Self::DelegationSuspended { .. }
            | Self::DelegationResumed { .. }
            | Self::BackupRestored { .. }
            | Self::DelegationRenewalRefused { .. }
            | Self::DelegationStep { .. }
            | Self::SessionTextsErased { .. }
            | Self::DelegationStepRefused { .. }
            | Self::SessionTextsErasureRefused { .. }
            | Self::DelegationKeyRotationRequested { .. }
            | Self::DelegationKeyRotationRefused { .. }
            | Self::StandingGrantCreated { .. }
            | Self::StandingGrantCreationRefused { .. }
            | Self::StandingGrantRenewed { .. }
            | Self::StandingGrantRenewalRefused { .. }
            | Self::StandingGrantRevoked
            | Self::StandingGrantRevocationRefused { .. }
            | Self::StandingGrantSuspended { .. }
            | Self::StandingGrantRevalidated { .. }
            | Self::StandingGrantRevalidationRefused { .. }
            | Self::StandingGrantUsed
            | Self::StandingGrantRejected { .. }
            | Self::StandingGrantExpired { .. }
            | Self::CeremonyApproved { .. }
            | Self::CeremonyApprovalRefused { .. }
            | Self::CeremonyDenied { .. }
            | Self::CeremonyDenialRefused { .. }
            | Self::PrincipalRevoked { .. }
            | Self::PrincipalErased { .. }
            | Self::ConsoleSignedIn(_)
            | Self::ConsoleRefused(_)
            | Self::ConsoleSignedOut
            | Self::ConsoleSessionEnded { .. }
            | Self::ConsoleLinkMade { .. }
            | Self::ConsoleOperatorEntered { .. }
            | Self::PrincipalRevocationRefused { .. }
            | Self::TaskEndRefused { .. }
            | Self::ClientKeysPublished { .. }
            | Self::ClientKeyRemoved { .. }
            | Self::ClientKeyRemovalRefused { .. }
            | Self::ClientKeyRestored { .. }
            | Self::ClientKeyRestorationRefused { .. }
            | Self::AgentCreated { .. }
            | Self::AgentDeactivated { .. }
            | Self::ClientChanged { .. }
            | Self::ClientDisabled { .. }
            | Self::ClientDisableRefused { .. }
            | Self::ClientEnabled { .. }
            | Self::ClientEnableRefused { .. }
            | Self::ClientSecretRotated { .. }
            | Self::ClientSecretRotationRefused { .. }
            | Self::ManifestRefused { .. }
            | Self::KeyChanged { .. }
            | Self::IssuerChanged { .. }
            | Self::IssuerMetadataChanged { .. }
            | Self::IssuerRemoved { .. }
            | Self::ResourceChanged { .. }
            | Self::ResourceRemoved { .. }
            | Self::RegistrarChanged { .. }
            | Self::RegistrarRegistered { .. }
            | Self::RegistrarDeleted { .. }
            | Self::RegistrarDelayed { .. }
            | Self::ProviderChanged { .. }
            | Self::ProviderChangeRefused { .. }
            | Self::SinkChanged { .. }
            | Self::SinkChangeRefused { .. }
            | Self::SinkEnabled { .. }
            | Self::SinkEnableRefused { .. }
            | Self::SinkDisabled { .. }
            | Self::SinkDisableRefused { .. }
            | Self::SinkSecretRotated { .. }
            | Self::SinkSecretRotationRefused { .. }
            | Self::SinkRemoved { .. }
            | Self::SinkRemovalRefused { .. }
            | Self::SinkReplayed { .. }
            | Self::SinkReplayRefused { .. }
            | Self::SinkDeadLetter { .. }
            | Self::SinkSkipped { .. }
            | Self::RulesChanged(_)
            | Self::WitnessCosigned { .. }
            | Self::AuditArchived { .. }
            | Self::AuditExported { .. }
            | Self::VaultProxyAnswered { .. }
            | Self::VaultProxyFailed { .. }
            | Self::ConnectionRequested { .. }
            | Self::ConnectionRequestRefused { .. }
            | Self::ConnectionAuthorized { .. }
            | Self::ConnectionAuthorizationRefused { .. }
            | Self::ConnectionCreated { .. }
            | Self::ConnectionCreationRefused { .. }
            | Self::ConnectionRotated { .. }
            | Self::ConnectionRotationRefused { .. }
            | Self::ConnectionRefreshed { .. }
            | Self::ConnectionNeedsReconnect { .. }
            | Self::ConnectionDisconnected { .. }
            | Self::ConnectionDisconnectionRefused { .. }
            | Self::ConnectionCredentialDeleted { .. }
            | Self::VaultKeyRotated { .. } => {
                return Err(Fault::new("an event that the ledger cannot refuse"));
            }
        })
    }
}
