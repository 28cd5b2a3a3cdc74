//! The responses of the audit export and of the audit sinks, checked against the description.

use serde_json::{Value, json};

use super::{Held, Who};

pub(super) async fn the_log_goes_out(held: &Held<'_>) {
    let (carol, admin) = (Who::User("carol"), Who::Client(&held.world.admin));
    let export = "/api/v1/audit-logs/export";
    for format in ["jsonl", "csv", "sarif"] {
        let path = format!("{export}?format={format}&from_seq=2&outcome=refused&from=2026-01-01T00:00:00Z");
        held.done(admin, ("GET", &path), Value::Null).await;
    }
    let whole = held.done(admin, ("GET", export), Value::Null).await;
    let size = whole.header("actchain-audit-size").unwrap();
    held.done(admin, ("GET", &format!("{export}?size={size}&from_seq=1")), Value::Null).await;
    held.done(carol, ("GET", &format!("{export}?action=oauth.token.exchanged")), Value::Null).await;
    let unknown = format!("{export}?colour=red");
    let refused = held.refused(admin, ("GET", &unknown), Value::Null, (400, "malformed_request")).await;
    assert!(refused.text.contains("colour"), "{}", refused.text);
    let agent = Who::Client(&held.world.user_proxy);
    held.refused(agent, ("GET", export), Value::Null, (403, "insufficient_scope")).await;
    sinks(held).await;
}

async fn sinks(held: &Held<'_>) {
    let (carol, admin) = (Who::User("carol"), Who::Client(&held.world.admin));
    let (path, list) = ("/api/v1/audit-sinks/siem", "/api/v1/audit-sinks");
    let body = json!({"url": "http://127.0.0.1:9/", "format": "cef", "filter": {"outcome": "refused"}, "from_seq": 0});
    let once = [("idempotency-key", "sink")];
    let made = held.done_under(admin, ("PUT", path), body.clone(), &once).await;
    assert_eq!((made.status, made.json["secret"].is_string()), (201, true));
    let again = held.done_under(admin, ("PUT", path), body.clone(), &once).await;
    assert_eq!((again.header("idempotent-replayed"), &again.json["secret"]), (Some("true"), &Value::Null));
    let other = json!({"url": "http://127.0.0.1:9/other", "enabled": false});
    let changed =
        held.done_under(admin, ("PUT", path), other.clone(), &[("idempotency-key", "changed")]).await;
    assert_eq!((changed.status, &changed.json["enabled"]), (200, &json!(false)));
    let replay = "/api/v1/audit-sinks/siem/dead-letters/replay";
    for (method, path, body) in
        [("PUT", path, other.clone()), ("DELETE", path, Value::Null), ("POST", replay, Value::Null)]
    {
        let mut api = held.authorized(admin, method, path).await.key("sink");
        if !body.is_null() {
            api = api.json(&body);
        }
        let reused = held.send(api, method, path).await;
        assert_eq!((reused.status, reused.reason()), (422, "idempotency_key_reused"), "{method} {path}");
    }
    held.done(admin, ("GET", list), Value::Null).await;
    held.done(admin, ("GET", path), Value::Null).await;
    let letters = "/api/v1/audit-sinks/siem/dead-letters?after=3";
    held.done(admin, ("GET", letters), Value::Null).await;
    held.done_under(admin, ("POST", replay), Value::Null, &[("idempotency-key", "replay")]).await;
    let repeated =
        held.done_under(admin, ("POST", replay), Value::Null, &[("idempotency-key", "replay")]).await;
    assert_eq!(repeated.header("idempotent-replayed"), Some("true"));
    for (method, path, body) in [
        ("PUT", path, json!({"url": "http://10.0.0.1/"})),
        ("PUT", path, json!({"url": "http://127.0.0.1:9/", "colour": "red"})),
        ("GET", "/api/v1/audit-sinks/siem/dead-letters?after=x", Value::Null),
    ] {
        held.refused(admin, (method, path), body, (400, "malformed_request")).await;
    }
    for (method, path) in [
        ("GET", "/api/v1/audit-sinks/none"),
        ("DELETE", "/api/v1/audit-sinks/none"),
        ("GET", "/api/v1/audit-sinks/none/dead-letters"),
        ("POST", "/api/v1/audit-sinks/none/dead-letters/replay"),
    ] {
        held.refused(admin, (method, path), Value::Null, (404, "not_found")).await;
    }
    held.refused(carol, ("PUT", path), other, (403, "insufficient_scope")).await;
    held.refused(carol, ("GET", list), Value::Null, (403, "insufficient_scope")).await;
    held.done(admin, ("DELETE", path), Value::Null).await;
}
