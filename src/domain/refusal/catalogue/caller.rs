//! Refusals because of the caller: authentication, permission and rate limits.

use super::code;
use super::entry::{CatalogueEntry, both, everywhere, oauth, resource};
use actchain_protocol::severity::Severity;

/// The same sentence for all causes: the response does not show which clients exist.
const CLIENT_AUTHENTICATION_FAILED: &str = "Client authentication failed";

pub(super) const NOT_AUTHENTICATED: CatalogueEntry = CatalogueEntry {
    reason: "not_authenticated",
    answers: resource(code::INVALID_TOKEN),
    severity: Severity::Low,
    sentence: "An access token is required",
    meaning: "The request has no access token.",
    advice: "Send an access token in `Authorization`.",
};

pub(super) const ACCESS_TOKEN_INVALID: CatalogueEntry = CatalogueEntry {
    reason: "access_token_invalid",
    answers: resource(code::INVALID_TOKEN),
    severity: Severity::Medium,
    sentence: "The access token is not valid here",
    meaning: "The access token is malformed, expired, revoked, of an unknown issuer, not for this server, or \
              names an actor. Or its user or client is disabled, deactivated or covered by a revoke-all.",
    advice: "Get a new access token.",
};

pub(super) const ACCESS_TOKEN_BOUND: CatalogueEntry = CatalogueEntry {
    reason: "access_token_bound",
    answers: resource(code::INVALID_TOKEN),
    severity: Severity::High,
    sentence: "The access token must be bound to a key and sent with the DPoP scheme and a proof by that key",
    meaning: "The access token is bound to a key and was sent without a proof by this key. Or a proof was \
              sent with a token that is not bound. Or this server issued the token without a key.",
    advice: "Send `Authorization: DPoP` and a proof by the key of the token. For a token without a key, get \
             a new token with a proof.",
};

pub(super) const INSUFFICIENT_SCOPE: CatalogueEntry = CatalogueEntry {
    reason: "insufficient_scope",
    answers: resource(code::INSUFFICIENT_SCOPE),
    severity: Severity::Medium,
    sentence: "The access token does not allow this request",
    meaning: "The caller is authenticated, but may not make this request.",
    advice: "Let the delegator, the delegate or an administrator make the request.",
};

pub(super) const OPERATOR_ONLY: CatalogueEntry = CatalogueEntry {
    reason: "operator_only",
    answers: resource(code::INSUFFICIENT_SCOPE),
    severity: Severity::High,
    sentence: "Only an operator on the machine of the server can make this change",
    meaning: "An administrator tried to change what decides who users and administrators are, what users have delegated, \
              or where their credentials and names are sent. `detail` names the entry of a manifest.",
    advice: "Run the command on the machine of the server.",
};

pub(super) const CONSOLE_REQUIRED: CatalogueEntry = CatalogueEntry {
    reason: "console_required",
    answers: resource(code::INSUFFICIENT_SCOPE),
    severity: Severity::High,
    sentence: "Users decide this in the console of this server",
    meaning: "A user tried to create, approve or renew a delegation, or to confirm a use, with a token. With \
              `delegations.decide_in = \"console\"` users do that in the console alone.",
    advice: "Sign in to the console, and decide there.",
};

pub(super) const SIGN_IN_REFUSED: CatalogueEntry = CatalogueEntry {
    reason: "sign_in_refused",
    answers: resource(code::INSUFFICIENT_SCOPE),
    severity: Severity::Medium,
    sentence: "The sign-in to the console was refused",
    meaning: "The issuer did not confirm who signed in, or this person may not have a session. `detail` of the event has \
              the cause.",
    advice: "Read the page that the person saw, or the event.",
};

pub(super) const NOT_FOUND: CatalogueEntry = CatalogueEntry {
    reason: "not_found",
    answers: resource(code::NOT_FOUND),
    severity: Severity::Medium,
    sentence: "The object does not exist or you have no access to it",
    meaning: "The object does not exist, or the caller has no access to it.",
    advice: "Check the id.",
};

pub(super) const EVENTS_ARCHIVED: CatalogueEntry = CatalogueEntry {
    reason: "events_archived",
    answers: resource(code::ARCHIVED),
    severity: Severity::Low,
    sentence: "The event, or part of the chain, is archived: it is in a file, and not in the database",
    meaning: "`actchain audit archive` moved the event, or the first events of the chain, to a file. Users get \
              `not_found` for an archived event.",
    advice: "Read the event from its file: `actchain audit show --archive FILE --seq N`. The page of the log in the \
             console names the files.",
};

pub(super) const CLIENT_UNKNOWN: CatalogueEntry = CatalogueEntry {
    reason: "client_unknown",
    answers: oauth(code::INVALID_CLIENT).without_reason(),
    severity: Severity::Medium,
    sentence: CLIENT_AUTHENTICATION_FAILED,
    meaning: "No client has this `client_id`. The response does not name this reason.",
    advice: "Check `client_id`.",
};

pub(super) const INVALID_CREDENTIALS: CatalogueEntry = CatalogueEntry {
    reason: "invalid_credentials",
    answers: oauth(code::INVALID_CLIENT).without_reason(),
    severity: Severity::High,
    sentence: CLIENT_AUTHENTICATION_FAILED,
    meaning: "The secret, the assertion or the key is wrong. The response does not name this reason.",
    advice: "Check the credentials.",
};

pub(super) const AUTH_METHOD_NOT_REGISTERED: CatalogueEntry = CatalogueEntry {
    reason: "auth_method_not_registered",
    answers: oauth(code::INVALID_CLIENT).without_reason(),
    severity: Severity::Medium,
    sentence: CLIENT_AUTHENTICATION_FAILED,
    meaning: "The client is registered for another authentication method. The response does not name this \
              reason.",
    advice: "Use the registered method.",
};

pub(super) const CLIENT_DISABLED: CatalogueEntry = CatalogueEntry {
    reason: "client_disabled",
    answers: both(code::INVALID_CLIENT, code::INVALID_TOKEN).without_reason(),
    severity: Severity::High,
    sentence: CLIENT_AUTHENTICATION_FAILED,
    meaning: "The client is disabled. OAuth endpoints do not name this reason. A problem has it only if the \
              client was disabled during the request.",
    advice: "Let an administrator enable the client.",
};

pub(super) const ASSERTION_REPLAYED: CatalogueEntry = CatalogueEntry {
    reason: "assertion_replayed",
    answers: oauth(code::INVALID_CLIENT).without_reason(),
    severity: Severity::High,
    sentence: CLIENT_AUTHENTICATION_FAILED,
    meaning: "The client assertion was used before. The response does not name this reason.",
    advice: "Make a new assertion for each request.",
};

pub(super) const MULTIPLE_AUTH_METHODS: CatalogueEntry = CatalogueEntry {
    reason: "multiple_auth_methods",
    answers: oauth(code::INVALID_CLIENT).without_reason(),
    severity: Severity::Medium,
    sentence: CLIENT_AUTHENTICATION_FAILED,
    meaning: "The request has an assertion and other credentials. The response does not name this reason.",
    advice: "Use one method.",
};

pub(super) const UNSUPPORTED_GRANT: CatalogueEntry = CatalogueEntry {
    reason: "unsupported_grant",
    answers: oauth(code::UNSUPPORTED_GRANT_TYPE),
    severity: Severity::Low,
    sentence: "This server does not support the grant type",
    meaning: "The grant type is neither `client_credentials` nor token exchange.",
    advice: "Use one of these grant types.",
};

pub(super) const GRANT_NOT_ALLOWED: CatalogueEntry = CatalogueEntry {
    reason: "grant_not_allowed",
    answers: oauth(code::UNAUTHORIZED_CLIENT),
    severity: Severity::Medium,
    sentence: "This client may not use the grant type",
    meaning: "The client is not registered for the grant type.",
    advice: "Register the client for the grant type.",
};

pub(super) const RATE_LIMITED: CatalogueEntry = CatalogueEntry {
    reason: "rate_limited",
    answers: everywhere(code::UNAVAILABLE.with_status(429)).without_reason(),
    severity: Severity::Low,
    sentence: "Too many requests",
    meaning: "A limit is reached: `limits.requests_per_second_per_client`, `audit.max_streams` (streams and \
              exports), `delegations.max_pending_requests` (of one delegator) or \
              `delegations.max_pending_requests_per_client`. For confirmations: \
              `delegations.max_pending_confirmations` or `delegations.max_pending_confirmations_per_client`.",
    advice: "Try again later.",
};

pub(super) const TOO_MANY_FAILED_ATTEMPTS: CatalogueEntry = CatalogueEntry {
    reason: "too_many_failed_attempts",
    answers: oauth(code::UNAVAILABLE.with_status(429)).without_reason(),
    severity: Severity::High,
    sentence: "Too many failed attempts",
    meaning: "More wrong secrets arrived than `limits.failed_auth_per_minute` allows in a minute or at the \
              same time. Only the metrics name this reason.",
    advice: "Wait a minute. Find out who sends wrong secrets.",
};

pub(super) const SLOW_DOWN: CatalogueEntry = CatalogueEntry {
    reason: "slow_down",
    answers: resource(code::SLOW_DOWN),
    severity: Severity::Low,
    sentence: "The client polled too soon",
    meaning: "An agent polled for a decision before the end of `Retry-After`.",
    advice: "Wait as long as `Retry-After` says, or poll with `wait`.",
};

pub(super) const ISSUER_UNAVAILABLE: CatalogueEntry = CatalogueEntry {
    reason: "issuer_unavailable",
    answers: everywhere(code::UNAVAILABLE),
    severity: Severity::Low,
    sentence: "The issuer of a token is not available at present",
    meaning: "The keys of the issuer of a token, or of the client, cannot be fetched, or the issuer does not answer an introspection.",
    advice: "Try again later. Check the issuer.",
};
