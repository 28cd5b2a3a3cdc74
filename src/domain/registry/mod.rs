//! All trusted issuers and all resources: few, rarely changed, kept in memory under a version number.

pub mod store;

use std::collections::{BTreeMap, BTreeSet};

use super::issuer::Issuer;
use super::refusal::Refusal;
use super::resource::Resource;

/// The scope that lets an admin client administer this server.
pub const ADMIN_SCOPE: &str = "actchain.admin";

/// The scope that lets an agent ask for delegations and pass them on.
pub const DELEGATE_SCOPE: &str = "actchain.delegate";

/// The scope that lets an auditor read the audit log.
pub const AUDIT_SCOPE: &str = "actchain.audit";

/// The type of `authorization_details` that names a connection of the vault.
pub const VAULT_DETAIL: &str = "vault_connection";

/// What was registered, as of one version.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// Grows with every change to any of it.
    pub version: i64,
    /// By `iss`.
    pub issuers: BTreeMap<String, Issuer>,
    /// By id; this server itself is among them.
    pub resources: BTreeMap<String, Resource>,
}

impl Registry {
    /// Whether all these audiences are resources that are known.
    ///
    /// # Errors
    /// [`Refusal::TargetRefused`].
    pub fn check_targets(&self, audiences: &BTreeSet<String>) -> Result<(), Refusal> {
        let known = audiences.iter().all(|name| self.resources.contains_key(name));
        if known { Ok(()) } else { Err(Refusal::TargetRefused) }
    }
}
