//! RFC 9396: authorization details, narrowed by type through the hops.

use serde_json::{Value, json};

use crate::support::Answer;
use crate::support::agent::{ACCESS_TOKEN, JWT};
use crate::support::world::{CALENDAR, MAIL, World};

async fn first(world: &World, details: &Value) -> Answer {
    let request = world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
    request.param("authorization_details", &details.to_string()).send().await
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_unknown_authorization_details_are_refused() {
    let world = World::new().await;
    for details in [
        json!({"type": "mailbox"}),
        json!([{"actions": ["read"]}]),
        json!([{"type": "mailbox", "foo": 1}]),
        json!([{"type": "mailbox", "actions": "read"}]),
        json!([{"type": "unknown"}]),
        json!("x"),
    ] {
        first(&world, &details).await.assert_refused(
            400,
            "invalid_authorization_details",
            "authorization_details_malformed",
        );
    }
    let nested = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    let request = world.user_proxy.exchange(&world.server, &world.user_token(), JWT);
    let answer = request.param("authorization_details", &nested).send().await;
    answer.assert_refused(400, "invalid_authorization_details", "authorization_details_malformed");
}

#[tokio::test(flavor = "multi_thread")]
async fn granted_details_are_in_the_answer_and_the_token_and_only_shrink() {
    let world = World::new().await;
    let inbox = json!([{"type": "mailbox", "identifier": "inbox", "actions": ["list", "read"]}]);
    let granted = first(&world, &inbox).await;
    assert_eq!((granted.status, &granted.json["authorization_details"]), (200, &inbox), "{}", granted.text);
    assert_eq!(granted.claims()["authorization_details"], inbox);
    let hop = async |details: Value| {
        let request = world.email_svc.exchange(&world.server, granted.token(), ACCESS_TOKEN);
        request.param("authorization_details", &details.to_string()).send().await
    };
    let narrower = json!([{"type": "mailbox", "identifier": "inbox", "actions": ["list"]}]);
    assert_eq!(hop(narrower.clone()).await.json["authorization_details"], narrower);
    for wider in [
        json!([{"type": "mailbox", "identifier": "inbox"}]),
        json!([{"type": "mailbox", "identifier": "sent", "actions": ["list"]}]),
        json!([{"type": "mailbox", "identifier": "inbox", "actions": ["list", "delete"]}]),
    ] {
        hop(wider).await.assert_refused(
            400,
            "invalid_authorization_details",
            "authorization_details_exceed_grant",
        );
    }
    let unasked = world.email_svc.exchange(&world.server, granted.token(), ACCESS_TOKEN).send().await;
    assert_eq!(unasked.json["authorization_details"], inbox, "not asked: the whole meet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_details_passes_on_no_details() {
    let world = World::new().await;
    let token = world.first_hop().await;
    let request = world.email_svc.exchange(&world.server, token.token(), ACCESS_TOKEN);
    let answer = request.param("authorization_details", r#"[{"type":"mailbox"}]"#).send().await;
    answer.assert_refused(400, "invalid_authorization_details", "authorization_details_exceed_grant");
}

#[tokio::test(flavor = "multi_thread")]
async fn details_of_a_type_that_the_target_or_the_client_does_not_have_are_refused() {
    let world = World::new().await;
    let request =
        world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", CALENDAR);
    let answer = request.param("authorization_details", r#"[{"type":"mailbox"}]"#).send().await;
    answer.assert_refused(400, "invalid_authorization_details", "authorization_details_exceed_grant");
    let second = world.second_hop().await;
    let request = world.followup_svc.exchange(&world.server, second.token(), ACCESS_TOKEN);
    let answer = request.param("authorization_details", r#"[{"type":"mailbox"}]"#).send().await;
    answer.assert_refused(400, "invalid_authorization_details", "authorization_details_exceed_grant");
}
