//! What a token may be for.

use std::collections::BTreeSet;

/// A resource server as tokens name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The `audience` or `resource` value, and `aud` in tokens.
    pub id: String,
    /// The scopes that mean something there.
    pub scopes: BTreeSet<String>,
    /// The `authorization_details` types that mean something there.
    pub detail_types: BTreeSet<String>,
    /// The longest life of a token for it, in seconds.
    pub token_ttl: Option<u32>,
}
