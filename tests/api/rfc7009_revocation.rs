//! RFC 7009: a revoked token is inactive with all tokens derived from it; all other tokens stay active.

use serde_json::{Value, json};

use crate::support::Server;
use crate::support::agent::{ACCESS_TOKEN, Agent, JWT};
use crate::support::ends::Outage;
use crate::support::management::Api;
use crate::support::world::{CALENDAR, MAIL, World};

fn revocations(events: &[Value]) -> Vec<&Value> {
    events.iter().filter(|event| event["action"] == "oauth.token.revoked").collect()
}

async fn first_hop_of(world: &World, user_token: &str) -> String {
    let answer = world.hop_from_user(&world.user_proxy, user_token).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.token().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_needs_client_authentication_and_a_token() {
    let world = World::new().await;
    let token = world.first_hop().await.token().to_owned();
    let at = || world.user_proxy.at(&world.server, "/oauth/revoke");
    at().send().await.assert_refused(400, "invalid_request", "");
    at().param("token", "").send().await.assert_refused(400, "invalid_request", "");
    let anonymous = at().without("client_assertion").without("client_assertion_type").without("dpop");
    let anonymous = anonymous.param("token", &token).send().await;
    assert_eq!((anonymous.status, anonymous.error()), (401, "invalid_client"));
    let forged = at().set("client_assertion", &world.email_svc.assertion(&world.server));
    assert_eq!(forged.param("token", &token).send().await.status, 401);
    let replayed = at().param("token", "garbage");
    assert_eq!(replayed.clone().send().await.status, 200);
    assert_eq!(replayed.send().await.status, 401, "an assertion is good once");
    assert!(world.is_active(&token).await, "it is not revoked");
    let url = format!("{}/oauth/revoke?token={token}", world.server.base);
    let assertion = world.user_proxy.assertion(&world.server);
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let body = format!("client_assertion={assertion}&client_assertion_type={kind}");
    let in_the_uri =
        reqwest::Client::new().post(url).header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(in_the_uri.body(body).send().await.unwrap().status().as_u16(), 400);
    assert!(world.is_active(&token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_only_a_key_revokes_with_a_proof() {
    let world = World::new().await;
    let third = world.third_hop().await;
    let thief = Agent { key: crate::support::ends::new_key(), ..world.followup_svc.clone() };
    let stolen = world.server.revoke_token(&thief, third.token()).await;
    assert_eq!((stolen.status, stolen.error()), (401, "invalid_client"));
    let bare = world.followup_svc.at(&world.server, "/oauth/revoke").without("dpop");
    assert_eq!(bare.param("token", third.token()).send().await.status, 400);
    assert!(world.is_active(third.token()).await);
    let answer = world.server.revoke_token(&world.followup_svc, third.token()).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    assert!(!world.is_active(third.token()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clients_token_stays_active_and_the_attempt_is_recorded() {
    let world = World::new().await;
    let first = world.first_hop().await;
    let second = world.hop(&world.email_svc, first.token()).await;
    // Not allowed: a stranger, the next and the previous client in the chain, the token's audience, an administrator.
    for (thief, token) in [
        (&world.stranger, first.token()),
        (&world.email_svc, first.token()),
        (&world.user_proxy, second.token()),
        (&world.mail_server, first.token()),
        (&world.admin, first.token()),
    ] {
        let before = world.server.events().await.len();
        let answer = world.server.revoke_token(thief, token).await;
        answer.assert_refused(400, "invalid_grant", "token_of_another_client");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let event = world.server.last_event().await;
        assert_eq!(world.server.events().await.len(), before + 1);
        assert_eq!(
            (&event["action"], &event["outcome"], &event["reason"], &event["actor"]["client_id"]),
            (
                &json!("oauth.token.revocation_refused"),
                &json!("refused"),
                &json!("token_of_another_client"),
                &json!(thief.id)
            )
        );
        assert_eq!(event["jti"], crate::support::claims_of(token)["jti"]);
        assert!(world.is_active(token).await);
        assert_eq!(world.status_of(token).await, 0);
    }
    let answer = world.server.revoke_token(&world.user_proxy, second.token()).await;
    assert!(
        !answer.text.contains("alice"),
        "an answer says nothing about a token of another client: {}",
        answer.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_an_invalid_or_inactive_token_succeeds_and_changes_nothing() {
    let world = World::new().await;
    let token = world.first_hop().await.token().to_owned();
    let revoked = world.first_hop().await.token().to_owned();
    assert_eq!(world.server.revoke_token(&world.user_proxy, &revoked).await.status, 200);
    let before = world.server.events().await.len();
    let mut unknown = crate::support::claims_of(&token);
    unknown["jti"] = json!("0197a000-0000-7000-8000-000000000000");
    let unknown = world.server.app.keyring().active.sign("at+jwt", &unknown).unwrap();
    for (what, presented) in [
        ("garbage", "garbage".to_owned()),
        ("not ASCII", "tökén".to_owned()),
        ("very long", "a".repeat(40_000)),
        ("a user's", world.user_token()),
        ("revoked before", revoked),
        ("never recorded", unknown),
        ("tampered with", format!("{token}x")),
    ] {
        let answer = world.server.revoke_token(&world.user_proxy, &presented).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, ""), "{what}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    assert_eq!(world.server.events().await.len(), before, "nothing happened, so nothing is in the log");
    assert!(world.is_active(&token).await);
    world.server.pass(600);
    assert_eq!(world.server.revoke_token(&world.user_proxy, &token).await.status, 200, "expired");
    assert_eq!(world.server.events().await.len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_type_hints_do_not_change_a_revocation() {
    let world = World::new().await;
    for hint in ["access_token", "refresh_token", "foo"] {
        let token = world.first_hop().await.token().to_owned();
        let request = world.user_proxy.at(&world.server, "/oauth/revoke").param("token", &token);
        let answer = request.param("token_type_hint", hint).send().await;
        assert_eq!((answer.status, answer.text.as_str()), (200, ""), "{hint}");
        assert!(!world.is_active(&token).await, "{hint}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_makes_its_descendants_inactive_at_once_on_every_server_and_no_other_token() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let both = [&world.server, &twin];
    let user = world.user_token();
    let first = first_hop_of(&world, &user).await;
    let narrower = world.user_proxy.exchange(&world.server, &first, ACCESS_TOKEN).param("scope", "mail.read");
    let narrower = narrower.send().await.token().to_owned();
    let second = world.hop(&world.email_svc, &narrower).await.token().to_owned();
    let third = world.hop(&world.followup_svc, &second).await.token().to_owned();
    let sibling = first_hop_of(&world, &user).await;
    let nephew = world.hop(&world.email_svc, &sibling).await.token().to_owned();
    let (_, bystander) = world.bystander().await;
    // Warms the caches of lists and paths.
    for (holder, token) in [
        (&world.user_proxy, &first),
        (&world.user_proxy, &narrower),
        (&world.email_svc, &second),
        (&world.followup_svc, &third),
    ] {
        world.assert_active(&both, holder, token).await;
    }
    let answer = twin.revoke_token(&world.user_proxy, &first).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    for (holder, token) in [
        (&world.user_proxy, &first),
        (&world.user_proxy, &narrower),
        (&world.email_svc, &second),
        (&world.followup_svc, &third),
    ] {
        world.assert_inactive(&both, (holder, token), "token_revoked", 1).await;
    }
    for (next, token) in
        [(&world.email_svc, &first), (&world.email_svc, &narrower), (&world.followup_svc, &second)]
    {
        for server in both {
            let answer = next.exchange(server, token, ACCESS_TOKEN).send().await;
            answer.assert_refused(400, "invalid_request", "token_revoked");
        }
    }
    world.assert_active(&both, &world.user_proxy, &sibling).await;
    world.assert_active(&both, &world.email_svc, &nephew).await;
    world.assert_active(&both, &world.stranger, &bystander).await;
    let afresh = first_hop_of(&world, &user).await;
    world.assert_active(&both, &world.user_proxy, &afresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_a_token_in_the_middle_revokes_its_descendants_and_not_its_ancestors() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let first = world.first_hop().await.token().to_owned();
    let second = world.hop(&world.email_svc, &first).await.token().to_owned();
    let third = world.hop(&world.followup_svc, &second).await.token().to_owned();
    assert_eq!(world.server.revoke_token(&world.email_svc, &second).await.status, 200);
    world.assert_active(&[&world.server, &twin], &world.user_proxy, &first).await;
    world.assert_inactive(&[&world.server, &twin], (&world.email_svc, &second), "token_revoked", 1).await;
    world.assert_inactive(&[&world.server, &twin], (&world.followup_svc, &third), "token_revoked", 1).await;
    let again = world.hop(&world.email_svc, &first).await;
    world.assert_active(&[&world.server, &twin], &world.email_svc, again.token()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_an_actor_token_revokes_the_tokens_made_with_it() {
    let world = World::new().await;
    let itself = async || {
        let request = world.user_proxy.request(&world.server).param("grant_type", "client_credentials");
        request.param("audience", MAIL).send().await.token().to_owned()
    };
    let acting = async |actor: &str| {
        let request =
            world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
        let request = request.param("actor_token", actor).param("actor_token_type", ACCESS_TOKEN);
        request.send().await.token().to_owned()
    };
    let (actor, other) = (itself().await, itself().await);
    let (first, sibling) = (acting(&actor).await, acting(&other).await);
    let second = world.hop(&world.email_svc, &first).await.token().to_owned();
    let both = [&world.server, &world.server.twin().await];
    world.assert_active(&both, &world.email_svc, &second).await;
    assert_eq!(world.server.revoke_token(&world.user_proxy, &actor).await.status, 200);
    world.assert_inactive(&both, (&world.user_proxy, &first), "token_revoked", 1).await;
    world.assert_inactive(&both, (&world.email_svc, &second), "token_revoked", 1).await;
    world.assert_active(&both, &world.user_proxy, &sibling).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_of_a_client_is_refused_by_the_management_api_too() {
    let world = World::new().await;
    let token = world.management_token(&world.user_proxy).await;
    let status_at = async |server: &Server| {
        server.call(&world.user_proxy, &token, ("GET", "/delegate/D"), json!({})).await.status
    };
    assert_eq!(status_at(&world.server).await, 200);
    assert_eq!(world.server.revoke_token(&world.user_proxy, &token).await.status, 200);
    assert_eq!(status_at(&world.server).await, 401);
    assert_eq!(status_at(&world.server.twin().await).await, 401);
    assert_eq!(world.status_of(&token).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_of_a_revocation_has_the_chain_of_the_token() {
    let world = World::new().await;
    let second = world.second_hop().await;
    let claims = second.claims();
    assert_eq!(world.server.revoke_token(&world.email_svc, second.token()).await.status, 200);
    let event = world.server.last_event().await;
    assert_eq!(
        (&event["action"], &event["outcome"], &event["actor"]["client_id"], &event["jti"]),
        (&json!("oauth.token.revoked"), &json!("success"), &json!("email-svc"), &claims["jti"])
    );
    assert_eq!((&event["subject"]["sub"], &event["txn"]), (&json!("alice"), &claims["txn"]));
    assert_eq!(event["delegation_id"], "E");
    assert_eq!(event["delegation_path"], json!(["D", "E"]), "the path is in each event");
    let chain: Vec<&str> =
        event["act_chain"].as_array().unwrap().iter().map(|link| link["sub"].as_str().unwrap()).collect();
    assert_eq!(chain, ["user-proxy", "email-svc"], "root first");
    assert!(!event.to_string().contains(second.token()), "never the token");
}

#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_revocations_are_all_answered_and_recorded_once() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let token = world.first_hop().await.token().to_owned();
    let requests = (0..12).map(|n| {
        let server = if n % 2 == 0 { &world.server } else { &twin };
        server.revoke_token(&world.user_proxy, &token)
    });
    let answers = futures_util::future::join_all(requests).await;
    assert!(answers.iter().all(|answer| (answer.status, answer.text.as_str()) == (200, "")));
    assert_eq!(revocations(&world.server.events().await).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_client_revokes_nothing_on_any_server() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let token = world.first_hop().await.token().to_owned();
    for server in [&world.server, &twin] {
        assert_eq!(server.revoke_token(&world.user_proxy, "garbage").await.status, 200, "both know it now");
    }
    world.server.disable("user-proxy").await;
    for server in [&world.server, &twin] {
        assert_eq!(server.revoke_token(&world.user_proxy, &token).await.status, 401);
    }
    world.server.enable("user-proxy").await;
    assert!(world.is_active(&token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_a_revocation_is_answered_by_503_and_the_token_stays_active() {
    let world = World::configured("[ledger]\ntimeout = '6s'").await;
    let token = world.first_hop().await.token().to_owned();
    let calendar =
        world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", CALENDAR);
    let calendar = calendar.send().await.token().to_owned();
    // The list is in the cache.
    assert_eq!(world.status_of(&token).await, 0);
    let outage = Outage::of(&world.server).await;
    let revoked = world.server.revoke_token(&world.user_proxy, &token).await;
    assert_eq!((revoked.status, revoked.error()), (503, "temporarily_unavailable"), "{}", revoked.text);
    assert!(revoked.header("retry-after").is_some());
    let introspected = world.server.introspect(&world.mail_server, &token).await;
    assert_eq!(
        introspected.status, 503,
        "without the database a token is neither active nor inactive: {}",
        introspected.text
    );
    let list = crate::support::claims_of(&token)["status"]["status_list"]["uri"].as_str().unwrap().to_owned();
    let path = list.strip_prefix(&world.server.app.issuer).unwrap().to_owned();
    let list = Api::get(&world.server, &path).send().await;
    assert_eq!(list.status, 503, "a list is served only as long as it is known to be current");
    outage.end().await;
    // Closed connections are detected one by one; their number is not fixed.
    let mut introspected = world.server.introspect(&world.mail_server, &token).await;
    for _ in 0..50 {
        if introspected.status == 200 {
            break;
        }
        introspected = world.server.introspect(&world.mail_server, &token).await;
    }
    assert_eq!(introspected.json["active"], true, "it was not revoked: {}", introspected.text);
    let mut answer = world.server.revoke_token(&world.user_proxy, &token).await;
    for _ in 0..50 {
        if answer.status == 200 {
            break;
        }
        answer = world.server.revoke_token(&world.user_proxy, &token).await;
    }
    assert_eq!(answer.status, 200);
    assert!(!world.is_active(&token).await);
    assert_eq!(world.status_of(&calendar).await, 0);
    assert_eq!(world.hop_from_user(&world.user_proxy, &world.user_token()).await.status, 200, "{MAIL}");
}
