//! `/console/registry`: what was declared, by which events, and as YAML; keys of the server and of issuers.

use actchain_testkit::answer::Answer;
use serde_json::json;

use crate::support::browser::Browser;
use crate::support::sign_in::SignInIdp;
use crate::support::world::{IDP, MAIL, World};

fn encoded(id: &str) -> String {
    url::form_urlencoded::byte_serialize(id.as_bytes()).collect()
}

fn yaml_of(page: &Answer) -> String {
    let text = page.text.split("<pre tabindex=\"0\"><code>").nth(1).unwrap();
    text.split("</code>").next().unwrap().replace("&quot;", "\"").replace("&lt;", "<").replace("&amp;", "&")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_names_the_event_that_declared_it_and_is_a_manifest() {
    let world = World::new().await;
    let mut browser = Browser::of_operator(&world.server).await;
    for (kind, id, action) in [
        ("clients", "user-proxy", "client.changed"),
        ("issuers", IDP, "admin.issuer_changed"),
        ("resources", MAIL, "admin.resource_changed"),
    ] {
        let list = browser.get(&format!("/console/registry/{kind}")).await;
        let path = format!("/console/registry/{kind}/{}", encoded(id));
        assert!(list.text.contains(&format!("href=\"{path}\"")), "{kind}: {}", list.text);
        let page = browser.get(&path).await;
        assert!(page.status == 200 && page.text.contains(action), "{kind}: {}", page.text);
        assert!(page.text.contains("2026-01-01 00:00:00Z"), "{kind}: {}", page.text);
        let before = world.server.documents().await.len();
        world.server.apply(&yaml_of(&page)).await.unwrap();
        assert_eq!(world.server.documents().await.len(), before, "{kind}: the manifest changes nothing");
    }
    world.server.disable("stranger").await;
    let page = browser.get("/console/registry/clients/stranger").await;
    assert!(
        page.text.contains("client.disabled") && page.text.contains("the secret of client stranger"),
        "{}",
        page.text
    );
    let list = browser.get("/console/registry/clients?q=str").await;
    assert!(list.text.contains("disabled") && !list.text.contains("user-proxy"), "{}", list.text);
    for path in [
        "clients/none",
        "clients/user",
        "issuers/none",
        "resources/none",
        "keys/none",
        "providers/none",
        "other/x",
    ] {
        assert_eq!(browser.get(&format!("/console/registry/{path}")).await.status, 404, "{path}");
    }
    let own = format!("/console/registry/resources/{}", encoded(&world.server.app.issuer));
    let own = browser.get(&own).await;
    assert!(own.status == 200 && !own.text.contains("As YAML"), "{}", own.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_say_since_when_they_sign_and_until_when() {
    let world = World::new().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get("/console/registry/keys").await;
    // 30 days after the start.
    for part in ["signs until about", "2026-01-31 00:00:00Z", ">next<", "checkpoints of the log"] {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    let kid =
        page.text.split("/console/registry/keys/").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let page = browser.get(&format!("/console/registry/keys/{kid}")).await;
    assert!(page.text.contains("key.changed") && !page.text.contains("As YAML"), "{}", page.text);
    assert!(!page.text.contains("sealed"), "{}", page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_says_when_its_keys_were_fetched_and_what_failed() {
    let world = World::configured("[outbound]\nallow = [\"127.0.0.1\"]").await;
    let idp = SignInIdp::start().await;
    idp.declare(&world, "").await;
    let path = format!("/console/registry/issuers/{}", encoded(&idp.issuer));
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get(&path).await;
    assert!(
        page.text.contains("not yet: with the first token") && page.text.contains("none in 30 days"),
        "{}",
        page.text
    );
    assert!(!page.text.contains(crate::support::sign_in::SECRET), "{}", page.text);
    idp.signed_in(&world, "carol", json!({})).await;
    let page = browser.get(&path).await;
    for part in ["2026-01-01 00:00:00Z", "1 key", "with the first token after", "2026-01-01 00:10:00Z"] {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    idp.hide_keys().await;
    world.server.pass(1_300);
    let mut late = Browser::new(&world.server);
    let flow = idp.begin(&mut late, "").await;
    idp.answers_claims(&idp.claims(&world, &flow, "carol"));
    idp.come_back(&mut late, &flow).await;
    let page = browser.get(&path).await;
    let failure = page.text.split("<dt>last failure</dt>").nth(1).unwrap().split("</dd>").next().unwrap();
    assert!(failure.contains("404") && failure.contains("00:21:40Z"), "{failure}");
}
