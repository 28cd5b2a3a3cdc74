//! Events in the Open Cybersecurity Schema Framework 1.9.0: class API Activity (6003) with the profiles `ai_operation` and
//! `record_integrity`. `raw_data` is the document as it is in the tree.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::severity::{Severity, text};
use crate::canonical_json;
use crate::digest::{hex, sha256};
use crate::failure::Failure;

/// The version of OCSF.
pub const VERSION: &str = "1.9.0";

const CLASS: u32 = 6003;

/// The log that an event is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSource<'a> {
    /// The issuer whose server records the log.
    pub issuer: &'a str,
    /// The document as it is in the tree.
    pub document: &'a str,
}

/// Members that have a place of their own in the class or its profiles; all others are under `unmapped`.
const NATIVE: [&str; 17] = [
    "seq",
    "id",
    "at",
    "action",
    "outcome",
    "reason",
    "code",
    "subject",
    "txn",
    "delegation_id",
    "target",
    "audience",
    "session_id",
    "request_id",
    "ip",
    "user_agent",
    "texts",
];

/// An event with all members that the class requires. Members without a value are left out. Its members `ip`,
/// `user_agent` and `texts`, and the names of users, are there if the caller has resolved them.
///
/// # Errors
/// An error of the canonical form, over which the fingerprint is computed.
pub fn event(event: &Value, severity: Severity, source: LogSource<'_>) -> Result<Value, Failure> {
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
            "profiles": ["ai_operation", "record_integrity"],
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
        "raw_data": source.document,
        "raw_data_hash": fingerprint(source.document.as_bytes()),
        "raw_data_size": source.document.len(),
    });
    put(&mut whole, "status_code", text(event, "/code").map(Value::from));
    put(&mut whole, "status_detail", text(event, "/reason").map(Value::from));
    put(&mut whole, "message", text(event, "/texts/reason").map(Value::from));
    put(&mut whole, "resources", resources(event));
    put(&mut whole, "ai_agent", agent(event));
    put(&mut whole, "delegation", delegation(event, source.issuer));
    put(&mut whole, "unmapped", unmapped(event));
    if let Some(metadata) = whole.get_mut("metadata") {
        put(metadata, "correlation_uid", text(event, "/txn").map(Value::from));
    }
    put(&mut whole, "http_request", text(event, "/user_agent").map(|agent| json!({"user_agent": agent})));
    attest(whole, source.issuer)
}

/// Adds the attestation of the profile `record_integrity`: the fingerprint of the canonical form (RFC 8785) of this event
/// with an attestation that has no fingerprint yet.
fn attest(mut whole: Value, issuer: &str) -> Result<Value, Failure> {
    let mut attestation = json!({"authority_uid": issuer, "chain_uid": format!("{issuer}/audit")});
    put(&mut whole, "attestation_list", Some(json!([&attestation])));
    let canonical = canonical_json::to_string(&whole)?;
    put(&mut attestation, "fingerprint", Some(fingerprint(canonical.as_bytes())));
    put(&mut whole, "attestation_list", Some(json!([attestation])));
    Ok(whole)
}

fn fingerprint(bytes: &[u8]) -> Value {
    json!({"algorithm_id": 3, "algorithm": "SHA-256", "value": hex(&sha256(&[bytes]))})
}

/// The agent that acts: the last actor of the chain.
fn agent(event: &Value) -> Option<Value> {
    let last = event.get("act_chain").and_then(Value::as_array)?.last()?;
    let mut agent = json!({"uid": text(last, "/sub")?});
    // The name is that of the client that made the request.
    let acts = text(last, "/sub") == text(event, "/actor/client_id");
    put(&mut agent, "name", text(event, "/texts/client_name").filter(|_| acts).map(Value::from));
    Some(agent)
}

fn delegation(event: &Value, issuer: &str) -> Option<Value> {
    let uid = text(event, "/delegation_id")?;
    let mut delegation = json!({"uid": uid, "issuer_uid": issuer});
    let path = event.get("delegation_path").and_then(Value::as_array).into_iter().flatten();
    let above = path.filter_map(Value::as_str).take_while(|id| *id != uid).last();
    put(&mut delegation, "parent_uid", above.map(Value::from));
    Some(delegation)
}

fn unmapped(event: &Value) -> Option<Value> {
    let members = event.as_object()?.iter().filter(|(name, _)| !NATIVE.contains(&name.as_str()));
    let mut rest: Map<String, Value> = members.map(|(name, value)| (name.clone(), value.clone())).collect();
    if let Some(agent) = event.pointer("/texts/agent") {
        rest.insert("texts".to_owned(), json!({"agent": agent}));
    }
    // The ids are in `actor`, and the names of users are there only if they may be.
    if let Some(Value::Object(actor)) = rest.get_mut("actor") {
        actor.retain(|name, _| name == "type" || name == "jkt");
    }
    (!rest.is_empty()).then_some(rest.into())
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
    let own = text(event, "/actor/client_id").or_else(|| text(event, "/actor/name"));
    let app = own.or_else(|| text(event, "/actor/type"));
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
    all.extend(text(event, "/target").map(|target| resource("target", target)));
    (!all.is_empty()).then_some(Value::Array(all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::siem_mapping::MAPPINGS;

    fn shown(event: &Value, severity: Severity) -> Value {
        let document = canonical_json::to_string(event).unwrap();
        super::event(event, severity, LogSource { issuer: "https://as.example.com", document: &document })
            .unwrap()
    }

    #[test]
    fn every_event_has_all_that_the_class_requires() {
        let bare = json!({"seq": 0, "id": "i", "at": "2026-01-01T00:00:00.000000Z", "action": "key.changed",
                          "outcome": "success", "actor": {"type": "server"}});
        let shown = shown(&bare, Severity::Informational);
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
        assert_eq!(shown["raw_data"], canonical_json::to_string(&bare).unwrap());
        assert_eq!(shown["unmapped"], json!({"actor": {"type": "server"}}));
    }

    #[test]
    fn a_refusal_says_who_what_and_why() {
        let refused = json!({"seq": 3, "id": "i", "at": "2026-01-01T00:00:00.5Z", "action": "oauth.token.refused",
            "outcome": "refused", "reason": "actor_cycle", "actor": {"client_id": "a"}, "ip": "192.0.2.1",
            "subject": {"iss": "https://i", "sub": "alice"}, "txn": "t", "audience": ["m"], "delegation_id": "D"});
        let shown = shown(&refused, Severity::High);
        assert_eq!((&shown["activity_id"], &shown["type_uid"]), (&json!(99), &json!(600_399)));
        assert_eq!((&shown["status"], &shown["status_detail"]), (&json!("Failure"), &json!("actor_cycle")));
        assert_eq!((&shown["severity_id"], &shown["src_endpoint"]["ip"]), (&json!(4), &json!("192.0.2.1")));
        assert_eq!(shown["actor"]["user"], json!({"uid": "alice", "domain": "https://i"}));
        assert_eq!(shown["resources"], json!([{"type": "audience", "uid": "m"}]));
        assert_eq!(shown["delegation"], json!({"uid": "D", "issuer_uid": "https://as.example.com"}));
        assert_eq!(shown["metadata"]["correlation_uid"], "t");
    }

    /// An event with all members, each with a value of its own.
    fn whole() -> Value {
        json!({"seq": 3, "id": "i", "at": "2026-01-01T00:00:00.500000Z", "action": "vault.token.retrieved",
            "outcome": "success", "reason": "r", "code": "0x1", "actor": {"type": "client", "client_id": "b", "jkt": "k"},
            "subject": {"iss": "https://i", "sub": "person-1"}, "txn": "t", "delegation_id": "E",
            "delegation_path": ["D", "E"], "jti": "j", "parent_jti": "p", "target": "c", "scope": "s", "audience": ["m"],
            "session_id": "sid", "request_id": "q", "ip": "192.0.2.1", "user_agent": "u", "personal_sha256": "00",
            "act_chain": [{"sub": "a", "iss": "us"}, {"sub": "b", "iss": "us"}], "detail": {"x": 1},
            "texts": {"client_name": "Bot", "reason": "because", "agent": {"name": "x"}}})
    }

    #[test]
    fn every_member_is_where_the_table_says() {
        let actors = [
            json!({"type": "client", "client_id": "b", "jkt": "k"}),
            json!({"type": "user", "iss": "https://i", "sub": "person-1"}),
            json!({"type": "witness", "name": "w"}),
        ];
        for actor in actors {
            let mut event = whole();
            event["actor"] = actor;
            if event["actor"]["type"] != "client" {
                event["texts"].as_object_mut().unwrap().remove("client_name");
            }
            if event["actor"]["type"] == "user" {
                event.as_object_mut().unwrap().remove("subject");
            }
            let shown = shown(&event, Severity::Informational);
            for mapping in MAPPINGS {
                let Some(value) = event.pointer(mapping.event) else { continue };
                let place =
                    mapping.ocsf.split('.').try_fold(&shown, |at, name| at.get(name.trim_end_matches("[]")));
                let here = match (place, mapping.ocsf.split_once("[].")) {
                    (_, Some((list, member))) => {
                        let all = shown[list].as_array().unwrap().iter().map(|one| &one[member]);
                        let wanted = value.as_array().map_or(vec![value], |list| list.iter().collect());
                        let all: Vec<&Value> = all.collect();
                        wanted.iter().all(|one| all.contains(one))
                    }
                    (Some(place), None) if mapping.event == "/outcome" => place == "Success",
                    (place, None) => place == Some(value),
                };
                assert!(here, "{} is not at {}: {shown}", mapping.event, mapping.ocsf);
            }
        }
        let listed = |name: &str| MAPPINGS.iter().any(|one| one.event.split('/').nth(1) == Some(name));
        let whole = whole();
        assert!(whole.as_object().unwrap().keys().all(|name| listed(name)), "a member without a row");
        let shown = shown(&whole, Severity::Informational);
        assert_eq!(shown["delegation"]["parent_uid"], "D");
        assert_eq!(shown["ai_agent"], json!({"uid": "b", "name": "Bot"}));
    }

    #[test]
    fn the_fingerprint_is_that_of_the_event_without_it() {
        let mut shown = shown(&whole(), Severity::Low);
        let fingerprint =
            shown["attestation_list"][0].as_object_mut().unwrap().remove("fingerprint").unwrap();
        let canonical = canonical_json::to_string(&shown).unwrap();
        assert_eq!(fingerprint["value"], hex(&sha256(&[canonical.as_bytes()])));
        assert_eq!(fingerprint["algorithm_id"], 3);
        assert_eq!(shown["attestation_list"][0]["chain_uid"], "https://as.example.com/audit");
        let raw = shown["raw_data"].as_str().unwrap();
        assert_eq!(shown["raw_data_hash"]["value"], hex(&sha256(&[raw.as_bytes()])));
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
