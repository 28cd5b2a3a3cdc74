//! The responses about standing grants, checked against the description.

use serde_json::{Value, json};

use super::{Held, Who, id_of};
use crate::support::agent::Agent;
use crate::support::ends::new_key;
use crate::support::world::{IDP, MAIL};

const GRANTS: &str = "/api/v1/standing-grants";
const UNKNOWN: &str = "018f0000-0000-7000-8000-000000000000";

pub(super) async fn a_user_consents_once(held: &Held<'_>) {
    let (user, admin) = (Who::User("gina"), Who::Client(&held.world.admin));
    let body = json!({"client_id": "email-svc", "keys": [held.world.email_svc.jkt()], "scopes": ["mail.read"],
        "audiences": [MAIL], "authorization_details": [{"type": "mailbox", "actions": ["read"]}], "capability_ceiling": "mutate",
        "max_ttl": 300, "max_uses": 5, "max_depth": 2, "expires_in": 90_000_000});
    let key = [("idempotency-key", "grant")];
    let made = held.done_under(user, ("POST", GRANTS), body.clone(), &key).await;
    assert_eq!(made.json["shortened"], true);
    held.done_under(user, ("POST", GRANTS), body.clone(), &key).await;
    let reused = held
        .authorized(user, "POST", GRANTS)
        .await
        .key("grant")
        .json(&json!({"client_id": "x", "scopes": ["a"], "audiences": [MAIL]}));
    assert_eq!(held.send(reused, "POST", GRANTS).await.status, 422);
    let mut for_gina = body.clone();
    for_gina["grantor"] = json!({"iss": IDP, "sub": "gina"});
    held.refused(admin, ("POST", GRANTS), for_gina.clone(), (403, "only_user_grants")).await;
    let mut wide = body.clone();
    wide["scopes"] = json!(["unknown"]);
    held.refused(user, ("POST", GRANTS), wide, (400, "scope_unknown")).await;
    let path = format!("{GRANTS}/{}", id_of(&made));
    held.done(user, ("GET", &path), Value::Null).await;
    let query =
        format!("{GRANTS}?state=active&client_id=email-svc&grantor_iss={IDP}&grantor_sub=gina&limit=1");
    held.done(user, ("GET", &query), Value::Null).await;
    held.done(admin, ("GET", &format!("{GRANTS}?limit=1&cursor=1.{UNKNOWN}")), Value::Null).await;
    held.refused(user, ("GET", &format!("{GRANTS}?state=green")), Value::Null, (400, "malformed_request"))
        .await;
    held.refused(
        Who::Client(&held.world.email_svc),
        ("GET", GRANTS),
        Value::Null,
        (403, "insufficient_scope"),
    )
    .await;

    let ask = json!({"delegator": {"iss": IDP, "sub": "gina"}, "scopes": ["mail.read"], "audiences": [MAIL],
        "authorization_details": [{"type": "mailbox", "actions": ["read"]}], "capability_ceiling": "observe"});
    let agent = Who::Client(&held.world.email_svc);
    held.done(agent, ("POST", "/delegate"), ask.clone()).await;
    let mut outside = ask.clone();
    outside["scopes"] = json!(["mail.send"]);
    let waits = held.done(agent, ("POST", "/delegate"), outside).await;
    assert_eq!(waits.status, 202);
    held.done(user, ("GET", &path), Value::Null).await;

    let renew = format!("{path}/renew");
    held.refused(user, ("POST", &renew), json!({"expires_in": 60}), (400, "expiry_not_later")).await;
    held.refused(admin, ("POST", &renew), json!({"expires_in": 60}), (403, "only_user_grants")).await;
    let short = json!({"client_id": "email-svc", "keys": [held.world.email_svc.jkt()], "scopes": ["mail.read"], "audiences": [MAIL],
        "expires_in": 600});
    let short = held.done(user, ("POST", GRANTS), short).await;
    let short = format!("{GRANTS}/{}", id_of(&short));
    let key = [("idempotency-key", "grant-renewed")];
    held.done_under(user, ("POST", &format!("{short}/renew")), json!({"expires_in": 1200}), &key).await;
    let reused = held
        .authorized(user, "POST", &format!("{short}/renew"))
        .await
        .key("grant-renewed")
        .json(&json!({"expires_in": 1300}));
    assert_eq!(held.send(reused, "POST", &format!("{short}/renew")).await.status, 422);

    let foreign = Agent { key: new_key(), ..held.world.email_svc.clone() };
    held.world.management_token(&foreign).await;
    held.done(user, ("GET", &path), Value::Null).await;
    held.refused(user, ("POST", &renew), json!({"expires_in": 60}), (409, "invalid_state_transition")).await;
    let revalidate = format!("{path}/revalidate");
    let keys = json!({"keys": [held.world.email_svc.jkt()], "replaces": [held.world.email_svc.jkt()]});
    held.refused(admin, ("POST", &revalidate), keys.clone(), (403, "only_user_grants")).await;
    held.refused(
        user,
        ("POST", &revalidate),
        json!({"keys": [], "replaces": keys["keys"]}),
        (400, "malformed_request"),
    )
    .await;
    let key = [("idempotency-key", "grant-confirmed")];
    held.done_under(user, ("POST", &revalidate), keys.clone(), &key).await;
    let reused = held
        .authorized(user, "POST", &revalidate)
        .await
        .key("grant-confirmed")
        .json(&json!({"keys": [], "replaces": []}));
    assert_eq!(held.send(reused, "POST", &revalidate).await.status, 422);
    held.refused(user, ("POST", &revalidate), keys, (409, "invalid_state_transition")).await;

    let revoke = format!("{path}/revoke");
    let key = [("idempotency-key", "grant-revoked")];
    held.done_under(user, ("POST", &revoke), Value::Null, &key).await;
    let reused = held.authorized(user, "POST", &revoke).await.key("grant-revoked").json(&json!({"x": 1}));
    assert_eq!(held.send(reused, "POST", &revoke).await.status, 422);
    held.refused(user, ("POST", &revoke), Value::Null, (409, "invalid_state_transition")).await;
    for operation in ["", "/renew", "/revoke", "/revalidate"] {
        let path = format!("{GRANTS}/{UNKNOWN}{operation}");
        let (method, body) = match operation {
            "" => ("GET", Value::Null),
            "/renew" => ("POST", json!({"expires_in": 60})),
            "/revoke" => ("POST", Value::Null),
            _ => ("POST", json!({"keys": [], "replaces": []})),
        };
        held.refused(user, (method, &path), body, (404, "not_found")).await;
    }
    let one = json!({"client_id": "email-svc", "keys": [held.world.email_svc.jkt()], "scopes": ["mail.read"], "audiences": [MAIL]});
    // Suspended grants count, too.
    while held.world.as_user("gina", "POST", GRANTS, one.clone()).await.status == 201 {}
    held.refused(user, ("POST", GRANTS), one, (409, "standing_grant_limit")).await;
}
