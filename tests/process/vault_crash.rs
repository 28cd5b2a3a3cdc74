//! A server is killed while it refreshes a credential: a refresh token that the provider still accepts is not lost, and
//! no connection is marked as needing a reconnect.

use actchain_testkit::provider::{Asked, Behaviour, Provider, Wrong};
use serde_json::json;

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_was_killed_loses_nothing_that_is_still_honoured() {
    let stage = Stage::new();
    // One refresh token stays valid, and access tokens are due for renewal at once.
    let kind = Behaviour { rotates: false, expires_in: Some(30), ..Behaviour::default() };
    let provider = Provider::of(kind).await;
    let mut server = stage.serve();
    stage.declare();
    stage.declare_vault(&provider.manifest("third", ""));
    let refresh_token = &provider.issued_tokens().await["refresh_token"];
    let credential = json!({"provider": "third", "credential": {"refresh_token": refresh_token}});
    let made = stage.storing(credential).send_to(&server.base).await.unwrap().with_status(201);
    let id = made.id();
    let fetch = async |base: &str| {
        let answer = stage.exchange_for(&id).send_to(base).await.ok()?.with_status(200);
        stage.retrieval(&id, answer.token()).send_to(base).await.ok()
    };
    for round in 1..=2 {
        // The provider never answers this request: the server is killed while it waits.
        let (unanswered, _) = Wrong::held();
        provider.once(Asked::Refresh, unanswered);
        let killing = async {
            provider.asked(Asked::Refresh, round).await;
            server.child.kill().unwrap();
            server.child.wait().unwrap();
        };
        let base = server.base.clone();
        let (fetched, ()) = tokio::join!(fetch(&base), killing);
        assert!(fetched.is_none(), "it was killed: {fetched:?}");
        server = stage.serve();
    }
    // The lease of the killed server expires by itself, and the waiting request gets the credential.
    let fetched = fetch(&server.base).await.unwrap().with_status(200);
    assert!(fetched.token().starts_with("access-"), "{}", fetched.text);
    let shown = stage.json(&["connection", "show", &id, "--json"]);
    assert_eq!((&shown["state"], &shown["has_refresh_token"]), (&json!("active"), &json!(true)));
}
