//! Who declares a sink for notifications, and what becomes of its messages when it is declared otherwise.

use serde_json::{Value, json};

use super::{SINK, run, shown, webhooks};
use crate::support::life::with;

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_let_messages_go_to_a_new_address() {
    let (world, receiver) = webhooks(json!({"wait": 0})).await;
    let path = format!("/api/v1/audit-sinks/{SINK}");
    let put =
        async |id: &str, body: Value| world.as_admin("PUT", &format!("/api/v1/audit-sinks/{id}"), body).await;
    let url = receiver.server.uri();
    let refused = put("other", json!({"url": url, "notification": {}})).await;
    assert_eq!((refused.status, refused.reason()), (403, "operator_only"), "{}", refused.text);
    let moved = put(SINK, json!({"url": format!("{url}/elsewhere"), "notification": {}})).await;
    assert_eq!(moved.status, 403, "{}", moved.text);
    let slower = put(SINK, json!({"url": url, "notification": {"wait": 60}})).await.with_status(200);
    assert_eq!(slower.json["notification"], json!({"wait": 60, "max_per_hour": 6}));
    let event = world.server.last_event().await;
    assert_eq!(
        (&event["action"], &event["detail"]["format"]),
        (&json!("admin.sink_changed"), &json!("notification"))
    );
    assert_eq!(world.as_admin("GET", &path, json!({})).await.json["notification"]["wait"], 60);
    for (member, value) in [
        ("format", json!("cef")),
        ("batch", json!({"max_events": 2})),
        ("filter", json!({"outcome": "refused"})),
        ("people", json!(true)),
    ] {
        let declared = with(json!({"url": url, "notification": {}}), json!({member: value}));
        assert_eq!(put(SINK, declared).await.status, 400, "{member}");
    }
    for notification in
        [json!({"wait": 3_601}), json!({"max_per_hour": 0}), json!({"max_per_hour": 61}), json!({"x": 1})]
    {
        let declared = json!({"url": url, "notification": notification});
        assert_eq!(put(SINK, declared).await.status, 400, "{notification}");
    }
    assert_eq!(slower.json, world.as_admin("GET", &path, json!({})).await.json);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_makes_no_sink_for_events_with_names_of_one_for_messages() {
    let (world, receiver) = webhooks(json!({"wait": 0})).await;
    let before = shown(&world).await;
    let path = format!("/api/v1/audit-sinks/{SINK}");
    let declared = json!({"url": receiver.server.uri(), "people": true});
    let refused = world.as_admin("PUT", &path, declared).await;
    assert_eq!((refused.status, refused.reason()), (403, "operator_only"), "{}", refused.text);
    assert_eq!(shown(&world).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_no_longer_for_messages_has_none_due() {
    let (world, receiver) = webhooks(json!({"wait": 3_600})).await;
    world.asked("bob", json!({})).await;
    run(&world).await;
    let path = format!("/api/v1/audit-sinks/{SINK}");
    // The filter matches no event.
    let events = json!({"url": receiver.server.uri(), "filter": {"action": "admin.sink_skipped"}});
    world.as_admin("PUT", &path, events).await.with_status(200);
    run(&world).await;
    world.server.pass(3_600);
    assert_eq!(run(&world).await, 0, "no message is due");
    assert!(receiver.got().await.is_empty());
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_sink_recipient")
        .fetch_one(&mut world.server.sql().await)
        .await
        .unwrap();
    assert_eq!(kept, 0);
}
