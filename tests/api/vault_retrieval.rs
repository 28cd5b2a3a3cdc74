//! The vault: which agents get which credential, which do not, and that no plaintext is left in the database or the
//! log.

use std::sync::Arc;

use actchain_protocol::base64url;
use actchain_protocol::jose::{SigningAlg, SigningKey};
use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, Agent, JWT, fresh_jti};
use crate::support::claims_of;
use crate::support::management::Api;
use crate::support::refill::Refill;
use crate::support::vault::{VaultWorld, alice, names};
use crate::support::world::{IDP, MAIL};

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_with_a_granted_connection_gets_its_credential_and_the_log_names_the_agents() {
    let vault = VaultWorld::new().await;
    let id = vault.api_key().await;
    let (delegations, tokens) = vault.granted(&id).await;
    let answer = vault.fetch(&tokens[1], &id).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        answer.json,
        json!({"access_token": "the-api-key-of-alice", "token_type": "N_A", "connection": id})
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let events = vault.vault_events().await;
    let event = events.last().unwrap();
    assert_eq!((&event["action"], &event["outcome"]), (&json!("vault.token.retrieved"), &json!("success")));
    assert_eq!((&event["target"], &event["subject"]), (&json!(id), &alice()));
    assert_eq!(event["delegation_path"], json!(delegations));
    let chain: Vec<&Value> = event["act_chain"].as_array().unwrap().iter().map(|link| &link["sub"]).collect();
    assert_eq!(chain, ["user-proxy", "email-svc"]);
    assert_eq!(
        event["actor"],
        json!({"type": "client", "client_id": "email-svc", "jkt": vault.world.email_svc.jkt()})
    );
    assert_eq!(event["detail"]["provider"], "keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_credential_is_answered_as_it_is_presented() {
    let vault = VaultWorld::new().await;
    let login = vault.connected("logins", json!({"username": "al", "password": "p:w"})).await;
    let tokens =
        json!({"access_token": "at-1", "expires_in": 600, "refresh_token": "rt-1", "scope": "files.read"});
    let acme = vault.connected("acme", tokens).await;
    let details = json!([names(&login)[0], names(&acme)[0]]);
    vault.delegated(details.clone(), json!({})).await;
    let [_, token] = vault.chain(&details).await;
    let basic = vault.fetch(&token, &login).await;
    assert_eq!(
        (&basic.json["token_type"], &basic.json["access_token"]),
        (&json!("Basic"), &json!("YWw6cDp3"))
    );
    let bearer = vault.fetch(&token, &acme).await;
    assert_eq!(
        bearer.json,
        json!({"access_token": "at-1", "token_type": "Bearer", "expires_in": 600, "scope": "files.read",
               "connection": acme}),
        "never the refresh token"
    );
    vault.world.server.pass(60);
    let [_, token] = vault.chain(&details).await;
    assert_eq!(vault.fetch(&token, &acme).await.json["expires_in"], 540);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_sealed_to_the_agents_own_key_is_readable_by_that_agent_only() {
    let vault = VaultWorld::new().await;
    let id = vault.api_key().await;
    let details = names(&id);
    vault.delegated(details.clone(), json!({})).await;
    let (key, private) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let agent = Agent { key, ..vault.world.email_svc.clone() };
    let first = vault.hop(&vault.world.user_proxy, (&vault.world.user_token(), JWT), &details).await;
    let token = vault.hop(&agent, (first.token(), ACCESS_TOKEN), &details).await.token().to_owned();
    let path = format!("/vault/connections/{id}/token");
    let call = Api::post(&vault.world.server, &path, json!({"seal": true}));
    let answer = call.client(&agent, &token).send().await;
    assert_eq!((answer.status, &answer.json["connection"]), (200, &json!(id)), "{}", answer.text);
    assert!(!answer.text.contains("the-api-key-of-alice"));
    let sealed = answer.json["sealed"].as_str().unwrap();
    let header: Value =
        serde_json::from_slice(&base64url::decode(sealed.split('.').next().unwrap()).unwrap()).unwrap();
    assert_eq!((&header["alg"], &header["enc"]), (&json!("ECDH-ES+A256KW"), &json!("A256GCM")));
    let open = |private: &[u8]| {
        let cipher = josekit::jwe::ECDH_ES_A256KW.decrypter_from_der(private).unwrap();
        josekit::jwe::deserialize_compact(sealed, &cipher)
    };
    let (opened, _) = open(&private).unwrap();
    let opened: Value = serde_json::from_slice(&opened).unwrap();
    assert_eq!(opened["access_token"], "the-api-key-of-alice");
    let (_, other) = SigningKey::generate(SigningAlg::ES256).unwrap();
    assert!(open(&other).is_err(), "no other key opens it");
    // An Ed25519 key only signs; it cannot decrypt.
    let (key, _) = SigningKey::generate(SigningAlg::Ed25519).unwrap();
    let agent = Agent { key, ..agent };
    let token = vault.hop(&agent, (first.token(), ACCESS_TOKEN), &details).await.token().to_owned();
    let call = Api::post(&vault.world.server, &path, json!({"seal": true}));
    call.client(&agent, &token).send().await.assert_problem(400, "key_cannot_decrypt");
    let refused = vault.vault_events().await.pop().unwrap();
    assert_eq!((&refused["reason"], &refused["target"]), (&json!("key_cannot_decrypt"), &json!(id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_token_does_not_name_is_refused_and_recorded() {
    let vault = VaultWorld::new().await;
    let (granted, other) = (vault.api_key().await, vault.api_key().await);
    let (_, [first, second]) = vault.granted(&granted).await;
    vault.fetch(&second, &other).await.assert_problem(403, "connection_missing");
    vault.fetch(&second, "no-such-connection").await.assert_problem(403, "connection_missing");
    let events = vault.vault_events().await;
    let refused = &events[events.len() - 2];
    assert_eq!(
        (&refused["action"], &refused["reason"], &refused["target"]),
        (&json!("vault.token.refused"), &json!("connection_missing"), &json!(other))
    );
    assert_eq!(refused["act_chain"].as_array().unwrap().len(), 2);
    // A token for a resource is not accepted by the vault, and a token without a connection retrieves nothing.
    let mail = vault.world.email_svc.exchange(&vault.world.server, &first, ACCESS_TOKEN);
    let mail = mail.param("audience", MAIL).send().await;
    assert_ne!(mail.status, 200, "the first hop's token is for the vault alone");
    let plain = vault.world.hop_from_user(&vault.world.user_proxy, &vault.world.user_token()).await;
    let plain = vault.world.hop(&vault.world.email_svc, plain.token()).await;
    vault.fetch(plain.token(), &granted).await.assert_problem(401, "access_token_invalid");
    // An object without an identifier names no connection, even if it has no restrictions.
    let wide = json!([{"type": "vault_connection"}]);
    vault.delegated(wide.clone(), json!({})).await;
    let [_, token] = vault.chain(&wide).await;
    vault.fetch(&token, &granted).await.assert_problem(403, "connection_missing");
    // A token with only `proxy` does not allow retrieval.
    let proxy = json!([{"type": "vault_connection", "identifier": granted, "actions": ["proxy"]}]);
    let [_, token] = vault.chain(&proxy).await;
    vault.fetch(&token, &granted).await.assert_problem(403, "connection_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_that_does_not_name_a_connection_grants_no_token_for_it() {
    let vault = VaultWorld::new().await;
    let (granted, other) = (vault.api_key().await, vault.api_key().await);
    vault.delegated(names(&granted), json!({})).await;
    let user = vault.world.user_token();
    let refused = vault.hop(&vault.world.user_proxy, (&user, JWT), &names(&other)).await;
    refused.assert_refused(400, "invalid_authorization_details", "authorization_details_exceed_grant");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_another_user_is_answered_like_an_unknown_one() {
    let vault = VaultWorld::new().await;
    let body = json!({"provider": "keys", "credential": {"key": "bobs-own-api-key"}});
    let bobs = vault.world.as_user("bob", "POST", "/api/v1/connections", body).await;
    let bobs = bobs.json["id"].as_str().unwrap();
    // Alice cannot delegate a connection of another user.
    let (_, [_, token]) = vault.granted(bobs).await;
    vault.fetch(&token, bobs).await.assert_problem(404, "not_found");
    let none = "01890000-0000-7000-8000-000000000000";
    let (_, [_, token]) = vault.granted(none).await;
    vault.fetch(&token, none).await.assert_problem(404, "not_found");
    for (method, path, body) in [
        ("GET", format!("/api/v1/connections/{bobs}"), json!({})),
        ("POST", format!("/api/v1/connections/{bobs}/rotate"), json!({"credential": {"key": "x-y-z"}})),
        ("POST", format!("/api/v1/connections/{bobs}/disconnect"), json!({})),
    ] {
        vault.world.as_alice(method, &path, body).await.assert_problem(404, "not_found");
    }
    let listed =
        vault.world.as_alice("GET", "/api/v1/connections?owner_iss=x&owner_sub=bob", json!({})).await;
    assert_eq!(listed.json, json!({"items": [], "next": null}));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_ends_the_chain_ends_its_way_into_the_vault() {
    for end in ["root", "middle", "disabled", "token", "revoke-all", "disconnect"] {
        let vault = VaultWorld::new().await;
        let id = vault.api_key().await;
        let ([root, child], [first, second]) = vault.granted(&id).await;
        assert_eq!(vault.fetch(&second, &id).await.status, 200);
        let world = &vault.world;
        let twin = world.server.twin().await;
        let (status, reason) = match end {
            "root" => {
                world.as_alice("POST", &format!("/delegate/{root}/revoke"), json!({})).await;
                (409, "delegation_revoked")
            }
            "middle" => {
                world.as_alice("POST", &format!("/delegate/{child}/revoke"), json!({})).await;
                (409, "delegation_revoked")
            }
            "disabled" => {
                world.as_admin("POST", "/api/v1/clients/user-proxy/disable", json!({})).await;
                (409, "actor_disabled")
            }
            "token" => {
                assert_eq!(world.server.revoke_token(&world.user_proxy, &first).await.status, 200);
                (401, "token_revoked")
            }
            "revoke-all" => {
                let body = json!({"iss": IDP, "sub": "alice", "reason": "left"});
                assert_eq!(world.as_admin("POST", "/api/v1/principals/revoke-all", body).await.status, 200);
                (409, "principal_revoked")
            }
            _ => {
                let path = format!("/api/v1/connections/{id}/disconnect");
                let ended = world.as_alice("POST", &path, json!({"reason": "enough"})).await;
                assert_eq!(
                    (ended.status, &ended.json["state"]),
                    (200, &json!("disconnected")),
                    "{}",
                    ended.text
                );
                (409, "connection_disconnected")
            }
        };
        for server in [&world.server, &twin] {
            let path = format!("/vault/connections/{id}/token");
            let call = Api::post(server, &path, json!({})).client(&world.email_svc, &second);
            let answer = call.send().await;
            assert_eq!((answer.status, answer.reason()), (status, reason), "{end}: {}", answer.text);
        }
        let events = vault.vault_events().await;
        assert_eq!(events.last().unwrap()["reason"], reason, "{end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_comes_under_its_key_with_a_proof_for_this_very_call() {
    let vault = VaultWorld::new().await;
    let id = vault.api_key().await;
    let (_, [first, token]) = vault.granted(&id).await;
    let (server, agent) = (&vault.world.server, &vault.world.email_svc);
    let path = format!("/vault/connections/{id}/token");
    let call = || Api::post(server, &path, json!({}));
    call().send().await.assert_problem(401, "not_authenticated");
    call().user(&token).send().await.assert_problem(401, "access_token_bound");
    let bare = call().header("authorization", &format!("DPoP {token}"));
    bare.send().await.assert_problem(401, "dpop_proof_missing");
    call().client(&vault.world.user_proxy, &token).send().await.assert_problem(401, "access_token_bound");
    // The holder of the first hop may retrieve with its own token.
    assert_eq!(call().client(&vault.world.user_proxy, &first).send().await.status, 200);
    let with = |change: fn(&mut Value)| {
        let mut claims = call().proof_claims(&token);
        change(&mut claims);
        let proof = agent.key.sign_proof("dpop+jwt", &claims).unwrap();
        call().header("authorization", &format!("DPoP {token}")).header("dpop", &proof)
    };
    for (change, reason) in [
        ((|claims: &mut Value| claims["htm"] = json!("GET")) as fn(&mut Value), "dpop_proof_target"),
        (
            |claims| claims["htu"] = json!(claims["htu"].as_str().unwrap().replace("/token", "")),
            "dpop_proof_target",
        ),
        (|claims| claims["ath"] = json!("x"), "dpop_proof_access_token"),
        (|claims| drop(claims.as_object_mut().unwrap().remove("ath")), "dpop_proof_access_token"),
        (|claims| claims["iat"] = json!(claims["iat"].as_i64().unwrap() - 61), "dpop_proof_time"),
    ] {
        with(change).send().await.assert_problem(401, reason);
    }
    let once = with(|claims| claims["jti"] = json!(fresh_jti()));
    assert_eq!(once.clone().send().await.status, 200);
    once.send().await.assert_problem(401, "dpop_proof_replayed");
    // Users, and agents with tokens of their own, cannot retrieve here.
    call().user(&vault.world.user_token()).send().await.assert_problem(403, "insufficient_scope");
    let own = vault.world.management_token(agent).await;
    call().client(agent, &own).send().await.assert_problem(403, "insufficient_scope");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonces_are_demanded_here_too_where_they_are() {
    let vault = VaultWorld::configured("dpop.nonce = true", "http://127.0.0.1:9/token").await;
    let call = Api::post(&vault.world.server, "/vault/connections/x/token", json!({}));
    let token = vault.world.user_token();
    let answer = call.client(&vault.world.email_svc, &token).send().await;
    answer.assert_problem(401, "nonce_required");
    assert!(answer.header("dpop-nonce").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retrieval_is_a_use_on_every_delegation_with_a_limit_and_exact() {
    let vault = VaultWorld::new().await;
    let id = vault.api_key().await;
    let details = names(&id);
    // The two exchanges of the chain are two uses.
    let [root, _] = vault.delegated(details.clone(), json!({"max_uses": 12})).await;
    let [_, token] = vault.chain(&details).await;
    let twin = vault.world.server.twin().await;
    let path = format!("/vault/connections/{id}/token");
    let calls = (0..30).map(|n| {
        let server = if n % 2 == 0 { &vault.world.server } else { &twin };
        Api::post(server, &path, json!({})).client(&vault.world.email_svc, &token).send()
    });
    let answers = futures_util::future::join_all(calls).await;
    let good = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(good, 10, "{:?}", answers.iter().map(|answer| &answer.text).collect::<Vec<_>>());
    assert!(answers.iter().all(|answer| answer.status == 200 || answer.reason() == "command_limit"));
    let shown = vault.world.as_alice("GET", &format!("/delegate/{root}"), json!({})).await;
    assert_eq!((&shown.json["state"], &shown.json["uses"]), (&json!("expired"), &json!(12)));
    let events = vault.vault_events().await;
    let count = |action: &str| events.iter().filter(|event| event["action"] == action).count();
    assert_eq!((count("vault.token.retrieved"), count("vault.token.refused")), (10, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_credential_is_the_only_one_that_is_answered_from_then_on() {
    let vault = VaultWorld::new().await;
    let id = vault.api_key().await;
    let (_, [_, token]) = vault.granted(&id).await;
    let twin = vault.world.server.twin().await;
    let path = format!("/vault/connections/{id}/token");
    let fetch = async |server| {
        Api::post(server, &path, json!({})).client(&vault.world.email_svc, &token).send().await
    };
    for server in [&vault.world.server, &twin] {
        assert_eq!(fetch(server).await.json["access_token"], "the-api-key-of-alice");
    }
    let rotation = json!({"credential": {"key": "another-key"}});
    let rotated = vault.world.as_alice("POST", &format!("/api/v1/connections/{id}/rotate"), rotation).await;
    assert_eq!(rotated.status, 200, "{}", rotated.text);
    for server in [&twin, &vault.world.server] {
        assert_eq!(fetch(server).await.json["access_token"], "another-key", "also from the other's memory");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_allows_more_than_the_delegation_stays_inside() {
    let vault = VaultWorld::new().await;
    let tokens = json!({"access_token": "at-1", "scope": "files.read files.write"});
    let wide = vault.connected("acme", tokens).await;
    let unknown = vault.connected("acme", json!({"access_token": "at-2"})).await;
    let limited = |id: &str| json!({"type": "vault_connection", "identifier": id, "scopes": ["files.read"]});
    let details = json!([limited(&wide), limited(&unknown)]);
    vault.delegated(details.clone(), json!({})).await;
    let [_, token] = vault.chain(&details).await;
    for id in [&wide, &unknown] {
        vault.fetch(&token, id).await.assert_problem(403, "connection_scope_exceeded");
    }
    let narrow = json!({"credential": {"access_token": "at-3", "scope": "files.read"}});
    vault.world.as_alice("POST", &format!("/api/v1/connections/{wide}/rotate"), narrow).await;
    assert_eq!(vault.fetch(&token, &wide).await.json["access_token"], "at-3");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_database_unsealed_or_in_an_answer_of_the_management_api() {
    let vault = VaultWorld::new().await;
    let secrets = ["s3cr3t-of-a-key", "s3cr3t-of-an-access", "s3cr3t-of-a-refresh", "s3cr3t-of-a-password"];
    let mut ids = Vec::new();
    for (provider, credential) in [
        ("keys", json!({"key": secrets[0]})),
        ("acme", json!({"access_token": secrets[1], "refresh_token": secrets[2]})),
        ("logins", json!({"username": "al", "password": secrets[3]})),
    ] {
        let id = vault.connected(provider, credential.clone()).await;
        let (_, [_, token]) = vault.granted(&id).await;
        assert_eq!(vault.fetch(&token, &id).await.status, 200);
        let path = format!("/api/v1/connections/{id}");
        let body = json!({"credential": credential});
        let answers = [
            vault.world.as_alice("GET", &path, json!({})).await,
            vault.world.as_alice("POST", &format!("{path}/rotate"), body).await,
            vault.world.as_alice("GET", "/api/v1/connections", json!({})).await,
            vault.world.as_admin("GET", "/api/v1/connections", json!({})).await,
        ];
        for answer in answers {
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert!(!answer.text.contains("s3cr3t"), "{}", answer.text);
        }
        ids.push(id);
    }
    let everything = vault.world.server.dump().await;
    assert!(everything.contains(&ids[0]), "the dump has what there is");
    for secret in secrets.iter().chain(&["acme-client-secret-1", "s3cr3t"]) {
        let encoded = base64url::encode(secret);
        assert!(!everything.contains(secret) && !everything.contains(&encoded), "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attacker_who_writes_to_the_database_neither_swaps_nor_redirects_credentials() {
    let vault = VaultWorld::new().await;
    let (one, other) =
        (vault.api_key().await, vault.connected("keys", json!({"key": "the-other-key"})).await);
    let (_, [_, token]) = vault.granted(&one).await;
    let sql = async |statement: &'static str| {
        sqlx::query(statement).bind(&one).bind(&other).execute(&vault.world.server.app.pool).await.unwrap();
    };
    sql("UPDATE connection a SET version = 9, sealed = b.sealed, data_key = b.data_key FROM connection b
         WHERE a.id = $1 AND b.id = $2")
    .await;
    assert_eq!(vault.fetch(&token, &one).await.status, 503, "swapped");
    sql("UPDATE connection SET version = 19, owner_sub = 'mallory' WHERE id = ANY (ARRAY[$1, $2])").await;
    let mallory = vault.world.token_of("mallory");
    let details = names(&other);
    let body = json!({"delegate": "user-proxy", "audiences": [vault.world.server.app.issuer],
                      "authorization_details": details});
    Api::post(&vault.world.server, "/delegate", body).user(&mallory).send().await.with_status(201);
    let hop = vault.hop(&vault.world.user_proxy, (&mallory, JWT), &details).await;
    let path = format!("/vault/connections/{other}/token");
    let call = Api::post(&vault.world.server, &path, json!({})).client(&vault.world.user_proxy, hop.token());
    assert_eq!(call.send().await.status, 503, "moved to another owner");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_the_servers_role_changes_gets_no_credential() {
    let vault = VaultWorld::new().await;
    let id = vault.api_key().await;
    let (_, [_, token]) = vault.granted(&id).await;
    let before = vault.fetch(&token, &id).await;
    assert_eq!(before.status, 200, "{}", before.text);
    let mut sql = vault.world.server.sql().await;
    sqlx::query("SET ROLE actchain_server").execute(&mut sql).await.unwrap();
    for change in [
        "settings = jsonb_set(settings, '{placement,hosts}', '[\"evil.example.com\"]')",
        "settings = jsonb_set(settings, '{placement,header}', '\"x-log\"')",
        "sealed = (SELECT sealed FROM provider WHERE id = 'logins')",
    ] {
        let saved: (Value, String) =
            sqlx::query_as("SELECT settings, sealed FROM provider WHERE id = 'keys'")
                .fetch_one(&mut sql)
                .await
                .unwrap();
        let update = format!("UPDATE provider SET version = version + 1, {change} WHERE id = 'keys'");
        sqlx::query(sqlx::AssertSqlSafe(update)).execute(&mut sql).await.unwrap();
        let fetched = vault.fetch(&token, &id).await;
        assert_eq!(fetched.status, 503, "{change}: {}", fetched.text);
        sqlx::query(
            "UPDATE provider SET version = version + 1, settings = $1, sealed = $2 WHERE id = 'keys'",
        )
        .bind(saved.0)
        .bind(saved.1)
        .execute(&mut sql)
        .await
        .unwrap();
        assert_eq!(vault.fetch(&token, &id).await.status, 200, "{change}, taken back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_entry_in_the_log_no_credential_is_answered() {
    let vault = VaultWorld::configured("[ledger]\ntimeout = '6s'", "http://127.0.0.1:9/token").await;
    let id = vault.api_key().await;
    let (_, [_, token]) = vault.granted(&id).await;
    assert_eq!(vault.fetch(&token, &id).await.status, 200);
    let mut sql = vault.world.server.sql().await;
    sqlx::query("BEGIN").execute(&mut sql).await.unwrap();
    sqlx::query("LOCK TABLE audit_event IN ACCESS EXCLUSIVE MODE").execute(&mut sql).await.unwrap();
    let failed = vault.fetch(&token, &id).await;
    assert_eq!((failed.status, failed.header("retry-after")), (503, Some("1")), "{}", failed.text);
    assert!(!failed.text.contains("the-api-key-of-alice"));
    sqlx::query("ROLLBACK").execute(&mut sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_listed_page_by_page_and_shown_to_their_owner() {
    let vault = VaultWorld::new().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(vault.api_key().await);
    }
    let tokens =
        json!({"access_token": "at-1", "expires_in": 60, "scope": "files.read", "refresh_token": "r"});
    let acme = vault.connected("acme", tokens).await;
    made.push(acme.clone());
    vault
        .world
        .as_user(
            "bob",
            "POST",
            "/api/v1/connections",
            json!({"provider": "keys", "credential": {"key": "k-k"}}),
        )
        .await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page =
            vault.world.as_alice("GET", &format!("/api/v1/connections?limit=2{cursor}"), json!({})).await;
        let items = page.json["items"].as_array().unwrap();
        seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        match page.json["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    made.sort();
    assert_eq!(seen, made, "each once, in the order of their ids");
    let shown = vault.world.as_alice("GET", &format!("/api/v1/connections/{acme}"), json!({})).await.json;
    assert_eq!(
        (&shown["provider"], &shown["owner"], &shown["state"], &shown["has_refresh_token"], &shown["scopes"]),
        (&json!("acme"), &alice(), &json!("active"), &json!(true), &json!(["files.read"]))
    );
    let filtered =
        vault.world.as_admin("GET", "/api/v1/connections?provider=acme&state=active", json!({})).await;
    assert_eq!(filtered.json["items"].as_array().unwrap().len(), 1);
    let all = vault.world.as_admin("GET", "/api/v1/connections", json!({})).await;
    assert_eq!(all.json["items"].as_array().unwrap().len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_imports_are_refused_by_name() {
    let vault = VaultWorld::new().await;
    let long = "x".repeat(20_000);
    for (body, status) in [
        (json!({"provider": "unknown", "credential": {"key": "k"}}), 400),
        (json!({"provider": "../keys", "credential": {"key": "k"}}), 400),
        (json!({"provider": "keys"}), 400),
        (json!({"provider": "keys", "credential": {}}), 400),
        (json!({"provider": "keys", "credential": ["k"]}), 400),
        (json!({"provider": "keys", "credential": {"key": ""}}), 400),
        (json!({"provider": "keys", "credential": {"key": "a\nb"}}), 400),
        (json!({"provider": "keys", "credential": {"key": long}}), 400),
        (json!({"provider": "keys", "credential": {"key": "k", "username": "u"}}), 400),
        (json!({"provider": "logins", "credential": {"username": "a:b", "password": "p"}}), 400),
        (json!({"provider": "logins", "credential": {"username": "a"}}), 400),
        (json!({"provider": "acme", "credential": {"key": "k"}}), 400),
        (json!({"provider": "acme", "credential": {"access_token": "a", "token_type": "x y"}}), 400),
        (json!({"provider": "acme", "credential": {"access_token": "a", "scope": "\u{e9}"}}), 400),
        (json!({"provider": "keys", "name": "", "credential": {"key": "k"}}), 400),
        (json!({"provider": "keys", "owner": {"iss": IDP, "sub": "bob"}, "credential": {"key": "k"}}), 403),
        (json!({"provider": "keys", "secret": "k", "credential": {"key": "k"}}), 400),
    ] {
        let answer = vault.world.as_alice("POST", "/api/v1/connections", body.clone()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
        assert!(!answer.reason().is_empty());
    }
    let events = vault.vault_events().await;
    let refused = ["vault.connection.creation_refused", "vault.connection.request_refused"];
    let is_refused = |event: &Value| refused.contains(&event["action"].as_str().unwrap());
    assert!(events.iter().all(is_refused), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_imports_for_others_and_agents_have_connections_of_their_own() {
    let vault = VaultWorld::new().await;
    let body =
        |owner: Value| json!({"provider": "keys", "owner": owner, "credential": {"key": "imported-key"}});
    let made = vault.world.as_admin("POST", "/api/v1/connections", body(alice())).await;
    assert_eq!((made.status, &made.json["owner"]), (201, &alice()), "{}", made.text);
    let id = made.json["id"].as_str().unwrap();
    assert_eq!(made.header("location").map(|at| at.ends_with(id)), Some(true));
    let (_, [_, token]) = vault.granted(id).await;
    assert_eq!(vault.fetch(&token, id).await.json["access_token"], "imported-key");
    let unowned = vault
        .world
        .as_admin("POST", "/api/v1/connections", body(json!({"iss": "https://x", "sub": "y"})))
        .await;
    unowned.assert_problem(400, "delegator_unknown");
    let missing = json!({"provider": "keys", "credential": {"key": "imported-key"}});
    assert_eq!(vault.world.as_admin("POST", "/api/v1/connections", missing.clone()).await.status, 400);
    let own = vault.world.as_agent(&vault.world.email_svc, "POST", "/api/v1/connections", missing).await;
    assert_eq!(own.json["owner"], json!({"iss": vault.world.server.app.issuer, "sub": "email-svc"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_import_is_the_first_one() {
    let vault = VaultWorld::new().await;
    let body = json!({"provider": "keys", "credential": {"key": "k-1-2-3"}});
    let call = || {
        Api::post(&vault.world.server, "/api/v1/connections", body.clone()).user(&vault.world.user_token())
    };
    let first = call().key("import-1").send().await.with_status(201);
    let again = call().key("import-1").send().await.with_status(201);
    assert_eq!(first.json["id"], again.json["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_with_locations_does_not_allow_a_retrieval() {
    let vault = VaultWorld::new().await;
    let id = vault.api_key().await;
    let details = json!([{"type": "vault_connection", "identifier": id,
                          "locations": ["https://api.keys.example.com/v1/read/"]}]);
    let [root, _] = vault.delegated(details.clone(), json!({})).await;
    let [_, token] = vault.chain(&details).await;
    vault.fetch(&token, &id).await.assert_problem(403, "connection_missing");
    let ended = vault.world.as_alice("POST", &format!("/delegate/{root}/revoke"), json!({})).await;
    assert_eq!(ended.status, 200, "{}", ended.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn details_that_no_request_could_use_are_refused() {
    let vault = VaultWorld::new().await;
    let id = vault.api_key().await;
    let issuer = &vault.world.server.app.issuer;
    let object = |more: Value| {
        let mut object = json!({"type": "vault_connection", "identifier": id});
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([object])
    };
    let body = |details: &Value| json!({"delegate": "user-proxy", "audiences": [issuer], "authorization_details": details});
    let useless = [
        json!({"actions": ["retrieve"], "locations": ["https://api.keys.example.com/"]}),
        json!({"datatypes": ["weather"]}),
        json!({"privileges": ["guest"]}),
        json!({"actions": ["read"]}),
        json!({"actions": []}),
    ];
    vault.delegated(object(json!({})), json!({})).await;
    for more in useless {
        let details = object(more);
        let refused = vault.world.as_alice("POST", "/delegate", body(&details)).await;
        refused.assert_problem(400, "authorization_details_malformed");
        let refused = vault.hop(&vault.world.user_proxy, (&vault.world.user_token(), JWT), &details).await;
        assert_eq!((refused.status, &refused.json["error"]), (400, &json!("invalid_authorization_details")));
        let yaml = format!(
            "delegations:\n  - {{delegator: {}, id: useless, delegate: user-proxy, authorization_details: {details}}}\n",
            alice()
        );
        let problem = vault.world.server.apply(&yaml).await.unwrap_err().to_string();
        assert!(problem.contains("delegations[0]") && problem.contains("authorization details"), "{problem}");
    }
    for more in [
        json!({"actions": ["retrieve", "proxy"], "locations": ["https://api.keys.example.com/"]}),
        json!({"actions": ["retrieve"], "scopes": ["x"]}),
    ] {
        let made = vault.world.as_alice("POST", "/delegate", body(&object(more))).await;
        assert_eq!(made.status, 201, "{}", made.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seal_tells_two_owners_apart_whatever_is_in_their_names() {
    let vault = VaultWorld::new().await;
    let body = json!({"provider": "keys", "credential": {"key": "k-1"}});
    let made = vault.world.as_user("alice smith", "POST", "/api/v1/connections", body).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let id = made.json["id"].as_str().unwrap();
    let mut sql = vault.world.server.sql().await;
    assert!(vault.world.server.app.vault.open(&mut sql, id).await.unwrap().is_some());
    let sql_text =
        "UPDATE connection SET owner_iss = owner_iss || ' alice', owner_sub = 'smith' WHERE id = $1";
    sqlx::query(sql_text).bind(id).execute(&mut sql).await.unwrap();
    let problem = vault.world.server.app.vault.open(&mut sql, id).await.unwrap_err().to_string();
    assert!(problem.contains("sealed for another row"), "{problem}");
    let issuer = "issuers: [{iss: 'https://idp alice', jwks: {keys: []}, audiences: [x], algorithms: [ES256], token_types: [jwt]}]";
    let problem = vault.world.server.apply(issuer).await.unwrap_err().to_string();
    assert!(problem.contains("spaces"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_credential_is_read_afresh_however_often_the_old_one_is_remembered_again() {
    let vault = VaultWorld::new().await;
    let id = vault.api_key().await;
    let (_, tokens) = vault.granted(&id).await;
    assert_eq!(vault.fetch(&tokens[1], &id).await.status, 200);
    let app = Arc::clone(&vault.world.server.app);
    let old = app.vault.opened.get(&id).unwrap();
    let twin = vault.world.server.twin().await;
    let path = format!("/api/v1/connections/{id}/rotate");
    let rotation = json!({"credential": {"key": "the-new-api-key"}});
    let rotated = Api::post(&twin, &path, rotation).user(&vault.world.user_token()).send().await;
    assert_eq!(rotated.status, 200, "{}", rotated.text);
    let refill = Refill::with({
        let id = id.clone();
        move || app.vault.opened.insert(id.clone(), Arc::clone(&old))
    });
    let answer = vault.fetch(&tokens[1], &id).await;
    drop(refill);
    assert_eq!((answer.status, &answer.json["access_token"]), (200, &json!("the-new-api-key")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_an_outdated_alias_takes_no_user_for_another_user() {
    let vault = VaultWorld::new().await;
    let world = &vault.world;
    // A user whose name equals Alice's name with the alias of her issuer.
    let body = json!({"provider": "keys", "credential": {"key": "the-api-key-of-the-other"}});
    let made = world.as_user("corp:alice", "POST", "/api/v1/connections", body).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let id = made.json["id"].as_str().unwrap().to_owned();
    let outdated = world.server.twin().await;
    let yaml = format!(
        "issuers:\n  - {{iss: {IDP}, jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [ES256], alias: corp}}",
        world.idp.public_jwk()
    );
    world.server.apply(&yaml).await.unwrap();
    world.server.pass(11);
    let (_, tokens) = vault.granted(&id).await;
    assert_eq!(claims_of(&tokens[1])["sub"], "corp:alice");
    let path = format!("/vault/connections/{id}/token");
    let answer = Api::post(&outdated, &path, json!({})).client(&world.email_svc, &tokens[1]).send().await;
    assert!(!answer.text.contains("the-api-key-of-the-other"), "{}", answer.text);
    answer.assert_problem(401, "access_token_invalid");
}
