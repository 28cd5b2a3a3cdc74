//! Client authentication: RFC 6749 §2.3, RFC 7521, RFC 7523 with RFC 10070, and keys alone.

use actchain::flows::clients;
use actchain::platform::jose::{SigningAlg, SigningKey};
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::support::agent::{Agent, Auth, Request, basic};
use crate::support::world::{MAIL, World};

#[tokio::test(flavor = "multi_thread")]
async fn each_method_works_for_the_client_that_registered_it() {
    let world = World::new().await;
    for agent in [&world.user_proxy, &world.email_svc, &world.stranger] {
        let answer = agent
            .request(&world.server)
            .param("grant_type", "client_credentials")
            .param("audience", MAIL)
            .send()
            .await;
        assert_eq!(answer.status, 200, "{}: {}", agent.id, answer.text);
        assert_eq!((&answer.claims()["sub"], &answer.claims()["idp"]), (&json!(agent.id), &json!(null)));
        assert_eq!(answer.json.get("issued_token_type"), None, "client_credentials is no exchange");
    }
    world.third_hop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cb_07_another_method_than_the_registered_one_is_refused() {
    let world = World::new().await;
    let secret = "email-svc-secret-0123456789";
    let request = || Request::to(&world.server).param("grant_type", "client_credentials");
    let as_post = request().param("client_id", "email-svc").param("client_secret", secret);
    let as_basic = request().header("authorization", basic("stranger", "stranger-secret-0123456789"));
    let as_nobody =
        request().param("client_id", "user-proxy").header("dpop", world.user_proxy.proof(&world.server));
    for request in [as_post, as_basic, as_nobody] {
        let answer = request.send().await;
        assert_eq!((answer.status, answer.error()), (401, "invalid_client"));
        assert!(answer.header("www-authenticate").is_some());
        assert_eq!(world.server.last_event().await["reason"], "client_method_wrong");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cb_01_cb_02_two_methods_at_once_are_refused() {
    let world = World::new().await;
    let both =
        world.email_svc.request(&world.server).param("client_id", "email-svc").param("client_secret", "x");
    let answer = both.send().await;
    assert_eq!((answer.status, answer.error()), (400, "invalid_request"));
    let mixed = world.user_proxy.request(&world.server).header("authorization", basic("user-proxy", "x"));
    let answer = mixed.send().await;
    assert_eq!((answer.status, answer.error()), (401, "invalid_client"));
}

#[tokio::test(flavor = "multi_thread")]
async fn cb_06_cb_10_names_that_differ_and_headers_that_cannot_be_read() {
    let world = World::new().await;
    let request = world.email_svc.request(&world.server).param("grant_type", "client_credentials");
    assert_eq!(
        request.clone().param("client_id", "email-svc").param("audience", MAIL).send().await.status,
        200
    );
    let other = world.email_svc.request(&world.server).param("client_id", "stranger").send().await;
    assert_eq!((other.status, other.error()), (401, "invalid_client"));
    for header in ["Basic", "Basic !!!", "Bearer x", "Basic YWI="] {
        let answer = Request::to(&world.server).header("authorization", header).send().await;
        assert_eq!((answer.status, answer.error()), (401, "invalid_client"), "{header}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cb_09_unknown_clients_and_wrong_secrets_look_alike_and_strangers_leave_no_trace() {
    let world = World::new().await;
    let events = world.server.events().await.len();
    let unknown =
        Request::to(&world.server).header("authorization", basic("nobody", "wrong-secret")).send().await;
    assert_eq!(world.server.events().await.len(), events, "a stranger cannot grow the log");
    let wrong =
        Request::to(&world.server).header("authorization", basic("email-svc", "wrong-secret")).send().await;
    assert_eq!((unknown.status, &unknown.text), (wrong.status, &wrong.text));
    let event = world.server.last_event().await;
    assert_eq!(
        (&event["actor"]["client_id"], &event["reason"]),
        (&json!("email-svc"), &json!("client_unproven"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn gn_15_guessing_secrets_is_stopped_and_the_real_client_goes_on() {
    let world = World::configured("[limits]\nfailed_secrets = 3").await;
    let good = || {
        world
            .email_svc
            .request(&world.server)
            .param("grant_type", "client_credentials")
            .param("audience", MAIL)
    };
    assert_eq!(good().send().await.status, 200);
    let before = world.server.events().await.len();
    let mut statuses = Vec::new();
    for n in 0..6 {
        let guess = Request::to(&world.server)
            .header("authorization", basic("email-svc", &format!("guess-{n}")))
            .send()
            .await;
        statuses.push(guess.status);
    }
    assert_eq!(statuses, [401, 401, 401, 429, 429, 429]);
    assert_eq!(world.server.events().await.len(), before + 3, "what is turned away is counted, not recorded");
    assert_eq!(good().send().await.status, 200, "its secret was verified before");
}

#[tokio::test(flavor = "multi_thread")]
async fn cj_03_cj_09_assertions_are_for_the_issuer_alone_and_once_only() {
    let world = World::new().await;
    let send = async |assertion: &str| {
        let request = world.user_proxy.request(&world.server).param("grant_type", "client_credentials");
        request.param("audience", MAIL).set("client_assertion", assertion).send().await
    };
    let assertion = world.user_proxy.assertion(&world.server);
    assert_eq!(send(&assertion).await.status, 200);
    let replay = send(&assertion).await;
    assert_eq!((replay.status, replay.error()), (401, "invalid_client"));
    assert_eq!(world.server.last_event().await["reason"], "assertion_replayed");
    let issuer = world.server.app.issuer.clone();
    for aud in [json!(world.server.token_endpoint()), json!([issuer, "x"]), json!(format!("{issuer}/"))] {
        let mut claims = world.user_proxy.assertion_claims(&world.server);
        claims["aud"] = aud.clone();
        let answer = send(&world.user_proxy.key.sign("JWT", &claims).unwrap()).await;
        assert_eq!((answer.status, answer.error()), (401, "invalid_client"), "{aud}");
    }
    let mut claims = world.user_proxy.assertion_claims(&world.server);
    claims["aud"] = json!([issuer]);
    assert_eq!(send(&world.user_proxy.key.sign("JWT", &claims).unwrap()).await.status, 200);
    for typ in ["at+jwt", "dpop+jwt"] {
        let claims = world.user_proxy.assertion_claims(&world.server);
        assert_eq!(send(&world.user_proxy.key.sign(typ, &claims).unwrap()).await.status, 401, "CJ-05 {typ}");
    }
    let (stranger, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let claims = world.user_proxy.assertion_claims(&world.server);
    assert_eq!(send(&stranger.sign("JWT", &claims).unwrap()).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn cj_11_a_client_id_beside_an_assertion_names_the_same_client() {
    let world = World::new().await;
    let request = || {
        world
            .user_proxy
            .request(&world.server)
            .param("grant_type", "client_credentials")
            .param("audience", MAIL)
    };
    assert_eq!(request().param("client_id", "user-proxy").send().await.status, 200);
    let answer = request().param("client_id", "email-svc").send().await;
    assert_eq!((answer.status, answer.error()), (401, "invalid_client"));
    let typed = request()
        .set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer")
        .send()
        .await;
    assert_eq!((typed.status, typed.error()), (401, "invalid_client"), "CJ-13");
}

#[tokio::test(flavor = "multi_thread")]
async fn cb_08_a_client_without_credentials_is_its_registered_key() {
    let world = World::new().await;
    let token = world.second_hop().await;
    let thief =
        Agent { key: SigningKey::generate(SigningAlg::ES256).unwrap().0, ..world.followup_svc.clone() };
    let answer =
        thief.exchange(&world.server, token.token(), crate::support::agent::ACCESS_TOKEN).send().await;
    answer.assert_refused(401, "invalid_client", "");
    assert_eq!(world.server.last_event().await["reason"], "client_unproven");
    let nobody = Agent { id: "nobody".into(), ..thief };
    let unknown =
        nobody.exchange(&world.server, token.token(), crate::support::agent::ACCESS_TOKEN).send().await;
    assert_eq!(unknown.text, answer.text, "nor can anybody find out which clients there are");
    let bare = world
        .followup_svc
        .exchange(&world.server, token.token(), crate::support::agent::ACCESS_TOKEN)
        .without("dpop");
    bare.send().await.assert_refused(400, "invalid_dpop_proof", "proof_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_stops_at_once_on_every_server() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let ask = async |server: &crate::support::Server, secret: &str| {
        let agent = Agent { auth: Auth::Basic(secret.to_owned()), ..world.email_svc.clone() };
        agent
            .request(server)
            .param("grant_type", "client_credentials")
            .param("audience", MAIL)
            .send()
            .await
            .status
    };
    let old = "email-svc-secret-0123456789";
    assert_eq!((ask(&world.server, old).await, ask(&twin, old).await), (200, 200), "both remember it now");
    let new = clients::rotate_secret(&world.server.app.pool, "email-svc", None, world.server.clock.now())
        .await
        .unwrap();
    assert_eq!((ask(&twin, old).await, ask(&world.server, old).await), (401, 401));
    assert_eq!(
        (ask(&twin, new.expose_secret()).await, ask(&world.server, new.expose_secret()).await),
        (200, 200)
    );
    let keep = Some(time::Duration::seconds(60));
    let newer = clients::rotate_secret(&world.server.app.pool, "email-svc", keep, world.server.clock.now())
        .await
        .unwrap();
    assert_eq!(
        (ask(&twin, new.expose_secret()).await, ask(&twin, newer.expose_secret()).await),
        (200, 200),
        "for a while"
    );
    world.server.pass(61);
    assert_eq!((ask(&twin, new.expose_secret()).await, ask(&twin, newer.expose_secret()).await), (401, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_assertions_and_wrong_methods_lock_nobody_out() {
    let world = World::configured("[limits]\nfailed_secrets = 3").await;
    for _ in 0..10 {
        let claims = json!({"iss": "email-svc", "sub": "email-svc"});
        let (key, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
        let forged = key.sign("JWT", &claims).unwrap();
        let request = Request::to(&world.server)
            .param("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
            .param("client_assertion", &forged);
        assert_eq!(request.send().await.status, 401);
    }
    let good = world
        .email_svc
        .request(&world.server)
        .param("grant_type", "client_credentials")
        .param("audience", MAIL);
    assert_eq!(good.send().await.status, 200, "whose secret was never seen before");
}
