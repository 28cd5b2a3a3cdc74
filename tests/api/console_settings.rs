//! `/console/settings`: the configuration in force, and the examination of the server on request.

use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;

use crate::support::browser::{Browser, form};
use crate::support::world::{IDP, World};

#[tokio::test(flavor = "multi_thread")]
async fn settings_show_each_key_with_its_value_and_its_source() {
    let world =
        World::configured("[tokens]\nmax_ttl = \"10m\"\n[http]\ntrusted_proxies = [\"10.0.0.0/8\"]").await;
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get("/console/settings").await;
    assert_eq!(page.status, 200, "{}", page.text);
    let row = |key: &str| {
        let rows = page.text.split("<tr").find(|row| row.contains(&format!("<code>{key}</code>")));
        rows.unwrap_or_else(|| panic!("no row for {key}: {}", page.text)).to_owned()
    };
    for (key, value, source) in [
        ("tokens.max_ttl", "600 s", "file <code>test</code>"),
        ("http.trusted_proxies", "10.0.0.0/8", "file <code>test</code>"),
        ("delegations.decide_in", "anywhere", "default"),
        ("master_key", "not set", "default"),
        ("issuer", &world.server.app.issuer, "default"),
    ] {
        assert!(row(key).contains(value) && row(key).contains(source), "{key}: {}", row(key));
    }
    assert!(page.text.contains(", current") && page.text.contains("PostgreSQL"), "{}", page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_examination_says_what_is_wrong_and_changes_nothing() {
    let world = World::new().await;
    let server = &world.server;
    let mut browser = Browser::of_operator(server).await;
    let page = browser.get("/console/settings").await;
    let events = server.documents().await.len();
    let examine = form(&page, "/doctor");
    let done = browser.submit(&examine).await;
    // The clock of the test is not the database's.
    assert!(done.status == 200 && done.text.contains("Something is wrong"), "{}", done.text);
    for part in ["the database&#39;s clock is", "events, whole", "keys: open under the master key", IDP] {
        let part = part.replace("&#39;", "'");
        assert!(done.text.contains(&part), "{part}: {}", done.text);
    }
    let mut sql = server.sql().await;
    sqlx::query("UPDATE client SET name = 'x' WHERE client_id = 'stranger'").execute(&mut sql).await.unwrap();
    let broken = browser.submit(&examine).await;
    assert!(broken.text.contains("clients: rows authentic: "), "{}", broken.text);
    assert_eq!(server.documents().await.len(), events, "an examination is no event");
    let permit = server.app.limits.examinations.acquire().await.unwrap();
    let busy = browser.submit(&examine).await;
    assert!(
        busy.text.contains("Another examination") && !busy.text.contains("events, whole"),
        "{}",
        busy.text
    );
    drop(permit);
    assert!(browser.submit(&examine).await.text.contains("events, whole"));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_do_not_exist_for_users_and_auditors() {
    let world = World::new().await;
    let alice = Principal::new(IDP, "alice");
    for role in [ConsoleRole::User, ConsoleRole::Auditor] {
        let mut browser = Browser::of(&world.server, role, Some(&alice)).await;
        assert_eq!(browser.get("/console/settings").await.status, 404, "{role:?}");
        assert!(!browser.get("/console/me").await.text.contains("/console/settings"), "{role:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_its_own_decisions_and_an_operator_those_of_its_session() {
    let world = World::new().await;
    let server = &world.server;
    let (alice, ada) = (Principal::new(IDP, "alice"), Principal::new(IDP, "ada"));
    world.first_hop().await;
    let mut own = Browser::of(server, ConsoleRole::User, Some(&alice)).await;
    assert!(own.get("/console/me").await.text.contains("Nothing yet"), "an exchange is no decision");
    let page = own.get("/console/delegations/D/cut").await;
    own.submit(&form(&page, "/cut")).await;
    let mut admin = Browser::of(server, ConsoleRole::Admin, Some(&ada)).await;
    let page = admin.get("/console/agents/stranger/disable").await;
    admin.submit(&form(&page, "/disable")).await;
    let mut operator = Browser::of_operator(server).await;
    let page = operator.get("/console/agents/stranger").await;
    operator.submit(&form(&page, "/enable")).await;
    let mut other = Browser::of_operator(server).await;
    for (browser, done, not_done) in [
        (&mut own, "delegation.revoked", "client.disabled"),
        (&mut admin, "client.disabled", "delegation.revoked"),
        (&mut operator, "client.enabled", "client.disabled"),
        (&mut other, "Nothing yet", "client.enabled"),
    ] {
        let page = browser.get("/console/me").await;
        assert!(page.text.contains(done) && !page.text.contains(not_done), "{done}: {}", page.text);
        assert!(!page.text.contains("console.signed_in"), "{done}");
    }
}
