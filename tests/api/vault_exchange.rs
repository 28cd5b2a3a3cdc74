//! A vault credential by token exchange (RFC 8693 §3): the same rules as at the vault's own endpoint.

use serde_json::{Value, json};

use crate::support::Answer;
use crate::support::agent::{ACCESS_TOKEN, Agent, JWT, Request};
use crate::support::vault::{VaultWorld, alice, names};
use crate::support::world::MAIL;

const VAULT_TOKEN: &str = "urn:actchain:params:oauth:token-type:vault-token";

fn asking<'a>(vault: &'a VaultWorld, agent: &'a Agent, token: &str, details: &Value) -> Request<'a> {
    let request = agent.exchange(&vault.world.server, token, ACCESS_TOKEN);
    request.param("requested_token_type", VAULT_TOKEN).param("authorization_details", &details.to_string())
}

async fn asked(vault: &VaultWorld, token: &str, details: &Value) -> Answer {
    asking(vault, &vault.world.email_svc, token, details).send().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_partys_token_has_a_token_type_of_its_own() {
    let vault = VaultWorld::new().await;
    let tokens =
        json!({"access_token": "at-1", "expires_in": 600, "refresh_token": "rt-1", "scope": "files.read"});
    let id = vault.connected("acme", tokens).await;
    let (delegations, [_, token]) = vault.granted(&id).await;
    let answer = asked(&vault, &token, &names(&id)).await;
    assert_eq!(
        answer.json,
        json!({"access_token": "at-1", "issued_token_type": VAULT_TOKEN, "token_type": "Bearer", "expires_in": 600,
               "scope": "files.read", "connection": id}),
        "{}",
        answer.text
    );
    assert_eq!(
        (answer.header("cache-control"), answer.header("pragma")),
        (Some("no-store"), Some("no-cache"))
    );
    let event = vault.vault_events().await.pop().unwrap();
    assert_eq!((&event["action"], &event["target"]), (&json!("vault.token.retrieved"), &json!(id)));
    assert_eq!((&event["subject"], &event["delegation_path"]), (&alice(), &json!(delegations)));
    assert_eq!(event["act_chain"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_exchange_counts_as_one_use_and_is_refused_without_uses_left() {
    let vault = VaultWorld::new().await;
    let id = vault.api_key().await;
    let details = names(&id);
    let [root, _] = vault.delegated(details.clone(), json!({"max_uses": 4})).await;
    let [first, token] = vault.chain(&details).await;
    for _ in 0..2 {
        assert_eq!(asked(&vault, &token, &details).await.status, 200);
    }
    asked(&vault, &token, &details).await.assert_refused(400, "invalid_request", "command_limit");
    let shown = vault.world.as_alice("GET", &format!("/delegate/{root}"), json!({})).await;
    assert_eq!(shown.json["uses"], 4);
    let _ = first;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_missing_is_refused_as_oauth_does_and_recorded() {
    let vault = VaultWorld::new().await;
    let (id, other) = (vault.api_key().await, vault.api_key().await);
    let ([root, _], [first, token]) = vault.granted(&id).await;
    let details = names(&id);
    let email = &vault.world.email_svc;
    let good = || asking(&vault, email, &token, &details);
    let two = json!([names(&id)[0], names(&other)[0]]);
    let stranger = &vault.world.stranger;
    for (request, error, reason) in [
        (
            asking(&vault, email, &token, &names(&other)),
            "invalid_authorization_details",
            "connection_missing",
        ),
        (
            asking(&vault, email, &token, &two),
            "invalid_authorization_details",
            "authorization_details_malformed",
        ),
        (
            asking(&vault, email, &token, &json!([])),
            "invalid_authorization_details",
            "authorization_details_malformed",
        ),
        (
            good().without("authorization_details"),
            "invalid_authorization_details",
            "authorization_details_malformed",
        ),
        (good().param("audience", MAIL), "invalid_request", ""),
        (good().param("scope", "files.read"), "invalid_request", ""),
        (good().without("subject_token_type"), "invalid_request", ""),
        (good().set("subject_token", "x"), "invalid_request", "subject_token_invalid"),
        (good().without("dpop"), "invalid_dpop_proof", "dpop_proof_missing"),
        // A token of another client, even of the same chain.
        (asking(&vault, email, &first, &details), "invalid_request", "delegation_required"),
        (asking(&vault, stranger, &token, &details), "invalid_request", "delegation_required"),
    ] {
        let before = vault.vault_events().await.len();
        let answer = request.send().await;
        assert_eq!((answer.status, answer.error()), (400, error), "{}", answer.text);
        assert_eq!(answer.json["reason"].as_str().unwrap_or_default(), reason, "{}", answer.text);
        let events = vault.vault_events().await;
        assert_eq!((events.len(), &events[before]["outcome"]), (before + 1, &json!("refused")), "{reason}");
        assert_eq!(events[before]["action"], "vault.token.refused");
    }
    let user = asking(&vault, email, &vault.world.user_token(), &details).set("subject_token_type", JWT);
    user.send().await.assert_refused(400, "invalid_request", "delegation_required");
    let key = Agent { key: crate::support::ends::new_key(), ..email.clone() };
    asking(&vault, &key, &token, &details).send().await.assert_refused(
        400,
        "invalid_request",
        "subject_key_mismatch",
    );
    // Another user's connection is not found.
    let body = json!({"provider": "keys", "credential": {"key": "bobs-own-api-key"}});
    let bobs = vault.world.as_user("bob", "POST", "/api/v1/connections", body).await;
    let bobs = names(bobs.json["id"].as_str().unwrap());
    vault.delegated(bobs.clone(), json!({})).await;
    let [_, named] = vault.chain(&bobs).await;
    asked(&vault, &named, &bobs).await.assert_refused(400, "invalid_target", "resource_refused");
    let end = format!("/api/v1/connections/{id}/disconnect");
    assert_eq!(vault.world.as_alice("POST", &end, json!({})).await.status, 200);
    asked(&vault, &token, &details).await.assert_refused(400, "invalid_target", "connection_disconnected");
    vault.world.as_alice("POST", &format!("/delegate/{root}/revoke"), json!({})).await;
    asked(&vault, &token, &details).await.assert_refused(400, "invalid_target", "connection_disconnected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_was_rotated_elsewhere_retrieves_nothing_at_once() {
    let vault = VaultWorld::new().await;
    let id = vault.api_key().await;
    let (_, [_, token]) = vault.granted(&id).await;
    assert_eq!(asked(&vault, &token, &names(&id)).await.status, 200, "the client is remembered");
    vault.world.server.rotate_secret("email-svc", 0).await;
    asked(&vault, &token, &names(&id)).await.assert_refused(401, "invalid_client", "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_loses_the_grant_elsewhere_retrieves_nothing_at_once() {
    let vault = VaultWorld::new().await;
    let id = vault.api_key().await;
    let (_, [_, token]) = vault.granted(&id).await;
    assert_eq!(asked(&vault, &token, &names(&id)).await.status, 200, "the client is remembered");
    let twin = vault.world.server.twin().await;
    let issuer = &vault.world.server.app.issuer;
    let yaml = format!(
        r#"
clients:
  - {{id: email-svc, kind: agent, name: E-mail, auth: client_secret_basic, secret: email-svc-secret-0123456789,
     scopes: [mail.read, mail.send, both], audiences: ["{MAIL}", "{issuer}"],
     authorization_details_types: [vault_connection], grant_types: [client_credentials]}}
"#
    );
    twin.apply(&yaml).await.unwrap();
    asked(&vault, &token, &names(&id)).await.assert_refused(400, "unauthorized_client", "grant_not_allowed");
}
