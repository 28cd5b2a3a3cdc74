//! RFC 8693: requests, effects, responses and actors.

use crate::support::agent::{ACCESS_TOKEN, JWT};
use crate::support::world::{IDP, MAIL, World};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn te_33_three_hops_nest_their_actors_newest_outermost() {
    let world = World::new().await;
    let third = world.third_hop().await;
    let claims = third.claims();
    assert_eq!(third.json["issued_token_type"], ACCESS_TOKEN);
    assert_eq!(third.json["token_type"], "DPoP");
    assert_eq!((&claims["sub"], &claims["idp"]), (&json!("alice"), &json!(IDP)));
    assert_eq!(claims["client_id"], "followup-svc", "TE-36");
    assert_eq!(claims["cnf"]["jkt"], world.followup_svc.jkt(), "DP-42");
    let act = &claims["act"];
    assert_eq!((&act["sub"], &act["cnf"]["jkt"]), (&json!("followup-svc"), &json!(world.followup_svc.jkt())));
    assert_eq!(act["act"]["cnf"]["jkt"], world.email_svc.jkt());
    assert_eq!((&act["act"]["sub"], &act["act"]["act"]["sub"]), (&json!("email-svc"), &json!("user-proxy")));
    assert_eq!(act["act"]["act"]["act"], json!(null));
    assert_eq!((&claims["scope"], &claims["aud"], &claims["dlg"]), (&json!("mail.read"), &json!(MAIL), &json!("F")));
    let event = world.server.last_event().await;
    assert_eq!(event["action"], "oauth.token.exchanged");
    let subs: Vec<_> = event["act_chain"].as_array().unwrap().iter().map(|link| link["sub"].clone()).collect();
    assert_eq!(subs, ["user-proxy", "email-svc", "followup-svc"]);
    assert_eq!(event["delegation_path"], json!(["D", "E", "F"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn te_20_exchanging_does_not_use_up_the_subject_token() {
    let world = World::new().await;
    let token = world.user_token();
    for _ in 0..2 {
        assert_eq!(world.user_proxy.exchange(&world.server, &token, JWT).send().await.status, 200);
    }
}
