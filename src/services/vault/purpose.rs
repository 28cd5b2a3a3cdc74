//! The purpose of a retrieval: the credential itself, or a proxied request.

use std::collections::BTreeSet;

use crate::domain::audit::EventKind;
use crate::domain::audit::detail::{ProxiedRequest, cause};
use crate::domain::refusal::Refusal;
use crate::domain::vault::credential_cache::OpenedConnection;
use crate::domain::vault::target::ProxyTarget;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetrievalPurpose<'a> {
    /// The credential itself; with the SHA-256 of an access token that the provider's API has refused.
    Retrieve(Option<[u8; 32]>),
    /// A request with the credential in it.
    Proxy(&'a ProxyTarget<'a>),
}

impl RetrievalPurpose<'_> {
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
