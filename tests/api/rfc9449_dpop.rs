//! RFC 9449: proofs, replay, nonces, bound tokens.

use actchain::jobs::sweep;
use serde_json::{Value, json};

use crate::support::Answer;
use crate::support::agent::{ACCESS_TOKEN, JWT};
use crate::support::world::{MAIL, World};

async fn with_proof(world: &World, proof: &str) -> Answer {
    let request = world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
    request.set_header("dpop", proof).send().await
}

async fn with_claims(world: &World, change: impl FnOnce(&mut Value)) -> Answer {
    let mut claims = world.user_proxy.proof_claims(&world.server);
    change(&mut claims);
    with_proof(world, &world.user_proxy.key.sign_proof("dpop+jwt", &claims).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_one_dpop_header_with_one_proof() {
    let world = World::new().await;
    let proof = world.user_proxy.proof(&world.server);
    let other = world.user_proxy.proof(&world.server);
    let request =
        world.user_proxy.exchange(&world.server, &world.user_token(), JWT).header("dpop", other.clone());
    request.send().await.assert_refused(400, "invalid_dpop_proof", "dpop_proof_malformed");
    for joined in [format!("{proof}, {other}"), format!("{proof}.x"), "{}".into(), "a.b.c".into()] {
        with_proof(&world, &joined).await.assert_refused(400, "invalid_dpop_proof", "dpop_proof_malformed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_proofs_are_refused_and_recorded() {
    let world = World::new().await;
    let now = world.server.now();
    with_claims(&world, |claims| claims["htm"] = json!("GET")).await.assert_refused(
        400,
        "invalid_dpop_proof",
        "dpop_proof_target",
    );
    with_claims(&world, |claims| claims["htu"] = json!("http://x.example/oauth/token")).await.assert_refused(
        400,
        "invalid_dpop_proof",
        "dpop_proof_target",
    );
    with_claims(&world, |claims| claims["iat"] = json!(now - 61)).await.assert_refused(
        400,
        "invalid_dpop_proof",
        "dpop_proof_time",
    );
    with_claims(&world, |claims| claims["iat"] = json!(now + 11)).await.assert_refused(
        400,
        "invalid_dpop_proof",
        "dpop_proof_time",
    );
    with_claims(&world, |claims| claims["jti"] = json!(1)).await.assert_refused(
        400,
        "invalid_dpop_proof",
        "dpop_proof_malformed",
    );
    let good = world.user_proxy.proof(&world.server);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let flipped = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{head}.{flipped}{}", &signature[1..]);
    with_proof(&world, &forged).await.assert_refused(400, "invalid_dpop_proof", "dpop_proof_signature");
    assert_eq!(world.server.last_event().await["reason"], "dpop_proof_signature");
    assert_eq!(with_proof(&world, &good).await.status, 200, "a forgery does not use up the real one");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_expected_target_does_not_come_from_the_host_header() {
    let world = World::configured("issuer = \"https://as.example.com/t1\"").await;
    let url = format!("{}/t1/oauth/token", world.server.base);
    let send = async |htu: &str| {
        let mut claims = world.user_proxy.proof_claims(&world.server);
        claims["htu"] = json!(htu);
        let request =
            world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
        let request =
            request.set_header("dpop", world.user_proxy.key.sign_proof("dpop+jwt", &claims).unwrap());
        let sent = reqwest::Client::new()
            .post(&url)
            .header("host", "evil.example.com")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("dpop", &request.headers.iter().find(|(name, _)| name == "dpop").unwrap().1)
            .body(request.body());
        Answer::read(sent.send().await.unwrap()).await
    };
    let answer = send("https://as.example.com/t1/oauth/token").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(send("HTTPS://AS.example.com:443/t1/oauth/./token?x=1").await.status, 200, "RFC 3986 §6.2");
    send("https://evil.example.com/t1/oauth/token").await.assert_refused(
        400,
        "invalid_dpop_proof",
        "dpop_proof_target",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_works_once_on_all_servers_and_after_a_restart() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    let proof = world.user_proxy.proof(&world.server);
    assert_eq!(with_proof(&world, &proof).await.status, 200);
    with_proof(&world, &proof).await.assert_refused(400, "invalid_dpop_proof", "dpop_proof_replayed");
    let elsewhere =
        world.user_proxy.exchange(&twin, &world.user_token(), JWT).set_header("dpop", &proof).send().await;
    elsewhere.assert_refused(400, "invalid_dpop_proof", "dpop_proof_replayed");
    let restarted = world.server.twin().await;
    let later = world
        .user_proxy
        .exchange(&restarted, &world.user_token(), JWT)
        .set_header("dpop", &proof)
        .send()
        .await;
    later.assert_refused(400, "invalid_dpop_proof", "dpop_proof_replayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_used_up_even_if_the_exchange_is_refused_later() {
    let world = World::new().await;
    let proof = world.user_proxy.proof(&world.server);
    let request =
        world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("scope", "nothing");
    assert_eq!(request.set_header("dpop", &proof).send().await.error(), "invalid_scope");
    with_proof(&world, &proof).await.assert_refused(400, "invalid_dpop_proof", "dpop_proof_replayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn unauthenticated_requests_store_no_proofs() {
    let world = World::new().await;
    let count = async || {
        let mut sql = world.server.sql().await;
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM used_jti").fetch_one(&mut sql).await.unwrap()
    };
    let before = count().await;
    let request = world.email_svc.exchange(&world.server, &world.user_token(), JWT);
    let wrong =
        request.set_header("authorization", crate::support::agent::basic("email-svc", "wrong")).send().await;
    assert_eq!(wrong.status, 401);
    assert_eq!(count().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_whose_jti_was_deleted_is_refused_even_if_a_clock_goes_back() {
    let world = World::new().await;
    let proof = world.email_svc.proof(&world.server);
    // With a secret: an assertion would be as old as the proof, and be refused first.
    let send = async || {
        let request = world.email_svc.request(&world.server).param("grant_type", "client_credentials");
        request.param("audience", MAIL).set_header("dpop", &proof).send().await
    };
    assert_eq!(send().await.status, 200);
    world.server.pass(86_400);
    assert!(sweep::run_once(&world.server.app, world.server.clock.now()).await.unwrap() >= 1);
    let mut sql = world.server.sql().await;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM used_jti").fetch_one(&mut sql).await.unwrap();
    assert_eq!(left, 0);
    world.server.pass(-86_400);
    send().await.assert_refused(400, "invalid_dpop_proof", "proof_too_old");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_is_required_if_nonces_are_configured() {
    let world = World::configured("[dpop]\nnonce = true\nnonce_ttl = 300").await;
    let refused = with_claims(&world, |_| {}).await;
    refused.assert_refused(400, "use_dpop_nonce", "nonce_required");
    assert_eq!(refused.headers.get_all("dpop-nonce").iter().count(), 1);
    let nonce = refused.header("dpop-nonce").unwrap().to_owned();
    let with_nonce = async |nonce: &str| with_claims(&world, |claims| claims["nonce"] = json!(nonce)).await;
    let good = with_nonce(&nonce).await;
    assert_eq!((good.status, good.header("dpop-nonce")), (200, Some(nonce.as_str())), "{}", good.text);
    with_nonce("never-issued").await.assert_refused(400, "use_dpop_nonce", "nonce_required");
    with_claims(&world, |claims| claims["nonce"] = json!("")).await.assert_refused(
        400,
        "use_dpop_nonce",
        "nonce_required",
    );
    world.server.pass(300);
    let good = with_nonce(&nonce).await;
    assert_eq!(good.status, 200, "the last one is still good");
    assert_ne!(good.header("dpop-nonce"), Some(nonce.as_str()), "RFC 9449 §8.2: the answer has the next one");
    world.server.pass(300);
    with_nonce(&nonce).await.assert_refused(400, "use_dpop_nonce", "nonce_required");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_must_use_dpop_is_refused_without_a_proof_and_others_get_bearer_tokens() {
    let world = World::new().await;
    let request = world.user_proxy.exchange(&world.server, &world.user_token(), JWT).without("dpop");
    request.send().await.assert_refused(400, "invalid_dpop_proof", "dpop_proof_missing");
    let own = || {
        world
            .stranger
            .request(&world.server)
            .param("grant_type", "client_credentials")
            .param("audience", MAIL)
    };
    let bearer = own().without("dpop").send().await;
    assert_eq!((bearer.status, &bearer.json["token_type"]), (200, &json!("Bearer")));
    assert_eq!(bearer.claims()["cnf"], json!(null));
    let bound = own().send().await;
    assert_eq!(
        (&bound.json["token_type"], &bound.claims()["cnf"]["jkt"]),
        (&json!("DPoP"), &json!(world.stranger.jkt()))
    );
    let two = world.stranger.request(&world.server).without("dpop").param("grant_type", "client_credentials");
    let two =
        two.param("audience", MAIL).param("audience", crate::support::world::CALENDAR).param("scope", "both");
    two.send().await.assert_refused(400, "invalid_target", "dpop_required_for_multiple_audiences");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_exchanges_its_own_bound_token_only_with_the_bound_key() {
    let world = World::new().await;
    let token = world.first_hop().await;
    let own =
        || world.user_proxy.exchange(&world.server, token.token(), ACCESS_TOKEN).param("scope", "mail.read");
    assert_eq!(own().send().await.status, 200);
    let other = crate::support::agent::Agent::new("user-proxy", crate::support::agent::Auth::Assertion);
    own().set_header("dpop", other.proof(&world.server)).send().await.assert_refused(
        400,
        "invalid_request",
        "subject_key_mismatch",
    );
    let bearer = world
        .stranger
        .request(&world.server)
        .param("grant_type", "client_credentials")
        .param("audience", MAIL)
        .send()
        .await;
    let dropped =
        world.stranger.exchange(&world.server, bearer.token(), ACCESS_TOKEN).without("dpop").send().await;
    dropped.assert_refused(400, "invalid_dpop_proof", "dpop_proof_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_by_a_day_makes_no_expired_or_future_token_acceptable() {
    let world = World::new().await;
    let token = world.user_token();
    let exchange =
        async || world.user_proxy.exchange(&world.server, &token, JWT).param("audience", MAIL).send().await;
    assert_eq!(exchange().await.status, 200);
    world.server.pass(86_400);
    exchange().await.assert_refused(400, "invalid_request", "subject_token_invalid");
    world.server.pass(-2 * 86_400);
    exchange().await.assert_refused(400, "invalid_request", "subject_token_invalid");
    world.server.pass(86_400);
    assert_eq!(exchange().await.status, 200);
}
