//! The content of a delegation that its row MAC covers: delegator, delegate, limits and times. Revocation and counts
//! of uses are not covered: statements change them without the whole row, and they never widen a delegation.

use serde_json::{Value, json};

use super::{Delegation, DelegationLimits, DelegationRecord};
use crate::domain::limit::stored_number;
use crate::domain::row_mac::MacRow;
use crate::platform::clock::rfc3339;

impl MacRow for Delegation {
    const TABLE: &'static str = "delegation";
    const KEY: &'static str = "id";

    fn row_id(&self) -> &str {
        &self.id
    }

    fn content(&self) -> Value {
        let Self {
            id: _,
            path,
            parent,
            root,
            delegator,
            delegate,
            terms,
            origin,
            requested_at,
            requested_by,
            facts,
            requested_ttl,
            reason,
            agent,
            revoke_reason: _,
            pending_jwk,
            standing_grant_id,
        } = self;
        let DelegationLimits { scopes, audiences, details, ceiling, ceremonies, max_depth, offline_access } =
            terms;
        let DelegationRecord {
            activated_at,
            expires_at,
            revoked_at: _,
            principal_revoked_at: _,
            // Derived from `pending_jwk`.
            key_rotating: _,
            suspended_at: _,
            // A fact of the standing grant.
            standing_grant_suspended_at: _,
            max_uses,
            uses: _,
            used_up_at: _,
            exhausted_at: _,
        } = facts;
        json!({
            "path": path, "parent": parent, "root": root, "delegator": delegator, "delegate": delegate,
            "scopes": scopes.to_stored(), "audiences": audiences.to_stored(), "details": details, "ceiling": ceiling,
            "ceremonies": ceremonies, "max_depth": max_depth.map(stored_number), "max_uses": max_uses, "origin": origin,
            "requested_at": rfc3339(*requested_at), "requested_by": requested_by,
            "activated_at": activated_at.map(rfc3339), "expires_at": rfc3339(*expires_at), "requested_ttl": requested_ttl.map(stored_number),
            "reason": reason, "agent": agent, "pending_jwk": pending_jwk, "offline_access": offline_access,
            "standing_grant_id": standing_grant_id,
        })
    }
}
