//! A principal: a user of a trusted issuer, or a client of this server.

pub mod store;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use actchain_protocol::jwt_time::SKEW;

/// A user of a trusted issuer, or a client of this server, whose `iss` is this server's issuer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// Issuer that identifies the principal.
    #[schemars(example = &"https://idp.example.com")]
    pub iss: String,
    /// Identifier of the principal at that issuer.
    #[schemars(example = &"alice")]
    pub sub: String,
}

impl Principal {
    pub fn new(iss: impl Into<String>, sub: impl Into<String>) -> Self {
        Self { iss: iss.into(), sub: sub.into() }
    }

    /// A string for keys of rows and limits, unique for each principal, whatever characters its names have.
    pub fn key(&self) -> String {
        serde_json::json!([self.iss, self.sub]).to_string()
    }
}

/// Whether a revoke-all at one time covers a token of another issuer, by its time of issue. The clocks may differ by
/// [`SKEW`]. Tokens of this server are compared by epochs: the SQL function `revocation_covers`.
pub fn covers_foreign_token(revoked_at: OffsetDateTime, issued_at: OffsetDateTime) -> bool {
    revoked_at + SKEW >= issued_at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_principals_never_share_a_key() {
        let key = |iss: &str, sub: &str| Principal::new(iss, sub).key();
        assert_ne!(key("https://idp", "alice smith"), key("https://idp alice", "smith"));
        assert_ne!(key("a\",\"b", "c"), key("a", "b\",\"c"));
        assert_ne!(key("operator", ""), "operator");
    }
}
