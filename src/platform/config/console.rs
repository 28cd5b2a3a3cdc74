//! The section `console`.

use serde::{Deserialize, Serialize};

use super::sections::seconds;

/// The console, a web application for people below the issuer's path.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsoleConfig {
    /// Whether this server has the console. Where absent: where its issuer is on loopback, or people of an issuer sign in.
    pub enabled: Option<bool>,
    /// How long a session lasts.
    #[serde(deserialize_with = "seconds")]
    pub session: u32,
    /// How long a session lasts without use.
    #[serde(deserialize_with = "seconds")]
    pub idle: u32,
    /// How long ago a person may have been authenticated who gives much.
    #[serde(deserialize_with = "seconds")]
    pub fresh: u32,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self { enabled: None, session: 8 * 3_600, idle: 1_800, fresh: 900 }
    }
}
