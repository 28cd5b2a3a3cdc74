//! Two requests at the same instant, on two servers with one database.

use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, JWT};
use crate::support::world::{IDP, MAIL, World};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_proof_at_the_same_instant_on_two_servers_wins_exactly_once() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let user = world.user_token();
    for _ in 0..10 {
        let proof = world.user_proxy.proof(&world.server);
        let send = |server| {
            let request = world.user_proxy.exchange(server, &user, JWT).param("audience", MAIL);
            request.set_header("dpop", proof.clone()).send()
        };
        let both = [&world.server, &twin, &world.server, &twin].map(|server| send(server));
        let answers = futures_util::future::join_all(both).await;
        let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 400, 400, 400]);
        assert_eq!(answers.iter().filter(|answer| answer.reason() == "dpop_proof_replayed").count(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_exchanges_against_ten_uses_are_exactly_ten() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    world
        .server
        .apply(&format!(
            "delegations:\n  - {{id: L, delegator: {{iss: {IDP}, sub: dave}}, delegate: user-proxy, expires_in: 600, max_uses: 10}}"
        ))
        .await
        .unwrap();
    let token = world.user_token_with(|claims| claims["sub"] = json!("dave"));
    let requests = (0..64).map(|n| {
        let server = if n % 2 == 0 { &world.server } else { &twin };
        world.user_proxy.exchange(server, &token, JWT).param("audience", MAIL).send()
    });
    let answers = futures_util::future::join_all(requests).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 10);
    assert_eq!(answers.iter().filter(|answer| answer.reason() == "command_limit").count(), 54);
    let mut sql = world.server.sql().await;
    let uses: i64 =
        sqlx::query_scalar("SELECT max(uses) FROM delegation_usage").fetch_one(&mut sql).await.unwrap();
    assert_eq!(uses, 10);
    let narrower = answers.iter().find(|answer| answer.status == 200).unwrap();
    let own = world.user_proxy.exchange(&world.server, narrower.token(), ACCESS_TOKEN).send().await;
    own.assert_refused(400, "invalid_request", "command_limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_counts_on_every_ancestor_that_has_a_limit() {
    let world = World::new().await;
    let yaml = format!(
        "delegations:\n  - {{id: P, delegator: {{iss: {IDP}, sub: erin}}, delegate: user-proxy, expires_in: 600, max_uses: 3}}\n  - {{id: Q, parent: P, delegate: email-svc, max_uses: 3}}"
    );
    world.server.apply(&yaml).await.unwrap();
    let token = world.user_token_with(|claims| claims["sub"] = json!("erin"));
    let first = world.user_proxy.exchange(&world.server, &token, JWT).param("audience", MAIL).send().await;
    let below = || world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send();
    assert_eq!((below().await.status, below().await.status), (200, 200));
    below().await.assert_refused(400, "invalid_request", "command_limit");
}

/// After the event of the revocation, the log has no successful exchange that relied on the revoked authority.
fn assert_nothing_issued_after(events: &[Value], ending: &str) -> usize {
    let end = events.iter().position(|event| event["action"] == ending).expect("the end is in the log");
    let issued = |event: &&Value| event["action"] == "oauth.token.exchanged" && event["outcome"] == "success";
    let late: Vec<_> = events[end..].iter().filter(issued).collect();
    assert!(late.is_empty(), "{} exchanges after {ending}: {}", late.len(), late[0]);
    events[..end].iter().filter(issued).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_recorded_as_issued_after_its_delegation_was_revoked() {
    // On a slow machine, none of the requests times out while it waits.
    let patient = "[ledger]\ntimeout = 30";
    let world = World::configured(patient).await;
    let twin = world.server.twin_configured(patient).await;
    let user = world.user_token();
    let requests = (0..200).map(|n| {
        let server = if n % 2 == 0 { &world.server } else { &twin };
        world.user_proxy.exchange(server, &user, JWT).param("audience", MAIL).send()
    });
    let revoke = async {
        // In the middle: after some exchanges have been recorded.
        while world
            .server
            .events()
            .await
            .iter()
            .filter(|event| event["action"] == "oauth.token.exchanged")
            .count()
            < 20
        {
            tokio::task::yield_now().await;
        }
        world.server.revoke("D").await;
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(requests), revoke);
    let issued = assert_nothing_issued_after(&world.server.events().await, "delegation.revoked");
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), issued, "answers and log agree");
    assert!(answers.iter().all(|answer| answer.status == 200 || answer.reason() == "delegation_revoked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_recorded_as_issued_after_its_client_was_disabled() {
    // On a slow machine, none of the requests times out while it waits.
    let patient = "[ledger]\ntimeout = 30";
    let world = World::configured(patient).await;
    let twin = world.server.twin_configured(patient).await;
    let user = world.user_token();
    let requests = (0..200).map(|n| {
        let server = if n % 2 == 0 { &world.server } else { &twin };
        world.user_proxy.exchange(server, &user, JWT).param("audience", MAIL).send()
    });
    let disable = async {
        while world
            .server
            .events()
            .await
            .iter()
            .filter(|event| event["action"] == "oauth.token.exchanged")
            .count()
            < 20
        {
            tokio::task::yield_now().await;
        }
        world.server.disable("user-proxy").await;
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(requests), disable);
    let issued = assert_nothing_issued_after(&world.server.events().await, "client.disabled");
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), issued);
    assert!(answers.iter().all(|answer| answer.status == 200 || answer.error() == "invalid_client"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_client_is_refused_from_the_next_request_on_by_every_server_in_every_role() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let third = world.third_hop().await;
    let use_it = async |server| world.followup_svc.exchange(server, third.token(), ACCESS_TOKEN).send().await;
    assert_eq!((use_it(&world.server).await.status, use_it(&twin).await.status), (200, 200));
    for middle in ["user-proxy", "email-svc"] {
        world.server.disable(middle).await;
        use_it(&twin).await.assert_refused(400, "invalid_request", "actor_disabled");
        use_it(&world.server).await.assert_refused(400, "invalid_request", "actor_disabled");
        world.server.enable(middle).await;
        assert_eq!(use_it(&twin).await.status, 200);
    }
    world.server.disable("followup-svc").await;
    assert_eq!((use_it(&twin).await.error(), use_it(&world.server).await.status), ("invalid_client", 401));
    world.server.enable("followup-svc").await;
    assert_eq!(use_it(&twin).await.status, 200, "enabled is enabled at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_ancestor_stops_the_exchange_whatever_hangs_below() {
    let world = World::new().await;
    let third = world.third_hop().await;
    world.server.revoke("D").await;
    let own = world.followup_svc.exchange(&world.server, third.token(), ACCESS_TOKEN).send().await;
    own.assert_refused(400, "invalid_request", "delegation_revoked");
    let first = world
        .user_proxy
        .exchange(&world.server, &world.user_token(), JWT)
        .param("audience", MAIL)
        .send()
        .await;
    first.assert_refused(400, "invalid_request", "delegation_revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_rights_applies_from_the_next_request_on_every_server() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let user = world.user_token();
    let ask = async |server| {
        world
            .user_proxy
            .exchange(server, &user, JWT)
            .param("audience", MAIL)
            .param("scope", "mail.send")
            .send()
            .await
    };
    assert_eq!((ask(&world.server).await.status, ask(&twin).await.status), (200, 200));
    let yaml = format!("resources:\n  - {{id: {MAIL}, scopes: [mail.read]}}");
    world.server.apply(&yaml).await.unwrap();
    ask(&twin).await.assert_refused(400, "invalid_scope", "scope_not_at_resource");
}
