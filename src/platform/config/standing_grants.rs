//! The section `standing_grants`.

use serde::{Deserialize, Serialize};

use super::sections::seconds;

/// Lasting consents of users to requests of agents.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StandingGrantConfig {
    /// Lifetime of a standing grant whose request does not specify one.
    #[serde(deserialize_with = "seconds")]
    pub default_ttl: u32,
    /// Longest time until the end of a standing grant, at its creation and at each renewal.
    #[serde(deserialize_with = "seconds")]
    pub max_ttl: u32,
}

impl Default for StandingGrantConfig {
    fn default() -> Self {
        Self { default_ttl: 30 * 86_400, max_ttl: 90 * 86_400 }
    }
}
