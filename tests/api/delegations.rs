//! The life of delegations at `/delegate`: asked for, approved, used, renewed, taken back.

use serde_json::json;

use crate::support::agent::{ACCESS_TOKEN, JWT};
use crate::support::world::{IDP, MAIL, World};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_asks_the_user_approves_a_narrower_version_and_the_exchange_works() {
    let world = World::new().await;
    let body = json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read", "mail.send"], "audiences": [MAIL],
                      "expires_in": 600, "reason": "to answer his mail", "agent": {"type": "assistant", "model": "m"}});
    let asked = world.as_agent(&world.user_proxy, "POST", "/delegate", body).await;
    assert_eq!((asked.status, &asked.json["state"]), (202, &json!("requested")), "{}", asked.text);
    let id = asked.json["id"].as_str().unwrap().to_owned();
    assert_eq!(asked.header("location").unwrap(), format!("{}/delegate/{id}", world.server.app.issuer));
    let bob = world.token_of("bob");
    let exchange = || world.user_proxy.exchange(&world.server, &bob, JWT).param("audience", MAIL).send();
    exchange().await.assert_refused(400, "invalid_request", "delegation_requested");
    let by_itself =
        world.as_agent(&world.user_proxy, "POST", &format!("/delegate/{id}/approve"), json!({})).await;
    assert_eq!((by_itself.status, by_itself.reason()), (403, "insufficient_scope"));
    let by_alice = world.as_alice("POST", &format!("/delegate/{id}/approve"), json!({})).await;
    assert_eq!((by_alice.status, by_alice.reason()), (404, "not_found"));
    let wider = json!({"scopes": ["mail.read", "mail.send", "both"]});
    let wider = world.as_user("bob", "POST", &format!("/delegate/{id}/approve"), wider).await;
    assert_eq!((wider.status, wider.reason()), (400, "delegation_too_wide"));
    let approved = json!({"scopes": ["mail.read"], "expires_in": 300});
    let approved = world.as_user("bob", "POST", &format!("/delegate/{id}/approve"), approved).await;
    assert_eq!((approved.status, &approved.json["state"]), (200, &json!("active")), "{}", approved.text);
    let token = exchange().await;
    assert_eq!((token.status, token.json["scope"].as_str()), (200, Some("mail.read")), "{}", token.text);
    assert!(world.is_active(token.token()).await);
    assert_eq!(world.status_of(token.token()).await, 0);
    let revoked =
        world.as_user("bob", "POST", &format!("/delegate/{id}/revoke"), json!({"reason": "enough"})).await;
    assert_eq!((revoked.status, &revoked.json["state"]), (200, &json!("revoked")), "{}", revoked.text);
    assert_eq!(revoked.json["reached"], json!({"delegations": 1, "tokens": 1, "at_least": false}));
    assert!(!world.is_active(token.token()).await);
    assert_eq!(world.status_of(token.token()).await, 1);
    let own = world.user_proxy.exchange(&world.server, token.token(), ACCESS_TOKEN).send().await;
    own.assert_refused(400, "invalid_request", "delegation_revoked");
}
