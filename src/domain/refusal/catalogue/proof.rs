//! Refusals because of a DPoP proof (RFC 9449).

use super::code;
use super::entry::{CatalogueEntry, both, oauth, resource};
use actchain_protocol::severity::Severity;

const NOT_VALID_FOR_THIS_REQUEST: &str = "The DPoP proof is not valid for this request";

pub(super) const MISSING: CatalogueEntry = CatalogueEntry {
    reason: "dpop_proof_missing",
    answers: both(code::INVALID_DPOP_PROOF, code::INVALID_DPOP_PROOF.with_status(401)),
    severity: Severity::Medium,
    sentence: "A DPoP proof is required",
    meaning: "The request has no DPoP proof.",
    advice: "Send a DPoP proof.",
};

pub(super) const MALFORMED: CatalogueEntry = CatalogueEntry {
    reason: "dpop_proof_malformed",
    answers: both(code::INVALID_DPOP_PROOF, code::INVALID_DPOP_PROOF.with_status(401)),
    severity: Severity::Low,
    sentence: NOT_VALID_FOR_THIS_REQUEST,
    meaning: "The proof is not a JWT, or has a wrong type, algorithm, key or claim.",
    advice: "Make the proof by RFC 9449 §4.2.",
};

pub(super) const SIGNATURE: CatalogueEntry = CatalogueEntry {
    reason: "dpop_proof_signature",
    answers: both(code::INVALID_DPOP_PROOF, code::INVALID_DPOP_PROOF.with_status(401)),
    severity: Severity::High,
    sentence: NOT_VALID_FOR_THIS_REQUEST,
    meaning: "The key in the proof did not sign the proof.",
    advice: "Sign the proof with the key in its header.",
};

pub(super) const TARGET: CatalogueEntry = CatalogueEntry {
    reason: "dpop_proof_target",
    answers: both(code::INVALID_DPOP_PROOF, code::INVALID_DPOP_PROOF.with_status(401)),
    severity: Severity::Medium,
    sentence: NOT_VALID_FOR_THIS_REQUEST,
    meaning: "`htm` or `htu` is not the method or the URL of the request.",
    advice: "Use the URL of the issuer as published, without the query.",
};

pub(super) const TIME: CatalogueEntry = CatalogueEntry {
    reason: "dpop_proof_time",
    answers: both(code::INVALID_DPOP_PROOF, code::INVALID_DPOP_PROOF.with_status(401)),
    severity: Severity::Low,
    sentence: NOT_VALID_FOR_THIS_REQUEST,
    meaning: "`iat` is older than `dpop.proof_max_age`, or ahead by more than `dpop.skew`.",
    advice: "Set the clock. Make a new proof for each request.",
};

pub(super) const ACCESS_TOKEN: CatalogueEntry = CatalogueEntry {
    reason: "dpop_proof_access_token",
    answers: resource(code::INVALID_DPOP_PROOF.with_status(401)),
    severity: Severity::High,
    sentence: NOT_VALID_FOR_THIS_REQUEST,
    meaning: "`ath` is missing, or is the digest of another access token.",
    advice: "Set `ath` to the digest of the access token.",
};

pub(super) const REPLAYED: CatalogueEntry = CatalogueEntry {
    reason: "dpop_proof_replayed",
    answers: both(code::INVALID_DPOP_PROOF, code::INVALID_DPOP_PROOF.with_status(401)),
    severity: Severity::High,
    sentence: "The DPoP proof was used before",
    meaning: "The proof was used before.",
    advice: "Make a new proof for each request.",
};

pub(super) const KEY_UNKNOWN: CatalogueEntry = CatalogueEntry {
    reason: "dpop_proof_key_unknown",
    answers: oauth(code::INVALID_DPOP_PROOF),
    severity: Severity::High,
    sentence: "The key of the DPoP proof is not registered for this client",
    meaning: "The client may not use the key of the proof.",
    advice: "Use a registered key.",
};

pub(super) const NONCE_REQUIRED: CatalogueEntry = CatalogueEntry {
    reason: "nonce_required",
    answers: both(code::USE_DPOP_NONCE, code::USE_DPOP_NONCE.with_status(401)),
    severity: Severity::Low,
    sentence: "The DPoP proof must have the nonce of the DPoP-Nonce header",
    meaning: "The proof has no nonce of this server, or an old nonce.",
    advice: "Repeat the request with the nonce of `DPoP-Nonce`.",
};

pub(super) const TOO_OLD: CatalogueEntry = CatalogueEntry {
    reason: "proof_too_old",
    answers: both(code::INVALID_DPOP_PROOF, code::INVALID_DPOP_PROOF.with_status(401)),
    severity: Severity::Medium,
    sentence: "The DPoP proof is too old",
    meaning: "The records that show whether the proof was used before are deleted.",
    advice: "Make a new proof. Check the clocks of the server and the database.",
};
