//! Refusals of token requests and of the tokens in them (RFC 8693).

use super::code;
use super::entry::{CatalogueEntry, both, everywhere, oauth};
use actchain_protocol::severity::Severity;

pub(super) const SUBJECT_TOKEN_INVALID: CatalogueEntry = CatalogueEntry {
    reason: "subject_token_invalid",
    answers: both(code::INVALID_REQUEST, code::INVALID_TOKEN),
    severity: Severity::Medium,
    sentence: "The subject token is not valid",
    meaning: "The subject token is malformed, expired, of an unknown issuer, of another kind, or not for \
              this server. Only `detail.cause` of the event and the log say which. At the vault, the record \
              of the access token was deleted during the request.",
    advice: "Get a new subject token.",
};

pub(super) const ACTOR_TOKEN_INVALID: CatalogueEntry = CatalogueEntry {
    reason: "actor_token_invalid",
    answers: oauth(code::INVALID_REQUEST),
    severity: Severity::Medium,
    sentence: "The actor token is not valid",
    meaning: "The actor token is malformed, expired, of an unknown issuer, of another kind, not for this \
              server, or names an actor. Only `detail.cause` of the event and the log say which.",
    advice: "Get a new actor token.",
};

pub(super) const REFRESH_TOKEN_INVALID: CatalogueEntry = CatalogueEntry {
    reason: "refresh_token_invalid",
    answers: oauth(code::INVALID_GRANT),
    severity: Severity::Medium,
    sentence: "The refresh token is not valid",
    meaning: "The refresh token is unknown, belongs to another client, is bound to another key, was not used for longer \
              than `offline.max_idle`, or was replaced. Only `detail.cause` of the event and the log say which.",
    advice: "Exchange a token of the user again.",
};

pub(super) const ACTOR_IS_NOT_CLIENT: CatalogueEntry = CatalogueEntry {
    reason: "actor_is_not_client",
    answers: oauth(code::INVALID_REQUEST),
    severity: Severity::High,
    sentence: "The actor token belongs to another client or to another key",
    meaning: "The actor token belongs to another client, or is bound to another key than the key of the \
              proof.",
    advice: "Send an actor token of the client itself.",
};

pub(super) const SUBJECT_KEY_MISMATCH: CatalogueEntry = CatalogueEntry {
    reason: "subject_key_mismatch",
    answers: oauth(code::INVALID_REQUEST),
    severity: Severity::High,
    sentence: "The subject token is bound to another key",
    meaning: "The subject token is bound to another key than the key of the proof.",
    advice: "Use the key of the token.",
};

pub(super) const SUBJECT_AMBIGUOUS: CatalogueEntry = CatalogueEntry {
    reason: "subject_ambiguous",
    answers: oauth(code::INVALID_REQUEST),
    severity: Severity::High,
    sentence: "The subject has the name of another principal of this server",
    meaning: "The `sub` of the new token would be the name of another principal: a client of this server, or \
              a user of another issuer.",
    advice: "Declare the issuer with `subject: prefixed`, or rename the client.",
};

pub(super) const MAY_ACT_MISMATCH: CatalogueEntry = CatalogueEntry {
    reason: "may_act_mismatch",
    answers: oauth(code::INVALID_REQUEST),
    severity: Severity::Medium,
    sentence: "The may_act claim of the subject token does not name this client",
    meaning: "`may_act` in the subject token names other parties than this client.",
    advice: "Get a subject token that names this client, or declare the issuer with `may_act: ignore`.",
};

pub(super) const ACTOR_OF_OTHER_ISSUER: CatalogueEntry = CatalogueEntry {
    reason: "actor_of_other_issuer",
    answers: oauth(code::INVALID_REQUEST),
    severity: Severity::High,
    sentence: "The subject token of another issuer already names an actor",
    meaning: "The subject token of another issuer already names an actor.",
    advice: "Begin with a token of the user that names no actor, or declare the issuer with `actors: accept`.",
};

pub(super) const DELEGATION_REQUIRED: CatalogueEntry = CatalogueEntry {
    reason: "delegation_required",
    answers: everywhere(code::INVALID_REQUEST),
    severity: Severity::Medium,
    sentence: "No delegation authorizes this client to act for the subject",
    meaning: "Neither a delegation nor a `may_act` claim authorizes the client to act for the subject. At \
              the vault, the delegation of the token no longer exists.",
    advice: "Request a delegation.",
};

pub(super) const DEPTH_EXCEEDED: CatalogueEntry = CatalogueEntry {
    reason: "depth_exceeded",
    answers: oauth(code::INVALID_REQUEST),
    severity: Severity::Medium,
    sentence: "The chain of actors would be too long",
    meaning: "The chain would have more actors than `max_depth` of a delegation, or than `tokens.max_depth`.",
    advice: "Use fewer hops.",
};

pub(super) const ACTOR_CYCLE: CatalogueEntry = CatalogueEntry {
    reason: "actor_cycle",
    answers: oauth(code::INVALID_REQUEST),
    severity: Severity::High,
    sentence: "The client is already an actor of this chain",
    meaning: "The client is already an actor of this chain.",
    advice: "Use the token that the client already has.",
};

pub(super) const ACTOR_DISABLED: CatalogueEntry = CatalogueEntry {
    reason: "actor_disabled",
    answers: both(code::INVALID_REQUEST, code::CONFLICT),
    severity: Severity::High,
    sentence: "An earlier actor of this chain is disabled",
    meaning: "An earlier agent of the chain, or of an ancestor of the delegation, is disabled.",
    advice: "Wait until an administrator enables the agent.",
};

pub(super) const TOKEN_REVOKED: CatalogueEntry = CatalogueEntry {
    reason: "token_revoked",
    answers: both(code::INVALID_REQUEST, code::INVALID_TOKEN),
    severity: Severity::High,
    sentence: "The token was revoked",
    meaning: "The token, or a token from which it was issued, was revoked.",
    advice: "Start again with a new token.",
};

pub(super) const KEY_REMOVED: CatalogueEntry = CatalogueEntry {
    reason: "key_removed",
    answers: both(code::INVALID_REQUEST, code::INVALID_TOKEN),
    severity: Severity::High,
    sentence: "The key was removed from its client",
    meaning: "A key of this chain was removed from its client.",
    advice: "Start again with another key.",
};

pub(super) const PRINCIPAL_REVOKED: CatalogueEntry = CatalogueEntry {
    reason: "principal_revoked",
    answers: both(code::INVALID_REQUEST, code::CONFLICT),
    severity: Severity::Medium,
    sentence: "A revoke-all ended the tokens and delegations of a principal of this chain",
    meaning: "A revoke-all ended everything that a principal of this chain had at that time.",
    advice: "Request a new delegation.",
};

pub(super) const AGENT_DEACTIVATED: CatalogueEntry = CatalogueEntry {
    reason: "agent_deactivated",
    answers: both(code::INVALID_REQUEST, code::CONFLICT),
    severity: Severity::Medium,
    sentence: "The agent is deactivated",
    meaning: "An ephemeral agent of this chain is deactivated. An ephemeral agent cannot be activated again.",
    advice: "Request a delegation with a new ephemeral agent.",
};

pub(super) const TOKEN_TOO_LARGE: CatalogueEntry = CatalogueEntry {
    reason: "token_too_large",
    answers: oauth(code::INVALID_REQUEST),
    severity: Severity::Low,
    sentence: "The token would be too large: request less",
    meaning: "The token would be longer than verifiers accept.",
    advice: "Request fewer scopes, targets or authorization details.",
};

pub(super) const TOKEN_OF_ANOTHER_CLIENT: CatalogueEntry = CatalogueEntry {
    reason: "token_of_another_client",
    answers: oauth(code::INVALID_GRANT),
    severity: Severity::High,
    sentence: "The token belongs to another client",
    meaning: "Only the client to which a token was issued can revoke the token.",
    advice: "Revoke the delegation, or a token of the client itself.",
};

pub(super) const SCOPE_EXCEEDS_GRANT: CatalogueEntry = CatalogueEntry {
    reason: "scope_exceeds_grant",
    answers: everywhere(code::INVALID_SCOPE),
    severity: Severity::Medium,
    sentence: "The scope exceeds what may be granted",
    meaning: "The client, the subject token, a delegation or the declaration of a provider does not allow a \
              requested scope.",
    advice: "Request fewer scopes.",
};

pub(super) const SCOPE_NOT_AT_RESOURCE: CatalogueEntry = CatalogueEntry {
    reason: "scope_not_at_resource",
    answers: oauth(code::INVALID_SCOPE),
    severity: Severity::Medium,
    sentence: "A target does not define a requested scope",
    meaning: "A target does not define a requested scope.",
    advice: "Name the targets that define the scope.",
};

pub(super) const SCOPE_EMPTY: CatalogueEntry = CatalogueEntry {
    reason: "scope_empty",
    answers: everywhere(code::INVALID_SCOPE),
    severity: Severity::Low,
    sentence: "No scope remains to be granted",
    meaning: "No scope remains for the token, or a request to connect names no scope.",
    advice: "Compare the scopes of client, delegation and resource. Leave out `scopes`.",
};

pub(super) const CAPABILITY_TOO_HIGH: CatalogueEntry = CatalogueEntry {
    reason: "capability_too_high",
    answers: oauth(code::INVALID_SCOPE),
    severity: Severity::Medium,
    sentence: "The capability exceeds what may be granted",
    meaning: "`capability_ceiling` is higher than what may be granted.",
    advice: "Request a lower capability.",
};

pub(super) const RESOURCE_REFUSED: CatalogueEntry = CatalogueEntry {
    reason: "resource_refused",
    answers: oauth(code::INVALID_TARGET),
    severity: Severity::Medium,
    sentence: "The target is unknown or not allowed",
    meaning: "The target is not registered, or not allowed. Targets are compared character by character: \
              `https://mail.example.com/` is not `https://mail.example.com`.",
    advice: "Name another target. The log and the event (`registered_target`) name a registered target that \
             differs only in spelling.",
};

pub(super) const DPOP_REQUIRED_FOR_MULTIPLE_AUDIENCES: CatalogueEntry = CatalogueEntry {
    reason: "dpop_required_for_multiple_audiences",
    answers: oauth(code::INVALID_TARGET),
    severity: Severity::Low,
    sentence: "A token for several targets must be bound to a key",
    meaning: "The request is for a token for several targets and has no DPoP proof.",
    advice: "Send a DPoP proof, or name one target.",
};

pub(super) const RESOURCE_AMBIGUOUS: CatalogueEntry = CatalogueEntry {
    reason: "resource_ambiguous",
    answers: oauth(code::INVALID_TARGET),
    severity: Severity::Low,
    sentence: "The targets have no scope in common: name one target",
    meaning: "The targets that may be granted have no scope in common.",
    advice: "Name one target.",
};

pub(super) const AUTHORIZATION_DETAILS_EXCEED_GRANT: CatalogueEntry = CatalogueEntry {
    reason: "authorization_details_exceed_grant",
    answers: oauth(code::INVALID_DETAILS),
    severity: Severity::Medium,
    sentence: "The authorization details exceed what may be granted",
    meaning: "The details exceed what was granted, or have a type that the client or the target does not \
              have.",
    advice: "Request less.",
};

pub(super) const AUTHORIZATION_DETAILS_TOO_MANY: CatalogueEntry = CatalogueEntry {
    reason: "authorization_details_too_many",
    answers: oauth(code::INVALID_DETAILS),
    severity: Severity::Low,
    sentence: "There are too many authorization details: name some of them",
    meaning: "There are more objects than a token can have.",
    advice: "Name the objects that the token needs.",
};

pub(super) const CEREMONY_REQUIRED: CatalogueEntry = CatalogueEntry {
    reason: "ceremony_required",
    answers: oauth(code::INSUFFICIENT_AUTHENTICATION),
    severity: Severity::Low,
    sentence: "The delegator has to confirm this use",
    meaning: "The delegator has to confirm this use. `ceremony` is the id of the confirmation, \
              `delegation_id` the id of the delegation.",
    advice: "Let the delegator approve the confirmation, then repeat the same request.",
};

pub(super) const CEREMONY_DENIED: CatalogueEntry = CatalogueEntry {
    reason: "ceremony_denied",
    answers: oauth(code::INSUFFICIENT_AUTHENTICATION),
    severity: Severity::Medium,
    sentence: "The delegator denied this use",
    meaning: "The delegator denied this use.",
    advice: "Do not repeat the request. The response stays the same until the confirmation expires.",
};

pub(super) const CEREMONY_USED: CatalogueEntry = CatalogueEntry {
    reason: "ceremony_used",
    answers: oauth(code::INSUFFICIENT_AUTHENTICATION),
    severity: Severity::High,
    sentence: "The confirmation was used before",
    meaning: "Another request has used the confirmation.",
    advice: "Repeat the request to start another confirmation.",
};
