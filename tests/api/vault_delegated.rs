//! Providers of kind `token_exchange`: a retrieval exchanges a token of the chain at the provider (RFC 8693, RFC 7523).

use actchain_protocol::jose::{Alg, Jws, PublicKey};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, Agent, Auth, JWT};
use crate::support::management::Api;
use crate::support::provider::{Asked, CLIENT, SECRET, Said, Wrong};
use crate::support::vault::{VaultWorld, alice, names};
use crate::support::vault_broker::{Brokered, crm, manifest};
use crate::support::world::{IDP, MAIL, World};
use crate::support::{Server, claims_of};

const BOTH: &[&str] = &["files.read", "files.write"];
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_issues_a_token_for_the_chain_and_the_user_connects_nothing() {
    let broker = Brokered::declared(
        ", exchange: {audience: \"https://api.crm.example.com\", resource: \"https://r.example.com\"}",
    )
    .await;
    let server = &broker.vault.world.server;
    let answer = broker.fetch(&["files.read"]).await.with_status(200);
    let [connection] = broker.listed().await.try_into().unwrap();
    assert_eq!(
        answer.json,
        json!({"access_token": broker.provider.newest(), "token_type": "Bearer", "expires_in": 3600,
               "scope": "files.read", "connection": connection["id"]})
    );
    let asked = broker.provider.asked_for().pop().unwrap();
    let subject_token = asked["subject_token"].clone();
    let expected = json!({
        "grant_type": TOKEN_EXCHANGE, "subject_token": subject_token, "subject_token_type": JWT,
        "requested_token_type": ACCESS_TOKEN, "scope": "files.read", "audience": "https://api.crm.example.com",
        "resource": "https://r.example.com",
    });
    assert_eq!(json!(asked), expected);
    // The token is for the provider alone, short, and only this server's client may use it there.
    let claims = claims_of(&subject_token);
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!(server.app.issuer), &json!(broker.provider.base)));
    assert_eq!((&claims["sub"], &claims["idp"]), (&json!("alice"), &json!(IDP)));
    assert_eq!((&claims["scope"], &claims["client_id"]), (&json!("files.read"), &json!("email-svc")));
    let iss = &server.app.issuer;
    let act = json!({"sub": "email-svc", "iss": iss, "act": {"sub": "user-proxy", "iss": iss}});
    assert_eq!((&claims["act"], claims.get("cnf"), claims.get("dlg")), (&act, None, None));
    assert_eq!(claims["may_act"], json!({"iss": broker.provider.base, "sub": CLIENT}));
    assert!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap() <= 60);
    let jwks = Api::get(server, "/oauth/jwks").send().await.json;
    let jws = Jws::parse(&subject_token).unwrap();
    let keys = jwks["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| PublicKey::from_jwk(key.as_object().unwrap()).unwrap());
    assert!(keys.into_iter().any(|key| jws.verified_by(&key, &Alg::ALL)));
    // The token is recorded before it is sent, and belongs to the chain.
    let [issued] = broker.events_of("vault.subject_token.issued").await.try_into().unwrap();
    assert_eq!((&issued["jti"], &issued["txn"]), (&claims["jti"], &claims["txn"]));
    assert_eq!((&issued["target"], &issued["audience"]), (&json!("crm"), &json!([broker.provider.base])));
    assert_eq!((&issued["subject"], &issued["delegation_path"]), (&alice(), &json!(broker.delegations)));
    let [created] = broker.events_of("vault.connection.created").await.try_into().unwrap();
    assert_eq!(created["detail"], json!({"provider": "crm", "scopes": ["files.read"], "how": "exchange"}));
    let [retrieved] = broker.events_of("vault.token.retrieved").await.try_into().unwrap();
    assert_eq!((&retrieved["target"], &retrieved["txn"]), (&connection["id"], &claims["txn"]));
    assert_eq!(connection["delegation_id"], broker.delegations[1]);
    assert_eq!((&connection["scopes"], &connection["owner"]), (&json!(["files.read"]), &alice()));
    // The secrets are in no table and in no event.
    let dump = server.dump().await;
    assert!(!dump.contains(&broker.provider.newest().unwrap()) && !dump.contains(&subject_token));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_kept_until_it_expires_and_belongs_to_one_delegation_and_its_scopes() {
    let broker = Brokered::new().await;
    let first = broker.fetch(BOTH).await.with_status(200);
    assert_eq!(broker.fetch(BOTH).await.json["access_token"], first.json["access_token"]);
    assert_eq!(broker.provider.count(Asked::Exchange), 1);
    // Fewer scopes are another token.
    let narrow = broker.fetch(&["files.write"]).await.with_status(200);
    assert_eq!((&narrow.json["scope"], broker.provider.count(Asked::Exchange)), (&json!("files.write"), 2));
    assert_eq!(broker.provider.asked_for()[1]["scope"], "files.write");
    // So is another delegation of the same user to the same agent.
    broker.vault.world.server.revoke(&broker.delegations[0]).await;
    broker.vault.delegated(crm(BOTH), json!({})).await;
    let other = broker.fetch(BOTH).await.with_status(200);
    assert_ne!(other.json["connection"], first.json["connection"]);
    assert_eq!(broker.provider.count(Asked::Exchange), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_obtained_again_before_it_expires() {
    let broker = Brokered::new().await;
    let first = broker.fetch(BOTH).await.with_status(200);
    broker.vault.world.server.pass(3_539);
    assert_eq!(broker.fetch(BOTH).await.json["access_token"], first.json["access_token"]);
    broker.vault.world.server.pass(1);
    let second = broker.fetch(BOTH).await.with_status(200);
    assert_ne!(second.json["access_token"], first.json["access_token"]);
    assert_eq!(second.json["connection"], first.json["connection"]);
    // What was replaced is revoked by itself: the end of the chain would not reach it.
    // The agent does not wait for it.
    for _ in 0..1_000 {
        if broker.provider.revoked().is_empty() {
            broker.listed().await;
        }
    }
    assert_eq!(broker.provider.revoked(), [first.json["access_token"].as_str().unwrap()]);
    let [refreshed] = broker.events_of("vault.connection.refreshed").await.try_into().unwrap();
    assert_eq!(
        (&refreshed["target"], &refreshed["detail"]["rejected"]),
        (&first.json["connection"], &json!(false))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_never_gets_more_scopes_than_its_token_names() {
    let broker = Brokered::new().await;
    let all = names("crm");
    let [_, unlimited] = broker.vault.chain(&all).await;
    let answer = broker.vault.fetch(&unlimited, "crm").await.with_status(200);
    assert_eq!(answer.json["scope"], "files.read files.write", "the declared scopes are the most");
    let declared = broker.fetch(&["files.read", "admin"]).await.with_status(200);
    assert_eq!((&declared.json["scope"], broker.provider.count(Asked::Exchange)), (&json!("files.read"), 2));
    let none = broker.fetch(&["admin"]).await;
    none.assert_problem(403, "connection_scope_exceeded");
    assert_eq!(broker.provider.count(Asked::Exchange), 2);
    // The connection of one agent's delegation cannot be named by another.
    let id = answer.json["connection"].as_str().unwrap().to_owned();
    broker.vault.delegated(names(&id), json!({})).await;
    let [_, naming] = broker.vault.chain(&names(&id)).await;
    broker.vault.fetch(&naming, &id).await.assert_problem(404, "not_found");
    broker.vault.fetch(&unlimited, "unknown").await.assert_problem(403, "connection_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_wider_than_the_request_is_revoked_and_not_stored() {
    for wide in ["files.read files.write", "admin", ""] {
        let broker = Brokered::new().await;
        broker.provider.becomes(|kind| kind.grants = Some(wide.to_owned()));
        let token = broker.token(&["files.read"]).await;
        broker.vault.fetch(&token, "crm").await.assert_problem(403, "connection_scope_exceeded");
        assert_eq!(broker.provider.revoked(), [broker.provider.newest().unwrap()], "{wide:?}");
        assert!(broker.listed().await.is_empty());
        let [refused] = broker.events_of("vault.token.refused").await.try_into().unwrap();
        assert_eq!(
            (&refused["reason"], &refused["target"]),
            (&json!("connection_scope_exceeded"), &json!("crm"))
        );
    }
    // A narrower one is what the provider grants.
    let broker = Brokered::new().await;
    broker.provider.becomes(|kind| kind.grants = Some("files.read".to_owned()));
    assert_eq!(broker.fetch(BOTH).await.with_status(200).json["scope"], "files.read");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_bearer_token_is_refused() {
    let with = |member: &'static str, value: &'static str| {
        Wrong::reworked(move |mut body: Value| {
            body[member] = value.into();
            Said::json(body.to_string())
        })
    };
    let issued = |kind: &'static str| with("issued_token_type", kind);
    for (wrong, revoked) in [
        (with("token_type", "N_A"), 1),
        (with("token_type", "DPoP"), 1),
        (issued("urn:ietf:params:oauth:token-type:id_token"), 1),
        (issued("urn:ietf:params:oauth:token-type:refresh_token"), 1),
        (Wrong::json(200, json!({"id_token": "eyJhbGciOiJub25lIn0.e30."})), 0),
        (Wrong::json(400, json!({"error": "invalid_target"})), 0),
        (Wrong::json(400, json!({"error": "invalid_grant"})), 0),
        (Wrong::json(401, json!({"error": "invalid_client"})), 0),
    ] {
        let broker = Brokered::new().await;
        broker.provider.once(Asked::Exchange, wrong.clone());
        let token = broker.token(BOTH).await;
        broker.vault.fetch(&token, "crm").await.assert_problem(502, "provider_refused");
        assert_eq!((broker.provider.revoked().len(), broker.listed().await.len()), (revoked, 0), "{wrong:?}");
        // The next second, the provider is asked again.
        broker.vault.fetch(&token, "crm").await.assert_problem(503, "provider_unavailable");
        broker.vault.world.server.pass(1);
        broker.vault.fetch(&token, "crm").await.with_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_down_is_not_asked_before_its_time() {
    let broker = Brokered::new().await;
    let token = broker.token(BOTH).await;
    broker.provider.once(Asked::Exchange, Wrong::json(503, json!({})).with("retry-after", "30"));
    let answer = broker.vault.fetch(&token, "crm").await;
    answer.assert_problem(503, "provider_unavailable");
    assert_eq!(answer.header("retry-after"), Some("30"));
    broker.vault.world.server.pass(29);
    broker.vault.fetch(&token, "crm").await.assert_problem(503, "provider_unavailable");
    assert_eq!(broker.provider.count(Asked::Exchange), 1);
    broker.vault.world.server.pass(1);
    let present = broker.vault.fetch(&token, "crm").await.with_status(200);
    // While the provider is down, the present token is used until it expires.
    broker.provider.always(Asked::Exchange, Wrong::json(500, json!({})));
    broker.vault.world.server.pass(3_550);
    let token = broker.token(BOTH).await;
    let same = broker.vault.fetch(&token, "crm").await.with_status(200);
    assert_eq!(same.json["access_token"], present.json["access_token"]);
    broker.vault.world.server.pass(50);
    broker.vault.world.server.pass(1);
    // The proof of a retrieval that fails is used up.
    let retrieval = broker.vault.fetching(&token, "crm");
    retrieval.clone().send().await.assert_problem(503, "provider_unavailable");
    retrieval.send().await.assert_problem(401, "dpop_proof_replayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_kept_for_a_bounded_time() {
    for (reported, kept) in [(None, 60), (Some(300), 300), (Some(2_000_000_000), 3_600)] {
        let broker = Brokered::new().await;
        broker.provider.becomes(|kind| kind.expires_in = reported);
        assert_eq!(broker.fetch(BOTH).await.with_status(200).json["expires_in"], kept, "{reported:?}");
    }
    let broker = Brokered::new().await;
    broker.vault.world.server.revoke(&broker.delegations[0]).await;
    broker.vault.delegated(crm(BOTH), json!({"expires_in": 200})).await;
    assert_eq!(broker.fetch(BOTH).await.with_status(200).json["expires_in"], 200, "as the delegation");
}

#[tokio::test(flavor = "multi_thread")]
async fn retrievals_at_the_same_time_make_one_exchange() {
    let broker = Brokered::new().await;
    let (late, gate) = Wrong::held();
    broker.provider.always(Asked::Exchange, late);
    let token = broker.token(BOTH).await;
    let calls = (0..50).map(|_| broker.vault.fetch(&token, "crm"));
    let opening = async {
        broker.provider.asked(Asked::Exchange, 1).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(join_all(calls), opening);
    let newest = json!(broker.provider.newest());
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.json["access_token"] == newest));
    assert_eq!((broker.provider.count(Asked::Exchange), broker.listed().await.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_revoked_during_the_exchange_gets_nothing() {
    let broker = Brokered::new().await;
    let (late, gate) = Wrong::held();
    broker.provider.once(Asked::Exchange, late);
    let token = broker.token(BOTH).await;
    let revoking = async {
        broker.provider.asked(Asked::Exchange, 1).await;
        broker.vault.world.server.revoke(&broker.delegations[0]).await;
        gate.open();
    };
    let (answer, ()) = tokio::join!(broker.vault.fetch(&token, "crm"), revoking);
    answer.assert_problem(409, "delegation_revoked");
    assert_eq!(broker.provider.revoked(), [broker.provider.newest().unwrap()]);
    assert!(broker.listed().await.is_empty());
    assert!(!broker.vault.world.server.dump().await.contains("vault.connection.created"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_chain_gets_nothing_and_its_tokens_are_revoked_at_the_provider() {
    let broker = Brokered::new().await;
    let token = broker.token(BOTH).await;
    broker.vault.fetch(&token, "crm").await.with_status(200);
    broker.run_job().await;
    assert!(broker.provider.revoked().is_empty(), "the delegation is active");
    broker.vault.world.server.revoke(&broker.delegations[0]).await;
    broker.vault.fetch(&token, "crm").await.assert_problem(409, "delegation_revoked");
    assert_eq!(broker.provider.count(Asked::Exchange), 1);
    broker.provider.once(Asked::Revoke, Wrong::json(503, json!({})));
    broker.run_job().await;
    assert!(broker.provider.revoked().is_empty(), "the provider does not know yet");
    broker.vault.world.server.pass(61);
    broker.run_job().await;
    assert_eq!(broker.provider.revoked(), [broker.provider.newest().unwrap()]);
    let [connection] = broker.listed().await.try_into().unwrap();
    assert_eq!(connection["state"], "disconnected");
    let [deleted] = broker.events_of("vault.connection.credential_deleted").await.try_into().unwrap();
    assert_eq!(deleted["detail"], json!({"provider": "crm", "provider_revoked": true}));
    let [ended] = broker.events_of("vault.connection.disconnected").await.try_into().unwrap();
    assert_eq!((&ended["actor"]["type"], &ended["target"]), (&json!("server"), &connection["id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tokens_of_an_expired_delegation_are_revoked_at_the_provider() {
    let broker = Brokered::new().await;
    broker.fetch(BOTH).await.with_status(200);
    broker.vault.world.server.pass(30_000);
    broker.run_job().await;
    assert_eq!(broker.provider.revoked(), [broker.provider.newest().unwrap()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_disconnects_a_delegation_does_not_get_again() {
    let broker = Brokered::new().await;
    let kept = broker.fetch(BOTH).await.with_status(200);
    let narrow = broker.fetch(&["files.read"]).await.with_status(200);
    let path = format!("/api/v1/connections/{}/disconnect", narrow.json["connection"].as_str().unwrap());
    let ended =
        broker.vault.world.as_alice("POST", &path, json!({"reason": "enough"})).await.with_status(200);
    assert_eq!((&ended.json["provider_revoked"], broker.provider.revoked().len()), (&json!(true), 1));
    // Under no scopes, and not from the cache.
    let exchanges = broker.provider.count(Asked::Exchange);
    for scopes in [BOTH, &["files.read"], &["files.write"]] {
        broker.fetch(scopes).await.assert_problem(409, "connection_disconnected");
    }
    assert_eq!(broker.provider.count(Asked::Exchange), exchanges, "the provider is asked for nothing more");
    assert_eq!(broker.events_of("vault.connection.disconnected").await.len(), 2);
    broker.vault.world.server.pass(61);
    broker.run_job().await;
    assert!(broker.provider.revoked().contains(&kept.json["access_token"].as_str().unwrap().to_owned()));
    // Another delegation is another decision of the owner.
    broker.vault.world.server.revoke(&broker.delegations[0]).await;
    broker.vault.delegated(crm(BOTH), json!({})).await;
    broker.fetch(BOTH).await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_disconnects_no_agent_gets_below_the_delegation() {
    let broker = Brokered::new().await;
    let world = &broker.vault.world;
    let made = world.made_below(&world.email_svc, (&broker.delegations[1], "task-1")).await;
    let below = async || {
        let token = broker.token(BOTH).await;
        let hop = broker.vault.hop(&made.agent, (&token, ACCESS_TOKEN), &crm(BOTH)).await.with_status(200);
        let path = "/vault/connections/crm/token";
        Api::post(&world.server, path, json!({})).client(&made.agent, hop.token()).send().await
    };
    let own = broker.fetch(BOTH).await.with_status(200);
    below().await.with_status(200);
    let path = format!("/api/v1/connections/{}/disconnect", own.json["connection"].as_str().unwrap());
    world.as_alice("POST", &path, json!({})).await.with_status(200);
    below().await.assert_problem(409, "connection_disconnected");
    // Nor one that is made afterwards.
    let made = world.made_below(&world.email_svc, (&broker.delegations[1], "task-2")).await;
    let token = broker.token(BOTH).await;
    let hop = broker.vault.hop(&made.agent, (&token, ACCESS_TOKEN), &crm(BOTH)).await.with_status(200);
    let api = Api::post(&world.server, "/vault/connections/crm/token", json!({}));
    api.client(&made.agent, hop.token()).send().await.assert_problem(409, "connection_disconnected");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_for_a_provider_is_of_no_use_at_this_server() {
    let broker = Brokered::new().await;
    broker.fetch(BOTH).await.with_status(200);
    let sent = broker.provider.asked_for().pop().unwrap()["subject_token"].clone();
    let world = &broker.vault.world;
    for agent in [&world.email_svc, &world.user_proxy, &world.stranger] {
        for kind in [ACCESS_TOKEN, JWT] {
            let answer = agent.exchange(&world.server, &sent, kind).send().await;
            answer.assert_refused(400, "invalid_request", "subject_token_invalid");
        }
    }
    assert_eq!(world.introspect(&world.mail_server, &sent).await.json, json!({"active": false}));
    for path in ["/api/v1/connections", "/delegate"] {
        let answer = Api::get(&world.server, path).user(&sent).send().await;
        answer.assert_problem(401, "access_token_invalid");
    }
    broker.vault.fetch(&sent, "crm").await.assert_problem(401, "access_token_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_can_take_the_token_as_an_assertion() {
    let broker = Brokered::declared(", exchange: {grant: jwt_bearer, subject_token_audience: urn:crm}").await;
    broker.fetch(&["files.read"]).await.with_status(200);
    let asked = broker.provider.asked_for().pop().unwrap();
    assert_eq!(
        json!(asked),
        json!({"grant_type": JWT_BEARER, "assertion": asked["assertion"], "scope": "files.read"})
    );
    let claims = claims_of(&asked["assertion"]);
    assert_eq!(
        (&claims["aud"], &claims["may_act"]["iss"]),
        (&json!("urn:crm"), &json!(broker.provider.base))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_and_a_token_exchange_use_the_same_connection() {
    let broker = Brokered::new().await;
    let world = &broker.vault.world;
    let token = broker.token(BOTH).await;
    let authority = broker.provider.base.strip_prefix("http://").unwrap();
    let path = format!("/vault/proxy/crm/{authority}/api/notes?x=1");
    let answer =
        Api::get(&world.server, &path).client(&world.email_svc, &token).send().await.with_status(200);
    assert_eq!((&answer.json["path"], &answer.json["query"]), (&json!("/api/notes"), &json!("x=1")));
    let vault_token = "urn:actchain:params:oauth:token-type:vault-token";
    let request = world.email_svc.exchange(&world.server, &token, ACCESS_TOKEN);
    let request = request.param("requested_token_type", vault_token);
    let exchanged =
        request.param("authorization_details", &names("crm").to_string()).send().await.with_status(200);
    assert_eq!(exchanged.json["access_token"], json!(broker.provider.newest()));
    assert_eq!(broker.provider.count(Asked::Exchange), 1);
    // A token that the provider's API refuses is obtained again, but not at once.
    broker.provider.forget(&broker.provider.newest().unwrap());
    world.server.pass(61);
    let token = broker.token(BOTH).await;
    let refused = Api::get(&world.server, &path).client(&world.email_svc, &token).send().await;
    assert_eq!(refused.status, 401);
    Api::get(&world.server, &path).client(&world.email_svc, &token).send().await.with_status(200);
    assert_eq!(broker.provider.count(Asked::Exchange), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_has_a_bounded_number_of_tokens() {
    let broker = Brokered::new().await;
    let scopes: Vec<String> = (0..17).map(|n| format!("s{n}")).collect();
    let listed = scopes.join(", ");
    let declared = manifest(&broker.provider, "").replace("files.read, files.write", &listed);
    broker.vault.world.server.apply(&declared).await.unwrap();
    for scope in &scopes[..16] {
        broker.fetch(&[scope]).await.with_status(200);
    }
    broker.fetch(&[&scopes[16]]).await.assert_problem(429, "rate_limited");
    assert_eq!(broker.provider.count(Asked::Exchange), 16, "the provider is not asked for one more");
    assert_eq!((broker.provider.revoked().len(), broker.listed().await.len()), (0, 16));
    broker.fetch(&[&scopes[0]]).await.with_status(200);
    broker.vault.world.server.pass(3_601);
    broker.fetch(&[&scopes[16]]).await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_say_where_tokens_of_chains_are_sent() {
    let broker = Brokered::new().await;
    let world = &broker.vault.world;
    let base = &broker.provider.base;
    let declared = |more: Value| {
        let mut body = json!({"kind": "token_exchange", "client_id": CLIENT, "client_secret": SECRET, "issuer": base,
                              "token_endpoint": format!("{base}/token"), "revocation_endpoint": format!("{base}/revoke"),
                              "scopes": ["files.read", "files.write"], "hosts": [base]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let new = world.as_admin("PUT", "/api/v1/providers/evil", declared(json!({}))).await;
    assert_eq!((new.status, new.reason()), (403, "operator_only"), "{}", new.text);
    world.as_admin("PUT", "/api/v1/providers/crm", declared(json!({}))).await.with_status(200);
    let fewer = declared(json!({"scopes": ["files.read"]}));
    world.as_admin("PUT", "/api/v1/providers/crm", fewer).await.with_status(200);
    for moved in [
        json!({"exchange": {"subject_token_audience": "https://other.example.com"}}),
        json!({"client_id": "mallory"}),
        json!({"scopes": ["files.read", "files.write", "admin"]}),
    ] {
        let changed = world.as_admin("PUT", "/api/v1/providers/crm", declared(moved.clone())).await;
        assert_eq!((changed.status, changed.reason()), (403, "operator_only"), "{moved}: {}", changed.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_says_how_tokens_are_exchanged_and_not_how_owners_connect() {
    let broker = Brokered::new().await;
    let world = &broker.vault.world;
    for (more, why) in [
        (
            ", authorization_endpoint: \"https://a.example.com\"",
            "authorization_endpoint is not for kind token_exchange",
        ),
        (", authorization_params: {a: b}", "authorization_params is not for kind token_exchange"),
        (", always_scopes: [openid]", "always_scopes is not for kind token_exchange"),
        (", reconnect_errors: [x]", "reconnect_errors is not for kind token_exchange"),
        (", exchange: {audience: \"\"}", "are names or URLs"),
    ] {
        let refused = world.server.apply(&manifest(&broker.provider, more)).await.unwrap_err();
        assert!(refused.contains(why), "{more}: {refused}");
    }
    let other_kind = "providers:\n  - {id: k, kind: api_key, exchange: {}}\n";
    assert!(
        world.server.apply(other_kind).await.unwrap_err().contains("exchange belongs to kind token_exchange")
    );
    let uuid = manifest(&broker.provider, "").replace("id: crm", "id: 01a203bc-ad75-7433-9a64-484d3e5d9dc8");
    assert!(world.server.apply(&uuid).await.unwrap_err().contains("is no UUID"));
    // Nothing is imported or connected.
    for credential in
        [json!({"provider": "crm", "credential": {"access_token": "x"}}), json!({"provider": "crm"})]
    {
        let answer = world.as_alice("POST", "/api/v1/connections", credential).await;
        answer.assert_problem(400, "malformed_request");
    }
    let exported = world.as_admin("GET", "/api/v1/manifest", json!({})).await;
    assert!(exported.text.contains("subject_token_audience"), "{}", exported.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_provider_gets_tokens_that_this_server_or_one_of_its_resources_accepts() {
    let broker = Brokered::new().await;
    let world = &broker.vault.world;
    let named = |audience: &str| {
        manifest(&broker.provider, &format!(", exchange: {{subject_token_audience: {audience:?}}}"))
    };
    let resource = |id: &str| format!("resources:\n  - {{id: {id:?}, scopes: [x]}}\n");
    let why = "must not be this server or one of its resources";
    for audience in [world.server.app.issuer.as_str(), MAIL] {
        let refused = world.server.apply(&named(audience)).await.unwrap_err();
        assert!(refused.contains("providers[0].exchange") && refused.contains(why), "{refused}");
        let mut body = json!({"kind": "token_exchange", "client_id": CLIENT, "client_secret": SECRET, "scopes": ["files.read"]});
        body["token_endpoint"] = json!(format!("{}/token", broker.provider.base));
        body["exchange"] = json!({"subject_token_audience": audience});
        let answer = world.as_admin("PUT", "/api/v1/providers/crm", body).await;
        answer.assert_problem(400, "malformed_request");
    }
    // In one manifest, and in either order of two.
    let new = "https://new.example.com";
    let refused = world.server.apply(&(resource(new) + &named(new))).await.unwrap_err();
    assert!(refused.contains(why), "{refused}");
    world.server.apply(&named(new)).await.unwrap();
    let refused = world.server.apply(&resource(new)).await.unwrap_err();
    assert!(
        refused.contains("resources[0].id: provider crm has this name") && refused.contains(why),
        "{refused}"
    );
    // Both change their names at once.
    world.server.apply(&(resource(new) + &named("https://other.example.com"))).await.unwrap();
    let refused = world.server.apply(&named(new)).await.unwrap_err();
    assert!(refused.contains("providers[0].exchange"), "{refused}");
    broker.fetch(BOTH).await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_that_is_used_again_at_a_provider_is_one_refusal_in_the_log() {
    let broker = Brokered::new().await;
    let token = broker.token(BOTH).await;
    let call = broker.vault.fetching(&token, "crm");
    broker.provider.once(Asked::Exchange, Wrong::json(400, json!({"error": "invalid_target"})));
    call.clone().send().await.assert_problem(502, "provider_refused");
    broker.vault.world.server.pass(2);
    let again = call.send().await;
    assert_eq!((again.status, again.reason()), (401, "dpop_proof_replayed"), "{}", again.text);
    assert_eq!(broker.provider.count(Asked::Exchange), 1);
    let events = broker.vault.world.server.events().await;
    let refusals: Vec<_> = events.iter().filter(|event| event["reason"] == "dpop_proof_replayed").collect();
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert_eq!((&refusals[0]["target"], &refusals[0]["outcome"]), (&json!("crm"), &json!("refused")));
}

/// A server of a third party that trusts the server of a world. Its client `gateway` may exchange what that server issues.
async fn trusting(world: &World) -> Server {
    let (issuer, base) = (&world.server.app.issuer, &world.server.base);
    let third = Server::start("", "resources: []").await;
    let own = &third.app.issuer;
    let yaml = format!(
        r#"
issuers:
  - {{iss: "{issuer}", jwks_uri: "{base}/oauth/jwks", audiences: ["{own}"], algorithms: [ES256], may_act: authorize,
     actors: accept}}
resources:
  - {{id: "https://crm.example.com", scopes: [crm.read, crm.write]}}
clients:
  - {{id: gateway, kind: agent, auth: client_secret_basic, secret: gateway-secret-0123456789, dpop: optional,
     scopes: [crm.read, crm.write], audiences: ["https://crm.example.com"], grant_types: [token-exchange]}}
  - {{id: other, kind: agent, auth: client_secret_basic, secret: other-secret-0123456789, dpop: optional,
     scopes: [crm.read, crm.write], audiences: ["https://crm.example.com"], grant_types: [token-exchange]}}
  - {{id: crm, kind: resource_server, auth: client_secret_basic, secret: crm-secret-0123456789,
     audiences: ["https://crm.example.com"]}}
"#
    );
    third.apply(&yaml).await.unwrap();
    third
}

#[tokio::test(flavor = "multi_thread")]
async fn another_actchain_issues_a_token_that_names_the_user_and_all_agents() {
    let vault = VaultWorld::new().await;
    let world = &vault.world;
    let third = trusting(world).await;
    let declared = format!(
        "providers:\n  - {{id: crm, kind: token_exchange, issuer: \"{own}\", client_id: gateway, \
         client_secret: gateway-secret-0123456789, scopes: [crm.read, crm.write], \
         exchange: {{audience: \"https://crm.example.com\"}}}}\n",
        own = third.app.issuer
    );
    world.server.apply(&declared).await.unwrap();
    let details = json!([{"type": "vault_connection", "identifier": "crm", "scopes": ["crm.read"]}]);
    let [root, _] = vault.delegated(details.clone(), json!({})).await;
    let [_, token] = vault.chain(&details).await;
    let answer = vault.fetch(&token, "crm").await.with_status(200);
    assert_eq!((&answer.json["token_type"], &answer.json["scope"]), (&json!("Bearer"), &json!("crm.read")));
    let issued = answer.json["access_token"].as_str().unwrap();
    let claims = claims_of(issued);
    assert_eq!(
        (&claims["iss"], &claims["aud"]),
        (&json!(third.app.issuer), &json!("https://crm.example.com"))
    );
    assert_eq!((&claims["idp"], &claims["sub"]), (&json!(world.server.app.issuer), &json!("alice")));
    let iss = &world.server.app.issuer;
    let agents = json!({"sub": "email-svc", "iss": iss, "act": {"sub": "user-proxy", "iss": iss}});
    let actors = json!({"sub": "gateway", "iss": third.app.issuer, "act": agents});
    assert_eq!(claims["act"], actors);
    let crm = Agent::new("crm", Auth::Basic("crm-secret-0123456789".into()));
    assert_eq!(third.introspect(&crm, issued).await.json["active"], true);
    let sent =
        third.events().await.into_iter().find(|event| event["action"] == "oauth.token.exchanged").unwrap();
    let [recorded] = events_of(world, "vault.subject_token.issued").await.try_into().unwrap();
    assert_eq!(sent["parent_jti"], recorded["jti"], "one token in both logs");
    // The end of the delegation ends the token there.
    world.server.revoke(&root).await;
    actchain::jobs::vault::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    assert_eq!(third.introspect(&crm, issued).await.json["active"], false);
    vault.fetch(&token, "crm").await.assert_problem(409, "delegation_revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_this_servers_client_may_exchange_the_token_that_is_sent() {
    let broker = Brokered::new().await;
    let world = &broker.vault.world;
    let third = trusting(world).await;
    let own = format!(", exchange: {{subject_token_audience: {:?}}}", third.app.issuer);
    // The double receives what is for the other server.
    let declared =
        manifest(&broker.provider, &own).replace(&format!("issuer: \"{}\", ", broker.provider.base), "");
    let declared = declared.replace(&format!("client_id: {CLIENT:?}"), "client_id: gateway");
    world.server.apply(&declared.replace("files.read, files.write", "crm.read")).await.unwrap();
    broker.fetch(&["crm.read"]).await.assert_problem(502, "provider_refused");
    let sent = broker.provider.asked_for().pop().unwrap()["subject_token"].clone();
    let at_third = |id: &str| {
        let agent = Agent::new(id, Auth::Basic(format!("{id}-secret-0123456789")));
        agent.exchange(&third, &sent, JWT).param("audience", "https://crm.example.com")
    };
    at_third("other").send().await.assert_refused(400, "invalid_request", "may_act_mismatch");
    at_third("gateway").param("scope", "crm.write").send().await.assert_refused(
        400,
        "invalid_scope",
        "scope_exceeds_grant",
    );
    at_third("gateway").send().await.with_status(200);
    third.pass(61);
    at_third("gateway").send().await.assert_refused(400, "invalid_request", "subject_token_invalid");
}

async fn events_of(world: &World, action: &str) -> Vec<Value> {
    let mut events = world.server.events().await;
    events.retain(|event| event["action"] == action);
    events
}
