//! Resource servers: the targets of tokens.

use std::collections::BTreeSet;

/// A resource server as tokens name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The `audience` or `resource` value, and the `aud` in tokens.
    pub id: String,
    /// The scopes that the resource defines.
    pub scopes: BTreeSet<String>,
    /// The `authorization_details` types that the resource defines.
    pub detail_types: BTreeSet<String>,
    /// Maximum lifetime of a token for the resource, in seconds.
    pub token_ttl: Option<u32>,
}
