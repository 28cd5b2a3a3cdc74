//! RFC 7662 and RFC 9701: what introspection discloses about a token, and to which resource servers.

use serde_json::{Value, json};

use crate::support::agent::{ACCESS_TOKEN, Agent, Auth, JWT, Request, basic};
use crate::support::ends::new_key;
use crate::support::management::Api;
use crate::support::world::{CALENDAR, IDP, MAIL, World};
use crate::support::{Answer, Server};

const SIGNED: &str = "application/token-introspection+jwt";
const INACTIVE: &str = r#"{"active":false}"#;

fn asking<'a>(server: &'a Server, by: &'a Agent, token: &str) -> Request<'a> {
    by.at(server, "/oauth/introspect").without("dpop").param("token", token)
}

/// The exact response for every caller that may not introspect the token.
#[track_caller]
fn assert_inactive(answer: &Answer, what: &str) {
    assert_eq!((answer.status, answer.text.as_str()), (200, INACTIVE), "{what}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
    assert_eq!(answer.header("content-length"), Some("16"), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn introspection_needs_client_authentication_and_a_token_in_a_form() {
    let world = World::new().await;
    let token = world.first_hop().await.token().to_owned();
    let anonymous =
        world.mail_server.at(&world.server, "/oauth/introspect").without("dpop").without("authorization");
    let anonymous = anonymous.param("token", &token).send().await;
    assert_eq!((anonymous.status, anonymous.error()), (401, "invalid_client"));
    assert!(anonymous.header("www-authenticate").is_some());
    let bare = world.mail_server.at(&world.server, "/oauth/introspect").without("dpop");
    bare.clone().send().await.assert_refused(400, "invalid_request", "");
    bare.clone().param("token", "").send().await.assert_refused(400, "invalid_request", "");
    let twice = bare.clone().param("token", &token).param("token", &token).send().await;
    twice.assert_refused(400, "invalid_request", "");
    for (kind, body) in
        [("application/json", json!({"token": token}).to_string()), ("text/plain", format!("token={token}"))]
    {
        let answer = reqwest::Client::new()
            .post(format!("{}/oauth/introspect", world.server.base))
            .header("authorization", basic("mail-server", "mail-server-secret-0123456789"))
            .header("content-type", kind)
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 400, "{kind}");
    }
    let url = format!("{}/oauth/introspect?token={token}", world.server.base);
    for method in [reqwest::Method::GET, reqwest::Method::POST] {
        let answer = reqwest::Client::new()
            .request(method, &url)
            .header("authorization", basic("mail-server", "mail-server-secret-0123456789"))
            .header("content-type", "application/x-www-form-urlencoded")
            .send()
            .await
            .unwrap();
        assert!(matches!(answer.status().as_u16(), 400 | 404 | 405), "a token in the URI would be logged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_type_hints_do_not_hide_a_token() {
    let world = World::new().await;
    let token = world.first_hop().await.token().to_owned();
    for hint in ["access_token", "refresh_token", "foo", "urn:ietf:params:oauth:token-type:id_token"] {
        let answer =
            asking(&world.server, &world.mail_server, &token).param("token_type_hint", hint).send().await;
        assert_eq!((answer.status, &answer.json["active"]), (200, &json!(true)), "{hint}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_inactive_token_gets_the_same_bytes() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let good = world.first_hop().await.token().to_owned();
    let user = world.user_token();
    let for_calendar =
        world.user_proxy.exchange(&world.server, &user, JWT).param("audience", CALENDAR).send().await;
    let for_us = world.management_token(&world.user_proxy).await;
    let revoked = world.first_hop().await.token().to_owned();
    assert_eq!(world.server.revoke_token(&world.user_proxy, &revoked).await.status, 200);
    let mut claims = crate::support::claims_of(&good);
    claims["jti"] = json!("0197a000-0000-7000-8000-000000000000");
    let keyring = world.server.app.keyring();
    let never_recorded = keyring.active.sign("at+jwt", &claims).unwrap();
    claims["jti"] = json!("not a uuid");
    let odd = keyring.active.sign("at+jwt", &claims).unwrap();
    let claims = crate::support::claims_of(&good);
    let other_type = keyring.active.sign("JWT", &claims).unwrap();
    let forged = world.idp.sign("at+jwt", &claims).unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    let tampered = format!("{}.{}.{}", parts[0], parts[1], parts[2].chars().rev().collect::<String>());
    let unsigned = format!("{}.{}.", parts[0], parts[1]);
    let cases = [
        ("garbage", "garbage".to_owned()),
        ("dots", "..".to_owned()),
        ("not ASCII", "tökén".to_owned()),
        ("very long", "a".repeat(40_000)),
        ("a user's token", user),
        ("an assertion", world.user_proxy.assertion(&world.server)),
        ("a proof", world.user_proxy.proof(&world.server)),
        ("for another", for_calendar.token().to_owned()),
        ("for us", for_us),
        ("revoked", revoked),
        ("never recorded", never_recorded),
        ("with an odd id", odd),
        ("of another type", other_type),
        ("signed by another", forged),
        ("tampered with", tampered),
        ("unsigned", unsigned),
    ];
    for (what, token) in &cases {
        for server in [&world.server, &twin] {
            assert_inactive(&server.introspect(&world.mail_server, token).await, what);
        }
    }
    assert!(world.is_active(&good).await);
    world.server.pass(599);
    assert!(world.is_active(&good).await, "to its last second");
    world.server.pass(1);
    assert_inactive(&world.server.introspect(&world.mail_server, &good).await, "expired");
    actchain::jobs::sweep::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    assert_inactive(&world.server.introspect(&world.mail_server, &good).await, "forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_active_only_for_the_resource_servers_in_its_audience() {
    let world = World::new().await;
    let calendar_server = world.calendar_server().await;
    let yaml = format!(
        "clients:\n  - {{id: batch, kind: service, auth: client_secret_basic, secret: batch-secret-0123456789, \
         scopes: [mail.read], audiences: [\"{MAIL}\"], grant_types: [client_credentials]}}"
    );
    world.server.apply(&yaml).await.unwrap();
    let service = Agent::new("batch", Auth::Basic("batch-secret-0123456789".into()));
    let token = world.second_hop().await.token().to_owned();
    assert!(world.is_active(&token).await);
    for caller in
        [&calendar_server, &service, &world.email_svc, &world.stranger, &world.user_proxy, &world.admin]
    {
        let answer = asking(&world.server, caller, &token);
        // Clients whose tokens are all bound prove their key here, too.
        let answer = if caller.id == "calendar-server" {
            answer.send().await
        } else {
            caller.at(&world.server, "/oauth/introspect").param("token", &token).send().await
        };
        assert_inactive(&answer, &caller.id);
    }
    let (both, calendar) = (
        world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL),
        world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", CALENDAR),
    );
    let both = both.param("audience", CALENDAR).param("scope", "both").send().await;
    let calendar = calendar.send().await;
    for (token, mail, cal) in [(both.token(), true, true), (calendar.token(), false, true)] {
        assert_eq!(world.is_active(token).await, mail);
        assert_eq!(world.introspect(&calendar_server, token).await.json["active"], cal);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn introspection_of_a_third_hop_has_its_chain_key_and_delegation() {
    let world = World::new().await;
    let third = world.third_hop().await;
    let claims = third.claims();
    let introspected = world.introspect(&world.mail_server, third.token()).await;
    let issuer = world.server.app.issuer.as_str();
    let act = json!({"sub": "followup-svc", "iss": issuer, "cnf": {"jkt": world.followup_svc.jkt()}, "act":
        {"sub": "email-svc", "iss": issuer, "cnf": {"jkt": world.email_svc.jkt()}, "act":
            {"sub": "user-proxy", "iss": issuer, "cnf": {"jkt": world.user_proxy.jkt()}}}});
    let now = world.server.now();
    let expected = json!({
        "active": true, "iss": issuer, "sub": "alice", "idp": IDP, "aud": MAIL, "client_id": "followup-svc",
        "scope": "mail.read", "token_type": "DPoP", "iat": now, "exp": now + 300, "jti": claims["jti"],
        "cnf": {"jkt": world.followup_svc.jkt()}, "act": act, "txn": claims["txn"], "sid": "session-1",
        "auth_time": now - 60, "acr": "high", "amr": ["pwd", "otp"],
        "delegation": {"id": "F", "state": "active", "path": ["D", "E", "F"]},
    });
    assert_eq!(introspected.json, expected);
    assert_eq!(introspected.header("cache-control"), Some("no-store"), "RFC 7662 §4");
    let bearer =
        world.stranger.request(&world.server).without("dpop").param("grant_type", "client_credentials");
    let bearer = bearer.param("audience", MAIL).send().await;
    let introspected = world.introspect(&world.mail_server, bearer.token()).await;
    assert_eq!((&introspected.json["token_type"], introspected.json.get("cnf")), (&json!("Bearer"), None));
    assert_eq!((introspected.json.get("act"), introspected.json.get("delegation")), (None, None));
    assert_eq!((introspected.json.get("idp"), &introspected.json["sub"]), (None, &json!("stranger")));
}

#[tokio::test(flavor = "multi_thread")]
async fn introspection_has_the_capability_ceiling() {
    let world = World::new().await;
    let body = json!({"delegate": "stranger", "audiences": [MAIL], "capability_ceiling": "mutate"});
    assert_eq!(world.as_user("bob", "POST", "/delegate", body).await.status, 201);
    let token = world.hop_from_user(&world.stranger, &world.token_of("bob")).await;
    assert_eq!(token.claims()["capability_ceiling"], "mutate");
    let introspected = world.introspect(&world.mail_server, token.token()).await;
    assert_eq!(introspected.json["capability_ceiling"], "mutate", "{}", introspected.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_the_last_use_of_a_delegation_stays_active() {
    let world = World::new().await;
    let body = json!({"delegate": "stranger", "audiences": [MAIL], "max_uses": 1});
    let id = world.as_user("bob", "POST", "/delegate", body).await.json["id"].clone();
    let token = world.hop_from_user(&world.stranger, &world.token_of("bob")).await;
    let introspected = world.introspect(&world.mail_server, token.token()).await;
    assert_eq!(
        introspected.json["delegation"],
        json!({"id": id, "state": "expired", "path": [id]}),
        "{}",
        introspected.text
    );
    assert_eq!(world.status_of(token.token()).await, 0);
    let again = world.hop_from_user(&world.stranger, &world.token_of("bob")).await;
    again.assert_refused(400, "invalid_request", "command_limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_resource_server_sees_only_its_scopes_and_details() {
    let world = World::new().await;
    let calendar_server = world.calendar_server().await;
    let details = json!([{"type": "mailbox", "identifier": "inbox", "actions": ["read"]}]);
    let request = world.user_proxy.exchange(&world.server, &world.user_token(), JWT);
    let request = request.param("audience", MAIL).param("audience", CALENDAR).param("scope", "both");
    let token = request.param("authorization_details", &details.to_string()).send().await;
    assert_eq!(token.status, 200, "{}", token.text);
    let to_mail = world.introspect(&world.mail_server, token.token()).await;
    assert_eq!(
        (&to_mail.json["scope"], &to_mail.json["authorization_details"], &to_mail.json["aud"]),
        (&json!("both"), &details, &json!([CALENDAR, MAIL]))
    );
    let to_calendar = world.introspect(&calendar_server, token.token()).await;
    assert_eq!(
        (&to_calendar.json["scope"], &to_calendar.json["authorization_details"]),
        (&json!("both"), &json!([])),
        "no mailbox is any business of the calendar's; and nothing is not everything"
    );
    // A scope that the resource no longer declares gives no rights, even in a token issued before.
    let yaml = format!("resources:\n  - {{id: \"{CALENDAR}\", scopes: [calendar.read]}}");
    world.server.apply(&yaml).await.unwrap();
    let to_calendar = world.introspect(&calendar_server, token.token()).await;
    assert_eq!((&to_calendar.json["active"], to_calendar.json.get("scope")), (&json!(true), None));
    assert_eq!(world.introspect(&world.mail_server, token.token()).await.json["scope"], "both");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_credentials_are_answered_by_401_without_information_about_the_token() {
    let world = World::new().await;
    let token = world.first_hop().await.token().to_owned();
    let at = |header: String| {
        let request = world.mail_server.at(&world.server, "/oauth/introspect").without("dpop");
        request.set_header("authorization", header).param("token", &token).send()
    };
    let wrong = at(basic("mail-server", "wrong-secret-0123456789")).await;
    let unknown = at(basic("unknown", "wrong-secret-0123456789")).await;
    assert_eq!((wrong.status, wrong.error(), &wrong.text), (401, "invalid_client", &unknown.text));
    assert_eq!(wrong.header("cache-control"), Some("no-store"));
    assert!(wrong.header("www-authenticate").is_some());
    let bearer = at(format!("Bearer {token}")).await;
    assert_eq!((bearer.status, bearer.error()), (401, "invalid_client"), "a token is no credential here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_resource_server_or_a_replaced_secret_is_refused_at_once_by_every_server() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let token = world.first_hop().await.token().to_owned();
    let both = [&world.server, &twin];
    for server in both {
        assert_eq!(
            server.introspect(&world.mail_server, &token).await.json["active"],
            true,
            "both know it now"
        );
    }
    world.server.disable("mail-server").await;
    for server in both {
        let answer = server.introspect(&world.mail_server, &token).await;
        assert_eq!((answer.status, answer.error()), (401, "invalid_client"), "{}", answer.text);
    }
    world.server.enable("mail-server").await;
    for server in both {
        assert_eq!(server.introspect(&world.mail_server, &token).await.json["active"], true);
    }
    world.server.rotate_secret("mail-server", 0).await;
    for server in both {
        let answer = server.introspect(&world.mail_server, &token).await;
        assert_eq!((answer.status, answer.error()), (401, "invalid_client"), "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_server_that_moved_to_another_target_learns_nothing_of_the_former_target_from_any_server()
{
    let world = World::new().await;
    let twin = world.server.twin().await;
    let token = world.first_hop().await.token().to_owned();
    for server in [&world.server, &twin] {
        assert_eq!(
            server.introspect(&world.mail_server, &token).await.json["active"],
            true,
            "both know it now"
        );
    }
    let yaml = format!(
        "clients:\n  - {{id: mail-server, kind: resource_server, auth: client_secret_basic, \
         secret: mail-server-secret-0123456789, audiences: [\"{CALENDAR}\"]}}"
    );
    world.server.apply(&yaml).await.unwrap();
    for server in [&world.server, &twin] {
        assert_inactive(&server.introspect(&world.mail_server, &token).await, "not meant for it any more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_server_without_a_secret_is_authenticated_by_its_key() {
    let world = World::new().await;
    let keyless = Agent::new("keyless", Auth::None);
    let yaml = format!(
        "clients:\n  - {{id: keyless, kind: resource_server, auth: none, dpop_keys: [{}], audiences: [\"{MAIL}\"]}}",
        keyless.jkt()
    );
    world.server.apply(&yaml).await.unwrap();
    let token = world.first_hop().await.token().to_owned();
    let ask = || keyless.at(&world.server, "/oauth/introspect").param("token", &token);
    let answer = ask().send().await;
    assert_eq!((answer.status, &answer.json["active"]), (200, &json!(true)), "{}", answer.text);
    ask().without("dpop").send().await.assert_refused(400, "invalid_dpop_proof", "dpop_proof_missing");
    let elsewhere = ask().set_header("dpop", keyless.proof(&world.server)).send().await;
    elsewhere.assert_refused(400, "invalid_dpop_proof", "dpop_proof_target");
    let thief = Agent { key: new_key(), ..keyless.clone() };
    let stolen = thief.at(&world.server, "/oauth/introspect").param("token", &token).send().await;
    stolen.assert_refused(401, "invalid_client", "");
    let once = ask();
    assert_eq!(once.clone().send().await.status, 200);
    once.send().await.assert_refused(400, "invalid_dpop_proof", "dpop_proof_replayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nonces_configured_a_proof_of_a_resource_server_needs_one_and_a_secret_does_not() {
    let world = World::configured("[dpop]\nnonce = true").await;
    let keyless = Agent::new("keyless", Auth::None);
    let yaml = format!(
        "clients:\n  - {{id: keyless, kind: resource_server, auth: none, dpop_keys: [{}], audiences: [\"{MAIL}\"]}}",
        keyless.jkt()
    );
    world.server.apply(&yaml).await.unwrap();
    let bare = keyless.at(&world.server, "/oauth/introspect").param("token", "garbage").send().await;
    assert_eq!((bare.status, bare.error()), (400, "use_dpop_nonce"), "{}", bare.text);
    let nonce = bare.header("dpop-nonce").unwrap().to_owned();
    let htu = format!("{}/oauth/introspect", world.server.app.issuer);
    let claims = json!({"jti": crate::support::agent::fresh_jti(), "htm": "POST", "htu": htu,
                        "iat": world.server.now(), "nonce": nonce});
    let proof = keyless.key.sign_proof("dpop+jwt", &claims).unwrap();
    let again = keyless.at(&world.server, "/oauth/introspect").set_header("dpop", proof);
    assert_inactive(&again.param("token", "garbage").send().await, "with the nonce");
    assert_inactive(&world.introspect(&world.mail_server, "garbage").await, "with a secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_is_used_up_wherever_it_was_used() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let signer = Agent::new("signer", Auth::Assertion);
    let yaml = format!(
        "clients:\n  - {{id: signer, kind: resource_server, auth: private_key_jwt, jwks: {{keys: [{}]}}, \
         audiences: [\"{MAIL}\"]}}",
        signer.key.public_jwk()
    );
    world.server.apply(&yaml).await.unwrap();
    let token = world.first_hop().await.token().to_owned();
    let assertion = signer.assertion(&world.server);
    let ask = async |server: &Server, assertion: &str| {
        asking(server, &signer, &token).set("client_assertion", assertion).send().await
    };
    let first = ask(&world.server, &assertion).await;
    assert_eq!((first.status, &first.json["active"]), (200, &json!(true)), "{}", first.text);
    for server in [&world.server, &twin] {
        let again = ask(server, &assertion).await;
        assert_eq!((again.status, again.error()), (401, "invalid_client"), "{}", again.text);
    }
    let mut claims = signer.assertion_claims(&world.server);
    claims["aud"] = json!(format!("{}/oauth/introspect", world.server.app.issuer));
    let elsewhere = ask(&world.server, &signer.key.sign("JWT", &claims).unwrap()).await;
    assert_eq!(elsewhere.status, 401, "RFC 10070 §4: the issuer is the only audience");
    // An assertion that was used for a token request cannot be used for an introspection.
    let assertion = world.user_proxy.assertion(&world.server);
    let used = world.user_proxy.request(&world.server).set("client_assertion", &assertion);
    let used = used.param("grant_type", "client_credentials").param("audience", MAIL).send().await;
    assert_eq!(used.status, 200, "{}", used.text);
    let again = world.user_proxy.at(&twin, "/oauth/introspect").set("client_assertion", &assertion);
    assert_eq!(again.param("token", &token).send().await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_introspection_is_for_its_caller_and_is_no_other_kind_of_token() {
    let world = World::new().await;
    let third = world.third_hop().await;
    let signed = async |token: &str| {
        asking(&world.server, &world.mail_server, token).header("accept", SIGNED).send().await
    };
    let answer = signed(third.token()).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(SIGNED)), "{}", answer.text);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.header("vary").is_some_and(|vary| vary.eq_ignore_ascii_case("accept")));
    let (typ, claims) = world.server.verified(&answer.text).await;
    assert_eq!(typ, "token-introspection+jwt");
    let plain = world.introspect(&world.mail_server, third.token()).await;
    let expected = json!({"iss": world.server.app.issuer, "aud": "mail-server", "iat": world.server.now(),
                          "token_introspection": plain.json});
    assert_eq!(Value::Object(claims), expected);
    let inactive = signed("garbage").await;
    assert_eq!((inactive.status, inactive.header("content-type")), (200, Some(SIGNED)));
    let (_, claims) = world.server.verified(&inactive.text).await;
    assert_eq!(claims["token_introspection"], json!({"active": false}), "RFC 9701 §5");
    // RFC 8725 §3.12: the response is accepted neither as a token nor as an assertion, and introspects as inactive.
    for kind in [ACCESS_TOKEN, JWT] {
        let passed = world.followup_svc.exchange(&world.server, &answer.text, kind).send().await;
        passed.assert_refused(400, "invalid_request", "subject_token_invalid");
    }
    assert_inactive(&world.introspect(&world.mail_server, &answer.text).await, "its own answer");
    let user = Api::get(&world.server, "/delegate").user(&answer.text).send().await;
    assert_eq!(user.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_media_type_follows_the_weights_of_the_accept_header() {
    let world = World::new().await;
    let token = world.first_hop().await.token().to_owned();
    for (accept, kind) in [
        (None, "application/json"),
        (Some("*/*"), "application/json"),
        (Some("application/json, application/token-introspection+jwt;q=0.9"), "application/json"),
        (Some("application/json;q=0.2, application/token-introspection+jwt;q=0.9"), SIGNED),
        (Some("application/token-introspection+jwt;q=0"), "application/json"),
        (Some("text/html"), "application/json"),
    ] {
        let request = asking(&world.server, &world.mail_server, &token);
        let request = match accept {
            Some(accept) => request.header("accept", accept),
            None => request,
        };
        assert_eq!(request.send().await.header("content-type"), Some(kind), "{accept:?}");
    }
    let refused = world.mail_server.at(&world.server, "/oauth/introspect").without("dpop");
    let refused = refused.set_header("authorization", basic("mail-server", "wrong")).header("accept", SIGNED);
    let refused = refused.param("token", &token).send().await;
    assert_eq!((refused.status, refused.header("content-type")), (401, Some("application/json")));
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_has_the_endpoints_and_algorithms_of_introspection() {
    let world = World::new().await;
    let document = Answer::read(
        reqwest::get(format!("{}/.well-known/oauth-authorization-server", world.server.base)).await.unwrap(),
    )
    .await
    .json;
    let issuer = &world.server.app.issuer;
    for (member, path) in [
        ("introspection_endpoint", "/oauth/introspect"),
        ("revocation_endpoint", "/oauth/revoke"),
        ("status_list_aggregation_endpoint", "/oauth/status-lists"),
    ] {
        assert_eq!(document[member], format!("{issuer}{path}"), "{member}");
    }
    let alg = world.server.app.keyring().active.alg().name();
    let signed_by = document["introspection_signing_alg_values_supported"].as_array().unwrap();
    assert!(signed_by.contains(&json!(alg)) && !signed_by.contains(&json!("none")));
    for member in
        ["introspection_endpoint_auth_methods_supported", "revocation_endpoint_auth_methods_supported"]
    {
        assert!(
            document[member].as_array().is_some_and(|methods| methods.contains(&json!("private_key_jwt")))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn introspection_has_the_current_state_of_the_delegation() {
    let world = World::new().await;
    let asked = json!({"delegate": "stranger", "audiences": [MAIL], "expires_in": 100});
    let created = world.as_user("bob", "POST", "/delegate", asked).await;
    let id = created.json["id"].as_str().unwrap().to_owned();
    let bob = world.token_of("bob");
    let token = world.hop_from_user(&world.stranger, &bob).await;
    assert_eq!(token.json["expires_in"], 100, "not longer than the delegation");
    let renewed =
        world.as_user("bob", "POST", &format!("/delegate/{id}/renew"), json!({"expires_in": 500})).await;
    assert_eq!(renewed.status, 200, "{}", renewed.text);
    let introspected = world.introspect(&world.mail_server, token.token()).await;
    assert_eq!(
        introspected.json["exp"].as_i64().unwrap(),
        world.server.now() + 100,
        "a renewal renews no token"
    );
    world.server.pass(100);
    assert_inactive(&world.introspect(&world.mail_server, token.token()).await, "its time is over");
}
