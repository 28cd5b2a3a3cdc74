//! Events in the Open Cybersecurity Schema Framework 1.6.0, class API Activity (6003). The complete event is under
//! `unmapped`.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::severity::{Severity, text};

/// The version of OCSF.
pub const VERSION: &str = "1.6.0";

const CLASS: u32 = 6003;

/// An event with all members that the class requires. Members without a value are left out.
pub fn event(event: &Value, severity: Severity) -> Value {
    let action = text(event, "/action").unwrap_or_default();
    let (activity, activity_name) = activity(action);
    let (severity_id, severity) = severity.ocsf();
    let (status_id, status) = match text(event, "/outcome") {
        Some("success") => (1, "Success"),
        Some("refused") => (2, "Failure"),
        _ => (0, "Unknown"),
    };
    let at = text(event, "/at").unwrap_or_default();
    let time = OffsetDateTime::parse(at, &Rfc3339).map(|at| at.unix_timestamp_nanos() / 1_000_000);
    let mut api = json!({"operation": action, "service": {"name": "actchain"}});
    put(&mut api, "request", text(event, "/request_id").map(|id| json!({"uid": id})));
    put(&mut api, "response", text(event, "/reason").map(|reason| json!({"error": reason})));
    let mut whole = json!({
        "activity_id": activity, "activity_name": activity_name,
        "category_uid": 6, "category_name": "Application Activity",
        "class_uid": CLASS, "class_name": "API Activity",
        "type_uid": CLASS * 100 + activity, "type_name": format!("API Activity: {activity_name}"),
        "severity_id": severity_id, "severity": severity,
        "status_id": status_id, "status": status,
        "time": i64::try_from(time.unwrap_or_default()).unwrap_or_default(),
        "metadata": {
            "version": VERSION,
            "product": {"name": "actchain", "vendor_name": "actchain", "version": env!("CARGO_PKG_VERSION")},
            "uid": text(event, "/id").unwrap_or_default(),
            "sequence": event.get("seq").and_then(Value::as_u64).unwrap_or_default(),
            "event_code": action,
            "original_time": at,
            "log_name": "audit",
        },
        "actor": actor(event),
        "api": api,
        "src_endpoint": endpoint(event),
        "unmapped": event,
    });
    put(&mut whole, "status_detail", text(event, "/reason").map(Value::from));
    put(&mut whole, "resources", resources(event));
    if let Some(metadata) = whole.get_mut("metadata") {
        put(metadata, "correlation_uid", text(event, "/txn").map(Value::from));
    }
    put(&mut whole, "http_request", text(event, "/user_agent").map(|agent| json!({"user_agent": agent})));
    whole
}

fn put(value: &mut Value, name: &str, member: Option<Value>) {
    if let (Value::Object(members), Some(member)) = (value, member) {
        members.insert(name.to_owned(), member);
    }
}

/// Create, read, update or delete, by the last word of the action; `Other` for the rest.
fn activity(action: &str) -> (u32, &'static str) {
    // The request changes a delegation that exists.
    if action == "delegation.key_rotation_requested" {
        return (3, "Update");
    }
    match action.rsplit(['.', '_']).next().unwrap_or_default() {
        "issued" | "exchanged" | "created" | "requested" => (1, "Create"),
        "retrieved" | "called" | "answered" | "exported" => (2, "Read"),
        "activated" | "renewed" | "used" | "approved" | "changed" | "disabled" | "enabled" | "rotated"
        | "authorized" | "refreshed" | "restored" | "replayed" => (3, "Update"),
        "revoked" | "expired" | "denied" | "removed" | "deactivated" | "reconnect" | "disconnected"
        | "archived" | "deleted" => (4, "Delete"),
        _ => (99, "Other"),
    }
}

fn actor(event: &Value) -> Value {
    let app = text(event, "/actor/client_id").or_else(|| text(event, "/actor/type"));
    let mut actor = json!({"app_uid": app.unwrap_or("unknown")});
    // The user on whose behalf the client acts, or else the user who acts.
    let user = |of: &str| {
        let uid = text(event, &format!("/{of}/sub"))?;
        let mut user = json!({"uid": uid});
        put(&mut user, "domain", text(event, &format!("/{of}/iss")).map(Value::from));
        Some(user)
    };
    put(&mut actor, "user", user("subject").or_else(|| user("actor")));
    put(&mut actor, "session", text(event, "/session_id").map(|id| json!({"uid": id})));
    actor
}

/// The source of the request; the server itself for events without an address.
fn endpoint(event: &Value) -> Value {
    match text(event, "/ip") {
        Some(ip) => json!({"ip": ip}),
        None => json!({"svc_name": "actchain"}),
    }
}

fn resources(event: &Value) -> Option<Value> {
    let resource = |kind: &str, uid: &str| {
        let members = [("type", kind), ("uid", uid)].map(|(name, value)| (name.to_owned(), value.into()));
        Value::Object(Map::from_iter(members))
    };
    let audiences = event.get("audience").and_then(Value::as_array).into_iter().flatten();
    let mut all: Vec<Value> =
        audiences.filter_map(Value::as_str).map(|audience| resource("audience", audience)).collect();
    all.extend(text(event, "/delegation_id").map(|id| resource("delegation", id)));
    all.extend(text(event, "/target").map(|target| resource("target", target)));
    (!all.is_empty()).then_some(Value::Array(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_all_that_the_class_requires() {
        let bare = json!({"seq": 0, "id": "i", "at": "2026-01-01T00:00:00.000000Z", "action": "key.changed",
                          "outcome": "success", "actor": {"type": "server"}});
        let shown = event(&bare, Severity::Informational);
        for member in
            ["activity_id", "category_uid", "class_uid", "type_uid", "severity_id", "time", "metadata"]
        {
            assert!(shown.get(member).is_some(), "{member}");
        }
        assert_eq!(shown["type_uid"], 600_303);
        assert_eq!(shown["time"], 1_767_225_600_000_i64);
        assert_eq!(shown["api"]["operation"], "key.changed");
        assert_eq!(
            (&shown["actor"]["app_uid"], &shown["src_endpoint"]["svc_name"]),
            (&json!("server"), &json!("actchain"))
        );
        assert!(shown["metadata"]["product"]["name"].is_string() && shown["metadata"]["version"] == VERSION);
        assert_eq!(shown["unmapped"], bare);
    }

    #[test]
    fn a_refusal_says_who_what_and_why() {
        let refused = json!({"seq": 3, "id": "i", "at": "2026-01-01T00:00:00.5Z", "action": "oauth.token.refused",
            "outcome": "refused", "reason": "actor_cycle", "actor": {"client_id": "a"}, "ip": "192.0.2.1",
            "subject": {"iss": "https://i", "sub": "alice"}, "txn": "t", "audience": ["m"], "delegation_id": "D"});
        let shown = event(&refused, Severity::High);
        assert_eq!((&shown["activity_id"], &shown["type_uid"]), (&json!(99), &json!(600_399)));
        assert_eq!((&shown["status"], &shown["status_detail"]), (&json!("Failure"), &json!("actor_cycle")));
        assert_eq!((&shown["severity_id"], &shown["src_endpoint"]["ip"]), (&json!(4), &json!("192.0.2.1")));
        assert_eq!(shown["actor"]["user"], json!({"uid": "alice", "domain": "https://i"}));
        assert_eq!(shown["resources"].as_array().unwrap().len(), 2);
        assert_eq!(shown["metadata"]["correlation_uid"], "t");
    }

    #[test]
    fn the_activity_follows_from_the_action() {
        for (action, expected) in [
            ("delegation.created", 1),
            ("vault.connection.requested", 1),
            ("vault.token.retrieved", 2),
            ("delegation.key_rotation_requested", 3),
            ("client.key_restored", 3),
            ("vault.key_rotated", 3),
            ("client.agent_deactivated", 4),
            ("vault.connection.needs_reconnect", 4),
            ("principal.revoked", 4),
            ("vault.connection.request_refused", 99),
        ] {
            assert_eq!(activity(action).0, expected, "{action}");
        }
    }
}
