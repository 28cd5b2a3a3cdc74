//! Whether a server has the console.

use crate::domain::registry::Registry;
use crate::platform::config::Config;
use crate::platform::outbound::AddressPolicy;

/// Whether this server has the console: as configured, or where its issuer is on loopback or people of an issuer sign in.
pub fn is_on(config: &Config, issuer: &str, registry: &Registry) -> bool {
    let by_itself = || {
        let people_sign_in = registry.issuers.values().any(|one| one.sign_in.is_some());
        people_sign_in || AddressPolicy::of_issuer(issuer) == AddressPolicy::PublicAndLoopback
    };
    config.console.enabled.unwrap_or_else(by_itself)
}
