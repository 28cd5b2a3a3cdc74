//! A removed key stays removed: whatever declares the key again, and however the client authenticates, until an
//! operator restores the key by its thumbprint.

use actchain::domain::refusal::{Error, Refusal};
use actchain::services::apply::Mode;
use actchain::services::principals::{self, ClientKey};
use actchain_protocol::jose::SigningKey;
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::agent::{ACCESS_TOKEN, Agent, Auth, JWT};
use crate::support::ends::{Made, Maker, new_key};
use crate::support::management::Api;
use crate::support::world::{CALENDAR, IDP, MAIL, World};
use crate::support::{Answer, Server};

/// A client of the test world as a manifest declares it, with these lines about its keys.
fn declared(id: &str, keys: &str) -> String {
    format!(
        "clients:\n  - {{id: {id}, kind: agent, name: Some agent, {keys}, scopes: [mail.read, mail.send, both], \
         audiences: [\"{MAIL}\", \"{CALENDAR}\"], grant_types: [client_credentials, token-exchange]}}"
    )
}

fn inline(keys: &[&SigningKey]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| key.public_jwk().to_string()).collect();
    format!("auth: private_key_jwt, jwks: {{keys: [{}]}}", keys.join(", "))
}

async fn remove(world: &World, id: &str, jkt: &str) {
    let path = format!("/api/v1/clients/{id}/keys/{jkt}");
    let removed = world.as_admin("DELETE", &path, json!({})).await;
    assert_eq!(removed.status, 200, "{}", removed.text);
}

async fn restore(world: &World, client_id: &str, jkt: &str) -> Value {
    let key = ClientKey { client_id, jkt };
    json!(principals::restore_key(&world.server.operator(), key).await.unwrap().value)
}

/// The response to an agent's exchange of Alice's token.
async fn hop(server: &Server, agent: &Agent, user_token: &str) -> Answer {
    agent.exchange(server, user_token, JWT).param("audience", MAIL).send().await
}

#[track_caller]
fn assert_names_the_way_back(refused: &Result<(), String>, id: &str, jkt: &str) {
    let said = refused.as_ref().unwrap_err();
    assert!(said.contains(&format!("client {id}")) && said.contains(jkt), "{said}");
    assert!(said.contains(&format!("actchain client key restore {id} {jkt}")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_key_that_the_same_file_declares_again_authenticates_no_client() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let file = declared("user-proxy", &inline(&[&world.user_proxy.key]));
    world.server.apply(&file).await.unwrap();
    assert_eq!(hop(&world.server, &world.user_proxy, &world.user_token()).await.status, 200);
    remove(&world, "user-proxy", world.user_proxy.jkt()).await;
    let before = world.server.dump().await;
    assert_names_the_way_back(&world.server.apply(&file).await, "user-proxy", world.user_proxy.jkt());
    let spare = new_key();
    let beside = declared("user-proxy", &inline(&[&world.user_proxy.key, &spare]));
    assert_names_the_way_back(&world.server.apply(&beside).await, "user-proxy", world.user_proxy.jkt());
    assert_eq!(world.server.dump().await, before, "a refused declaration changes nothing");
    for server in [&world.server, &twin] {
        let stolen = hop(server, &world.user_proxy, &world.user_token()).await;
        stolen.assert_refused(401, "invalid_client", "");
    }
    // Another key of the client can be registered and used as before.
    world.server.apply(&declared("user-proxy", &inline(&[&spare]))).await.unwrap();
    let other = Agent { key: spare, ..world.user_proxy.clone() };
    assert_eq!(hop(&world.server, &other, &world.user_token()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_key_that_is_still_registered_authenticates_no_client() {
    // RFC 7523 §3: a valid signature alone does not make an assertion valid. A row of an older version, or a manifest
    // applied during a removal, may leave the key registered.
    let world = World::new().await;
    remove(&world, "user-proxy", world.user_proxy.jkt()).await;
    remove(&world, "followup-svc", world.followup_svc.jkt()).await;
    let mut sql = world.server.sql().await;
    let jwks = json!({"keys": [world.user_proxy.key.public_jwk()]});
    let update = "UPDATE client SET jwks = $1, dpop_keys = $2, dpop_restricted = true, version = version + 1, mac = NULL
                  WHERE client_id = $3";
    for (agent, jwks) in [(&world.user_proxy, Some(jwks)), (&world.followup_svc, None)] {
        let pinned = vec![agent.jkt().to_owned()];
        sqlx::query(update).bind(jwks).bind(pinned).bind(&agent.id).execute(&mut sql).await.unwrap();
    }
    world.server.seal_rows().await;
    let by_assertion = hop(&world.server, &world.user_proxy, &world.user_token()).await;
    by_assertion.assert_refused(401, "invalid_client", "");
    let by_key = hop(&world.server, &world.followup_svc, &world.user_token()).await;
    by_key.assert_refused(401, "invalid_client", "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_key_that_is_pinned_again_signs_no_proof() {
    let world = World::new().await;
    let secret = "auth: client_secret_basic, secret: email-svc-secret-0123456789";
    let pinned = |agent: &Agent| declared("email-svc", &format!("{secret}, dpop_keys: [{}]", agent.jkt()));
    let keyed =
        |agent: &Agent| declared("followup-svc", &format!("auth: none, dpop_keys: [{}]", agent.jkt()));
    world.server.apply(&pinned(&world.email_svc)).await.unwrap();
    world.server.apply(&keyed(&world.followup_svc)).await.unwrap();
    let first = world.first_hop().await.token().to_owned();
    let second = world.hop(&world.email_svc, &first).await;
    assert_eq!(second.status, 200, "{}", second.text);
    remove(&world, "email-svc", world.email_svc.jkt()).await;
    remove(&world, "followup-svc", world.followup_svc.jkt()).await;
    let refused = world.server.apply(&pinned(&world.email_svc)).await;
    assert_names_the_way_back(&refused, "email-svc", world.email_svc.jkt());
    let refused = world.server.apply(&keyed(&world.followup_svc)).await;
    assert_names_the_way_back(&refused, "followup-svc", world.followup_svc.jkt());
    // RFC 9449 §4.3: the proof is valid, but its key does not belong to this client.
    let answer = world.hop(&world.email_svc, &first).await;
    answer.assert_refused(400, "invalid_dpop_proof", "dpop_proof_key_unknown");
    let answer = world.hop(&world.followup_svc, second.token()).await;
    answer.assert_refused(401, "invalid_client", "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_file_left_out_does_not_return_with_an_older_file() {
    let world = World::new().await;
    let older = declared("user-proxy", &inline(&[&world.user_proxy.key]));
    let next = new_key();
    world.server.apply(&older).await.unwrap();
    world.server.apply(&declared("user-proxy", &inline(&[&next]))).await.unwrap();
    assert_names_the_way_back(&world.server.apply(&older).await, "user-proxy", world.user_proxy.jkt());
    let old = hop(&world.server, &world.user_proxy, &world.user_token()).await;
    old.assert_refused(401, "invalid_client", "");
    let renewed = Agent { key: next, ..world.user_proxy.clone() };
    assert_eq!(hop(&world.server, &renewed, &world.user_token()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_key_that_the_clients_own_set_publishes_authenticates_no_client() {
    let world = World::new().await;
    let publisher = MockServer::start().await;
    let (stolen, other) = (world.user_proxy.clone(), new_key());
    let set = json!({"keys": [stolen.key.public_jwk(), other.public_jwk()]});
    let set = ResponseTemplate::new(200).set_body_raw(set.to_string(), "application/json");
    Mock::given(any()).respond_with(set).mount(&publisher).await;
    let file = declared("user-proxy", &format!("auth: private_key_jwt, jwks_uri: \"{}\"", publisher.uri()));
    world.server.apply(&file).await.unwrap();
    assert_eq!(hop(&world.server, &stolen, &world.user_token()).await.status, 200);
    remove(&world, "user-proxy", stolen.jkt()).await;
    world.server.apply(&file).await.unwrap();
    let answer = hop(&world.server, &stolen, &world.user_token()).await;
    answer.assert_refused(401, "invalid_client", "");
    let other = Agent { key: other, ..stolen };
    assert_eq!(hop(&world.server, &other, &world.user_token()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_moves_from_a_list_to_the_clients_url_is_unpinned_and_not_removed() {
    let world = World::new().await;
    let publisher = MockServer::start().await;
    let (agent, spare) = (world.user_proxy.clone(), new_key());
    let set = json!({"keys": [agent.key.public_jwk()]}).to_string();
    let set = ResponseTemplate::new(200).set_body_raw(set, "application/json");
    Mock::given(any()).respond_with(set).mount(&publisher).await;
    world.server.apply(&declared("user-proxy", &inline(&[&agent.key]))).await.unwrap();
    let before = hop(&world.server, &agent, &world.user_token()).await.token().to_owned();
    let moved = declared("user-proxy", &format!("auth: private_key_jwt, jwks_uri: \"{}\"", publisher.uri()));
    let plan = world.plan(&moved, Mode::DryRun).await.unwrap();
    let line = serde_json::to_value(&plan.lines[0]).unwrap();
    assert_eq!((&line["unpinned_keys"], &line["removed_keys"]), (&json!([agent.jkt()]), &json!(null)));
    world.server.apply(&moved).await.unwrap();
    assert_eq!(hop(&world.server, &agent, &world.user_token()).await.status, 200, "the URL publishes it");
    assert!(world.is_active(&before).await);
    // Back to a list, then to another list: the plan names the removed keys, and they stay removed.
    world.server.apply(&declared("user-proxy", &inline(&[&agent.key]))).await.unwrap();
    let replaced = declared("user-proxy", &inline(&[&spare]));
    let plan = world.plan(&replaced, Mode::DryRun).await.unwrap();
    let line = serde_json::to_value(&plan.lines[0]).unwrap();
    assert_eq!((&line["removed_keys"], &line["unpinned_keys"]), (&json!([agent.jkt()]), &json!(null)));
    world.server.apply(&replaced).await.unwrap();
    assert!(!world.is_active(&before).await);
    world.server.apply(&moved).await.unwrap();
    hop(&world.server, &agent, &world.user_token()).await.assert_refused(401, "invalid_client", "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_restores_a_key_and_tokens_from_before_its_removal_stay_revoked() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let both = [&world.server, &twin];
    let file = declared("user-proxy", &inline(&[&world.user_proxy.key]));
    world.server.apply(&file).await.unwrap();
    let before = hop(&world.server, &world.user_proxy, &world.user_token()).await.token().to_owned();
    let jkt = world.user_proxy.jkt();
    remove(&world, "user-proxy", jkt).await;
    assert!(world.server.apply(&file).await.is_err());
    let said = restore(&world, "user-proxy", jkt).await;
    assert_eq!((&said["client_id"], &said["jkt"]), (&json!("user-proxy"), &json!(jkt)));
    let event = world.server.last_event().await;
    assert_eq!(
        (&event["action"], &event["target"], &event["detail"]["jkt"]),
        (&json!("client.key_restored"), &json!("user-proxy"), &json!(jkt))
    );
    // A restored key is not registered yet: the manifest registers it.
    let answer = hop(&world.server, &world.user_proxy, &world.user_token()).await;
    answer.assert_refused(401, "invalid_client", "");
    world.server.apply(&file).await.unwrap();
    world.server.pass(1);
    let after = hop(&twin, &world.user_proxy, &world.user_token()).await;
    assert_eq!(after.status, 200, "{}", after.text);
    world.assert_active(&both, &world.user_proxy, after.token()).await;
    world.assert_inactive(&both, (&world.user_proxy, &before), "key_removed", 1).await;
    // Removed again, the restored key is refused like any other key, with the tokens obtained with it.
    remove(&world, "user-proxy", jkt).await;
    assert_names_the_way_back(&world.server.apply(&file).await, "user-proxy", jkt);
    let answer = hop(&twin, &world.user_proxy, &world.user_token()).await;
    answer.assert_refused(401, "invalid_client", "");
    assert!(!world.is_active(after.token()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_operator_restores_a_key_and_only_a_removed_one() {
    let world = World::new().await;
    let never_removed = ClientKey { client_id: "user-proxy", jkt: world.user_proxy.jkt() };
    let no_client = ClientKey { client_id: "unknown", ..never_removed };
    let no_thumbprint = ClientKey { jkt: "short", ..never_removed };
    for (key, refusal) in
        [(never_removed, "not_found"), (no_client, "not_found"), (no_thumbprint, "malformed_request")]
    {
        match principals::restore_key(&world.server.operator(), key).await {
            Err(Error::Refused(refused)) => assert_eq!(refused.reason(), refusal, "{key:?}"),
            other => panic!("{key:?}: {other:?}"),
        }
    }
    let key = "/api/v1/clients/user-proxy/keys/";
    for method in ["POST", "PUT", "PATCH"] {
        let path = format!("{key}{}", world.user_proxy.jkt());
        let answer = world.as_admin(method, &path, json!({})).await;
        assert!(matches!(answer.status, 404 | 405), "{method}: {}", answer.text);
    }
    let events = world.server.events().await;
    assert!(events.iter().all(|event| event["action"] != "client.key_restored"));
    assert_eq!(Refusal::KeyNotReusable.code_for_resource().status, 409);
}

/// Requests a key rotation for an ephemeral agent.
async fn rotate(world: &World, from: &Made, to: &SigningKey) -> Answer {
    let path = format!("/delegate/{}/rotate-key", from.delegation);
    world.as_agent(&from.agent, "POST", &path, json!({"jwk": to.public_jwk()})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_replaced_key_cannot_be_used_again() {
    let world = World::new().await;
    let made = world.made_by_alice("t").await;
    let second = made.under(&new_key());
    let approve = format!("/delegate/{}/approve", made.delegation);
    assert_eq!(rotate(&world, &made, &second.agent.key).await.status, 202);
    assert_eq!(world.as_alice("POST", &approve, json!({})).await.status, 200);
    world.server.pass(1);
    let back = rotate(&world, &second, &made.agent.key).await;
    assert_eq!((back.status, back.reason()), (409, "key_not_reusable"), "{}", back.text);
    let event = world.server.last_event().await;
    assert_eq!((&event["outcome"], &event["reason"]), (&json!("refused"), &json!("key_not_reusable")));
    assert_eq!(hop(&world.server, &second.agent, &world.user_token()).await.status, 200, "nothing changed");
    for agent in [made.agent.clone(), made.by_assertion()] {
        let answer = hop(&world.server, &agent, &world.user_token()).await;
        answer.assert_refused(401, "invalid_client", "");
    }
    // No other ephemeral agent can be created with the key, by Alice or by an agent.
    for maker in [Maker::User("alice"), Maker::Agent(&world.user_proxy)] {
        let more = if matches!(maker, Maker::Agent(_)) { json!({"parent": "D"}) } else { json!({}) };
        let again = world.make(&maker, &made.agent.key, ("t", more)).await;
        assert_eq!((again.status, again.reason()), (409, "key_not_reusable"), "{}", again.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_key_that_is_removed_meanwhile_is_not_confirmed() {
    let world = World::new().await;
    let made = world.made_by_alice("t").await;
    let next = new_key();
    let asked = rotate(&world, &made, &next).await;
    assert_eq!(asked.status, 202, "{}", asked.text);
    remove(&world, &made.agent.id, next.kid()).await;
    let path = format!("/delegate/{}/approve", made.delegation);
    let approved = world.as_alice("POST", &path, json!({})).await;
    assert_eq!((approved.status, approved.reason()), (409, "key_not_reusable"), "{}", approved.text);
    let answer = hop(&world.server, &made.under(&next).agent, &world.user_token()).await;
    answer.assert_refused(401, "invalid_client", "");
    let deny = format!("/delegate/{}/deny", made.delegation);
    assert_eq!(world.as_alice("POST", &deny, json!({})).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_agents_key_is_removed_meanwhile_is_not_approved() {
    let world = World::new().await;
    let key = new_key();
    let more = json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read"], "expires_in": 300});
    let asked = world.make(&Maker::Agent(&world.user_proxy), &key, ("t", more)).await;
    assert_eq!(asked.status, 202, "{}", asked.text);
    let made = Made::of(&asked, key);
    remove(&world, &made.agent.id, made.agent.jkt()).await;
    let path = format!("/delegate/{}/approve", made.delegation);
    let approved = world.as_user("bob", "POST", &path, json!({})).await;
    assert_eq!((approved.status, approved.reason()), (409, "key_not_reusable"), "{}", approved.text);
    let shown = world.as_user("bob", "GET", &format!("/delegate/{}", made.delegation), json!({})).await;
    assert_eq!(shown.json["state"], "requested", "{}", shown.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_shows_which_key_it_approves() {
    let world = World::new().await;
    let made = world.made_by_alice("t").await;
    let next = new_key();
    let asked = rotate(&world, &made, &next).await;
    let path = format!("/delegate/{}", made.delegation);
    let shown = world.as_alice("GET", &path, json!({})).await;
    let listed = world.as_alice("GET", "/delegate?task_id=t", json!({})).await;
    for (what, ephemeral) in [
        ("asked", &asked.json["ephemeral"]),
        ("shown", &shown.json["ephemeral"]),
        ("listed", &listed.json["items"][0]["ephemeral"]),
    ] {
        assert_eq!(
            (&ephemeral["jkt"], &ephemeral["pending_jkt"]),
            (&Value::Null, &json!(next.kid())),
            "{what}: {}",
            shown.text
        );
    }
    let approved = world.as_alice("POST", &format!("{path}/approve"), json!({})).await;
    let ephemeral = &approved.json["ephemeral"];
    assert_eq!(
        (&ephemeral["jkt"], &ephemeral["pending_jkt"]),
        (&json!(next.kid()), &Value::Null),
        "{}",
        approved.text
    );
    let event = world.server.last_event().await;
    assert_eq!(
        (&event["action"], &event["detail"]["jkt"]),
        (&json!("delegation.activated"), &json!(next.kid())),
        "{event}"
    );
    assert_eq!(event["detail"]["new_key"], true, "by which reports know that another key is no drift");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrators_removed_key_cannot_call_the_management_api() {
    // A thief of an administrator's key cannot restore the key: its tokens are revoked, and the management API has no
    // such call.
    let world = World::new().await;
    let management_token = world.management_token(&world.admin).await;
    let key = ClientKey { client_id: "admin", jkt: world.admin.jkt() };
    principals::remove_key(&world.server.operator(), key).await.unwrap();
    let path = "/api/v1/clients/user-proxy/disable";
    let called =
        Api::post(&world.server, path, json!({})).client(&world.admin, &management_token).send().await;
    assert_eq!(called.status, 401, "{}", called.text);
    let token = world.first_hop().await.token().to_owned();
    let own = world.admin.exchange(&world.server, &token, ACCESS_TOKEN).send().await;
    own.assert_refused(401, "invalid_client", "");
    assert!(matches!(world.admin.auth, Auth::Assertion));
}
