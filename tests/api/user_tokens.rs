//! Tokens of trusted issuers as subject tokens: which kinds are accepted, what limits them, how the server's tokens
//! name their subjects, and what the log says about refused tokens.

use actchain_protocol::jose::{SigningAlg, SigningKey};
use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, Agent, ID_TOKEN, JWT};
use crate::support::management::Api;
use crate::support::world::{IDP, MAIL, World};
use crate::support::{Answer, claims_of};

const OTHER: &str = "https://other.example.com";

async fn exchange(world: &World, token: &str) -> Answer {
    world.user_proxy.exchange(&world.server, token, JWT).param("audience", MAIL).send().await
}

/// The default issuer, declared with other members.
async fn declare(world: &World, members: &str) -> Result<(), String> {
    let yaml = format!(
        "issuers:\n  - {{iss: {IDP}, jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [ES256], {members}}}",
        world.idp.public_jwk()
    );
    world.server.apply(&yaml).await
}

/// A second issuer, declared with other members.
async fn declare_other(world: &World, key: &SigningKey, members: &str) -> Result<(), String> {
    let yaml = format!(
        "issuers:\n  - {{iss: {OTHER}, jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [ES256]{members}}}",
        key.public_jwk()
    );
    world.server.apply(&yaml).await
}

fn of_other(world: &World, key: &SigningKey, sub: &str) -> String {
    let mut claims = world.user_claims();
    (claims["iss"], claims["sub"]) = (json!(OTHER), json!(sub));
    key.sign("JWT", &claims).unwrap()
}

async fn give(world: &World, iss: &str, sub: &str) {
    let name = sub.replace(':', "~");
    let yaml = format!(
        "delegations:\n  - {{id: G-{}-{name}, delegator: {{iss: {iss}, sub: \"{sub}\"}}, delegate: user-proxy, expires_in: 3600}}",
        iss.len()
    );
    world.server.apply(&yaml).await.unwrap();
}

async fn last_cause(world: &World) -> Value {
    world.server.last_event().await["detail"]["cause"].clone()
}

// RFC 8725 §3.11, §3.12
#[tokio::test(flavor = "multi_thread")]
async fn only_tokens_of_users_are_exchanged() {
    let world = World::new().await;
    let claims = world.user_claims();
    for typ in ["JWT", "at+jwt", "application/at+jwt", "application/JWT"] {
        assert_eq!(exchange(&world, &world.idp.sign(typ, &claims).unwrap()).await.status, 200, "{typ}");
    }
    for typ in [
        "logout+jwt",
        "secevent+jwt",
        "oauth-authz-req+jwt",
        "vc+jwt",
        "dc+sd-jwt",
        "kb+jwt",
        "entity-statement+jwt",
        "made-up+jwt",
    ] {
        for kind in [JWT, ID_TOKEN] {
            let token = world.idp.sign(typ, &claims).unwrap();
            let answer = world.user_proxy.exchange(&world.server, &token, kind).send().await;
            answer.assert_refused(400, "invalid_request", "subject_token_invalid");
            assert_eq!(last_cause(&world).await, "wrong_kind", "{typ}");
        }
    }
    let session_revoked = json!({"https://schemas.openid.net/secevent/caep/event-type/session-revoked": {}});
    for (name, value) in [
        ("events", session_revoked),
        ("sub_id", json!({"format": "opaque", "id": "x"})),
        ("vct", json!("https://credentials.example.com/id")),
        ("_sd", json!([])),
        ("_sd_alg", json!("sha-256")),
        ("token_introspection", json!({"active": true})),
        ("response_type", json!("code")),
        ("status_list", json!({"bits": 1, "lst": ""})),
    ] {
        let token = world.user_token_with(|claims| claims[name] = value);
        exchange(&world, &token).await.assert_refused(400, "invalid_request", "subject_token_invalid");
        assert_eq!(last_cause(&world).await, "wrong_kind", "{name}");
        let answer = Api::get(&world.server, "/delegate").user(&token).send().await;
        answer.assert_problem(401, "access_token_invalid");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scp_and_scope_bound_what_is_granted_in_each_of_their_forms() {
    let world = World::new().await;
    for (name, value) in [
        ("scp", json!(["mail.read"])),
        ("scp", json!("mail.read openid")),
        ("scope", json!(["mail.read"])),
        ("scope", json!("mail.read  openid")),
    ] {
        let token = world.user_token_with(|claims| claims[name] = value.clone());
        let asked = world.user_proxy.exchange(&world.server, &token, JWT).param("audience", MAIL);
        asked.param("scope", "mail.send").send().await.assert_refused(
            400,
            "invalid_scope",
            "scope_exceeds_grant",
        );
        assert_eq!(exchange(&world, &token).await.json["scope"], "mail.read", "{name} {value}");
    }
    let both = world.user_token_with(|claims| {
        (claims["scope"], claims["scp"]) = (json!("mail.read mail.send"), json!(["mail.send", "both"]));
    });
    assert_eq!(exchange(&world, &both).await.json["scope"], "mail.send");
    for (name, value) in [("scp", json!([])), ("scp", json!("")), ("scope", json!([]))] {
        let token = world.user_token_with(|claims| claims[name] = value.clone());
        let answer = exchange(&world, &token).await;
        assert_eq!(
            (answer.status, answer.error()),
            (400, "invalid_scope"),
            "{name} {value}: {}",
            answer.text
        );
    }
    for (name, value) in [("scp", json!(null)), ("scp", json!([1])), ("scope", json!({}))] {
        let token = world.user_token_with(|claims| claims[name] = value.clone());
        exchange(&world, &token).await.assert_refused(400, "invalid_request", "subject_token_invalid");
        assert_eq!(last_cause(&world).await, "claims");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_scope_claims_are_the_ones_that_bound_and_their_absence_allows_nothing() {
    let world = World::new().await;
    declare(&world, "scope_claims: [permissions]").await.unwrap();
    let token = world.user_token_with(|claims| {
        (claims["scope"], claims["permissions"]) = (json!("openid profile"), json!(["mail.read"]));
    });
    assert_eq!(exchange(&world, &token).await.json["scope"], "mail.read");
    let absent =
        exchange(&world, &world.user_token_with(|claims| claims["scope"] = json!("mail.read"))).await;
    assert_eq!((absent.status, absent.error()), (400, "invalid_scope"), "{}", absent.text);
    declare(&world, "scope_claims: [roles]").await.unwrap();
    let roles = world.user_token_with(|claims| claims["roles"] = json!(["mail.send", "Mail Reader"]));
    assert_eq!(exchange(&world, &roles).await.json["scope"], "mail.send");
    for members in ["scope_claims: []", "scope_claims: ['']"] {
        assert!(declare(&world, members).await.unwrap_err().contains("scope_claims"), "{members}");
    }
}

// RFC 9068 §5
#[tokio::test(flavor = "multi_thread")]
async fn users_of_two_issuers_with_one_name_have_two_names_in_our_tokens() {
    let world = World::new().await;
    let key = SigningKey::generate(SigningAlg::ES256).unwrap().0;
    let refused = declare_other(&world, &key, "").await.unwrap_err();
    for part in [IDP, OTHER, "raw", "subject: prefixed", "alias"] {
        assert!(refused.contains(part), "{refused}");
    }
    declare_other(&world, &key, ", subject: prefixed, alias: corp").await.unwrap();
    give(&world, OTHER, "alice").await;
    let own = exchange(&world, &world.user_token()).await.claims();
    let other = exchange(&world, &of_other(&world, &key, "alice")).await;
    let claims = other.claims();
    assert_eq!((&own["sub"], &own["idp"]), (&json!("alice"), &json!(IDP)));
    assert_eq!((&claims["sub"], &claims["idp"]), (&json!("corp:alice"), &json!(OTHER)));
    let event = world.server.last_event().await;
    assert_eq!(event["subject"], json!({"iss": OTHER, "sub": "alice"}), "inside, the user keeps its name");

    // The next hop recognizes the user, and its token has the same subject.
    let dlg = claims["dlg"].as_str().unwrap();
    let yaml =
        format!("delegations:\n  - {{id: below, parent: {dlg}, delegate: email-svc, expires_in: 600}}");
    world.server.apply(&yaml).await.unwrap();
    let next = world.email_svc.exchange(&world.server, other.token(), ACCESS_TOKEN).send().await;
    assert_eq!(next.status, 200, "{}", next.text);
    assert_eq!((&next.claims()["sub"], &next.claims()["idp"]), (&claims["sub"], &claims["idp"]));
    assert_eq!(world.server.last_event().await["subject"], json!({"iss": OTHER, "sub": "alice"}));
    let introspected = world.mail_server.at(&world.server, "/oauth/introspect").param("token", next.token());
    assert_eq!(introspected.send().await.json["sub"], "corp:alice");

    // They are different users: a revocation of one does not affect the other.
    let cut = json!({"iss": OTHER, "sub": "alice", "reason": "left"});
    assert_eq!(world.as_admin("POST", "/api/v1/principals/revoke-all", cut).await.status, 200);
    let ended = world.email_svc.exchange(&world.server, other.token(), ACCESS_TOKEN).send().await;
    assert_eq!(ended.status, 400, "{}", ended.text);
    assert_eq!(exchange(&world, &world.user_token()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_an_issuers_subjects_are_named_is_declared_without_contradiction() {
    let world = World::new().await;
    let key = SigningKey::generate(SigningAlg::ES256).unwrap().0;
    for (members, word) in [
        (", subject: prefixed", "alias: corp"),
        (", subject: raw, alias: corp", "raw has no alias"),
        (", alias: Corp", "a to z"),
        (", alias: 'a:b'", "a to z"),
        (", subject: hashed", "raw, prefixed"),
        (", may_act: perhaps", "authorize"),
    ] {
        let refused = declare_other(&world, &key, members).await.unwrap_err();
        assert!(refused.contains(word), "{members}: {refused}");
    }
    declare_other(&world, &key, ", alias: corp").await.unwrap();
    let same = declare(&world, "alias: corp").await.unwrap_err();
    assert!(same.contains(IDP) && same.contains(OTHER) && same.contains("corp"), "{same}");
    // The two issuers can exchange their forms in one step.
    let yaml = format!(
        "issuers:\n  - {{iss: {IDP}, jwks: {{keys: [{}]}}, audiences: [actchain], alias: corp}}\n  \
         - {{iss: {OTHER}, jwks: {{keys: [{}]}}, audiences: [actchain]}}",
        world.idp.public_jwk(),
        key.public_jwk()
    );
    world.server.apply(&yaml).await.unwrap();
    assert_eq!(exchange(&world, &world.user_token()).await.claims()["sub"], "corp:alice");
}

// RFC 9068 §5
#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_the_name_of_another_principal_gets_no_token() {
    let world = World::new().await;
    let key = SigningKey::generate(SigningAlg::ES256).unwrap().0;
    declare_other(&world, &key, ", alias: corp").await.unwrap();
    // The name of a client, and the name of the other issuer's user.
    for sub in ["email-svc", "user-proxy", "corp:alice", "corp:"] {
        give(&world, IDP, sub.trim_end_matches(':')).await;
        let token = world.user_token_with(|claims| claims["sub"] = json!(sub));
        exchange(&world, &token).await.assert_refused(400, "invalid_request", "subject_ambiguous");
        assert_eq!(world.server.last_event().await["reason"], "subject_ambiguous");
    }
    // A client that is registered later is detected, also by a server that has cached the user, and on the next hop.
    let twin = world.server.twin().await;
    let token = world.user_token();
    let at_twin = || world.user_proxy.exchange(&twin, &token, JWT).param("audience", MAIL);
    let before = at_twin().send().await;
    assert_eq!(before.status, 200, "{}", before.text);
    world
        .server
        .apply("clients:\n  - {id: alice, kind: agent, auth: client_secret_basic, secret: alice-secret-0123456789}")
        .await
        .unwrap();
    at_twin().send().await.assert_refused(400, "invalid_request", "subject_ambiguous");
    let next = world.email_svc.exchange(&twin, before.token(), ACCESS_TOKEN).send().await;
    next.assert_refused(400, "invalid_request", "subject_ambiguous");
    // A name with a prefix is compared with clients, too.
    give(&world, OTHER, "bob").await;
    assert_eq!(exchange(&world, &of_other(&world, &key, "bob")).await.status, 200);
    world
        .server
        .apply("clients:\n  - {id: 'corp:bob', kind: agent, auth: client_secret_basic, secret: bob-secret-0123456789}")
        .await
        .unwrap();
    let answer = exchange(&world, &of_other(&world, &key, "bob")).await;
    answer.assert_refused(400, "invalid_request", "subject_ambiguous");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_before_the_form_changed_is_not_read_in_the_new_form() {
    let world = World::new().await;
    give(&world, IDP, "corp:bob").await;
    let old = exchange(&world, &world.user_token_with(|claims| claims["sub"] = json!("corp:bob"))).await;
    assert_eq!(old.claims()["sub"], "corp:bob");
    declare(&world, "alias: corp").await.unwrap();
    let again = world.user_proxy.exchange(&world.server, old.token(), ACCESS_TOKEN).send().await;
    again.assert_refused(400, "invalid_request", "subject_token_invalid");
    assert_eq!(last_cause(&world).await, "issuer_changed", "it would be a token of bob");
    world.server.pass(11);
    let new = exchange(&world, &world.user_token()).await;
    assert_eq!(new.claims()["sub"], "corp:alice");
    let again = world.user_proxy.exchange(&world.server, new.token(), ACCESS_TOKEN).send().await;
    assert_eq!(again.status, 200, "{}", again.text);
}

// RFC 8693 §4.4
#[tokio::test(flavor = "multi_thread")]
async fn may_act_restricts_and_authorizes_only_where_its_issuer_is_declared_to() {
    let world = World::new().await;
    let issuer = world.server.app.issuer.clone();
    let naming = |sub: &str, client_id: &str| {
        let party = json!({"sub": client_id, "iss": issuer});
        world.user_token_with(|claims| (claims["sub"], claims["may_act"]) = (json!(sub), party))
    };
    let ask = async |agent: &Agent, token: &str| {
        agent.exchange(&world.server, token, JWT).param("audience", MAIL).send().await
    };
    // The default.
    declare(&world, "subject: raw").await.unwrap();
    assert_eq!(ask(&world.user_proxy, &naming("alice", "user-proxy")).await.status, 200, "with a delegation");
    ask(&world.user_proxy, &naming("alice", "email-svc")).await.assert_refused(
        400,
        "invalid_request",
        "may_act_mismatch",
    );
    assert_eq!(world.server.last_event().await["reason"], "may_act_mismatch");
    ask(&world.email_svc, &naming("carol", "email-svc")).await.assert_refused(
        400,
        "invalid_request",
        "delegation_required",
    );
    // A bare `client_id` belongs to the issuer's own clients, not to a client of this server.
    let bare = world.user_token_with(|claims| claims["may_act"] = json!({"client_id": "user-proxy"}));
    ask(&world.user_proxy, &bare).await.assert_refused(400, "invalid_request", "may_act_mismatch");

    declare(&world, "may_act: authorize").await.unwrap();
    assert_eq!(ask(&world.email_svc, &naming("carol", "email-svc")).await.status, 200);
    ask(&world.user_proxy, &naming("alice", "email-svc")).await.assert_refused(
        400,
        "invalid_request",
        "may_act_mismatch",
    );
    let bare = world.user_token_with(|claims| {
        (claims["sub"], claims["may_act"]) = (json!("carol"), json!({"client_id": "email-svc"}));
    });
    ask(&world.email_svc, &bare).await.assert_refused(400, "invalid_request", "may_act_mismatch");

    // A delegation from a `may_act` claim ends when the issuer is no longer declared as authorizing.
    let carol = naming("carol", "email-svc");
    assert_eq!(ask(&world.email_svc, &carol).await.status, 200);
    declare(&world, "may_act: restrict").await.unwrap();
    ask(&world.email_svc, &carol).await.assert_refused(400, "invalid_request", "delegation_required");

    declare(&world, "may_act: ignore").await.unwrap();
    assert_eq!(ask(&world.user_proxy, &naming("alice", "email-svc")).await.status, 200);
    ask(&world.email_svc, &naming("carol", "email-svc")).await.assert_refused(
        400,
        "invalid_request",
        "delegation_required",
    );
}

// RFC 9449 §6.1
#[tokio::test(flavor = "multi_thread")]
async fn a_bound_token_of_another_issuer_is_exchanged_under_its_key_alone() {
    let world = World::new().await;
    let bound_to = |jkt: &str| world.user_token_with(|claims| claims["cnf"] = json!({"jkt": jkt}));
    let elsewhere = exchange(&world, &bound_to(world.email_svc.jkt())).await;
    elsewhere.assert_refused(400, "invalid_request", "subject_key_mismatch");
    assert_eq!(exchange(&world, &bound_to(world.user_proxy.jkt())).await.status, 200);
    give(&world, IDP, "alice-2").await;
    // A client that otherwise needs no proof needs a proof for this token.
    let token = bound_to(world.stranger.jkt());
    let yaml = format!(
        "delegations:\n  - {{id: S, delegator: {{iss: {IDP}, sub: alice}}, delegate: stranger, expires_in: 3600}}"
    );
    world.server.apply(&yaml).await.unwrap();
    let ask = || world.stranger.exchange(&world.server, &token, JWT).param("audience", MAIL);
    ask().without("dpop").send().await.assert_refused(400, "invalid_dpop_proof", "dpop_proof_missing");
    assert_eq!(ask().send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_why_a_token_was_refused_and_the_answer_does_not() {
    let world = World::new().await;
    let stranger = SigningKey::generate(SigningAlg::ES256).unwrap().0;
    let now = world.server.now();
    let with = |name: &str, value: Value| world.user_token_with(|claims| claims[name] = value);
    let good = world.user_token();
    let forged = {
        let (input, _) = good.rsplit_once('.').unwrap();
        let other = world.user_token();
        format!("{input}.{}", other.rsplit_once('.').unwrap().1)
    };
    let cases = [
        ("malformed", "x".to_owned()),
        ("issuer_unknown", with("iss", json!(OTHER))),
        ("kid_unknown", stranger.sign("JWT", &world.user_claims()).unwrap()),
        ("signature", forged),
        ("audience", with("aud", json!("another-server"))),
        ("expired", with("exp", json!(now))),
        ("not_yet_valid", with("nbf", json!(now + 61))),
        ("claims", with("exp", json!("soon"))),
        ("binding", with("cnf", json!({"x5t#S256": "x"}))),
        ("wrong_kind", world.idp.sign("logout+jwt", &world.user_claims()).unwrap()),
        (
            "algorithm_not_allowed",
            SigningKey::generate(SigningAlg::Ed25519).unwrap().0.sign("JWT", &world.user_claims()).unwrap(),
        ),
    ];
    let mut answers = std::collections::BTreeSet::new();
    for (cause, token) in cases {
        let answer = exchange(&world, &token).await;
        answer.assert_refused(400, "invalid_request", "subject_token_invalid");
        answers.insert(answer.text);
        let event = world.server.last_event().await;
        assert_eq!(
            (&event["reason"], &event["detail"]["cause"]),
            (&json!("subject_token_invalid"), &json!(cause))
        );
        // The same token as an actor token.
        let good = world.user_token();
        let actor = world.user_proxy.exchange(&world.server, &good, JWT).param("audience", MAIL);
        let actor = actor.param("actor_token", &token).param("actor_token_type", JWT).send().await;
        actor.assert_refused(400, "invalid_request", "actor_token_invalid");
        assert_eq!(last_cause(&world).await, cause);
    }
    assert_eq!(answers.len(), 1, "one answer for all: {answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_why_a_client_was_not_authenticated_and_the_answer_does_not() {
    let world = World::new().await;
    let now = world.server.now();
    let proxy = &world.user_proxy;
    let assertion = |change: &dyn Fn(&mut Value)| {
        let mut claims = proxy.assertion_claims(&world.server);
        change(&mut claims);
        proxy.key.sign("JWT", &claims).unwrap()
    };
    let other = SigningKey::generate(SigningAlg::ES256).unwrap().0;
    let cases = [
        ("audience", assertion(&|claims| claims["aud"] = json!("https://as.example.com/oauth/token"))),
        ("expired", assertion(&|claims| claims["exp"] = json!(now))),
        ("not_yet_valid", assertion(&|claims| claims["iat"] = json!(now + 61))),
        ("lifetime_too_long", assertion(&|claims| claims["exp"] = json!(now + 3_600))),
        ("claims", assertion(&|claims| drop(claims.as_object_mut().unwrap().remove("jti")))),
        ("wrong_kind", proxy.key.sign("at+jwt", &proxy.assertion_claims(&world.server)).unwrap()),
        ("kid_unknown", other.sign("JWT", &proxy.assertion_claims(&world.server)).unwrap()),
    ];
    let mut answers = std::collections::BTreeSet::new();
    for (cause, assertion) in cases {
        let request = proxy.request(&world.server).param("grant_type", "client_credentials");
        let answer = request.set("client_assertion", &assertion).send().await;
        assert_eq!((answer.status, answer.error()), (401, "invalid_client"), "{cause}: {}", answer.text);
        answers.insert(answer.text);
        let event = world.server.last_event().await;
        assert_eq!(
            (&event["reason"], &event["detail"]["cause"]),
            (&json!("invalid_credentials"), &json!(cause))
        );
    }
    let wrong = Agent {
        auth: crate::support::agent::Auth::Basic("wrong-secret-0123456789".into()),
        ..world.email_svc.clone()
    };
    let answer = wrong.request(&world.server).param("grant_type", "client_credentials").send().await;
    answers.insert(answer.text);
    assert_eq!(last_cause(&world).await, "secret");
    assert_eq!(answers.len(), 1, "one answer for all: {answers:?}");
}

// FAPI 2.0 Security Profile §5.3.2.1; RFC 7519 §2
#[tokio::test(flavor = "multi_thread")]
async fn clocks_ten_seconds_ahead_are_accepted_everywhere_and_a_minute_ahead_nowhere() {
    let world = World::new().await;
    let now = world.server.now();
    let proxy = &world.user_proxy;
    for (ahead, accepted) in
        [(json!(now + 10), true), (json!(now as f64 + 9.5), true), (json!(now + 61), false)]
    {
        let status = |answer: &Answer| answer.status == 200;
        // A subject token, by either claim.
        for name in ["iat", "nbf"] {
            let token = world.user_token_with(|claims| claims[name] = ahead.clone());
            let answer = exchange(&world, &token).await;
            assert_eq!(status(&answer), accepted, "{name} {ahead}: {}", answer.text);
            // The same at the management API.
            let answer = Api::get(&world.server, "/delegate").user(&token).send().await;
            assert_eq!(status(&answer), accepted, "{name} {ahead}: {}", answer.text);
        }
        // A DPoP proof.
        let mut claims = proxy.proof_claims(&world.server);
        claims["iat"] = ahead.clone();
        let proof = proxy.key.sign_proof("dpop+jwt", &claims).unwrap();
        let asked = proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
        let answer = asked.set_header("dpop", proof).send().await;
        assert_eq!(status(&answer), accepted, "proof {ahead}: {}", answer.text);
        // A client assertion.
        for name in ["iat", "nbf"] {
            let mut claims = proxy.assertion_claims(&world.server);
            claims[name] = ahead.clone();
            let assertion = proxy.key.sign("JWT", &claims).unwrap();
            let asked = proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
            let answer = asked.set("client_assertion", &assertion).send().await;
            assert_eq!(status(&answer), accepted, "assertion {name} {ahead}: {}", answer.text);
        }
        // A DPoP proof at the management API.
        let token = world.management_token(&world.admin).await;
        let call = Api::get(&world.server, "/delegate");
        let mut claims = call.proof_claims(&token);
        claims["iat"] = ahead.clone();
        let proof = world.admin.key.sign_proof("dpop+jwt", &claims).unwrap();
        let call = call.header("authorization", &format!("DPoP {token}")).header("dpop", &proof);
        let answer = call.send().await;
        assert_eq!(status(&answer), accepted, "management API {ahead}: {}", answer.text);
    }
    let exponent = world.user_token_with(|claims| claims["exp"] = json!((now + 300) as f64 + 0.75));
    assert_eq!(claims_of(exchange(&world, &exponent).await.token())["exp"], now + 300, "never longer");
}

// RFC 8032 §5.1.7: a signature with a key of small order can be made without a private key.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_small_order_proves_nothing() {
    use actchain_protocol::base64url;
    let world = World::new().await;
    let mut identity = [0_u8; 32];
    identity[0] = 1;
    let header = json!({"typ": "dpop+jwt", "alg": "EdDSA",
        "jwk": {"kty": "OKP", "crv": "Ed25519", "x": base64url::encode(identity)}});
    let claims = world.stranger.proof_claims(&world.server);
    // R is the neutral element and S is zero: the equation is true for every message.
    let mut signature = [0_u8; 64];
    signature[0] = 1;
    let parts = [header.to_string(), claims.to_string()].map(base64url::encode);
    let proof = format!("{}.{}.{}", parts[0], parts[1], base64url::encode(signature));
    let asked = world.stranger.request(&world.server).param("grant_type", "client_credentials");
    let answer = asked.param("audience", MAIL).set_header("dpop", proof).send().await;
    answer.assert_refused(400, "invalid_dpop_proof", "dpop_proof_malformed");
}
