//! Where each member of an event is in OCSF and in CEF. The documentation has this table, and tests compare it with what
//! [`crate::ocsf`] and [`crate::cef`] write.

/// A member of an event, as a JSON pointer, and the names of its places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiemMapping {
    /// JSON pointer into the event.
    pub event: &'static str,
    /// Path in OCSF. `[]` is an element of a list.
    pub ocsf: &'static str,
    /// Key in CEF; empty where CEF has none.
    pub cef: &'static str,
}

const fn row(event: &'static str, ocsf: &'static str, cef: &'static str) -> SiemMapping {
    SiemMapping { event, ocsf, cef }
}

/// All members of an event, in the order of the documentation.
#[rustfmt::skip]
pub const MAPPINGS: &[SiemMapping] = &[
    row("/seq", "metadata.sequence", "cn1"),
    row("/id", "metadata.uid", "externalId"),
    row("/at", "metadata.original_time", "rt"),
    row("/action", "api.operation", "act"),
    row("/outcome", "status", "outcome"),
    row("/reason", "status_detail", "reason"),
    row("/code", "status_code", ""),
    row("/actor/type", "unmapped.actor.type", ""),
    row("/actor/client_id", "actor.app_uid", "sproc"),
    row("/actor/jkt", "unmapped.actor.jkt", "cs1"),
    row("/actor/iss", "actor.user.domain", "sntdom"),
    row("/actor/sub", "actor.user.uid", "suid"),
    row("/actor/name", "actor.app_uid", "sproc"),
    row("/subject/iss", "actor.user.domain", "sntdom"),
    row("/subject/sub", "actor.user.uid", "suid"),
    row("/act_chain", "unmapped.act_chain", "cs6"),
    row("/txn", "metadata.correlation_uid", "cs2"),
    row("/delegation_id", "delegation.uid", "cs3"),
    row("/delegation_path", "unmapped.delegation_path", ""),
    row("/jti", "unmapped.jti", ""),
    row("/parent_jti", "unmapped.parent_jti", ""),
    row("/target", "resources[].uid", "cs4"),
    row("/scope", "unmapped.scope", ""),
    row("/audience", "resources[].uid", "destinationServiceName"),
    row("/session_id", "actor.session.uid", ""),
    row("/request_id", "api.request.uid", "cs5"),
    row("/trace_id", "unmapped.trace_id", ""),
    row("/ip", "src_endpoint.ip", "src"),
    row("/user_agent", "http_request.user_agent", "requestClientApplication"),
    row("/texts/client_name", "ai_agent.name", ""),
    row("/texts/reason", "message", "msg"),
    row("/texts/agent", "unmapped.texts.agent", ""),
    row("/personal_sha256", "unmapped.personal_sha256", ""),
    row("/took_us", "unmapped.took_us", ""),
    row("/detail", "unmapped.detail", ""),
];
