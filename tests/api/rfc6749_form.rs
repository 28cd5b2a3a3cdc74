//! RFC 6749: wire rules of the token endpoint, and malformed requests.

use crate::support::Answer;
use crate::support::agent::{JWT, Request};
use crate::support::world::{MAIL, World};
use serde_json::json;

async fn raw(world: &World, method: reqwest::Method, path: &str, kind: &str, body: Vec<u8>) -> Answer {
    let url = format!("{}{path}", world.server.base);
    let request = reqwest::Client::new().request(method, url).header("content-type", kind).body(body);
    Answer::read(request.send().await.unwrap()).await
}

const FORM: &str = "application/x-www-form-urlencoded";

#[tokio::test(flavor = "multi_thread")]
async fn the_token_endpoint_accepts_only_a_form_sent_by_post() {
    let world = World::new().await;
    let get = raw(&world, reqwest::Method::GET, "/oauth/token", FORM, Vec::new()).await;
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
    let json = raw(&world, reqwest::Method::POST, "/oauth/token", "application/json", b"{}".to_vec()).await;
    assert_eq!((json.status, json.error()), (400, "invalid_request"));
    let charset = format!("{FORM}; charset=UTF-8");
    let fine = raw(&world, reqwest::Method::POST, "/oauth/token", &charset, b"grant_type=x".to_vec()).await;
    assert_eq!(fine.error(), "invalid_client", "the form was read; it names no client");
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_and_unknown_parameters_are_ignored_and_repeated_ones_refused() {
    let world = World::new().await;
    let exchange =
        || world.user_proxy.exchange(&world.server, &world.user_token(), JWT).param("audience", MAIL);
    let status = |answer: Answer| (answer.status, answer.error().to_owned());
    assert_eq!(exchange().param("scope", "").send().await.status, 200, "an empty value");
    assert_eq!(exchange().param("foo", "bar").send().await.status, 200, "an unknown name");
    for name in ["grant_type", "subject_token", "scope", "client_assertion", "foo"] {
        let answer = exchange().param(name, "x").param(name, "y").send().await;
        assert_eq!(status(answer), (400, "invalid_request".into()), "{name}");
    }
    let request = exchange().param("scope", "mail.read");
    let body = format!("{}&%73cope=mail.read", request.body());
    assert_eq!(
        status(request.send_raw(body.into_bytes()).await),
        (400, "invalid_request".into()),
        "an encoded name"
    );
    let twice = exchange().param("audience", MAIL).param("resource", MAIL).send().await;
    assert_eq!(twice.claims()["aud"], MAIL, "the same target by several names is one");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_in_the_query_are_refused() {
    let world = World::new().await;
    let path = "/oauth/token?client_secret=stranger-secret-0123456789";
    let answer = raw(&world, reqwest::Method::POST, path, FORM, b"client_id=stranger".to_vec()).await;
    assert_eq!((answer.status, answer.error()), (400, "invalid_request"));
    assert!(!answer.text.contains("0123456789"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_forbids_caching_and_every_401_has_a_challenge() {
    let world = World::new().await;
    let good = world.first_hop().await;
    let bad = Request::to(&world.server).param("grant_type", "x").send().await;
    for answer in [&good, &bad] {
        assert_eq!(
            (answer.header("cache-control"), answer.header("pragma")),
            (Some("no-store"), Some("no-cache"))
        );
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(answer.header("x-request-id").is_some());
    }
    assert_eq!(bad.status, 401);
    assert!(bad.header("www-authenticate").unwrap().starts_with("Basic realm="));
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_scopes_are_refused_and_granted_scopes_answered() {
    let world = World::new().await;
    let ask = async |scope: &str| {
        let request = world.user_proxy.exchange(&world.server, &world.user_token(), JWT);
        request.param("audience", MAIL).param("scope", scope).send().await
    };
    for scope in ["mail.read  mail.send", " mail.read", "mail.read\t", "mail\"read", "m\\ail", "é"] {
        ask(scope).await.assert_refused(400, "invalid_scope", "scope_malformed");
    }
    assert_eq!(ask("mail.send mail.read").await.json["scope"], "mail.read mail.send");
    ask("mail.read mail.admin").await.assert_refused(400, "invalid_scope", "scope_exceeds_grant");
    ask("MAIL.READ").await.assert_refused(400, "invalid_scope", "scope_exceeds_grant");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_of_a_request_has_a_limit() {
    let world = World::new().await;
    let post = async |body: Vec<u8>| raw(&world, reqwest::Method::POST, "/oauth/token", FORM, body).await;
    let large = post(vec![b'a'; 1024 * 1024]).await;
    assert_eq!((large.status, large.error()), (413, "invalid_request"));
    let many: String = (0..10_000).map(|n| format!("p{n}=&")).collect();
    assert_eq!(post(many.into_bytes()).await.status, 413);
    let hundred: String = (0..200).map(|n| format!("p{n}=&")).collect();
    assert_eq!(post(hundred.into_bytes()).await.error(), "invalid_request");
    for body in [&b"grant_type=\xff\xfe"[..], b"grant_type=%ff", b"grant_type=a%00b", b"%=x", b"\0"] {
        let answer = post(body.to_vec()).await;
        assert_eq!((answer.status, answer.error()), (400, "invalid_request"), "{body:?}");
    }
    let long = "x".repeat(17 * 1024);
    let exchange = |token: &str| world.user_proxy.exchange(&world.server, token, JWT);
    assert_eq!(exchange(&long).send().await.error(), "invalid_request");
    assert_eq!(exchange(&"x".repeat(64 * 1024)).send().await.status, 413);
    let mut targets = exchange(&world.user_token());
    for n in 0..17 {
        targets = targets.param("audience", &format!("https://{n}.example.com"));
    }
    assert_eq!(targets.send().await.error(), "invalid_request");
    let mut request = Request::to(&world.server);
    for n in 0..5 {
        request = request.header(&format!("x-{n}"), "y".repeat(8 * 1024));
    }
    assert_eq!(request.send().await.status, 431);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_grant_types_are_refused() {
    let world = World::new().await;
    let grants = [
        "urn:ietf:params:oauth:grant-type:token-exchange ",
        "URN:IETF:PARAMS:OAUTH:GRANT-TYPE:TOKEN-EXCHANGE",
        "password",
        "authorization_code",
        "REFRESH_TOKEN",
    ];
    for grant in grants {
        let answer = world.user_proxy.request(&world.server).param("grant_type", grant).send().await;
        assert_eq!((answer.status, answer.error()), (400, "unsupported_grant_type"), "{grant}");
    }
    let event = world.server.last_event().await;
    assert_eq!((&event["outcome"], &event["reason"]), (&json!("refused"), &json!("unsupported_grant")));
    let request = world.followup_svc.request(&world.server).param("grant_type", "client_credentials");
    assert_eq!(request.send().await.error(), "unauthorized_client");
}
