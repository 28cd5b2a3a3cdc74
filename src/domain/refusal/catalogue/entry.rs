//! The form of an entry in the catalogue.

use super::code::OauthErrorCode;
use actchain_protocol::severity::Severity;

/// What the server says about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// Stable name for programs, in responses, metrics and the audit log.
    pub reason: &'static str,
    pub answers: Answers,
    pub severity: Severity,
    /// The public sentence: printable ASCII without quotes, backslash (RFC 6749 §5.2) and final period.
    pub sentence: &'static str,
    /// When the refusal occurs, in Markdown. `docs/reference/problems.md` and SARIF exports show the same text.
    pub meaning: &'static str,
    /// What to do about the refusal, in Markdown.
    pub advice: &'static str,
}

/// The endpoints that refuse in this way, with the code and status of each. A resource is an endpoint to which an access
/// token is presented, such as the management API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answers {
    pub places: Endpoints,
    /// Whether OAuth endpoints name the reason: where policy refused an authenticated client (RFC 8693 §2.2.2).
    pub tells_reason: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoints {
    Oauth(OauthErrorCode),
    Resource(OauthErrorCode),
    Both { oauth: OauthErrorCode, resource: OauthErrorCode },
}

pub(super) const fn oauth(code: OauthErrorCode) -> Answers {
    Answers { places: Endpoints::Oauth(code), tells_reason: true }
}

pub(super) const fn resource(code: OauthErrorCode) -> Answers {
    Answers { places: Endpoints::Resource(code), tells_reason: true }
}

pub(super) const fn both(oauth: OauthErrorCode, resource: OauthErrorCode) -> Answers {
    Answers { places: Endpoints::Both { oauth, resource }, tells_reason: true }
}

pub(super) const fn everywhere(code: OauthErrorCode) -> Answers {
    both(code, code)
}

impl Answers {
    pub(super) const fn without_reason(self) -> Self {
        Self { tells_reason: false, ..self }
    }

    /// `None` if OAuth endpoints never refuse in this way.
    pub fn at_oauth_endpoint(self) -> Option<OauthErrorCode> {
        match self.places {
            Endpoints::Oauth(code) | Endpoints::Both { oauth: code, .. } => Some(code),
            Endpoints::Resource(_) => None,
        }
    }

    /// `None` if resources never refuse in this way.
    pub fn at_resource(self) -> Option<OauthErrorCode> {
        match self.places {
            Endpoints::Resource(code) | Endpoints::Both { resource: code, .. } => Some(code),
            Endpoints::Oauth(_) => None,
        }
    }
}
