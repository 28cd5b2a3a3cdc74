//! The section `offline`.

use serde::{Deserialize, Serialize};

use super::sections::seconds;

/// Refresh tokens of agents that may work while their user is away.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OfflineConfig {
    /// How long a refresh token may stay unused. Then it is no longer valid.
    #[serde(deserialize_with = "seconds")]
    pub max_idle: u32,
}

impl Default for OfflineConfig {
    fn default() -> Self {
        Self { max_idle: 30 * 86_400 }
    }
}
