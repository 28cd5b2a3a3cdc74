//! Access to the management API (RFC 6750, RFC 9449 §7): an invalid token is 401, insufficient rights are 403, and
//! resources of other callers are 404. Malformed bodies cause no fault.

use actchain_protocol::jose::{SigningAlg, SigningKey};
use serde_json::{Value, json};

use crate::support::agent::{Agent, Auth, fresh_jti};
use crate::support::life::{post, steps, with};
use crate::support::management::Api;
use crate::support::world::{IDP, MAIL, World};
use crate::support::{Answer, claims_of};

/// All operations on one delegation, for users, agents and administrators.
fn calls(id: &str) -> Vec<(&'static str, String)> {
    let of = |name: &str| format!("/delegate/{id}{name}");
    let ceremony = "/ceremonies/00000000-0000-7000-8000-000000000000";
    vec![
        ("GET", "/delegate".into()),
        ("POST", "/delegate".into()),
        ("GET", of("")),
        ("POST", of("/approve")),
        ("POST", of("/deny")),
        ("POST", of("/revoke")),
        ("POST", of("/renew")),
        ("POST", of("/steps")),
        ("POST", of("/rotate-key")),
        ("GET", of("/ceremonies")),
        ("POST", of(&format!("{ceremony}/approve"))),
        ("POST", of(&format!("{ceremony}/deny"))),
        ("GET", "/agents".into()),
    ]
}

/// A valid body for each operation.
fn body_for(path: &str) -> Value {
    match path.rsplit('/').next().unwrap() {
        "renew" => json!({"expires_in": 100}),
        "steps" => steps(1),
        "rotate-key" => json!({"jwk": SigningKey::generate(SigningAlg::ES256).unwrap().0.public_jwk()}),
        "delegate" => json!({"delegate": "user-proxy"}),
        _ => json!({}),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_everything_answers_with_challenges_and_no_error_in_them() {
    let world = World::new().await;
    for (method, path) in calls("D") {
        let answer = Api::new(&world.server, method, &path).json(&body_for(&path)).send().await;
        answer.assert_problem(401, "not_authenticated");
        for challenge in answer.headers.get_all("www-authenticate") {
            assert!(!challenge.to_str().unwrap().contains("error"), "RFC 6750 §3.1: {challenge:?}");
        }
        let basic = Api::new(&world.server, method, &path).json(&body_for(&path));
        let basic =
            basic.header("authorization", &crate::support::agent::basic("user-proxy", "x")).send().await;
        basic.assert_problem(401, "not_authenticated");
    }
    assert_eq!(world.shown("D").await["state"], "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_user_is_no_good_in_any_wrong_form() {
    let world = World::new().await;
    let now = world.server.now();
    let signed = |change: &dyn Fn(&mut Value)| world.user_token_with(|claims| change(claims));
    let other = SigningKey::generate(SigningAlg::ES256).unwrap().0;
    let good = world.user_token();
    let (head, tail) = good.rsplit_once('.').unwrap();
    let unsigned = format!("{}.", actchain_protocol::base64url::encode(r#"{"alg":"none","typ":"JWT"}"#));
    let unsigned = format!("{unsigned}{}.", good.split('.').nth(1).unwrap());
    let without = |name: &str| {
        world.user_token_with(|claims| {
            claims.as_object_mut().unwrap().remove(name);
        })
    };
    let wrong = [
        ("another audience", signed(&|claims| claims["aud"] = json!("https://elsewhere.example.com"))),
        ("our address instead of our name", signed(&|claims| claims["aud"] = json!(MAIL))),
        ("no audience", without("aud")),
        ("ended", signed(&|claims| claims["exp"] = json!(now))),
        ("never ending", without("exp")),
        ("not yet", signed(&|claims| claims["nbf"] = json!(now + 60))),
        (
            "an issuer that is not trusted",
            signed(&|claims| claims["iss"] = json!("https://unknown.example.com")),
        ),
        ("our name as issuer", signed(&|claims| claims["iss"] = json!(world.server.app.issuer))),
        ("no subject", without("sub")),
        ("an empty subject", signed(&|claims| claims["sub"] = json!(""))),
        ("a name that cannot be stored", signed(&|claims| claims["sub"] = json!("a\u{0}b"))),
        ("a list for a name", signed(&|claims| claims["sub"] = json!(["alice"]))),
        ("an actor", signed(&|claims| claims["act"] = json!({"sub": "user-proxy"}))),
        ("something acts", signed(&|claims| claims["act"] = json!("x"))),
        ("another's key", other.sign("JWT", &world.user_claims()).unwrap()),
        ("a proof", world.idp.sign("dpop+jwt", &world.user_claims()).unwrap()),
        ("a logout", world.idp.sign("logout+jwt", &world.user_claims()).unwrap()),
        ("unsigned", unsigned),
        ("cut", head.to_owned()),
        ("a wrong signature", format!("{head}.{}", tail.chars().rev().collect::<String>())),
        ("rubbish", "rubbish".into()),
        ("too long", "a".repeat(20_000)),
    ];
    for (what, token) in wrong {
        let answer = Api::get(&world.server, "/delegate/D").user(&token).send().await;
        assert_eq!(answer.reason(), "access_token_invalid", "{what}: {}", answer.text);
        answer.assert_problem(401, "access_token_invalid");
        let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
        assert!(
            challenges.iter().all(|one| one.to_str().unwrap().contains("error=\"invalid_token\"")),
            "{what}"
        );
        let made = Api::post(&world.server, "/delegate", body_for("/delegate")).user(&token).send().await;
        assert_eq!((made.status, made.reason()), (401, "access_token_invalid"), "{what}");
    }
    for header in ["Bearer", "Bearer ", "bearer", "Token x", &format!("Bearer  {good} x"), good.as_str()] {
        let answer = Api::get(&world.server, "/delegate/D").header("authorization", header).send().await;
        assert_eq!(answer.status, 401, "{header}: {}", answer.text);
    }
    let lower = Api::get(&world.server, "/delegate/D")
        .header("authorization", &format!("bearer {good}"))
        .send()
        .await;
    lower.with_status(200);
    let twice = Api::get(&world.server, "/delegate/D").user(&good).user(&good).send().await;
    twice.assert_problem(400, "malformed_request");
    let in_query = Api::get(&world.server, &format!("/delegate/D?access_token={good}")).send().await;
    in_query.assert_problem(401, "not_authenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_an_issuer_that_was_declared_just_now_are_known_at_once() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let (key, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let claims = |world: &World| {
        let mut claims = world.user_claims();
        claims["iss"] = json!("https://new.example.com");
        key.sign("JWT", &claims).unwrap()
    };
    let call = || Api::get(&world.server, "/delegate");
    call().user(&claims(&world)).send().await.assert_problem(401, "access_token_invalid");
    let yaml = format!(
        "issuers:\n  - {{iss: https://new.example.com, jwks: {{keys: [{}]}}, audiences: [actchain], alias: new}}\n",
        key.public_jwk()
    );
    twin.apply(&yaml).await.unwrap();
    call().user(&claims(&world)).send().await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_whose_keys_another_server_changed_is_believed_by_its_new_ones_only() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let old = world.user_token();
    let call = |token: &str| Api::get(&world.server, "/delegate").user(token).send();
    call(&old).await.with_status(200);
    let (key, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let yaml = format!(
        "issuers:\n  - {{iss: {IDP}, jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [ES256]}}\n",
        key.public_jwk()
    );
    twin.apply(&yaml).await.unwrap();
    call(&old).await.assert_problem(401, "access_token_invalid");
    call(&key.sign("JWT", &world.user_claims()).unwrap()).await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_may_set_an_audience_apart_for_decisions() {
    let world = World::new().await;
    let key = SigningKey::generate(SigningAlg::ES256).unwrap().0;
    let yaml = format!(
        "issuers:\n  - {{iss: https://apart.example.com, jwks: {{keys: [{}]}}, audiences: [actchain, consent], \
         delegation_audiences: [consent], algorithms: [ES256], alias: apart}}",
        key.public_jwk()
    );
    world.server.apply(&yaml).await.unwrap();
    let call = async |aud: Value| {
        let mut claims = world.user_claims();
        (claims["iss"], claims["aud"]) = (json!("https://apart.example.com"), aud);
        let token = key.sign("JWT", &claims).unwrap();
        Api::post(&world.server, "/delegate", json!({"delegate": "user-proxy"})).user(&token).send().await
    };
    call(json!("actchain")).await.assert_problem(401, "access_token_invalid");
    call(json!("consent")).await.with_status(201);
    call(json!(["actchain", "consent"])).await.with_status(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_token_that_is_bound_to_a_key_comes_with_that_key() {
    let world = World::new().await;
    let device = Agent::new("device", Auth::None);
    let other = Agent::new("other", Auth::None);
    let bound = world.user_token_with(|claims| claims["cnf"] = json!({"jkt": device.jkt()}));
    let call = || Api::get(&world.server, "/delegate/D");
    call().user(&bound).send().await.assert_problem(401, "access_token_bound");
    call().client(&device, &bound).send().await.with_status(200);
    call().client(&other, &bound).send().await.assert_problem(401, "access_token_bound");
    let no_proof = call().header("authorization", &format!("DPoP {bound}")).send().await;
    no_proof.assert_problem(401, "dpop_proof_missing");
    // A proof beside a token that is not bound to a key has no effect.
    call().client(&device, &world.user_token()).send().await.assert_problem(401, "access_token_bound");
    // A confirmation method that this server does not check is refused, not ignored (RFC 7800 §3).
    for cnf in [json!("x"), json!({}), json!({"x5t#S256": device.jkt()}), json!({"jkt": 1})] {
        let token = world.user_token_with(|claims| claims["cnf"] = cnf);
        call().user(&token).send().await.assert_problem(401, "access_token_invalid");
        let exchanged = world.hop_from_user(&world.user_proxy, &token).await;
        exchanged.assert_refused(400, "invalid_request", "subject_token_invalid");
    }
}

/// A call with a proof with changed claims.
fn with_proof<'a>(call: Api<'a>, key: &SigningKey, token: &str, change: impl FnOnce(&mut Value)) -> Api<'a> {
    let mut claims = call.proof_claims(token);
    change(&mut claims);
    let proof = key.sign_proof("dpop+jwt", &claims).unwrap();
    call.header("authorization", &format!("DPoP {token}")).header("dpop", &proof)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_client_comes_under_its_key_with_a_proof_for_this_very_call() {
    let world = World::new().await;
    let (agent, key) = (&world.user_proxy, &world.user_proxy.key);
    let token = world.management_token(agent).await;
    assert_eq!(claims_of(&token)["aud"], world.server.app.issuer);
    assert_eq!(claims_of(&token)["scope"], "actchain.delegate");
    let call = || Api::get(&world.server, "/delegate/D");
    call().client(agent, &token).send().await.with_status(200);
    call().user(&token).send().await.assert_problem(401, "access_token_bound");
    // A bound token with the `Bearer` scheme is refused, even with a valid proof.
    let proof = key.sign_proof("dpop+jwt", &call().proof_claims(&token)).unwrap();
    call().user(&token).header("dpop", &proof).send().await.assert_problem(401, "access_token_bound");
    let bare = call().header("authorization", &format!("DPoP {token}")).send().await;
    bare.assert_problem(401, "dpop_proof_missing");
    assert!(
        bare.headers
            .get_all("www-authenticate")
            .iter()
            .any(|one| one.to_str().unwrap().contains("invalid_dpop_proof"))
    );
    let other = SigningKey::generate(SigningAlg::ES256).unwrap().0;
    with_proof(call(), &other, &token, |_| {}).send().await.assert_problem(401, "access_token_bound");
    let another = world.management_token(agent).await;
    let hash_of_another = call().proof_claims(&another)["ath"].clone();
    let now = world.server.now();
    let issuer = world.server.app.issuer.clone();
    type Change<'a> = (&'static str, Box<dyn Fn(&mut Value) + 'a>);
    let wrong: Vec<Change<'_>> = vec![
        ("dpop_proof_access_token", Box::new(|claims| claims["ath"] = hash_of_another.clone())),
        ("dpop_proof_access_token", Box::new(|claims| drop(claims.as_object_mut().unwrap().remove("ath")))),
        ("dpop_proof_access_token", Box::new(|claims| claims["ath"] = json!(""))),
        ("dpop_proof_target", Box::new(|claims| claims["htm"] = json!("POST"))),
        ("dpop_proof_target", Box::new(|claims| claims["htm"] = json!("get"))),
        ("dpop_proof_target", Box::new(|claims| claims["htu"] = json!(format!("{issuer}/delegate/E")))),
        ("dpop_proof_target", Box::new(|claims| claims["htu"] = json!(format!("{issuer}/delegate")))),
        (
            "dpop_proof_target",
            Box::new(|claims| claims["htu"] = json!("https://elsewhere.example.com/delegate/D")),
        ),
        ("dpop_proof_time", Box::new(|claims| claims["iat"] = json!(now - 61))),
        ("dpop_proof_time", Box::new(|claims| claims["iat"] = json!(now + 11))),
    ];
    for (reason, change) in wrong {
        with_proof(call(), key, &token, change).send().await.assert_problem(401, reason);
    }
    let claims = call().proof_claims(&token);
    let as_token = key.sign_proof("JWT", &claims).unwrap();
    let as_token =
        call().header("authorization", &format!("DPoP {token}")).header("dpop", &as_token).send().await;
    assert_eq!(as_token.status, 401, "{}", as_token.text);
    let twice = call().client(agent, &token).header("dpop", &proof).send().await;
    assert_eq!(twice.status, 401, "two proofs are none: {}", twice.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_for_one_call_whichever_server_hears_it() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let token = world.management_token(&world.user_proxy).await;
    let proof = {
        let claims = Api::get(&world.server, "/delegate/D").proof_claims(&token);
        world.user_proxy.key.sign_proof("dpop+jwt", &claims).unwrap()
    };
    let call = |server| {
        Api::get(server, "/delegate/D")
            .header("authorization", &format!("DPoP {token}"))
            .header("dpop", &proof)
            .send()
    };
    let answers = futures_util::future::join_all(
        [&world.server, &twin, &world.server, &twin].map(|server| call(server)),
    )
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    for lost in answers.iter().filter(|answer| answer.status != 200) {
        lost.assert_problem(401, "dpop_proof_replayed");
    }
    // The `jti` is unique for each key: the same `jti` from another agent is accepted.
    let other = world.management_token(&world.email_svc).await;
    let jti = fresh_jti();
    for (agent, token) in [(&world.user_proxy, &token), (&world.email_svc, &other)] {
        let call = Api::get(&world.server, "/delegate");
        with_proof(call, &agent.key, token, |claims| claims["jti"] = json!(jti))
            .send()
            .await
            .with_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_for_us_or_not_alone_or_over_is_none() {
    let world = World::new().await;
    let agent = &world.user_proxy;
    let refused = async |agent: &Agent, token: &str, reason: &str| {
        for (method, path) in calls("D") {
            let call = Api::new(&world.server, method, &path).json(&body_for(&path));
            call.client(agent, token).send().await.assert_problem(401, reason);
        }
    };
    // For another audience.
    let for_mail =
        agent.request(&world.server).param("grant_type", "client_credentials").param("audience", MAIL);
    let for_mail = for_mail.send().await.with_status(200);
    refused(agent, for_mail.token(), "access_token_invalid").await;
    // A token in which an agent acts for a user.
    let acting = world.first_hop().await;
    refused(agent, acting.token(), "access_token_invalid").await;
    // An expired token.
    let old = world.management_token(agent).await;
    world.server.pass(claims_of(&old)["exp"].as_i64().unwrap() - world.server.now());
    refused(agent, &old, "access_token_invalid").await;
    // Revoked by the client itself (RFC 7009).
    let revoked = world.management_token(agent).await;
    agent
        .at(&world.server, "/oauth/revoke")
        .without("dpop")
        .param("token", &revoked)
        .send()
        .await
        .with_status(200);
    refused(agent, &revoked, "access_token_invalid").await;
    // A token of a disabled client; it is valid again after the client is enabled.
    let standing = world.management_token(agent).await;
    world.server.disable("user-proxy").await;
    refused(agent, &standing, "access_token_invalid").await;
    world.server.enable("user-proxy").await;
    Api::get(&world.server, "/delegate/D").client(agent, &standing).send().await.with_status(200);
    // A token of another server that uses this issuer's name.
    let elsewhere = SigningKey::generate(SigningAlg::ES256).unwrap().0;
    let forged = elsewhere.sign("at+jwt", &claims_of(&standing)).unwrap();
    refused(agent, &forged, "access_token_invalid").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_management_token_with_an_actor_is_refused() {
    let world = World::new().await;
    // The most that can be registered: an agent that may obtain tokens for this server.
    let inner = Agent::new("inner", Auth::Assertion);
    let issuer = &world.server.app.issuer;
    let yaml = format!(
        "clients:\n  - {{id: inner, kind: agent, auth: private_key_jwt, jwks: {{keys: [{}]}}, \
         scopes: [actchain.delegate], audiences: [\"{issuer}\"], grant_types: [client_credentials, token-exchange]}}",
        inner.key.public_jwk()
    );
    world.server.apply(&yaml).await.unwrap();
    world.granted("bob", json!({"delegate": "inner"})).await.with_status(201);
    let user = world.token_of("bob");
    let exchange = inner.exchange(&world.server, &user, crate::support::agent::JWT).param("audience", issuer);
    let acting = exchange.send().await.with_status(200);
    assert_eq!((&acting.claims()["sub"], &acting.claims()["act"]["sub"]), (&json!("bob"), &json!("inner")));
    for (method, path) in calls("D") {
        let call = Api::new(&world.server, method, &path).json(&body_for(&path));
        call.client(&inner, acting.token()).send().await.assert_problem(401, "access_token_invalid");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_ours_that_is_bound_to_no_key_is_none() {
    let world = World::new().await;
    let issuer = world.server.app.issuer.clone();
    let request =
        world.stranger.request(&world.server).without("dpop").param("grant_type", "client_credentials");
    let bearer = request.param("audience", &issuer).send().await.with_status(200);
    assert_eq!(bearer.json["token_type"], "Bearer");
    let token = bearer.token();
    Api::get(&world.server, "/delegate").user(token).send().await.assert_problem(401, "access_token_bound");
    let with_any = Api::get(&world.server, "/delegate").client(&world.stranger, token).send().await;
    with_any.assert_problem(401, "access_token_bound");
}

#[tokio::test(flavor = "multi_thread")]
async fn rank_is_of_the_client_and_of_its_token() {
    let world = World::new().await;
    let issuer = world.server.app.issuer.clone();
    let ask = async |agent: &Agent, scope: &str| {
        let request = agent.request(&world.server).param("grant_type", "client_credentials");
        request.param("audience", &issuer).param("scope", scope).send().await
    };
    let refused = ask(&world.user_proxy, "actchain.admin").await;
    assert_eq!((refused.status, refused.error()), (400, "invalid_scope"), "{}", refused.text);
    let refused = ask(&world.admin, "actchain.delegate").await;
    assert_eq!((refused.status, refused.error()), (400, "invalid_scope"), "{}", refused.text);
    // Only clients of administrators get the scope, whatever the manifest declares.
    let yaml = "clients:\n  - {id: sly, kind: agent, auth: client_secret_basic, secret: sly-secret-0123456789, \
                scopes: [actchain.admin], grant_types: [client_credentials]}";
    world.server.apply(yaml).await.expect_err("an agent with the scope of administrators");
    // A service and a resource server may not use the management API.
    let yaml = "clients:\n  - {id: cron, kind: service, auth: client_secret_basic, secret: cron-secret-0123456789, \
                scopes: [mail.read], audiences: [\"https://mail.example.com\"], grant_types: [client_credentials]}";
    world.server.apply(yaml).await.unwrap();
    let cron = Agent::new("cron", Auth::Basic("cron-secret-0123456789".into()));
    let refused = ask(&cron, "actchain.delegate").await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    let admin = world.management_token(&world.admin).await;
    assert_eq!(claims_of(&admin)["scope"], "actchain.admin");
    // A client that is no longer an administrator: its earlier token gives no rights.
    let yaml = format!(
        "clients:\n  - {{id: admin, kind: agent, auth: private_key_jwt, jwks: {{keys: [{}]}}, grant_types: [client_credentials]}}",
        world.admin.key.public_jwk()
    );
    if world.server.apply(&yaml).await.is_ok() {
        let answer = Api::get(&world.server, "/delegate/D").client(&world.admin, &admin).send().await;
        answer.assert_problem(403, "insufficient_scope");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_another_rank_is_403_with_the_scope_in_the_challenge() {
    let world = World::new().await;
    let of_admins = [
        ("POST", "/api/v1/principals/revoke-all", json!({"iss": IDP, "sub": "alice", "reason": "x"})),
        ("POST", "/api/v1/clients/email-svc/disable", json!({})),
        ("POST", "/api/v1/clients/email-svc/enable", json!({})),
    ];
    for (method, path, body) in of_admins {
        for answer in [
            world.as_alice(method, path, body.clone()).await,
            world.as_agent(&world.user_proxy, method, path, body.clone()).await,
        ] {
            answer.assert_problem(403, "insufficient_scope");
            let challenges = answer.headers.get_all("www-authenticate");
            assert!(
                challenges.iter().all(|one| one.to_str().unwrap().contains("error=\"insufficient_scope\""))
            );
        }
    }
    world.second_hop().await;
    for (path, body) in [("/delegate/D/steps", steps(1)), ("/delegate", json!({"delegate": "email-svc"}))] {
        world.as_admin("POST", path, body).await.assert_problem(403, "insufficient_scope");
    }
    let key = json!({"jwk": Agent::new("x", Auth::None).key.public_jwk()});
    world
        .as_agent(&world.user_proxy, "POST", "/delegate/D/rotate-key", key)
        .await
        .assert_problem(403, "insufficient_scope");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_may_not_see_is_answered_like_what_does_not_exist() {
    let world = World::new().await;
    let his = world.granted("bob", json!({})).await.id();
    let bodies = |answer: &Answer| (answer.status, answer.text.clone());
    let token = world.management_token(&world.stranger).await;
    let before = world.shown(&his).await;
    let unlike =
        ["nothing", "00000000-0000-7000-8000-000000000000", "%00", "a%2Fb", "%F0%9F%98%80", "..%2FD", "%ff"];
    for ((method, path), (_, nowhere)) in calls(&his).into_iter().zip(calls("nothing")) {
        if !path.contains(&his) {
            continue;
        }
        let body = body_for(&path);
        let alice = async |path: &str| world.as_alice(method, path, body.clone()).await;
        let stranger = async |path: &str| {
            Api::new(&world.server, method, path).json(&body).client(&world.stranger, &token).send().await
        };
        for answer in [alice(&path).await, stranger(&path).await] {
            answer.assert_problem(404, "not_found");
        }
        assert_eq!(bodies(&alice(&path).await), bodies(&alice(&nowhere).await), "{path}");
        assert_eq!(bodies(&stranger(&path).await), bodies(&stranger(&nowhere).await), "{path}");
    }
    for id in unlike {
        for (method, path) in calls(id).into_iter().filter(|(_, path)| path.contains(id)) {
            let answer = world.as_alice(method, &path, body_for(&path)).await;
            assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text);
        }
    }
    let long = "a".repeat(8000);
    for (method, path) in calls(&long).into_iter().filter(|(_, path)| path.contains(&long)) {
        let answer = world.as_alice(method, &path, body_for(&path)).await;
        assert!(matches!(answer.status, 404 | 414 | 431), "{method}: {} {}", answer.status, answer.text);
    }
    assert_eq!(world.shown(&his).await, before, "nothing moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_make_no_sense_are_refused_and_leave_nothing() {
    let world = World::new().await;
    let token = world.token_of("bob");
    let count = async || ids(&world.as_admin("GET", "/delegate?limit=100", json!({})).await).len();
    let before = count().await;
    let send = async |body: &str| {
        let call =
            Api::new(&world.server, "POST", "/delegate").raw(body).header("content-type", "application/json");
        call.user(&token).send().await
    };
    let deep = format!("{{\"delegate\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    let deep_details = format!(
        "{{\"delegate\":\"user-proxy\",\"authorization_details\":{}{}}}",
        "[".repeat(40),
        "]".repeat(40)
    );
    for body in [
        "",
        " ",
        "{",
        "}",
        "[]",
        "null",
        "1",
        "\"user-proxy\"",
        "{}",
        "{\"delegate\":\"user-proxy\"} {}",
        "{\"delegate\":\"user-proxy\",}",
        "{'delegate':'user-proxy'}",
        "\u{feff}{\"delegate\":\"user-proxy\"}",
        "{\"delegate\":\"user-proxy\",\"delegate\":\"email-svc\"}",
        "{\"delegate\":\"user-proxy\",\"del\\u0065gate\":\"user-proxy\"}",
        "{\"delegate\":\"user-proxy\",\"agent\":{\"type\":\"a\",\"type\":\"b\"}}",
        "{\"delegate\":\"user-proxy\",\"authorization_details\":[{\"type\":\"mailbox\",\"type\":\"mailbox\"}]}",
        "{\"delegate\":\"user-proxy\",\"reason\":\"\\ud800\"}",
        deep.as_str(),
        deep_details.as_str(),
    ] {
        let answer = send(body).await;
        assert_eq!((answer.status, answer.reason().is_empty()), (400, false), "{body:.80}: {}", answer.text);
    }
    let invalid = reqwest::Client::new()
        .post(format!("{}/delegate", world.server.base))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(b"{\"delegate\":\"\xff\"}".to_vec());
    Answer::read(invalid.send().await.unwrap()).await.assert_problem(400, "malformed_request");
    assert_eq!(count().await, before);
}

fn ids(answer: &Answer) -> Vec<String> {
    let items = answer.json["items"].as_array().unwrap();
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_the_wrong_type_or_name_or_size_are_refused_by_name() {
    let world = World::new().await;
    let detail = json!([{"type": "mailbox", "actions": ["a\u{0}"]}]);
    let many: Vec<String> = (0..101).map(|n| format!("s{n}")).collect();
    let jwk = Agent::new("x", Auth::None).key.public_jwk();
    let key = |change: Value| json!({"jwk": with(jwk.clone(), change), "task_id": "t"});
    let cases = [
        json!({"state": "active"}),
        json!({"id": "mine"}),
        json!({"path": []}),
        json!({"uses": 0}),
        json!({"Delegate": "x"}),
        json!({"expires_at": "2030-01-01T00:00:00Z"}),
        json!({"activated_at": "2030-01-01T00:00:00Z"}),
        json!({"delegate": 1}),
        json!({"delegate": ["user-proxy"]}),
        json!({"delegator": "bob"}),
        json!({"delegator": {"iss": IDP}}),
        json!({"delegator": {"iss": IDP, "sub": "bob", "more": 1}}),
        json!({"delegator": {"iss": IDP, "sub": 1}}),
        json!({"delegator": []}),
        json!({"scopes": "mail.read"}),
        json!({"scopes": {"mail.read": true}}),
        json!({"scopes": [1]}),
        json!({"scopes": ["a b"]}),
        json!({"scopes": [""]}),
        json!({"scopes": ["\u{0}"]}),
        json!({"scopes": ["\""]}),
        json!({"scopes": ["ü"]}),
        json!({"scopes": many}),
        json!({"audiences": "x"}),
        json!({"audiences": [""]}),
        json!({"audiences": ["a b"]}),
        json!({"audiences": ["\u{0}"]}),
        json!({"audiences": many}),
        json!({"audiences": ["https://unknown.example.com"]}),
        json!({"authorization_details": {}}),
        json!({"authorization_details": "[]"}),
        json!({"authorization_details": [1]}),
        json!({"authorization_details": [{"type": ""}]}),
        json!({"authorization_details": [{"type": "a", "x": 1}]}),
        json!({"authorization_details": detail}),
        json!({"capability_ceiling": 1}),
        json!({"capability_ceiling": ["observe"]}),
        json!({"capability_ceiling": "\u{0}"}),
        json!({"ceremony_required_for": "execute"}),
        json!({"ceremony_required_for": ["a b"]}),
        json!({"ceremony_required_for": ["\u{0}"]}),
        json!({"ceremony_required_for": many}),
        json!({"max_uses": 0}),
        json!({"max_uses": -1}),
        json!({"max_uses": 1.5}),
        json!({"max_uses": "1"}),
        json!({"max_uses": 4_294_967_296_u64}),
        json!({"max_depth": 0}),
        json!({"max_depth": -1}),
        json!({"max_depth": true}),
        json!({"expires_in": 0}),
        json!({"expires_in": -1}),
        json!({"expires_in": 1e30}),
        json!({"expires_in": "600"}),
        json!({"reason": 1}),
        json!({"reason": "a".repeat(501)}),
        json!({"reason": "a\u{0}b"}),
        json!({"reason": "a\u{7}"}),
        json!({"agent": "a"}),
        json!({"agent": {"type": ""}}),
        json!({"agent": {"type": "a".repeat(101)}}),
        json!({"agent": {"model": "a\u{0}"}}),
        json!({"agent": {"name": "a"}}),
        // serde would read a list as the members in their order.
        json!({"delegator": [IDP, "bob"]}),
        json!({"agent": ["assistant", "m-1"]}),
        json!({"ephemeral": [{"kty": "EC"}, "t"]}),
        json!({"parent": 1}),
        json!({"ephemeral": {}}),
        json!({"ephemeral": key(json!({}))}),
    ];
    for body in cases {
        let body = with(json!({"delegate": "user-proxy"}), body);
        let answer = world.as_user("bob", "POST", "/delegate", body.clone()).await;
        assert_eq!((answer.status, answer.reason().is_empty()), (400, false), "{body}: {}", answer.text);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{body}");
    }
    let unknown = world.granted("bob", json!({"state": "active"})).await;
    assert!(
        unknown.json["detail"].as_str().unwrap().contains("state"),
        "the detail names it: {}",
        unknown.text
    );
    let wrong = world.granted("bob", json!({"agent": {"type": 7}})).await;
    assert!(wrong.json["detail"].as_str().unwrap().contains("agent: type"), "{}", wrong.text);
    // Invalid keys, private keys, and keys that cannot be stored.
    for ephemeral in [
        json!({"jwk": {}, "task_id": "t"}),
        json!({"jwk": "x", "task_id": "t"}),
        json!({"jwk": {"kty": "oct", "k": "AQ"}, "task_id": "t"}),
        key(json!({"d": "AQ"})),
        key(json!({"y": jwk["x"]})),
        key(json!({"kid": 1})),
        with(key(json!({})), json!({"task_id": ""})),
        with(key(json!({})), json!({"task_id": "a\u{0}"})),
        with(key(json!({})), json!({"task_id": "a".repeat(101)})),
        with(key(json!({})), json!({"more": 1})),
    ] {
        let answer = world.as_user("bob", "POST", "/delegate", json!({"ephemeral": ephemeral})).await;
        assert_eq!((answer.status, answer.reason().is_empty()), (400, false), "{ephemeral}: {}", answer.text);
    }
    for strange in [
        json!({"kid": "a\u{0}b"}),
        json!({"x5c": ["\u{0}"]}),
        json!({"a\u{0}": 1}),
        json!({"n": "a".repeat(50_000)}),
    ] {
        let body = json!({"ephemeral": key(strange.clone())});
        let answer = world.as_user("bob", "POST", "/delegate", body).await;
        assert!(matches!(answer.status, 201 | 400), "{strange:.60}: {} {}", answer.status, answer.text);
    }
    // Members of the maximum length.
    let most =
        json!({"reason": "ü".repeat(500), "agent": {"type": "ü".repeat(100), "model": "m".repeat(100)}});
    let made = world.granted("bob", most.clone()).await.with_status(201).json;
    assert_eq!((&made["reason"], &made["agent"]), (&most["reason"], &most["agent"]));
    assert_eq!(
        world.granted("bob", json!({"reason": "two\nlines"})).await.with_status(201).json["reason"],
        "two\nlines"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_says_of_others_is_read_as_strictly() {
    let world = World::new().await;
    let token = world.management_token(&world.user_proxy).await;
    let ask = async |body: Value| {
        Api::post(&world.server, "/delegate", body).client(&world.user_proxy, &token).send().await
    };
    for sub in ["a\u{7}", "a\nb"] {
        let answer = ask(json!({"delegator": {"iss": IDP, "sub": sub}})).await;
        answer.assert_problem(400, "delegator_unknown");
    }
    let answer = ask(json!({"delegator": {"iss": IDP, "sub": "a".repeat(40_000)}})).await;
    answer.assert_problem(400, "delegator_unknown");
    for body in [
        json!({"delegator": {"iss": IDP, "sub": "a\u{0}b"}}),
        json!({"delegator": {"iss": "\u{0}", "sub": "bob"}}),
        json!({"parent": "\u{0}", "delegate": "email-svc"}),
    ] {
        ask(body).await.assert_problem(400, "malformed_request");
    }
    for parent in ["", "ü", "a b", &"a".repeat(40_000)] {
        ask(json!({"parent": parent, "delegate": "email-svc"})).await.assert_problem(404, "not_found");
    }
    // Refused requests did not copy their content into the log.
    let longest = world.server.events().await.iter().map(|event| event.to_string().len()).max().unwrap();
    assert!(longest < 5_000, "{longest} bytes in one event");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_json_of_a_bounded_size_and_say_so() {
    let world = World::new().await;
    let token = world.token_of("bob");
    let body = json!({"delegate": "user-proxy"}).to_string();
    let send = async |kind: Option<&str>, body: &str| {
        let mut call = Api::new(&world.server, "POST", "/delegate").raw(body).user(&token);
        if let Some(kind) = kind {
            call = call.header("content-type", kind);
        }
        call.send().await
    };
    for kind in [
        None,
        Some(""),
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/json2"),
        Some("text/application/json"),
        Some("application/merge-patch+json"),
    ] {
        send(kind, &body).await.assert_problem(415, "unsupported_media_type");
    }
    for kind in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
        send(Some(kind), &body).await.with_status(201);
    }
    let padded = |size: usize| format!("{body}{}", " ".repeat(size - body.len()));
    send(Some("application/json"), &padded(64 * 1024)).await.with_status(201);
    send(Some("application/json"), &padded(64 * 1024 + 1)).await.assert_problem(413, "request_too_large");
    let huge = json!({"delegate": "user-proxy", "reason": "a".repeat(70_000)}).to_string();
    send(Some("application/json"), &huge).await.assert_problem(413, "request_too_large");
    // The other operations read as strictly.
    let id = world.granted("bob", json!({})).await.id();
    for name in ["approve", "deny", "revoke", "renew", "steps", "rotate-key"] {
        for body in ["[]", "{\"reason\":\"a\",\"reason\":\"b\"}", "{\"x\":1}", "{", "null"] {
            let call =
                Api::new(&world.server, "POST", &format!("/delegate/{id}/{name}")).raw(body).user(&token);
            let answer = call.header("content-type", "application/json").send().await;
            assert_eq!(
                (answer.status, answer.reason()),
                (400, "malformed_request"),
                "{name} {body}: {}",
                answer.text
            );
        }
    }
    let long =
        post(&world.server, &id, "revoke", json!({"reason": "a".repeat(501)})).user(&token).send().await;
    long.assert_problem(400, "malformed_request");
    let null = post(&world.server, &id, "revoke", json!({"reason": "a\u{0}"})).user(&token).send().await;
    null.assert_problem(400, "malformed_request");
    assert_eq!(world.state(&id).await, "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_are_answered_with_those_there_are() {
    let world = World::new().await;
    for (path, allowed) in
        [("/delegate", "GET, POST"), ("/delegate/D", "GET"), ("/delegate/D/approve", "POST")]
    {
        for method in ["PUT", "DELETE", "PATCH"] {
            let answer = Api::new(&world.server, method, path).user(&world.user_token()).send().await;
            assert_eq!(answer.status, 405, "{method} {path}");
            let sent = answer.header("allow").unwrap_or_default();
            assert!(allowed.split(", ").all(|one| sent.contains(one)), "{path}: {sent}");
        }
    }
    let nothing =
        Api::new(&world.server, "POST", "/delegate/D/nothing").user(&world.user_token()).send().await;
    assert_eq!(nothing.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_has_so_many_calls_a_second_and_no_more() {
    let world = World::configured("[limits]\nrequests_per_second_per_client = 3").await;
    let token = world.user_token();
    let calls = (0..12).map(|_| Api::get(&world.server, "/delegate").user(&token).send());
    let answers = futures_util::future::join_all(calls).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!(!refused.is_empty());
    for answer in refused {
        answer.assert_problem(429, "rate_limited");
        assert!(answer.header("retry-after").is_some());
    }
    let before = world.server.events().await.len();
    let other = Api::get(&world.server, "/delegate").user(&world.token_of("bob")).send().await;
    other.with_status(200);
    assert_eq!(world.server.events().await.len(), before, "what is too much does not fill the log");
}
