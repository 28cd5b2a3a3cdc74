//! Browser applications of other origins (Fetch §3.3, the CORS protocol): public documents for every origin, other
//! responses only for configured origins.

use serde_json::json;

use crate::support::management::Api;
use crate::support::world::{MAIL, World};
use crate::support::{Answer, http};

const APP: &str = "https://app.example.com";
const CONFIGURED: &str = "[http]\ncors_origins = [\"https://app.example.com\"]";

async fn preflight(world: &World, path: &str, (origin, method): (&str, &str)) -> Answer {
    let request = http()
        .request(reqwest::Method::OPTIONS, format!("{}{path}", world.server.base))
        .header("origin", origin)
        .header("access-control-request-method", method)
        .header("access-control-request-headers", "authorization,dpop,content-type");
    Answer::read(request.send().await.unwrap()).await
}

fn allowed(answer: &Answer) -> Option<&str> {
    answer.header("access-control-allow-origin")
}

/// The names in a header field with a list, in lower case.
fn listed(answer: &Answer, name: &str) -> Vec<String> {
    let field = answer.header(name).unwrap_or_default().to_ascii_lowercase();
    field.split(',').map(|name| name.trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_origin_reads_what_is_public() {
    let world = World::new().await;
    world.first_hop().await;
    crate::transparency::checkpoint(&world.server).await;
    let below = World::configured("issuer = \"https://as.example.com/t1\"").await;
    for (world, path, status) in [
        (&world, "/oauth/jwks", 200),
        (&world, "/oauth/status-lists", 200),
        (&world, "/oauth/status-lists/0", 200),
        (&world, "/oauth/status-lists/7", 404),
        (&world, "/audit/checkpoint", 200),
        (&world, "/audit/keys", 200),
        (&world, "/audit/proof/inclusion?seq=0", 200),
        (&world, "/audit/proof/consistency?from=x", 400),
        (&world, "/audit/tile/0/000.p/1", 200),
        (&world, "/audit/tile/0/x001/000", 404),
        (&world, "/.well-known/oauth-authorization-server", 200),
        (&world, "/.well-known/openid-configuration", 200),
        (&below, "/t1/oauth/jwks", 200),
        (&below, "/t1/audit/checkpoint", 404),
        (&below, "/.well-known/oauth-authorization-server/t1", 200),
        (&below, "/.well-known/openid-configuration/t1", 200),
        (&below, "/t1/.well-known/openid-configuration", 200),
    ] {
        // Also without an origin: a cache may store the response for another origin.
        for api in [Api::get(&world.server, path), Api::get(&world.server, path).header("origin", "null")] {
            let answer = api.send().await;
            assert_eq!((answer.status, allowed(&answer)), (status, Some("*")), "{path}");
            assert!(listed(&answer, "access-control-expose-headers").contains(&"etag".into()), "{path}");
        }
        let answer = preflight(world, path, (APP, "GET")).await;
        assert_eq!((answer.status, allowed(&answer), answer.text.as_str()), (204, Some("*"), ""), "{path}");
        assert_eq!(listed(&answer, "access-control-allow-methods"), ["get"]);
        assert_eq!(answer.header("access-control-allow-headers"), Some("*"));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_open_to_other_origins_unless_it_is_configured() {
    let world = World::new().await;
    for (method, path) in [("POST", "/oauth/token"), ("GET", "/delegate"), ("POST", "/api/v1/connections")] {
        let answer = preflight(&world, path, (APP, method)).await;
        assert_eq!((answer.status, allowed(&answer)), (405, None), "{path}");
        let answer = Api::new(&world.server, method, path).header("origin", APP).send().await;
        assert_eq!((allowed(&answer), answer.header("vary")), (None, None), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_origin_asks_and_approves_and_no_other_does() {
    let world = World::configured(CONFIGURED).await;
    for (path, method) in [
        ("/oauth/token", "POST"),
        ("/delegate", "POST"),
        ("/delegate/D/approve", "POST"),
        ("/api/v1/audit-sinks/x", "DELETE"),
    ] {
        let answer = preflight(&world, path, (APP, method)).await;
        assert_eq!((answer.status, allowed(&answer)), (204, Some(APP)), "{path}");
        assert!(listed(&answer, "access-control-allow-methods").contains(&method.to_lowercase()), "{path}");
        for name in ["authorization", "dpop", "content-type", "idempotency-key", "if-match"] {
            assert!(listed(&answer, "access-control-allow-headers").contains(&name.into()), "{name}");
        }
        assert_eq!(
            (answer.header("vary"), answer.header("access-control-max-age")),
            (Some("Origin"), Some("600"))
        );
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        for other in ["https://app.example.com.evil.example", "http://app.example.com", "null", "https://app"]
        {
            let answer = preflight(&world, path, (other, method)).await;
            assert_eq!((answer.status, allowed(&answer)), (405, None), "{other}");
            assert!(listed(&answer, "vary").contains(&"origin".into()));
        }
    }
    let request = world.user_proxy.request(&world.server).param("grant_type", "client_credentials");
    let issued = request.header("origin", APP).param("audience", MAIL).send().await;
    assert_eq!((issued.status, allowed(&issued)), (200, Some(APP)), "{}", issued.text);
    for name in
        ["dpop-nonce", "www-authenticate", "retry-after", "location", "actchain-receipt", "x-request-id"]
    {
        assert!(listed(&issued, "access-control-expose-headers").contains(&name.into()), "{name}");
    }
    let refused = Api::get(&world.server, "/delegate").header("origin", APP).send().await;
    assert_eq!((refused.status, allowed(&refused)), (401, Some(APP)), "a script reads why");
    let two = Api::get(&world.server, "/delegate").header("origin", APP).header("origin", APP).send().await;
    assert_eq!(allowed(&two), None, "no browser sends two");
    let none = Api::get(&world.server, "/delegate").send().await;
    assert_eq!((allowed(&none), none.header("vary")), (None, Some("Origin")), "a cache keeps them apart");
    let created =
        Api::post(&world.server, "/delegate", json!({"delegate": "stranger"})).header("origin", APP);
    let created = created.user(&world.token_of("bob")).send().await;
    assert_eq!((created.status, allowed(&created)), (201, Some(APP)), "{}", created.text);
    let entries =
        Api::get(&world.server, "/audit/tile/entries/000.p/1").header("origin", "https://x.example");
    assert_eq!(allowed(&entries.send().await), None, "entries are not public");
    for path in ["/metrics", "/ready", "/vault/proxy/x/api.example.com/y", "/vault/callback/x"] {
        assert_eq!(allowed(&preflight(&world, path, (APP, "GET")).await), None, "{path}");
        let answer = Api::get(&world.server, path).header("origin", APP).send().await;
        assert_eq!(allowed(&answer), None, "{path}");
    }
    // No preflight: the request names no method.
    let options = Api::new(&world.server, "OPTIONS", "/oauth/token").header("origin", APP).send().await;
    assert_eq!(options.status, 405);
}
