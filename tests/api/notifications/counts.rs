//! A message counts what waits when it is sent.

use serde_json::json;

use super::{body, run, webhooks};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_is_not_counted_among_the_requests_that_a_message_does_not_name() {
    let (world, receiver) = webhooks(json!({"wait": 30})).await;
    let mut ids = Vec::new();
    for _ in 0..14 {
        ids.push(world.asked("bob", json!({})).await);
    }
    run(&world).await;
    for id in &ids[..3] {
        world.moves("bob", id, "deny", json!({})).await.with_status(200);
    }
    world.server.pass(30);
    run(&world).await;
    assert_eq!(receiver.notified().await, [("bob".to_owned(), 10, 1)]);
    let items = body(&receiver.got().await[0])["data"]["items"].clone();
    let named: Vec<&str> =
        items.as_array().unwrap().iter().map(|one| one["delegation_id"].as_str().unwrap()).collect();
    assert_eq!(named, ids[4..], "the newest");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_were_all_decided_are_no_message_however_many_they_were() {
    let (world, receiver) = webhooks(json!({"wait": 30})).await;
    let mut ids = Vec::new();
    for _ in 0..14 {
        ids.push(world.asked("bob", json!({})).await);
    }
    run(&world).await;
    for id in &ids {
        world.moves("bob", id, "deny", json!({})).await.with_status(200);
    }
    world.server.pass(30);
    run(&world).await;
    assert!(receiver.got().await.is_empty());
    assert_eq!(run(&world).await, 0, "nothing is due");
}
