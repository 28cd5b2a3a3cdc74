//! Client authentication: RFC 6749 §2.3, RFC 7521, RFC 7523 with RFC 10070, and clients with only a key.

use std::collections::BTreeSet;
use std::sync::Arc;

use actchain::domain::authority_lock;
use actchain::jobs::sweep;
use actchain_protocol::jose::{SigningAlg, SigningKey};
use serde_json::json;
use sqlx::Connection as _;

use crate::support::agent::{Agent, Auth, Request, basic};
use crate::support::refill::Refill;
use crate::support::world::{MAIL, World};
use crate::support::{Answer, Server};

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
async fn another_method_than_the_registered_one_is_refused() {
    let world = World::new().await;
    let secret = "email-svc-secret-0123456789";
    let request = || Request::to(&world.server).param("grant_type", "client_credentials");
    let as_post = request().param("client_id", "email-svc").param("client_secret", secret);
    let as_basic = request().header("authorization", basic("stranger", "stranger-secret-0123456789"));
    let without_id =
        request().param("client_id", "user-proxy").header("dpop", world.user_proxy.proof(&world.server));
    for request in [as_post, as_basic, without_id] {
        let answer = request.send().await;
        assert_eq!((answer.status, answer.error()), (401, "invalid_client"));
        assert!(answer.header("www-authenticate").is_some());
        assert_eq!(world.server.last_event().await["reason"], "auth_method_not_registered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_authentication_methods_in_one_request_are_refused() {
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
async fn another_client_id_and_an_unreadable_authorization_header_are_refused() {
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
async fn unknown_clients_and_wrong_secrets_get_the_same_answer_and_unknown_clients_no_event() {
    let world = World::new().await;
    let events = world.server.events().await.len();
    let unknown =
        Request::to(&world.server).header("authorization", basic("unknown", "wrong-secret")).send().await;
    assert_eq!(world.server.events().await.len(), events, "a stranger cannot grow the log");
    let wrong =
        Request::to(&world.server).header("authorization", basic("email-svc", "wrong-secret")).send().await;
    assert_eq!((unknown.status, &unknown.text), (wrong.status, &wrong.text));
    let event = world.server.last_event().await;
    assert_eq!(
        (&event["actor"]["client_id"], &event["reason"]),
        (&json!("email-svc"), &json!("invalid_credentials"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_of_a_secret_are_stopped_and_the_client_itself_goes_on() {
    let world = World::configured("[limits]\nfailed_auth_per_minute = 3").await;
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

fn guess<'a>(world: &'a World, client_id: &str, secret: &str) -> Request<'a> {
    Request::to(&world.server).header("authorization", basic(client_id, secret))
}

/// A client credentials token, with a secret.
async fn by_secret(world: &World, secret: &str) -> Answer {
    let agent = Agent { auth: Auth::Basic(secret.to_owned()), ..world.email_svc.clone() };
    let request = agent.request(&world.server).param("grant_type", "client_credentials");
    request.param("audience", MAIL).send().await
}

const SECRET: &str = "email-svc-secret-0123456789";

#[tokio::test(flavor = "multi_thread")]
async fn of_a_burst_of_wrong_secrets_no_more_are_tried_than_the_limit_allows() {
    let world = World::new().await;
    for client_id in ["email-svc", "unknown", "user-proxy"] {
        let burst = (0..120).map(|n| guess(&world, client_id, &format!("guess-{n}")).send());
        let answers = futures_util::future::join_all(burst).await;
        let of = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
        let (tried, turned_away) = (of(401), of(429));
        assert!(
            (1..=10).contains(&tried) && tried + turned_away == 120,
            "{client_id}: {tried} {turned_away}"
        );
        let late = answers.iter().find(|answer| answer.status == 429).unwrap();
        assert!(late.header("retry-after").is_some() && late.error() == "temporarily_unavailable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_secret_passes_where_wrong_ones_have_used_up_the_limit() {
    let world = World::configured("[limits]\nfailed_auth_per_minute = 2").await;
    let new = world.server.rotate_secret("email-svc", 60).await;
    let both = async || [by_secret(&world, SECRET).await, by_secret(&world, &new).await];
    assert_eq!(both().await.map(|answer| answer.status), [200, 200]);
    let mut statuses = Vec::new();
    for n in 0..4 {
        statuses.push(guess(&world, "email-svc", &format!("guess-{n}")).send().await.status);
    }
    assert_eq!(statuses, [401, 401, 429, 429]);
    assert_eq!(both().await.map(|answer| answer.status), [200, 200], "the old one, too, until it ends");
    world.server.pass(61);
    let ended = by_secret(&world, SECRET).await.status;
    assert!(matches!(ended, 401 | 429), "what has ended is a guess like any other: {ended}");
    assert_eq!(by_secret(&world, &new).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_secret_is_no_oracle_for_guesses_without_end() {
    let world = World::configured("[limits]\nfailed_auth_per_minute = 1").await;
    assert_eq!(by_secret(&world, SECRET).await.status, 200);
    for n in 0..99 {
        guess(&world, "email-svc", &format!("guess-{n}")).send().await;
    }
    assert_eq!(by_secret(&world, SECRET).await.status, 200);
    guess(&world, "email-svc", "another guess").send().await;
    let answer = by_secret(&world, SECRET).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("60")));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_one_right_secret_at_once_are_one_try() {
    let world = World::configured("[limits]\nfailed_auth_per_minute = 1").await;
    let answers = futures_util::future::join_all((0..24).map(|_| by_secret(&world, SECRET))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_refused_without_waiting_for_its_event() {
    let world = World::new().await;
    let before = world.server.events().await.len();
    let mut sql = world.server.sql().await;
    // Nothing can be recorded meanwhile.
    let closed = sql.begin_with(authority_lock::BEGIN_EXCLUSIVE).await.unwrap();
    let [known, unknown, other] =
        ["email-svc", "unknown", "user-proxy"].map(|id| guess(&world, id, "wrong-secret").send());
    let (known, unknown, other) = (known.await, unknown.await, other.await);
    for answer in [&known, &other] {
        assert_eq!((answer.status, &answer.text), (401, &unknown.text));
        let names = |answer: &Answer| answer.headers.keys().map(ToString::to_string).collect::<BTreeSet<_>>();
        assert_eq!(names(answer), names(&unknown));
    }
    closed.rollback().await.unwrap();
    assert_eq!(world.server.events().await.len(), before + 2, "and recorded all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_is_for_the_issuer_alone_and_works_once() {
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
        assert_eq!(
            send(&world.user_proxy.key.sign(typ, &claims).unwrap()).await.status,
            401,
            "RFC 10070 §4: {typ}"
        );
    }
    let (stranger, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let claims = world.user_proxy.assertion_claims(&world.server);
    assert_eq!(send(&stranger.sign("JWT", &claims).unwrap()).await.status, 401);
}

// RFC 7523 §3, RFC 7521 §4.2.1
#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_works_once_after_a_restart_and_when_a_clock_goes_back() {
    let world = World::new().await;
    let send = async |server: &Server, assertion: &str| {
        let request = world.user_proxy.request(server).param("grant_type", "client_credentials");
        request.param("audience", MAIL).set("client_assertion", assertion).send().await
    };
    let assertion = world.user_proxy.assertion(&world.server);
    assert_eq!(send(&world.server, &assertion).await.status, 200);
    let restarted = world.server.twin().await;
    send(&restarted, &assertion).await.assert_refused(401, "invalid_client", "");
    assert_eq!(world.server.last_event().await["reason"], "assertion_replayed");
    world.server.pass(86_400);
    sweep::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    let mut sql = world.server.sql().await;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM used_jti").fetch_one(&mut sql).await.unwrap();
    assert_eq!(left, 0, "its id is forgotten");
    world.server.pass(-86_400);
    send(&restarted, &assertion).await.assert_refused(401, "invalid_client", "");
    assert_eq!(world.server.last_event().await["reason"], "invalid_credentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_stored_as_argon2id_hashes() {
    let world = World::new().await;
    let mut sql = world.server.sql().await;
    let stored = "SELECT s ->> 'hash' FROM client, jsonb_array_elements(secrets) s
                  UNION ALL SELECT declared_secret FROM client WHERE declared_secret IS NOT NULL";
    let hashes: Vec<String> = sqlx::query_scalar(stored).fetch_all(&mut sql).await.unwrap();
    assert_eq!(hashes.len(), 6, "current and declared, of three clients");
    for hash in hashes {
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_id_beside_an_assertion_names_the_same_client() {
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
    assert_eq!((typed.status, typed.error()), (401, "invalid_client"), "RFC 10070 §3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_secret_is_authenticated_by_its_registered_key() {
    let world = World::new().await;
    let token = world.second_hop().await;
    let thief =
        Agent { key: SigningKey::generate(SigningAlg::ES256).unwrap().0, ..world.followup_svc.clone() };
    let answer =
        thief.exchange(&world.server, token.token(), crate::support::agent::ACCESS_TOKEN).send().await;
    answer.assert_refused(401, "invalid_client", "");
    assert_eq!(world.server.last_event().await["reason"], "invalid_credentials");
    let unregistered = Agent { id: "unknown".into(), ..thief };
    let unknown =
        unregistered.exchange(&world.server, token.token(), crate::support::agent::ACCESS_TOKEN).send().await;
    assert_eq!(unknown.text, answer.text, "the answer does not show which clients exist");
    let bare = world
        .followup_svc
        .exchange(&world.server, token.token(), crate::support::agent::ACCESS_TOKEN)
        .without("dpop");
    bare.send().await.assert_refused(400, "invalid_dpop_proof", "dpop_proof_missing");
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
    let new = world.server.rotate_secret("email-svc", 0).await;
    assert_eq!((ask(&twin, old).await, ask(&world.server, old).await), (401, 401));
    assert_eq!((ask(&twin, &new).await, ask(&world.server, &new).await), (200, 200));
    let newer = world.server.rotate_secret("email-svc", 60).await;
    assert_eq!((ask(&twin, &new).await, ask(&twin, &newer).await), (200, 200), "for a while");
    world.server.pass(61);
    assert_eq!((ask(&twin, &new).await, ask(&twin, &newer).await), (401, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_assertions_and_wrong_methods_lock_no_client_out() {
    let world = World::configured("[limits]\nfailed_auth_per_minute = 3").await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_client_is_read_afresh_however_often_the_old_one_is_remembered_again() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let refill = |client_id: &str| {
        let app = Arc::clone(&world.server.app);
        let old = app.caches.clients.get(client_id).unwrap();
        Refill::with(move || app.caches.clients.insert(old.client_id.clone(), Arc::clone(&old)))
    };
    let exchange = async || world.first_hop().await;
    assert_eq!(exchange().await.status, 200);
    twin.disable("user-proxy").await;
    twin.enable("user-proxy").await;
    let refilling = refill("user-proxy");
    assert_eq!(exchange().await.status, 200, "the ledger compares the version");
    drop(refilling);
    // RFC 7662 §2.1
    let token = exchange().await.token().to_owned();
    let introspect = async || world.introspect(&world.mail_server, &token).await;
    assert_eq!(introspect().await.status, 200);
    twin.disable("mail-server").await;
    let refilling = refill("mail-server");
    let answer = introspect().await;
    drop(refilling);
    assert_eq!((answer.status, answer.error()), (401, "invalid_client"));
}
