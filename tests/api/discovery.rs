//! Metadata of providers (RFC 8414, OpenID Connect Discovery), in all the forms that providers publish.

use serde_json::{Value, json};
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::world::World;

const OAUTH: &str = "/.well-known/oauth-authorization-server";
const OPENID: &str = "/.well-known/openid-configuration";

async fn publish(publisher: &MockServer, documents: &[(&str, Value)]) {
    publisher.reset().await;
    for (at, document) in documents {
        let answer = ResponseTemplate::new(200).set_body_json(document);
        Mock::given(path(*at)).respond_with(answer).mount(publisher).await;
    }
}

async fn declare(world: &World, publisher: &MockServer, id: &str) -> Result<(), String> {
    let yaml = format!(
        "providers:\n  - {{id: {id}, issuer: \"{}\", client_id: actchain, client_secret: provider-secret-1, scopes: [a]}}",
        publisher.uri()
    );
    world.server.apply(&yaml).await
}

fn metadata(publisher: &MockServer) -> Value {
    let at = |path: &str| format!("{}{path}", publisher.uri());
    json!({"issuer": publisher.uri(), "authorization_endpoint": at("/authorize"), "token_endpoint": at("/token")})
}

// RFC 8414 §3
#[tokio::test(flavor = "multi_thread")]
async fn the_second_document_is_read_where_the_first_is_of_no_use() {
    let world = World::new().await;
    let publisher = MockServer::start().await;
    let good = metadata(&publisher);
    let mut of_another = good.clone();
    of_another["issuer"] = json!("https://other.example.com");
    for (at, first) in [json!({}), json!([]), of_another, json!({"issuer": null})].into_iter().enumerate() {
        publish(&publisher, &[(OAUTH, first.clone()), (OPENID, good.clone())]).await;
        declare(&world, &publisher, &format!("p{at}"))
            .await
            .unwrap_or_else(|fault| panic!("{first}: {fault}"));
    }
    publish(&publisher, &[(OAUTH, json!({})), (OPENID, json!({"issuer": publisher.uri()}))]).await;
    let refused = declare(&world, &publisher, "bad").await.unwrap_err();
    assert!(refused.contains(OAUTH) && refused.contains("names no issuer"), "{refused}");
    assert!(refused.contains(OPENID) && refused.contains("names no token_endpoint"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_are_null_or_empty_are_not_there() {
    let world = World::new().await;
    let publisher = MockServer::start().await;
    for (at, empty) in [json!(null), json!("")].into_iter().enumerate() {
        let mut document = metadata(&publisher);
        document["revocation_endpoint"] = empty.clone();
        document["authorization_response_iss_parameter_supported"] = json!(null);
        publish(&publisher, &[(OAUTH, document.clone())]).await;
        declare(&world, &publisher, &format!("p{at}"))
            .await
            .unwrap_or_else(|fault| panic!("{document}: {fault}"));
    }
}
