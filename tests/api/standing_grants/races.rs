//! Revocations and key changes while requests are approved under a standing grant, on two servers with one database.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{actions, reading};
use crate::support::agent::{Agent, JWT};
use crate::support::ends::new_key;
use crate::support::management::Api;
use crate::support::world::{IDP, MAIL, World};

/// Requests that are sent at the same time.
const REQUESTS: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_active_after_a_revocation_among_a_hundred_requests_at_two_servers() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let servers = [&world.server, &twin];
    for revoked_after in [1, 10, 60] {
        let token = world.management_token(&world.user_proxy).await;
        let grant = world.consented(reading()).await;
        let done = std::sync::atomic::AtomicUsize::new(0);
        let body =
            json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read"], "audiences": [MAIL]});
        let request = async |number: usize| {
            let api = Api::new(servers[number % 2], "POST", "/delegate").json(&body);
            let answer = api.client(&world.user_proxy, &token).send().await;
            done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            answer
        };
        let revoke = async {
            while done.load(std::sync::atomic::Ordering::SeqCst) < revoked_after {
                tokio::task::yield_now().await;
            }
            world.on_grant(&grant["id"], "revoke", json!({})).await.with_status(200)
        };
        let (answers, _) = tokio::join!(join_all((0..REQUESTS).map(request)), revoke);
        let created: Vec<&Value> =
            answers.iter().filter(|answer| answer.status == 201).map(|answer| &answer.json["id"]).collect();
        assert!(created.len() >= revoked_after, "{} were approved", created.len());
        for id in created {
            let path = format!("/delegate/{}", id.as_str().unwrap());
            assert_eq!(world.as_user("bob", "GET", &path, Value::Null).await.json["state"], "revoked");
        }
        let events = world.grant_events(&grant["id"]).await;
        let revoked = actions(&events).iter().position(|action| *action == "standing_grant.revoked").unwrap();
        assert!(
            !actions(&events)[revoked..].contains(&"standing_grant.used"),
            "nothing is approved afterwards"
        );
        for server in servers {
            let exchange =
                world.user_proxy.exchange(server, &world.token_of("bob"), JWT).param("audience", MAIL);
            assert_eq!(exchange.send().await.status, 400);
        }
        world.server.pass(3600);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_key_among_many_requests_suspends_once() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let servers = [&world.server, &twin];
    let body = super::changed(reading(), |body| {
        body["client_id"] = json!("email-svc");
        body["keys"] = json!([world.email_svc.jkt()]);
    });
    let grant = world.consented(body).await;
    world.requested(&world.email_svc, |_| {}).await.with_status(201);
    let thief = Agent { key: new_key(), ..world.email_svc.clone() };
    let user = world.token_of("bob");
    let exchange = async |number: usize| {
        let agent = if number % 8 == 5 { &thief } else { &world.email_svc };
        let request = agent.exchange(servers[number % 2], &user, JWT).param("audience", MAIL);
        (number % 8 == 5, request.param("scope", "mail.read").send().await)
    };
    let answers = join_all((0..40).map(exchange)).await;
    assert!(
        answers.iter().all(|(is_foreign, answer)| !is_foreign || answer.status == 400),
        "no foreign key passes"
    );
    for (_, answer) in answers.iter().filter(|(_, answer)| answer.status == 200) {
        assert!(!world.is_active(answer.token()).await);
    }
    let events = world.grant_events(&grant["id"]).await;
    let suspended = actions(&events).iter().filter(|action| **action == "standing_grant.suspended").count();
    assert_eq!(suspended, 1, "{events:?}");
}
