//! Refusals of operations on delegations and their confirmations.

use super::code;
use super::entry::{CatalogueEntry, both, resource};
use actchain_protocol::severity::Severity;

pub(super) const REQUESTED: CatalogueEntry = CatalogueEntry {
    reason: "delegation_requested",
    answers: both(code::INVALID_REQUEST, code::CONFLICT),
    severity: Severity::Medium,
    sentence: "The delegation waits for the decision of its delegator",
    meaning: "The delegation, or an ancestor, waits for the decision of its delegator.",
    advice: "Wait for the decision.",
};

pub(super) const EXPIRED: CatalogueEntry = CatalogueEntry {
    reason: "delegation_expired",
    answers: both(code::INVALID_REQUEST, code::CONFLICT),
    severity: Severity::Low,
    sentence: "The delegation has expired",
    meaning: "The delegation, or an ancestor, has expired.",
    advice: "Request another delegation.",
};

pub(super) const REVOKED: CatalogueEntry = CatalogueEntry {
    reason: "delegation_revoked",
    answers: both(code::INVALID_REQUEST, code::CONFLICT),
    severity: Severity::Medium,
    sentence: "The delegation was revoked",
    meaning: "The delegation, or an ancestor, was denied or revoked.",
    advice: "Request another delegation, if there is a reason to.",
};

pub(super) const COMMAND_LIMIT: CatalogueEntry = CatalogueEntry {
    reason: "command_limit",
    answers: both(code::INVALID_REQUEST, code::CONFLICT),
    severity: Severity::Low,
    sentence: "The delegation has no use left",
    meaning: "The delegation, or an ancestor, has fewer uses left than the request takes. No use was counted.",
    advice: "Report fewer uses, or request another delegation.",
};

pub(super) const TOO_FEW_USES: CatalogueEntry = CatalogueEntry {
    answers: resource(code::CONFLICT),
    sentence: "Fewer uses are left than were reported",
    ..COMMAND_LIMIT
};

pub(super) const INVALID_STATE_TRANSITION: CatalogueEntry = CatalogueEntry {
    reason: "invalid_state_transition",
    answers: resource(code::CONFLICT),
    severity: Severity::Low,
    sentence: "The present state does not allow this",
    meaning: "The operation is not possible in the present `state`.",
    advice: "Read the object again.",
};

pub(super) const REQUEST_CHANGED: CatalogueEntry = CatalogueEntry {
    reason: "request_changed",
    answers: resource(code::CONFLICT),
    severity: Severity::Medium,
    sentence: "The request is no longer what was shown, so that nothing was done",
    meaning: "The request changed between the page that a person saw and the decision. Nothing was approved.",
    advice: "Open the request again, and decide about its present content.",
};

pub(super) const PARENT_NOT_ACTIVE: CatalogueEntry = CatalogueEntry {
    reason: "parent_not_active",
    answers: resource(code::CONFLICT),
    severity: Severity::Low,
    sentence: "The parent delegation is not active",
    meaning: "The parent delegation is not active. `state` is the state of the parent.",
    advice: "Name an active parent.",
};

pub(super) const CEREMONY_DECIDED: CatalogueEntry = CatalogueEntry {
    reason: "ceremony_decided",
    answers: resource(code::CONFLICT),
    severity: Severity::Low,
    sentence: "The confirmation is decided or expired",
    meaning: "The confirmation is not pending. `state` is the state of the confirmation.",
    advice: "Do nothing.",
};

pub(super) const KEY_NOT_REUSABLE: CatalogueEntry = CatalogueEntry {
    reason: "key_not_reusable",
    answers: resource(code::CONFLICT),
    severity: Severity::High,
    sentence: "The key was removed before and cannot be registered again: use another key",
    meaning: "The new key of an agent was removed from a client before.",
    advice: "Make another key. If the key is not compromised, an operator can restore it: `actchain client \
             key restore`.",
};

pub(super) const TASK_AGENT_LIMIT: CatalogueEntry = CatalogueEntry {
    reason: "task_agent_limit",
    answers: resource(code::CONFLICT),
    severity: Severity::Medium,
    sentence: "The task has the maximum number of agents",
    meaning: "The task has as many agents as `agents.max_per_task` allows.",
    advice: "Deactivate another agent of the task.",
};

pub(super) const EXCEEDS_PARENT: CatalogueEntry = CatalogueEntry {
    reason: "exceeds_parent",
    answers: resource(code::INVALID_REQUEST),
    severity: Severity::Medium,
    sentence: "A delegation must not exceed its parent or its request",
    meaning: "A limit exceeds the parent, the request or the server. `errors` names the member. A lifetime \
              that is too long for the server is shortened instead.",
    advice: "Request less.",
};

pub(super) const SCOPE_UNKNOWN: CatalogueEntry = CatalogueEntry {
    reason: "scope_unknown",
    answers: resource(code::INVALID_SCOPE),
    severity: Severity::Low,
    sentence: "No resource declares the scope",
    meaning: "No resource declares a scope of `scopes` or `ceremony_required_for`. `errors` points to the \
              scope.",
    advice: "Correct the name, or declare the scope.",
};

pub(super) const CEREMONY_UNKNOWN: CatalogueEntry = CatalogueEntry {
    sentence: "The name is neither a capability nor a scope that a resource declares",
    ..SCOPE_UNKNOWN
};

pub(super) const RESOURCE_UNKNOWN: CatalogueEntry = CatalogueEntry {
    reason: "resource_unknown",
    answers: resource(code::INVALID_TARGET),
    severity: Severity::Low,
    sentence: "No resource has the audience",
    meaning: "No resource has an audience of `audiences`. `errors` points to the audience.",
    advice: "Correct the name, or declare the resource.",
};

pub(super) const DETAILS_TYPE_UNKNOWN: CatalogueEntry = CatalogueEntry {
    reason: "authorization_details_type_unknown",
    answers: resource(code::INVALID_DETAILS),
    severity: Severity::Low,
    sentence: "No resource declares the type of the authorization details",
    meaning: "No resource declares a type of `authorization_details`. `errors` points to the type.",
    advice: "Correct the type, or declare the type.",
};

pub(super) const EXPIRY_NOT_LATER: CatalogueEntry = CatalogueEntry {
    reason: "expiry_not_later",
    answers: resource(code::INVALID_REQUEST),
    severity: Severity::Low,
    sentence: "The new expiry is not later than the present expiry",
    meaning: "The renewal would not move the expiry later, as requested or after the server shortened the \
              lifetime.",
    advice: "Do nothing, or renew for longer.",
};

pub(super) const CYCLE: CatalogueEntry = CatalogueEntry {
    reason: "delegation_cycle",
    answers: resource(code::INVALID_REQUEST),
    severity: Severity::High,
    sentence: "A delegation to yourself or to an ancestor is not allowed",
    meaning: "The delegate is the delegator, or acts in an ancestor.",
    advice: "Name another agent.",
};

pub(super) const DELEGATE_UNKNOWN: CatalogueEntry = CatalogueEntry {
    reason: "delegate_unknown",
    answers: resource(code::INVALID_REQUEST),
    severity: Severity::Low,
    sentence: "The agent does not exist",
    meaning: "The agent does not exist, or is an ephemeral agent of another delegation.",
    advice: "Name another agent.",
};

pub(super) const DELEGATE_DISABLED: CatalogueEntry = CatalogueEntry {
    reason: "delegate_disabled",
    answers: resource(code::INVALID_REQUEST),
    severity: Severity::Medium,
    sentence: "The agent is disabled",
    meaning: "The agent is disabled or deactivated.",
    advice: "Name another agent.",
};

pub(super) const DELEGATOR_UNKNOWN: CatalogueEntry = CatalogueEntry {
    reason: "delegator_unknown",
    answers: resource(code::INVALID_REQUEST),
    severity: Severity::Low,
    sentence: "The delegator is not a principal of a trusted issuer",
    meaning: "The delegator is not a principal of a trusted issuer.",
    advice: "Check `iss` and `sub`.",
};
