//! Refusals of operations on standing grants.

use super::code;
use super::entry::{CatalogueEntry, resource};
use actchain_protocol::severity::Severity;

pub(super) const ONLY_USER_GRANTS: CatalogueEntry = CatalogueEntry {
    reason: "only_user_grants",
    answers: resource(code::INSUFFICIENT_SCOPE),
    severity: Severity::Medium,
    sentence: "The issuer of the user lets only the user give a standing grant",
    meaning: "An administrator or operator tried to create, renew or revalidate a standing grant for a user whose issuer is not \
              declared with `standing_grants: by_user_or_admin`.",
    advice: "Let the user do it, or change the declaration of the issuer.",
};

pub(super) const EXCEEDS_GRANTOR: CatalogueEntry = CatalogueEntry {
    reason: "exceeds_grantor",
    answers: resource(code::INVALID_REQUEST),
    severity: Severity::High,
    sentence: "The standing grant exceeds the rights of its grantor",
    meaning: "A scope of the standing grant is not in the token of the user, whose issuer declares `scope_claims`; or none of the \
              named audiences has the scope. `pointer` names the member.",
    advice: "Leave out what the user does not have.",
};

pub(super) const LIMIT: CatalogueEntry = CatalogueEntry {
    reason: "standing_grant_limit",
    answers: resource(code::CONFLICT),
    severity: Severity::Low,
    sentence: "The user has as many standing grants for this agent as can be active",
    meaning: "There are 100 standing grants between the user and the agent that have not ended. Or they, and those that expired \
              within an hour, have 8 different sets of keys.",
    advice: "Revoke one of them first.",
};
