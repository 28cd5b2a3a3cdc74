//! The purpose of a retrieval: the credential itself, or a proxied request.

use std::collections::BTreeSet;

use crate::domain::audit::EventKind;
use crate::domain::audit::detail::{ProxiedRequest, cause};
use crate::domain::principal::Principal;
use crate::domain::provider::CredentialPlacement;
use crate::domain::refusal::Refusal;
use crate::domain::registry::VAULT_DETAIL;
use crate::domain::subject::VerifiedSubject;
use crate::domain::vault::ConnectionState;
use crate::domain::vault::credential_cache::OpenedConnection;
use crate::domain::vault::target::ProxyTarget;
use actchain_protocol::authorization_details::Detail;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetrievalPurpose<'a> {
    /// The credential itself; with the SHA-256 of an access token that the provider's API has refused.
    Retrieve(Option<[u8; 32]>),
    /// A request with the credential in it.
    Proxy(&'a ProxyTarget<'a>),
}

impl RetrievalPurpose<'_> {
    /// Checks that the token is about the owner, that one of the details covers all scopes of the connection, and that
    /// the provider and that detail allow the target of a proxied request.
    pub(super) fn authorize(
        self,
        opened: &OpenedConnection,
        subject: &Principal,
        details: &[&Detail],
    ) -> Result<(), Refusal> {
        if opened.connection.owner != *subject {
            return Err(Refusal::NotFound);
        }
        if opened.connection.state() != ConnectionState::Active {
            return Err(Refusal::ConnectionUnusable(opened.connection.state()));
        }
        let details = self.allowed_by(details, &opened.provider.provider.settings.placement)?;
        let scopes = opened.connection.scopes.as_ref();
        let within = details.iter().any(|detail| {
            let most = detail.lists.get("scopes");
            // Unknown or empty scopes are within no limit.
            let within = |scopes: &BTreeSet<String>, most| !scopes.is_empty() && scopes.is_subset(most);
            most.is_none_or(|most| scopes.is_some_and(|scopes| within(scopes, most)))
        });
        if within { Ok(()) } else { Err(Refusal::ConnectionScopeExceeded) }
    }

    /// SHA-256 of an access token that the provider's API has refused.
    pub(super) fn rejected(&self) -> Option<&[u8; 32]> {
        match self {
            Self::Retrieve(digest) => digest.as_ref(),
            Self::Proxy(_) => None,
        }
    }

    /// The authorization details that name a connection for this purpose. Details without an identifier, or with a member
    /// that cannot be enforced, name none.
    pub(super) fn details_of<'a>(self, token: &'a VerifiedSubject, connection: &str) -> Vec<&'a Detail> {
        let details = token.details.iter().flat_map(|details| &details.0);
        let naming = details.filter(|detail| {
            let actions = detail.lists.get("actions");
            detail.kind == VAULT_DETAIL
                && detail.identifier.as_deref() == Some(connection)
                && actions.is_none_or(|actions| self.is_among(actions))
                && detail.lists.keys().all(|member| self.supports_member(member))
        });
        naming.collect()
    }

    /// The details that allow the target of a proxied request, which the provider has to allow too.
    pub(super) fn allowed_by<'a>(
        self,
        details: &[&'a Detail],
        placement: &CredentialPlacement,
    ) -> Result<Vec<&'a Detail>, Refusal> {
        let mut details = details.to_vec();
        if let Self::Proxy(target) = self {
            let url = target.url(placement).ok_or(Refusal::ProxyForbidden)?;
            details.retain(|detail| target.is_allowed_by(&url, detail));
            if details.is_empty() {
                return Err(Refusal::ProxyForbidden);
            }
        }
        Ok(details)
    }

    /// Whether `actions` of the authorization details, where they list anything, list this in any form.
    pub(super) fn is_among(self, actions: &BTreeSet<String>) -> bool {
        match self {
            Self::Retrieve(_) => actions.contains("retrieve"),
            Self::Proxy(_) => actions.iter().any(|action| action == "proxy" || action.starts_with("proxy:")),
        }
    }

    /// Whether a member of the authorization details can be enforced: an agent that has the credential can use it anywhere.
    pub(super) fn supports_member(self, member: &str) -> bool {
        match member {
            "actions" | "scopes" => true,
            "locations" => matches!(self, Self::Proxy(_)),
            _ => false,
        }
    }
}

/// What the event of a retrieval says about the request.
#[derive(Debug, Clone)]
pub(super) enum RecordedPurpose {
    Retrieval {
        /// Whether the answer is encrypted to the agent's key.
        sealed: bool,
    },
    Proxy(ProxiedRequest),
}

impl RecordedPurpose {
    pub(super) fn granted(self, opened: &OpenedConnection) -> EventKind {
        let one = &opened.connection;
        let (provider, version, scopes) = (one.provider.clone(), one.version, one.scopes.clone());
        match self {
            Self::Retrieval { sealed } => {
                EventKind::VaultTokenRetrieved { provider, version, scopes, sealed }
            }
            Self::Proxy(request) => EventKind::VaultProxyCalled { provider, version, scopes, request },
        }
    }

    pub(super) fn refused(self, refusal: Refusal) -> EventKind {
        match self {
            Self::Retrieval { sealed } => EventKind::VaultTokenRefused { sealed, cause: cause(refusal) },
            Self::Proxy(request) => EventKind::VaultProxyRefused { request },
        }
    }
}
