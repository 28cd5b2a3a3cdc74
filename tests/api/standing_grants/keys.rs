//! Keys that a grantor has confirmed: anything else suspends the grant at first sight, on every server.

use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::{actions, changed, reading};
use crate::support::Server;
use crate::support::agent::{ACCESS_TOKEN, Agent, Auth, JWT};
use crate::support::ends::new_key;
use crate::support::management::Api;
use crate::support::vault::{VaultWorld, names};
use crate::support::world::{CALENDAR, MAIL, World};

/// A grant of Bob for `email-svc`, which proves any key, with this key pinned.
async fn pinned(world: &World, jkt: &str) -> Value {
    let body = changed(reading(), |body| {
        body["client_id"] = json!("email-svc");
        body["keys"] = json!([jkt]);
    });
    world.consented(body).await
}

async fn assert_suspended(world: &World, grant: &Value, cause: &str, seen: Option<&str>) {
    let shown = world.grant(&grant["id"]).await;
    assert_eq!(
        (&shown["state"], &shown["suspension"]["cause"], &shown["suspension"]["seen_key"]),
        (&json!("suspended"), &json!(cause), &json!(seen)),
        "{shown}"
    );
    let events = world.grant_events(&grant["id"]).await;
    let suspended = actions(&events).iter().filter(|action| **action == "standing_grant.suspended").count();
    assert_eq!(suspended, 1, "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_under_a_key_that_is_not_pinned_suspends_until_the_user_has_confirmed_it() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let own = world.email_svc.jkt().to_owned();
    let grant = pinned(&world, &own).await;
    world.requested(&world.email_svc, |_| {}).await.with_status(201);
    let token = world.exchanged_for_bob(&world.email_svc).await.with_status(200);
    let thief = Agent { key: new_key(), ..world.email_svc.clone() };
    let exchange = async |server: &Server, agent: &Agent| {
        let user = world.token_of("bob");
        agent.exchange(server, &user, JWT).param("audience", MAIL).param("scope", "mail.read").send().await
    };
    exchange(&twin, &thief).await.assert_refused(400, "invalid_request", "delegation_requested");
    assert_suspended(&world, &grant, "key_not_pinned", Some(thief.jkt())).await;
    // Nothing passes, on both servers, also under the key that was confirmed.
    for server in [&world.server, &twin] {
        exchange(server, &world.email_svc).await.assert_refused(
            400,
            "invalid_request",
            "delegation_requested",
        );
    }
    assert!(!world.is_active(token.token()).await);
    assert_eq!(world.status_of(token.token()).await, 2, "suspended in the status list");
    let waits = world.requested(&world.email_svc, |_| {}).await.with_status(202).json;
    assert_eq!(waits["standing_grant_exceeded"]["limit"], "suspended");

    // Others than the user do not confirm, and the user only what the server has shown.
    let keys = json!({"keys": [own, thief.jkt()], "replaces": [own]});
    let path = format!("{}/{}/revalidate", super::GRANTS, grant["id"].as_str().unwrap());
    for agent in [&world.email_svc, &thief] {
        let refused = world.as_agent(agent, "POST", &path, keys.clone()).await;
        refused.assert_problem(404, "not_found");
    }
    world.as_user("carol", "POST", &path, keys.clone()).await.assert_problem(404, "not_found");
    world.as_admin("POST", &path, keys.clone()).await.assert_problem(403, "only_user_grants");
    let other = json!({"keys": [thief.jkt()], "replaces": [thief.jkt()]});
    world.on_grant(&grant["id"], "revalidate", other).await.assert_problem(409, "request_changed");
    world.on_grant(&grant["id"], "revalidate", json!({})).await.assert_problem(400, "malformed_request");
    let none = json!({"keys": [], "replaces": [own]});
    world.on_grant(&grant["id"], "revalidate", none).await.assert_problem(400, "malformed_request");
    assert_eq!(world.grant(&grant["id"]).await["state"], "suspended");

    let confirmed = world.on_grant(&grant["id"], "revalidate", keys.clone()).await.with_status(200).json;
    assert_eq!((&confirmed["state"], &confirmed["suspension"]), (&json!("active"), &Value::Null));
    for server in [&world.server, &twin] {
        for agent in [&world.email_svc, &thief] {
            exchange(server, agent).await.with_status(200);
        }
    }
    assert_eq!(world.status_of(token.token()).await, 0);
    world.on_grant(&grant["id"], "revalidate", keys).await.assert_problem(409, "invalid_state_transition");
    let events = world.grant_events(&grant["id"]).await;
    assert!(actions(&events).contains(&"standing_grant.revalidated"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_can_keep_the_old_key_alone() {
    let world = World::new().await;
    let own = world.email_svc.jkt().to_owned();
    let grant = pinned(&world, &own).await;
    let thief = Agent { key: new_key(), ..world.email_svc.clone() };
    // A token for the client itself is a proof, too.
    world.management_token(&thief).await;
    assert_suspended(&world, &grant, "key_not_pinned", Some(thief.jkt())).await;
    let keys = json!({"keys": [own], "replaces": [own]});
    world.on_grant(&grant["id"], "revalidate", keys).await.with_status(200);
    world.requested(&world.email_svc, |_| {}).await.with_status(201);
    world.management_token(&thief).await;
    assert_eq!(world.grant(&grant["id"]).await["state"], "suspended", "the key is not confirmed");
}

/// A stolen key that the user does not confirm again: its tokens end, those of the confirmed key do not.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_key_that_is_not_confirmed_stay_inactive() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let stolen = world.email_svc.clone();
    let fresh = Agent { key: new_key(), ..stolen.clone() };
    let (old, new) = (stolen.jkt().to_owned(), fresh.jkt().to_owned());
    let grant = pinned(&world, &old).await;
    let both = json!({"keys": [old, new], "replaces": [old]});
    world.management_token(&fresh).await;
    world.on_grant(&grant["id"], "revalidate", both.clone()).await.with_status(200);
    world.requested(&stolen, |_| {}).await.with_status(201);
    let of_stolen = world.exchanged_for_bob(&stolen).await.with_status(200);
    let of_fresh = world.exchanged_for_bob(&fresh).await.with_status(200);
    world.management_token(&Agent { key: new_key(), ..stolen.clone() }).await;
    assert!(!world.is_active(of_stolen.token()).await && !world.is_active(of_fresh.token()).await);
    let alone = json!({"keys": [new], "replaces": both["keys"]});
    world.on_grant(&grant["id"], "revalidate", alone).await.with_status(200);
    assert!(world.is_active(of_fresh.token()).await);
    assert!(!world.is_active(of_stolen.token()).await);
    assert_eq!((world.status_of(of_fresh.token()).await, world.status_of(of_stolen.token()).await), (0, 1));
    // At another server, too, and for a next hop.
    let hop = world.followup_svc.exchange(&twin, of_stolen.token(), ACCESS_TOKEN).send().await;
    assert_eq!(hop.status, 400, "{hop:?}");
}

/// A child of a delegation is a use of the grant, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_under_a_key_that_is_not_pinned_suspends() {
    let world = World::new().await;
    let thief = Agent { key: new_key(), ..world.email_svc.clone() };
    // Issued while nothing was pinned.
    let early = world.management_token(&thief).await;
    let grant = pinned(&world, world.email_svc.jkt()).await;
    let parent = world.requested(&world.email_svc, |_| {}).await.with_status(201).json;
    let body = json!({"parent": parent["id"], "delegate": "user-proxy", "scopes": ["mail.read"]});
    let api = Api::post(&world.server, "/delegate", body).client(&thief, &early);
    let child = api.send().await;
    assert_ne!(child.status, 201, "{child:?}");
    assert_suspended(&world, &grant, "key_not_pinned", Some(thief.jkt())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_the_second_of_two_requests_suspends() {
    let world = World::new().await;
    let thief = Agent { key: new_key(), ..world.email_svc.clone() };
    // Tokens of before the grant: the token endpoint has seen no key since.
    let own_token = world.management_token(&world.email_svc).await;
    let token = world.management_token(&thief).await;
    let grant = pinned(&world, world.email_svc.jkt()).await;
    let body = json!({"delegator": {"iss": crate::support::world::IDP, "sub": "bob"}, "scopes": ["mail.read"], "audiences": [MAIL]});
    let send = async |agent: &Agent, token: &str| {
        crate::support::management::Api::new(&world.server, "POST", "/delegate")
            .json(&body)
            .client(agent, token)
            .send()
            .await
    };
    send(&world.email_svc, &own_token).await.with_status(201);
    let second = send(&thief, &token).await.with_status(202);
    assert_eq!(second.json["standing_grant_exceeded"]["limit"], "suspended");
    assert_suspended(&world, &grant, "key_not_pinned", Some(thief.jkt())).await;
    let third = send(&world.email_svc, &own_token).await.with_status(202);
    assert_eq!(third.json["standing_grant_exceeded"]["limit"], "suspended");
}

/// `user-proxy` as a manifest declares it, with these lines about its keys.
fn declared(keys: &str) -> String {
    format!(
        "clients:\n  - {{id: user-proxy, kind: agent, name: User proxy, {keys}, scopes: [mail.read, mail.send, calendar.read, both], \
         audiences: [\"{MAIL}\", \"{CALENDAR}\"], authorization_details_types: [mailbox], \
         grant_types: [client_credentials, token-exchange]}}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_registration_suspends_before_any_request() {
    let other = new_key();
    let both = |world: &World| {
        format!(
            "auth: private_key_jwt, jwks: {{keys: [{}, {}]}}",
            world.user_proxy.key.public_jwk(),
            other.public_jwk()
        )
    };
    let restricted = |world: &World| {
        let own = &world.user_proxy;
        format!(
            "auth: private_key_jwt, jwks: {{keys: [{}]}}, dpop_keys: [{}]",
            own.key.public_jwk(),
            own.jkt()
        )
    };
    let own = |world: &World| {
        format!("auth: private_key_jwt, jwks: {{keys: [{}]}}", world.user_proxy.key.public_jwk())
    };
    let optional = |world: &World| format!("{}, dpop: optional", own(world));
    let bearer = |world: &World| format!("{}, token_type: bearer", own(world));
    let changes: [&dyn Fn(&World) -> String; 4] = [&both, &restricted, &optional, &bearer];
    for change in changes {
        let world = World::new().await;
        let grant = world.consented(reading()).await;
        world.requested(&world.user_proxy, |_| {}).await.with_status(201);
        world.server.apply(&declared(&own(&world)).replace("User proxy", "Another name")).await.unwrap();
        assert_eq!(world.grant(&grant["id"]).await["state"], "active", "a name is no key");
        world.server.apply(&declared(&change(&world))).await.unwrap();
        assert_suspended(&world, &grant, "registration_changed", None).await;
    }
}

/// An agent that may leave the proof out would use its grant under no key.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_needs_no_proof_gets_no_grant_and_no_confirmation() {
    for exception in ["dpop: optional", "token_type: bearer"] {
        let world = World::new().await;
        let grant = world.consented(reading()).await;
        let keys = format!(
            "auth: private_key_jwt, jwks: {{keys: [{}]}}, {exception}",
            world.user_proxy.key.public_jwk()
        );
        world.server.apply(&declared(&keys)).await.unwrap();
        let refused = world.as_user("bob", "POST", "/api/v1/standing-grants", reading()).await;
        assert!(refused.status == 400 && refused.text.contains("needs no DPoP proof"), "{refused:?}");
        let path = format!("/api/v1/standing-grants/{}/revalidate", grant["id"].as_str().unwrap());
        let body = json!({"keys": [world.user_proxy.jkt()]});
        assert_ne!(world.as_user("bob", "POST", &path, body).await.status, 200);
        assert_eq!(world.grant(&grant["id"]).await["state"], "suspended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_key_suspends_and_a_new_one_has_to_be_confirmed() {
    let world = World::new().await;
    let grant = world.consented(reading()).await;
    world.requested(&world.user_proxy, |_| {}).await.with_status(201);
    let old = world.user_proxy.jkt();
    let path = format!("/api/v1/clients/user-proxy/keys/{old}");
    world.as_admin("DELETE", &path, json!({})).await.with_status(200);
    assert_suspended(&world, &grant, "key_removed", Some(old)).await;
    let renewed = Agent { key: new_key(), ..Agent::new("user-proxy", Auth::Assertion) };
    let keys = format!("auth: private_key_jwt, jwks: {{keys: [{}]}}", renewed.key.public_jwk());
    world.server.apply(&declared(&keys)).await.unwrap();
    world.exchanged_for_bob(&renewed).await.assert_refused(400, "invalid_request", "delegation_requested");
    let removed = json!({"keys": [old], "replaces": [old]});
    world.on_grant(&grant["id"], "revalidate", removed).await.assert_problem(400, "malformed_request");
    let shown = world.grant(&grant["id"]).await;
    assert_eq!((&shown["keys"], &shown["registered_keys"]), (&json!([old]), &json!([renewed.jkt()])));
    let keys = json!({"keys": shown["registered_keys"], "replaces": shown["keys"]});
    world.on_grant(&grant["id"], "revalidate", keys).await.with_status(200);
    world.exchanged_for_bob(&renewed).await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_delegations_of_the_agent_go_on_while_a_grant_is_suspended() {
    let world = World::new().await;
    let grant = pinned(&world, world.email_svc.jkt()).await;
    let thief = Agent { key: new_key(), ..world.email_svc.clone() };
    let first = world.first_hop().await;
    let next = thief.exchange(&world.server, first.token(), crate::support::agent::ACCESS_TOKEN).send().await;
    next.with_status(200);
    assert_suspended(&world, &grant, "key_not_pinned", Some(thief.jkt())).await;
}

/// A client whose secret is in other hands, with a key that the client may not use.
#[tokio::test(flavor = "multi_thread")]
async fn a_proof_under_a_key_that_the_client_may_not_use_suspends_where_the_client_is_authenticated() {
    for endpoint in ["exchange", "revoke", "vault"] {
        suspended_where_authenticated(endpoint).await;
    }
}

async fn suspended_where_authenticated(endpoint: &str) {
    let world = World::new().await;
    let yaml = |id: &str, auth: &str, jkt: &str| {
        format!(
            "clients:\n  - {{id: {id}, kind: agent, {auth}, dpop_keys: [{jkt}], scopes: [mail.read], audiences: [\"{MAIL}\"], \
             grant_types: [client_credentials, token-exchange]}}"
        )
    };
    let secret = "locked-secret-0123456789";
    for (id, auth, declared, suspends) in [
        ("locked", Auth::Basic(secret.into()), format!("auth: client_secret_basic, secret: {secret}"), true),
        // Each caller can name the client. Only its key authenticates it.
        ("public", Auth::None, "auth: none".to_owned(), false),
    ] {
        let own = Agent { key: new_key(), ..Agent::new(id, auth) };
        world.server.apply(&yaml(id, &declared, own.jkt())).await.unwrap();
        let body = changed(reading(), |body| {
            body["client_id"] = json!(id);
            body["keys"] = json!([own.jkt()]);
        });
        let grant = world.consented(body).await;
        let thief = Agent { key: new_key(), ..own.clone() };
        let refused = match endpoint {
            "exchange" => world.exchanged_for_bob(&thief).await,
            "revoke" => thief.at(&world.server, "/oauth/revoke").param("token", "x").send().await,
            _ => {
                let kind = "urn:actchain:params:oauth:token-type:vault-token";
                let user = world.token_of("bob");
                thief.exchange(&world.server, &user, JWT).param("requested_token_type", kind).send().await
            }
        };
        assert_ne!(refused.status, 200, "{endpoint}");
        if suspends {
            assert_suspended(&world, &grant, "key_not_pinned", Some(thief.jkt())).await;
        } else {
            assert_eq!(world.grant(&grant["id"]).await["state"], "active");
        }
    }
}

/// An assertion is a proof of its key at every endpoint.
#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_under_a_key_that_is_not_pinned_suspends_at_other_endpoints() {
    let world = World::new().await;
    let other = Agent { key: new_key(), ..world.user_proxy.clone() };
    let keys = format!(
        "auth: private_key_jwt, jwks: {{keys: [{}, {}]}}",
        world.user_proxy.key.public_jwk(),
        other.key.public_jwk()
    );
    world.server.apply(&declared(&keys)).await.unwrap();
    let grant =
        world.consented(changed(reading(), |body| body["keys"] = json!([world.user_proxy.jkt()]))).await;
    world.user_proxy.at(&world.server, "/oauth/revoke").param("token", "x").send().await.with_status(200);
    assert_eq!(world.grant(&grant["id"]).await["state"], "active");
    other.at(&world.server, "/oauth/revoke").param("token", "x").send().await.with_status(200);
    assert_suspended(&world, &grant, "key_not_pinned", Some(other.jkt())).await;
}

/// Tokens of before the grant: the token endpoint has seen no key since.
#[tokio::test(flavor = "multi_thread")]
async fn a_proof_with_an_older_token_suspends_in_each_call() {
    let step = json!({"steps": [{"tool": "Bash", "outcome": "succeeded", "input": "ls"}]});
    let calls = [
        ("GET", "/delegate", Value::Null, 200),
        ("POST", "/delegate/<id>/renew", json!({"expires_in": 60}), 403),
        ("POST", "/delegate/<id>/steps", step.clone(), 409),
        ("POST", "/delegate/unknown/steps", step, 404),
    ];
    for (method, path, body, status) in calls {
        let world = World::new().await;
        let thief = Agent { key: new_key(), ..world.email_svc.clone() };
        let early = world.management_token(&thief).await;
        let grant = pinned(&world, world.email_svc.jkt()).await;
        let id = world.requested(&world.email_svc, |_| {}).await.with_status(201).id();
        let path = path.replace("<id>", &id);
        let call = Api::new(&world.server, method, &path).json(&body).client(&thief, &early);
        call.send().await.with_status(status);
        assert_suspended(&world, &grant, "key_not_pinned", Some(thief.jkt())).await;
        assert!(
            !world.server.events().await.iter().any(|event| event["action"] == "step.reported"),
            "{path}"
        );
    }
}

/// Who has a revoked token and its key is not the agent.
#[tokio::test(flavor = "multi_thread")]
async fn a_proof_with_a_revoked_token_suspends_nothing() {
    let vault = VaultWorld::new().await;
    let world = &vault.world;
    let key = vault.api_key().await;
    let ([_, id], [_, token]) = vault.granted(&key).await;
    let own = world.management_token(&world.email_svc).await;
    let body = changed(reading(), |body| {
        body["client_id"] = json!("email-svc");
        body["keys"] = json!([Agent { key: new_key(), ..world.email_svc.clone() }.jkt()]);
    });
    for one in [&own, &token] {
        world.email_svc.at(&world.server, "/oauth/revoke").param("token", one).send().await.with_status(200);
    }
    let grant = world.as_alice("POST", super::GRANTS, body).await.with_status(201).json;
    let step = json!({"steps": [{"tool": "Bash", "outcome": "succeeded", "input": "ls"}]});
    let calls =
        [("GET", "/delegate".to_owned(), Value::Null), ("POST", format!("/delegate/{id}/steps"), step)];
    for (method, path, body) in calls {
        let call = Api::new(&world.server, method, &path).json(&body).client(&world.email_svc, &own);
        call.send().await.with_status(401);
    }
    for connection in [key.as_str(), "unknown"] {
        assert_ne!(vault.fetch(&token, connection).await.status, 200);
    }
    let path = format!("{}/{}", super::GRANTS, grant["id"].as_str().unwrap());
    let state = async || world.as_alice("GET", &path, Value::Null).await.json["state"].clone();
    assert_eq!(state().await, "active");
    // Who also authenticates the client has its secret.
    let kind = "urn:actchain:params:oauth:token-type:vault-token";
    let exchange =
        world.email_svc.exchange(&world.server, &token, ACCESS_TOKEN).param("requested_token_type", kind);
    let refused = exchange.param("authorization_details", &names(&key).to_string()).send().await;
    refused.with_status(400);
    assert_eq!(state().await, "suspended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_a_revoke_all_has_ended_is_not_suspended() {
    let world = World::new().await;
    let grant = pinned(&world, world.email_svc.jkt()).await;
    let body = json!({"iss": crate::support::world::IDP, "sub": "bob", "reason": "a test"});
    world.as_admin("POST", "/api/v1/principals/revoke-all", body).await.with_status(200);
    world.management_token(&Agent { key: new_key(), ..world.email_svc.clone() }).await;
    let events = world.grant_events(&grant["id"]).await;
    assert_eq!(actions(&events), ["standing_grant.created"]);
}

/// The vault, by the token of a chain.
#[tokio::test(flavor = "multi_thread")]
async fn a_proof_at_the_vault_suspends() {
    for (call, status) in
        [("retrieval", 200), ("refusal", 403), ("exchange", 200), ("exchange without details", 400)]
    {
        let vault = VaultWorld::new().await;
        let world = &vault.world;
        let key = vault.api_key().await;
        let (_, [_, token]) = vault.granted(&key).await;
        let body = changed(reading(), |body| {
            body["client_id"] = json!("email-svc");
            body["keys"] = json!([Agent { key: new_key(), ..world.email_svc.clone() }.jkt()]);
        });
        let grant = world.as_alice("POST", super::GRANTS, body).await.with_status(201).json;
        let exchange = || {
            let kind = "urn:actchain:params:oauth:token-type:vault-token";
            world.email_svc.exchange(&world.server, &token, ACCESS_TOKEN).param("requested_token_type", kind)
        };
        let answer = match call {
            "retrieval" => vault.fetch(&token, &key).await,
            "refusal" => vault.fetch(&token, "unknown").await,
            "exchange" => exchange().param("authorization_details", &names(&key).to_string()).send().await,
            _ => exchange().send().await,
        };
        answer.with_status(status);
        let path = format!("{}/{}", super::GRANTS, grant["id"].as_str().unwrap());
        let shown = world.as_alice("GET", &path, Value::Null).await.with_status(200).json;
        let seen = (&shown["state"], &shown["suspension"]["seen_key"]);
        assert_eq!(seen, (&json!("suspended"), &json!(world.email_svc.jkt())), "{call}");
    }
}

/// What a client publishes at its URL changes without any change of its registration.
#[tokio::test(flavor = "multi_thread")]
async fn another_set_at_the_clients_url_suspends_when_it_is_fetched_on_any_server() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let publisher = MockServer::start().await;
    let publish = async |keys: &[&Agent]| {
        publisher.reset().await;
        let keys: Vec<Value> = keys.iter().map(|one| json!(one.key.public_jwk())).collect();
        let set = json!({"keys": keys}).to_string();
        let set = ResponseTemplate::new(200).set_body_raw(set, "application/json");
        Mock::given(any()).respond_with(set).mount(&publisher).await;
    };
    let own = world.user_proxy.clone();
    let next = Agent { key: new_key(), ..own.clone() };
    publish(&[&own]).await;
    world
        .server
        .apply(&declared(&format!("auth: private_key_jwt, jwks_uri: \"{}\"", publisher.uri())))
        .await
        .unwrap();
    world.management_token(&own).await;
    // The keys that the agent publishes are those that are pinned where the user names none.
    let grant = world.consented(changed(reading(), |body| body["expires_in"] = json!(100_000))).await;
    assert_eq!(grant["keys"], json!([own.jkt()]));
    world.requested(&own, |_| {}).await.with_status(201);
    publish(&[&own, &next]).await;
    let foreign = Agent { key: new_key(), ..own.clone() };
    assert_eq!(foreign.at(&twin, "/oauth/revoke").param("token", "x").send().await.status, 401);
    assert_eq!(world.grant(&grant["id"]).await["state"], "active", "others compare nothing");
    // Under the key that was confirmed, at the server that reads the new set.
    own.at(&twin, "/oauth/revoke").param("token", "x").send().await.with_status(200);
    assert_suspended(&world, &grant, "registration_changed", None).await;
    world.exchanged_for_bob(&own).await.assert_refused(400, "invalid_request", "delegation_requested");
    let events = world.server.events().await;
    let published: Vec<_> = events.iter().filter(|one| one["action"] == "client.keys_published").collect();
    let both: std::collections::BTreeSet<&str> = [own.jkt(), next.jkt()].into();
    assert_eq!(
        published.iter().map(|one| (&one["detail"]["old"], &one["detail"]["new"])).collect::<Vec<_>>(),
        [(&json!([]), &json!([own.jkt()])), (&json!([own.jkt()]), &json!(both))]
    );
    let shown = world.grant(&grant["id"]).await;
    assert_eq!(shown["registered_keys"], json!(both), "the user sees the new key");
    let seen = shown["client_version"].clone();
    let confirmed = json!({"keys": both, "replaces": [own.jkt()], "client_version": seen});
    world.on_grant(&grant["id"], "revalidate", confirmed).await.with_status(200);
    world.server.pass(25 * 60);
    world.requested(&next, |_| {}).await.with_status(201);

    // A withdrawn key is a change, too.
    publish(&[&next]).await;
    world.server.pass(25 * 60);
    next.at(&world.server, "/oauth/revoke").param("token", "x").send().await.with_status(200);
    let shown = world.grant(&grant["id"]).await;
    assert_eq!(shown["suspension"]["cause"], "registration_changed");
    // Another change during the suspension was not shown.
    publish(&[&own, &next]).await;
    world.server.pass(25 * 60);
    next.at(&world.server, "/oauth/revoke").param("token", "x").send().await.with_status(200);
    let stale = json!({"keys": [next.jkt()], "replaces": both, "client_version": shown["client_version"]});
    world.on_grant(&grant["id"], "revalidate", stale).await.assert_problem(409, "request_changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_changed_after_it_was_shown_is_not_confirmed() {
    let world = World::new().await;
    let own = |more: &str| {
        declared(&format!(
            "auth: private_key_jwt, jwks: {{keys: [{}]}}{more}",
            world.user_proxy.key.public_jwk()
        ))
    };
    let grant = world.consented(reading()).await;
    world.server.apply(&own(&format!(", dpop_keys: [{}]", world.user_proxy.jkt()))).await.unwrap();
    assert_suspended(&world, &grant, "registration_changed", None).await;
    let shown = world.grant(&grant["id"]).await;
    let restricted = own(&format!(", dpop_keys: [{}]", world.user_proxy.jkt()));
    world.server.apply(&restricted.replace("User proxy", "Another name")).await.unwrap();
    let confirm = async |version: &Value| {
        let body = json!({"keys": shown["keys"], "replaces": shown["keys"], "client_version": version});
        world.on_grant(&grant["id"], "revalidate", body).await
    };
    confirm(&shown["client_version"]).await.assert_problem(409, "request_changed");
    let present = world.grant(&grant["id"]).await;
    assert_ne!(present["client_version"], shown["client_version"]);
    confirm(&present["client_version"]).await.with_status(200);
}

/// The user sees and ends a grant whose client is no agent any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_for_a_client_of_another_kind_is_shown_and_ends() {
    let world = World::new().await;
    let grant = pinned(&world, world.email_svc.jkt()).await;
    let yaml = format!(
        "clients:\n  - {{id: email-svc, kind: resource_server, auth: client_secret_basic, audiences: [\"{MAIL}\"]}}"
    );
    world.server.apply_replacing(&yaml, &["email-svc"]).await.unwrap();
    let shown = world.grant(&grant["id"]).await;
    assert_eq!((&shown["state"], &shown["keys"]), (&json!("suspended"), &grant["keys"]), "{shown}");
    world.on_grant(&grant["id"], "revoke", json!({})).await.with_status(200);
}

/// Each proof of an agent is compared with each set of keys, so that a user cannot pin any number of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_pins_few_sets_of_keys_of_an_agent_and_none_outlasts_its_grants() {
    let world = World::new().await;
    let path = super::GRANTS;
    let grant = async |jkt: &str| {
        let body = changed(reading(), |body| {
            body["client_id"] = json!("email-svc");
            body["keys"] = json!([jkt]);
        });
        world.as_user("bob", "POST", path, body).await
    };
    let sets = async || -> i64 {
        let count = "SELECT count(*) FROM standing_grant_keys WHERE client_id = 'email-svc'";
        sqlx::query_scalar(count).fetch_one(&mut world.server.sql().await).await.unwrap()
    };
    let keys: Vec<String> = (0..9).map(|_| Agent::new("email-svc", Auth::None).jkt().to_owned()).collect();
    let mut made = Vec::new();
    for jkt in &keys[..8] {
        made.push(grant(jkt).await.with_status(201).id());
    }
    grant(&keys[8]).await.assert_problem(409, "standing_grant_limit");
    let same = grant(&keys[0]).await.with_status(201).id();
    assert_eq!(sets().await, 8);
    world.on_grant(&json!(made[0]), "revoke", json!({})).await.with_status(200);
    assert_eq!(sets().await, 8, "another grant has the set");
    world.on_grant(&json!(same), "revoke", json!({})).await.with_status(200);
    assert_eq!(sets().await, 7);
    grant(&keys[8]).await.with_status(201);
    grant(&keys[0]).await.assert_problem(409, "standing_grant_limit");
    // Many lasting grants do not hide those that expire soon.
    let world = World::new().await;
    let expiring = async |jkt: &str, expires_in: u32| {
        let body = changed(reading(), |body| {
            body["client_id"] = json!("email-svc");
            body["keys"] = json!([jkt]);
            body["expires_in"] = json!(expires_in);
        });
        world.as_user("bob", "POST", path, body).await
    };
    for _ in 0..98 {
        expiring(&keys[0], 600).await.with_status(201);
    }
    for jkt in &keys[1..8] {
        expiring(jkt, 1).await.with_status(201);
        world.server.pass(2);
    }
    expiring(&keys[8], 1).await.assert_problem(409, "standing_grant_limit");
    // Another user has sets of its own.
    let body = changed(reading(), |body| {
        body["client_id"] = json!("email-svc");
        body["keys"] = json!([keys[0]]);
    });
    world.as_user("carol", "POST", path, body).await.with_status(201);
}

/// The key of an assertion is confirmed as that of a proof is.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_an_unconfirmed_key_has_asked_for_by_an_assertion_stay_inactive() {
    let world = World::new().await;
    let own = &world.user_proxy;
    let signer = Agent { key: new_key(), ..own.clone() };
    let keys = format!(
        "auth: private_key_jwt, jwks: {{keys: [{}, {}]}}",
        own.key.public_jwk(),
        signer.key.public_jwk()
    );
    world.server.apply(&declared(&keys)).await.unwrap();
    let grant = world.consented(reading()).await;
    world.requested(own, |_| {}).await.with_status(201);
    let user = world.token_of("bob");
    let exchange = || own.exchange(&world.server, &user, JWT).param("audience", MAIL);
    let by_own = exchange().send().await.with_status(200);
    let by_other =
        exchange().set("client_assertion", &signer.assertion(&world.server)).send().await.with_status(200);
    // A proof under a third key suspends.
    let foreign = Agent { key: new_key(), ..own.clone() };
    let request = foreign.request(&world.server).set("client_assertion", &own.assertion(&world.server));
    request.param("grant_type", "client_credentials").param("audience", MAIL).send().await.with_status(200);
    assert_suspended(&world, &grant, "key_not_pinned", Some(foreign.jkt())).await;
    let alone = json!({"keys": [own.jkt()], "replaces": grant["keys"]});
    world.on_grant(&grant["id"], "revalidate", alone).await.with_status(200);
    assert!(world.is_active(by_own.token()).await);
    assert!(!world.is_active(by_other.token()).await);
}
