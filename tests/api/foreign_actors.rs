//! Actors in the tokens of other issuers (RFC 8693 §4.1): refused, or kept as the first actors of a chain.

use serde_json::{Value, json};

use crate::support::Answer;
use crate::support::agent::{ACCESS_TOKEN, Agent, JWT};
use crate::support::audit::{auditor, read};
use crate::support::management::Api;
use crate::support::vault::{VaultWorld, names};
use crate::support::world::{IDP, MAIL, World};

const OTHER: &str = "https://other.example.com";

/// A world whose identity provider may name actors.
async fn accepting() -> World {
    let world = World::new().await;
    accept(&world).await;
    world
}

async fn accept(world: &World) {
    let yaml = format!(
        "issuers:\n  - {{iss: {IDP}, jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [ES256], actors: accept}}",
        world.idp.public_jwk()
    );
    world.server.apply(&yaml).await.unwrap();
}

async fn exchange(world: &World, agent: &Agent, act: Value) -> Answer {
    let token = world.user_token_with(|claims| claims["act"] = act);
    agent.exchange(&world.server, &token, JWT).param("audience", MAIL).send().await
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_actors_of_an_issuer_stay_innermost_in_every_hop_and_in_the_log() {
    let world = accepting().await;
    let act = json!({"sub": "helpdesk", "cnf": {"jkt": "k"}, "may_act": {"sub": "x"}});
    let first = exchange(&world, &world.user_proxy, act).await.with_status(200);
    let issuer = &world.server.app.issuer;
    let foreign = json!({"sub": "helpdesk", "iss": IDP});
    let proxy =
        json!({"sub": "user-proxy", "iss": issuer, "cnf": {"jkt": world.user_proxy.jkt()}, "act": foreign});
    assert_eq!(first.claims()["act"], proxy);
    let second = world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await;
    let second = second.with_status(200);
    let service =
        json!({"sub": "email-svc", "iss": issuer, "cnf": {"jkt": world.email_svc.jkt()}, "act": proxy});
    assert_eq!(second.claims()["act"], service);
    let chain = json!([
        {"sub": "helpdesk", "iss": IDP},
        {"sub": "user-proxy", "iss": issuer, "jkt": world.user_proxy.jkt()},
        {"sub": "email-svc", "iss": issuer, "jkt": world.email_svc.jkt()}
    ]);
    assert_eq!(world.server.last_event().await["act_chain"], chain);
    // An actor of another issuer may be a person, and has a pseudonym in the log.
    let pseudonym = world.server.log_name(IDP, "helpdesk").await;
    let (auditor, token) = auditor(&world).await;
    let at = format!("/api/v1/audit-logs/chains/{}", second.claims()["txn"].as_str().unwrap());
    let shown = read(&world, (&auditor, &token), &at).await.json;
    assert_eq!(shown["actors"], json!([pseudonym, "user-proxy", "email-svc"]));
    assert_eq!((&shown["hops"][1]["depth"], &shown["key_continuity"]), (&json!(3), &json!("consistent")));
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_actors_count_in_the_depth_of_a_chain() {
    let world = accepting().await;
    let two = json!({"sub": "b", "act": {"sub": "a", "iss": OTHER}});
    let first = exchange(&world, &world.user_proxy, two).await.with_status(200);
    assert_eq!(first.claims()["act"]["act"]["act"], json!({"sub": "a", "iss": OTHER}));
    let second = world.email_svc.exchange(&world.server, first.token(), ACCESS_TOKEN).send().await;
    second.assert_refused(400, "invalid_request", "depth_exceeded");
    let three = json!({"sub": "c", "act": {"sub": "b", "act": {"sub": "a"}}});
    let answer = exchange(&world, &world.user_proxy, three).await;
    answer.assert_refused(400, "invalid_request", "depth_exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_actor_is_never_a_client_of_this_server() {
    let world = accepting().await;
    // The names of the clients, at another issuer: neither holder of the token nor a cycle, whether enabled or not.
    let named = json!({"sub": "stranger", "act": {"sub": "user-proxy"}});
    exchange(&world, &world.stranger, named.clone()).await.assert_refused(
        400,
        "invalid_request",
        "delegation_required",
    );
    world.server.disable("stranger").await;
    let granted = exchange(&world, &world.user_proxy, named).await.with_status(200);
    assert_eq!(granted.claims()["act"]["act"]["act"], json!({"sub": "user-proxy", "iss": IDP}));
    // A client of this server, as another issuer would have it.
    for act in [
        json!({"sub": "user-proxy", "iss": world.server.app.issuer}),
        json!({"sub": "a", "act": {"sub": "user-proxy", "iss": world.server.app.issuer}}),
    ] {
        let answer = exchange(&world, &world.user_proxy, act.clone()).await;
        answer.assert_refused(400, "invalid_request", "subject_token_invalid");
        assert_eq!(world.server.last_event().await["detail"]["cause"], "claims", "{act}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_cannot_be_read_is_refused_where_actors_are_accepted() {
    let world = accepting().await;
    let deep = (0..40).fold(json!({"sub": "a"}), |act, _| json!({"sub": "a", "act": act}));
    for act in [json!("a"), json!([]), json!({}), json!({"sub": 7}), json!({"sub": "a", "act": {}}), deep] {
        let answer = exchange(&world, &world.user_proxy, act.clone()).await;
        answer.assert_refused(400, "invalid_request", "subject_token_invalid");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_token_names_an_actor_does_not_decide_about_delegations() {
    let world = accepting().await;
    let token = world.user_token_with(|claims| claims["act"] = json!({"sub": "helpdesk"}));
    let answer = Api::get(&world.server, "/delegate/D").user(&token).send().await;
    answer.with_status(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_an_accepted_actor_retrieves_credentials() {
    let vault = VaultWorld::new().await;
    accept(&vault.world).await;
    let connection = vault.api_key().await;
    let details = names(&connection);
    vault.delegated(details.clone(), json!({})).await;
    let token = vault.world.user_token_with(|claims| claims["act"] = json!({"sub": "helpdesk"}));
    let first = vault.hop(&vault.world.user_proxy, (&token, JWT), &details).await.with_status(200);
    let second = vault.hop(&vault.world.email_svc, (first.token(), ACCESS_TOKEN), &details).await;
    assert_eq!(vault.fetch(second.with_status(200).token(), &connection).await.status, 200);
    let chain = &vault.world.server.last_event().await["act_chain"];
    assert_eq!((chain.as_array().unwrap().len(), &chain[0]["sub"]), (3, &json!("helpdesk")));
}
