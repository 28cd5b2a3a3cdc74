//! The content of a standing grant that its row MAC covers. Suspension and revocation are not covered: statements change
//! them without the whole row, and they never widen a grant.

use serde_json::{Value, json};

use super::{GrantFacts, GrantedLimits, StandingGrant};
use crate::domain::limit::stored_number;
use crate::domain::row_mac::MacRow;
use crate::platform::clock::rfc3339;

impl MacRow for StandingGrant {
    const TABLE: &'static str = "standing_grant";
    const KEY: &'static str = "id";

    fn row_id(&self) -> &str {
        &self.id
    }

    fn content(&self) -> Value {
        let Self { id: _, grantor, client_id, keys, limits, created_at, created_by, facts } = self;
        let GrantedLimits {
            scopes,
            audiences,
            details,
            ceiling,
            max_ttl,
            max_uses,
            max_depth,
            offline_access,
        } = limits;
        let GrantFacts { expires_at, revoked_at: _, principal_revoked_at: _, suspension: _ } = facts;
        json!({
            "grantor": grantor, "client_id": client_id, "keys": keys, "scopes": scopes, "audiences": audiences,
            "details": details, "ceiling": ceiling, "max_ttl": stored_number(*max_ttl), "max_uses": max_uses,
            "max_depth": max_depth.map(stored_number), "offline_access": offline_access, "created_at": rfc3339(*created_at), "created_by": created_by,
            "expires_at": rfc3339(*expires_at),
        })
    }
}
