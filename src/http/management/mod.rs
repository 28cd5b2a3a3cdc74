//! The management API: delegations, agents, principals, clients, the manifest, the audit log and its sinks.

pub(super) mod audit_export;
pub(super) mod audit_logs;
pub(super) mod audit_sessions;
pub(super) mod audit_sinks;
pub(super) mod audit_stream;
pub(super) mod check;
pub(super) mod clients;
pub(super) mod delegations;
pub(super) mod manifest;
pub(super) mod principals;
pub(super) mod registry;
pub(super) mod request;
pub(super) mod sessions;
pub(super) mod standing_grants;
