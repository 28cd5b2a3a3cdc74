//! A principal: a user of a trusted issuer, or a client of ours.

pub mod store;

use serde::{Deserialize, Serialize};

/// `(iss, sub)`. A client of ours has our own issuer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// Who says so.
    pub iss: String,
    /// Who it is, for that issuer.
    pub sub: String,
}

impl Principal {
    /// A principal.
    pub fn new(iss: impl Into<String>, sub: impl Into<String>) -> Self {
        Self { iss: iss.into(), sub: sub.into() }
    }
}
