//! The section `sessions`.

use serde::{Deserialize, Serialize};

use super::sections::seconds;

/// Sessions: pieces of work, with the steps that agents report.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionConfig {
    /// How long texts of steps are kept.
    #[serde(deserialize_with = "seconds")]
    pub text_retention: u32,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { text_retention: 30 * 24 * 3_600 }
    }
}
