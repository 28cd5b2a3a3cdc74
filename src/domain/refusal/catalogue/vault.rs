//! Refusals of the vault and its proxy.

use super::code;
use super::entry::{CatalogueEntry, both, everywhere, resource};
use actchain_protocol::severity::Severity;

pub(super) const PROVIDER_UNKNOWN: CatalogueEntry = CatalogueEntry {
    reason: "provider_unknown",
    answers: resource(code::INVALID_REQUEST),
    severity: Severity::Low,
    sentence: "The provider does not exist",
    meaning: "No provider of this name is declared.",
    advice: "Declare the provider with `actchain apply`.",
};

pub(super) const PROVIDER_UNAVAILABLE: CatalogueEntry = CatalogueEntry {
    reason: "provider_unavailable",
    answers: everywhere(code::UNAVAILABLE),
    severity: Severity::Low,
    sentence: "The provider cannot be reached at present",
    meaning: "The provider does not answer, or answers in an invalid form, and the access token has expired.",
    advice: "Try again after `Retry-After`, which follows the provider's own `Retry-After` if there is one. \
             Check the provider.",
};

pub(super) const PROVIDER_REFUSED: CatalogueEntry = CatalogueEntry {
    reason: "provider_refused",
    answers: both(code::INVALID_TARGET, code::UNAVAILABLE.with_status(502)),
    severity: Severity::Low,
    sentence: "The provider refused the request",
    meaning: "The provider refused the authorization, or the exchange of a token of the chain; or the token that it issued is \
              no bearer access token.",
    advice: "Connect again, or check the delegation. Check the registration of this server at the provider.",
};

pub(super) const CONNECTION_MISSING: CatalogueEntry = CatalogueEntry {
    reason: "connection_missing",
    answers: both(code::INVALID_DETAILS, code::INSUFFICIENT_SCOPE),
    severity: Severity::Medium,
    sentence: "The access token does not name this connection for this use",
    meaning: "The token's `authorization_details` do not name the connection for this use.",
    advice: "Request a delegation that names the connection, then a token with that object.",
};

pub(super) const CONNECTION_SCOPE_EXCEEDED: CatalogueEntry = CatalogueEntry {
    reason: "connection_scope_exceeded",
    answers: both(code::INVALID_DETAILS, code::INSUFFICIENT_SCOPE),
    severity: Severity::Medium,
    sentence: "The credential allows more than the access token",
    meaning: "The credential allows scopes that the token's `authorization_details` do not allow, or they allow none that the \
              provider declares.",
    advice: "Let the owner connect with fewer scopes. If the provider exchanges tokens, request scopes that it declares.",
};

pub(super) const CONNECTION_DISCONNECTED: CatalogueEntry = CatalogueEntry {
    reason: "connection_disconnected",
    answers: both(code::INVALID_TARGET, code::CONFLICT),
    severity: Severity::Low,
    sentence: "The connection is disconnected",
    meaning: "The owner or an administrator disconnected the connection.",
    advice: "Let the owner make another connection.",
};

pub(super) const CONNECTION_NEEDS_RECONNECT: CatalogueEntry = CatalogueEntry {
    reason: "connection_needs_reconnect",
    answers: both(code::INVALID_TARGET, code::CONFLICT),
    severity: Severity::Low,
    sentence: "The provider no longer accepts the credential: the owner has to connect again",
    meaning: "The provider no longer accepts the credential.",
    advice: "Let the owner connect again or store another credential.",
};

pub(super) const KEY_CANNOT_DECRYPT: CatalogueEntry = CatalogueEntry {
    reason: "key_cannot_decrypt",
    answers: resource(code::INVALID_REQUEST),
    severity: Severity::Low,
    sentence: "The credential cannot be encrypted to a key of this type: use an EC key",
    meaning: "`seal` was requested with a key that can only sign.",
    advice: "Use a key on P-256 or P-384.",
};

pub(super) const PROXY_FORBIDDEN: CatalogueEntry = CatalogueEntry {
    reason: "proxy_forbidden",
    answers: resource(code::INSUFFICIENT_SCOPE),
    severity: Severity::Medium,
    sentence: "The connection does not allow this request",
    meaning: "The provider does not allow the host, method or path, or the `actions` and `locations` of the \
              token do not. Or the path can be read in two ways.",
    advice: "Send an allowed request, or get a token that allows more.",
};

pub(super) const PROXY_UPSTREAM_FAILED: CatalogueEntry = CatalogueEntry {
    reason: "proxy_upstream_failed",
    answers: resource(code::UNAVAILABLE.with_status(502)),
    severity: Severity::Low,
    sentence: "The upstream server does not answer",
    meaning: "The host cannot be reached, is not allowed, does not speak HTTP, or answers with more than \
              `vault.proxy_max_response_bytes`.",
    advice: "Try again later. The host may have processed the request.",
};

pub(super) const PROXY_UPSTREAM_TIMEOUT: CatalogueEntry = CatalogueEntry {
    reason: "proxy_upstream_timeout",
    answers: resource(code::UNAVAILABLE.with_status(504)),
    severity: Severity::Low,
    sentence: "The upstream server did not answer in time",
    meaning: "The host did not answer within `vault.proxy_timeout`.",
    advice: "Try again later. The host may have processed the request.",
};
