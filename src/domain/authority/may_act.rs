//! Delegations that follow from a `may_act` claim (RFC 8693 §4.4).

use super::decision::DecisionInput;
use crate::domain::delegation::{Delegation, DelegationLimits, DelegationRecord, Provenance};
use crate::domain::subject::{TokenSource, VerifiedSubject};
use actchain_protocol::base64url;
use actchain_protocol::digest::{prefix, sha256};

/// The id of the delegation of a `may_act` claim, if the issuer is configured to authorize by the claim. The same
/// token and client give the same id: the delegation is recorded once, and its revocation stays in force.
pub fn may_act_id(subject: &VerifiedSubject, client_id: &str) -> Option<String> {
    match &subject.source {
        TokenSource::TrustedIssuer { may_act: Some(claim), fingerprint, .. } if claim.authorizes => {
            let digest = sha256(&[b"may_act", fingerprint, client_id.as_bytes()]);
            Some(format!("may-{}", base64url::encode(prefix::<18>(&digest))))
        }
        _ => None,
    }
}

/// The delegation of the claim in the subject token, before it is recorded. `None` if no claim names the client, or its
/// delegation is recorded and was tried already.
pub(super) fn unrecorded_delegation(input: &DecisionInput<'_>) -> Option<Delegation> {
    let subject = input.subject;
    let client_id = &input.client.client_id;
    let id = may_act_id(subject, client_id)?;
    // A request that names a delegation uses only this delegation.
    if input.named.is_some() || input.path(&id).is_some() {
        return None;
    }
    let valid_for = (subject.validity.expires_at - input.now).whole_seconds().saturating_add(1);
    Some(Delegation {
        path: vec![id.clone()],
        id,
        parent: None,
        root: subject.subject.clone(),
        delegator: subject.subject.clone(),
        delegate: client_id.clone(),
        terms: DelegationLimits {
            scopes: subject.scopes.clone(),
            details: subject.details.clone(),
            ..DelegationLimits::unrestricted()
        },
        origin: Provenance::MayAct,
        requested_at: input.now,
        requested_by: None,
        // The token can come back until it expires: the row is kept as long.
        requested_ttl: Some(u32::try_from(valid_for.clamp(0, i32::MAX.into())).unwrap_or_default()),
        reason: None,
        agent: None,
        facts: DelegationRecord::unused(
            Some(input.now),
            subject.validity.expires_at.min(input.now + input.max_delegation_ttl),
            None,
        ),
        revoke_reason: None,
        pending_jwk: None,
        standing_grant_id: None,
    })
}
