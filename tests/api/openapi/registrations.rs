//! The responses of administration over HTTP, checked against the description.

use serde_json::{Value, json};

use super::{Held, Who};
use crate::support::agent::Agent;
use crate::support::world::{IDP, MAIL};

pub(super) async fn a_manifest_is_applied_and_exported(held: &Held<'_>) {
    let admin = Who::Client(&held.world.admin);
    let apply = "/api/v1/apply";
    let body = json!({"clients": [{"id": "made", "kind": "agent", "auth": "client_secret_basic"}]});
    held.done(admin, ("POST", &format!("{apply}?dry_run=true&replace=made")), body.clone()).await;
    let key = [("idempotency-key", "apply")];
    let done = held.done_under(admin, ("POST", apply), body.clone(), &key).await;
    assert_eq!(done.json["secrets"][0]["id"], "made");
    let again = held.done_under(admin, ("POST", apply), body.clone(), &key).await;
    assert_eq!((again.header("idempotent-replayed"), &again.json["secrets"]), (Some("true"), &json!([])));
    let updated = json!({"clients": [{"id": "made", "kind": "agent", "auth": "client_secret_basic", "name": "Made", "audiences": [MAIL]}]});
    let update = held.done(admin, ("POST", apply), updated.clone()).await;
    assert_eq!(update.json["plan"][0]["members"].as_array().unwrap().len(), 2);
    let other = held.authorized(admin, "POST", apply).await.key("apply").json(&updated);
    let reused = held.send(other, "POST", apply).await;
    assert_eq!((reused.status, reused.reason()), (422, "idempotency_key_reused"));
    held.refused(admin, ("POST", apply), json!({"colour": "red"}), (400, "malformed_request")).await;
    let issuer = json!({"issuers": [{"iss": "https://x.example", "alias": "x", "audiences": ["a"], "jwks_uri": "https://x.example/j"}]});
    held.refused(admin, ("POST", apply), issuer, (403, "operator_only")).await;
    let stale = held.authorized(admin, "POST", apply).await.header("if-match", "\"x\"").json(&body);
    let stale = held.send(stale, "POST", apply).await;
    assert_eq!((stale.status, stale.reason()), (412, "manifest_changed"));

    let manifest = "/api/v1/manifest";
    held.done(admin, ("GET", manifest), Value::Null).await;
    held.done_under(admin, ("GET", manifest), Value::Null, &[("accept", "application/yaml")]).await;
}

pub(super) async fn what_is_registered_is_listed(held: &Held<'_>) {
    let admin = Who::Client(&held.world.admin);
    for path in [
        "/api/v1/issuers?prefix=https:&limit=1",
        "/api/v1/resources?limit=1",
        "/api/v1/keys?purpose=token&limit=2",
        "/api/v1/clients?kind=agent&enabled=true&prefix=email&name=E&limit=3",
        "/api/v1/clients?limit=2&cursor=email-svc",
        "/api/v1/clients/email-svc",
    ] {
        held.done(admin, ("GET", path), Value::Null).await;
    }
    held.refused(admin, ("GET", "/api/v1/clients?kind=robot"), Value::Null, (400, "malformed_request")).await;
    held.refused(admin, ("GET", "/api/v1/clients/unknown"), Value::Null, (404, "not_found")).await;
}

pub(super) async fn secrets_are_rotated_and_exchanges_checked(held: &Held<'_>, agent: &Agent) {
    let admin = Who::Client(&held.world.admin);
    let rotate = "/api/v1/clients/made/rotate-secret";
    let key = [("idempotency-key", "rotate")];
    let body = json!({"overlap": 60});
    let rotated = held.done_under(admin, ("POST", rotate), body.clone(), &key).await;
    assert!(rotated.json["client_secret"].is_string() && rotated.json["old_expires_at"].is_string());
    let again = held.done_under(admin, ("POST", rotate), body, &key).await;
    assert_eq!(again.json["client_secret"], Value::Null);
    let reused = held.authorized(admin, "POST", rotate).await.key("rotate").json(&json!({}));
    assert_eq!(held.send(reused, "POST", rotate).await.status, 422);
    let unknown = "/api/v1/clients/unknown/rotate-secret";
    held.refused(admin, ("POST", unknown), json!({}), (404, "not_found")).await;
    let own = "/api/v1/clients/admin/rotate-secret";
    held.refused(admin, ("POST", own), json!({}), (403, "operator_only")).await;
    held.refused(admin, ("POST", rotate), json!({"overlap": 2_592_001}), (400, "malformed_request")).await;

    let check = "/api/v1/check";
    let token = held.world.token_of("alice");
    let mut body = json!({"subject_token": token, "subject_token_type": "jwt", "client_id": agent.id, "scope": "mail.read",
        "audiences": [MAIL], "jkt": agent.jkt(), "authorization_details": [{"type": "mailbox", "actions": ["read"]}]});
    let granted = held.done(admin, ("POST", check), body.clone()).await;
    assert_eq!((&granted.json["granted"], &granted.json["subject"]["iss"]), (&json!(true), &json!(IDP)));
    body["client_id"] = json!("stranger");
    body["delegation_id"] = json!("D");
    body["capability_ceiling"] = json!("observe");
    assert_eq!(held.done(admin, ("POST", check), body).await.json["granted"], false);
    held.refused(admin, ("POST", check), json!({"client_id": "x"}), (400, "malformed_request")).await;
}
