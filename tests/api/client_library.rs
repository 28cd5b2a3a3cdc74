//! The crate `actchain-client` against the real server.

use std::sync::Arc;

use actchain::platform::clock::Clock;
use actchain_client::{Authentication, Client, ClientBuilder, Error, Key, Presented, Refused};
use actchain_protocol::jose::{Jws, SigningAlg, SigningKey};
use secrecy::SecretString;
use serde_json::json;
use time::Duration;

use crate::support::Server;
use crate::support::world::{IDP, MAIL, World};

const SECRET: &str = "library-secret-0123456789";

/// A client of the library, registered with Alice's delegation `L` of `mail.read`.
async fn registered(world: &World, auth: &str) -> ClientBuilder {
    let key = Key::generate().unwrap();
    let registration = match auth {
        "none" => format!("auth: none, dpop_keys: [{}]", key.thumbprint()),
        "private_key_jwt" => format!("auth: private_key_jwt, jwks: {{keys: [{}]}}", key.public_jwk()),
        _ => format!("auth: client_secret_basic, secret: {SECRET}"),
    };
    let grants = if auth == "none" { "[token-exchange]" } else { "[client_credentials, token-exchange]" };
    let manifest = format!(
        r#"
clients:
  - {{id: library, kind: agent, {registration}, scopes: [mail.read, mail.send], audiences: ["{MAIL}"],
     authorization_details_types: [mailbox], grant_types: {grants}}}
delegations:
  - {{id: L, delegator: {{iss: {IDP}, sub: alice}}, delegate: library, scopes: [mail.read], expires_in: 3600,
     max_depth: 3}}
"#
    );
    world.server.apply(&manifest).await.unwrap();
    let authentication = match auth {
        "none" => Authentication::KeyAlone,
        "private_key_jwt" => Authentication::PrivateKeyJwt,
        _ => Authentication::Secret(SecretString::from(SECRET)),
    };
    builder(&world.server, key).authentication(authentication)
}

fn builder(server: &Server, key: Key) -> ClientBuilder {
    let clock: Clock = server.clock.clone();
    let http = reqwest::Client::builder().pool_max_idle_per_host(0);
    Client::builder(&server.app.issuer, "library", key).clock(move || clock.now()).http(http)
}

/// How many events of issued tokens and of demanded nonces the log has.
async fn counted(world: &World) -> (usize, usize) {
    let events = world.server.events().await;
    let count = |name: &str, value: &str| events.iter().filter(|event| event[name] == value).count();
    (
        count("action", "oauth.token.issued") + count("action", "oauth.token.exchanged"),
        count("reason", "nonce_required"),
    )
}

fn refused(result: Result<Arc<actchain_client::Token>, Error>) -> Refused {
    match result.unwrap_err() {
        Error::Refused(refused) => *refused,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_authenticate_gets_a_token_bound_to_the_key() {
    for auth in ["none", "secret", "private_key_jwt"] {
        let world = World::new().await;
        let client = registered(&world, auth).await.build().unwrap();
        let request = client.exchange(Presented::jwt(&world.user_token())).audience(MAIL).scope("mail.read");
        let token = request.token().await.unwrap();
        let claims = Jws::parse(token.secret()).unwrap().claims;
        assert_eq!(claims["cnf"]["jkt"], client.key().thumbprint(), "{auth}");
        assert_eq!((&claims["sub"], &claims["act"]["sub"]), (&json!("alice"), &json!("library")));
        assert_eq!((token.scope.as_str(), token.delegation_id.as_deref()), ("mail.read", Some("L")));
        assert_eq!(claims["exp"], token.expires_at.unix_timestamp());
        if auth != "none" {
            let own = client.client_credentials().audience(MAIL).token().await.unwrap();
            assert_eq!(Jws::parse(own.secret()).unwrap().claims["sub"], "library");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_parameters_reach_the_server() {
    let world = World::new().await;
    let client = registered(&world, "secret").await.build().unwrap();
    let details = json!([{"type": "mailbox", "actions": ["read"]}]);
    let request = client.client_credentials().resource(MAIL).authorization_details(&details);
    assert_eq!(request.token().await.unwrap().authorization_details, Some(details));
    let request = client.exchange(Presented::jwt(&world.user_token())).audience(MAIL).delegation_id("L");
    assert_eq!(request.token().await.unwrap().delegation_id.as_deref(), Some("L"));
    // Alice did not delegate D to this client.
    let request = client.exchange(Presented::jwt(&world.user_token())).audience(MAIL).delegation_id("D");
    assert_eq!(refused(request.token().await).status, 400);
    let own = client.client_credentials().audience(MAIL).token().await.unwrap();
    let acting = client.exchange(Presented::jwt(&world.user_token())).audience(MAIL);
    let acting = acting.actor_token(Presented::access_token("not a token")).token().await;
    assert_eq!(refused(acting).error, "invalid_request", "the actor token is read by the server");
    assert!(!own.secret().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demanded_nonce_is_used_at_once_and_remembered() {
    let world = World::configured("[dpop]\nnonce = true").await;
    let client = registered(&world, "private_key_jwt").await.build().unwrap();
    let exchange = async || {
        let request = client.exchange(Presented::jwt(&world.user_token())).audience(MAIL);
        request.token().await.unwrap()
    };
    exchange().await;
    assert_eq!(counted(&world).await.1, 1, "the first request had no nonce");
    exchange().await;
    assert_eq!(counted(&world).await.1, 1, "the second one had the nonce of the first response");
    // Nonces of two periods ago are refused; the response has the present one.
    world.server.clock.shift(Duration::minutes(15));
    exchange().await;
    assert_eq!(counted(&world).await.1, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_used_until_shortly_before_it_expires() {
    let world = World::new().await;
    let client = registered(&world, "secret").await.build().unwrap();
    let token = async |client: &Client| client.client_credentials().audience(MAIL).token().await.unwrap();
    let first = token(&client).await;
    assert!(Arc::ptr_eq(&first, &token(&client.clone()).await));
    let other = client.client_credentials().audience(MAIL).scope("mail.send").token().await.unwrap();
    assert_ne!(other.secret(), first.secret(), "another request has another token");
    let left = first.expires_at - world.server.clock.now();
    world.server.clock.shift(left - Duration::seconds(11));
    assert!(Arc::ptr_eq(&first, &token(&client).await));
    world.server.clock.shift(Duration::seconds(1));
    let second = token(&client).await;
    assert_ne!(second.secret(), first.secret());
    assert!(second.expires_at > first.expires_at);
    let third = client.client_credentials().audience(MAIL).fresh_token().await.unwrap();
    assert_ne!(third.secret(), second.secret());
    assert!(Arc::ptr_eq(&third, &token(&client).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_equal_requests_at_once_one_goes_to_the_server() {
    let world = World::new().await;
    let client = registered(&world, "secret").await.build().unwrap();
    let before = counted(&world).await.0;
    let requests = (0..16).map(|_| client.client_credentials().audience(MAIL).token());
    let tokens = futures_util::future::join_all(requests).await;
    let first = tokens[0].as_ref().unwrap();
    assert!(tokens.iter().all(|token| Arc::ptr_eq(token.as_ref().unwrap(), first)));
    assert_eq!(counted(&world).await.0, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_a_typed_error_and_is_not_cached() {
    let world = World::new().await;
    let client = registered(&world, "secret").await.build().unwrap();
    let exchange = async |token: &str| client.exchange(Presented::jwt(token)).audience(MAIL).token().await;
    let (stranger, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let forged = stranger.sign("JWT", &world.user_claims()).unwrap();
    let answer = refused(exchange(&forged).await);
    assert_eq!((answer.status, answer.error.as_str()), (400, "invalid_request"));
    assert!(answer.reason.is_some() && answer.error_description.is_some());
    assert_eq!(answer.retry_after, None);

    let good = world.user_token();
    let wrong = Authentication::Secret(SecretString::from("another-secret-0123456789"));
    let wrong = builder(&world.server, Key::generate().unwrap()).authentication(wrong).build().unwrap();
    let answer = refused(wrong.exchange(Presented::jwt(&good)).audience(MAIL).token().await);
    assert_eq!((answer.status, answer.error.as_str(), answer.reason), (401, "invalid_client", None));
    assert_eq!(exchange(&good).await.unwrap().scope, "mail.read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_not_a_refusal() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::builder(&issuer, "a", Key::generate().unwrap()).build().unwrap();
    let error = client.exchange(Presented::jwt("CANARY")).token().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)));
    assert!(!format!("{error} {error:?}").contains("CANARY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_for_one_request_with_one_token() {
    let world = World::new().await;
    let client = registered(&world, "private_key_jwt").await.build().unwrap();
    let token = client.client_credentials().audience(MAIL).token().await.unwrap();
    let proof = client.proof("GET", "https://mail.example.com/inbox?page=2", Some(&token)).unwrap();
    let expected = actchain_protocol::dpop::Expected {
        method: "GET",
        target: "https://mail.example.com/inbox",
        window: Duration::seconds(60),
        skew: Duration::seconds(10),
        access_token: Some(token.secret()),
    };
    let verified = actchain_protocol::dpop::verify(&proof, &expected, world.server.clock.now()).unwrap();
    assert_eq!(verified.jkt, client.key().thumbprint());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_gives_tokens_without_the_user_and_revoked_gives_an_error_that_says_so() {
    let world = World::new().await;
    let builder = registered(&world, "none").await;
    let client = builder.build().unwrap();
    let offline = format!(
        r#"
clients:
  - {{id: library, kind: agent, auth: none, dpop_keys: [{}], scopes: [mail.read], audiences: ["{MAIL}"],
     grant_types: [token-exchange, refresh_token]}}
delegations:
  - {{id: N, delegator: {{iss: {IDP}, sub: bob}}, delegate: library, scopes: [mail.read], expires_in: 360000,
     offline_access: true}}
"#,
        client.key().thumbprint()
    );
    world.server.apply(&offline).await.unwrap();
    let exchanged = client.exchange(Presented::jwt(&world.token_of("bob"))).token().await.unwrap();
    let refresh_token = exchanged.refresh_token.clone().unwrap();
    world.server.pass(86_400);
    let token = client.refresh(&refresh_token).audience(MAIL).token().await.unwrap();
    assert_eq!(Jws::parse(token.secret()).unwrap().claims["sub"], "bob");
    assert!(token.refresh_token.is_none(), "it is not rotated");
    world.server.revoke("N").await;
    let error = refused(client.refresh(&refresh_token).audience(MAIL).fresh_token().await);
    assert_eq!(
        (error.error.as_str(), error.reason.as_deref()),
        ("invalid_grant", Some("delegation_revoked"))
    );
}
