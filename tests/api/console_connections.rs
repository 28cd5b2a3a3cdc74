//! Connections in the console: the way to a provider and back, keys, codes of other browsers, and the end.

use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use reqwest::Url;
use serde_json::{Value, json};
use sqlx::Executor as _;

use crate::support::Answer;
use crate::support::browser::{Browser, form};
use crate::support::provider::{Asked, Provider};
use crate::support::vault::VaultWorld;
use crate::support::world::{IDP, World};

const NEW: &str = "/console/connections/new";

async fn usual() -> (World, Provider) {
    let (world, provider) = (World::new().await, Provider::start().await);
    world.server.apply(&provider.manifest("mail", "scopes: [mail.read, mail.send]")).await.unwrap();
    (world, provider)
}

async fn person<'a>(world: &'a World, role: ConsoleRole, name: &str) -> Browser<'a> {
    Browser::of(&world.server, role, Some(&Principal::new(IDP, name))).await
}

/// The link of a page that leaves for the provider.
fn leaving(page: &Answer, provider: &Provider) -> String {
    assert_eq!(page.status, 200, "{}", page.text);
    assert!(page.header("location").is_none() && page.header("refresh").is_none(), "a link, not a redirect");
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let mut links = page.text.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let link = links.find(|link| link.starts_with(&provider.base)).unwrap_or_else(|| panic!("{}", page.text));
    link.replace("&amp;", "&")
}

/// Begins at a provider; returns the link that leaves.
async fn begun(browser: &mut Browser<'_>, provider: &Provider) -> String {
    let page = browser.get(&format!("{NEW}?provider=mail")).await;
    let page = browser.submit(&form(&page, NEW)).await;
    leaving(&page, provider)
}

/// The path with which a browser comes back to this server.
fn path_of(world: &World, back: &Url) -> String {
    back.as_str().strip_prefix(&world.server.app.issuer).unwrap().to_owned()
}

async fn connections(world: &World, sub: &str) -> Vec<Value> {
    let list = world.as_user(sub, "GET", "/api/v1/connections", json!({})).await.with_status(200);
    list.json["items"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_connected_from_page_to_page() {
    let (world, provider) = usual().await;
    let mut browser = person(&world, ConsoleRole::User, "alice").await;
    let list = browser.get("/console/connections").await;
    assert!(
        list.text.contains("No account is connected") && list.text.contains(&format!("{NEW}?provider=mail"))
    );
    let page = browser.get(NEW).await;
    let asked = form(&page, NEW).with("name", "<b>work</b>").without("scope:mail.send");
    let page = browser.submit(&asked).await;
    let host = Url::parse(&provider.base).unwrap().host_str().unwrap().to_owned();
    assert!(page.text.contains("You are leaving for") && page.text.contains(&host), "{}", page.text);
    assert!(page.text.contains("mail.read") && !page.text.contains("mail.send"), "{}", page.text);
    let link = leaving(&page, &provider);
    assert!(link.contains("scope=mail.read") && !link.contains("mail.send"), "{link}");
    let waiting = browser.get("/console/connections").await;
    assert!(waiting.text.contains("is not connected yet"), "{}", waiting.text);

    let back = path_of(&world, &provider.agree(&link).await);
    let answer = browser.get(&back).await;
    let id = connections(&world, "alice").await[0]["id"].as_str().unwrap().to_owned();
    let place = format!("/console/connections/{id}");
    assert_eq!((answer.status, answer.header("location")), (303, Some(place.as_str())), "{}", answer.text);
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    let shown = browser.get(&place).await;
    assert!(shown.text.contains("✓</span> active") && shown.text.contains("&lt;b&gt;work"), "{}", shown.text);
    let again = browser.get(&back).await;
    assert_eq!(again.status, 410, "good once");
    assert!(again.text.contains("href=\"/console/connections\""), "{}", again.text);
    let list = browser.get("/console/connections").await;
    assert!(list.text.contains(&id) && !list.text.contains("is not connected yet"), "{}", list.text);
    let log = json!(world.server.documents().await).to_string();
    for secret in provider.secrets() {
        for text in [&answer.text, &shown.text, &list.text, &again.text, &log] {
            assert!(!text.contains(&secret), "{secret}");
        }
        assert!(!format!("{:?}", answer.headers).contains(&secret));
    }
    let requested = world.server.documents().await;
    let requested = requested.iter().find(|one| one["action"] == "vault.connection.requested").unwrap();
    assert_eq!(requested["console"]["role"], "user");
    let mut stranger = person(&world, ConsoleRole::User, "bob").await;
    for path in [
        place.clone(),
        format!("{place}/disconnect"),
        format!("{place}/finish"),
        format!("{NEW}?connection={id}"),
    ] {
        assert_eq!(stranger.get(&path).await.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_browser_or_another_session_gets_a_code_and_no_connection() {
    let (world, provider) = usual().await;
    let server = &world.server;
    let mut alice = person(&world, ConsoleRole::User, "alice").await;
    let mut mallory = person(&world, ConsoleRole::User, "mallory").await;
    // Alice follows Mallory's link; her browser has a session and an authorization of its own.
    let bait = begun(&mut mallory, &provider).await;
    let own = begun(&mut alice, &provider).await;
    let page = alice.get(&path_of(&world, &provider.agree(&bait).await)).await;
    assert!(page.status == 200 && page.text.contains("Do not give this code"), "{}", page.text);
    assert!(connections(&world, "mallory").await.is_empty());
    assert_eq!(alice.get(&path_of(&world, &provider.agree(&own).await)).await.status, 303);
    assert_eq!(connections(&world, "alice").await.len(), 1);

    // Bob's browser is taken over by another session before the provider sends it back.
    let mut bob = person(&world, ConsoleRole::User, "bob").await;
    let link = begun(&mut bob, &provider).await;
    let connect = bob.cookies.get("actchain-connect").unwrap().clone();
    let kept = bob.cookies.clone();
    let mut carol = person(&world, ConsoleRole::User, "carol").await;
    carol.cookies.insert("actchain-connect".to_owned(), connect);
    let page = carol.get(&path_of(&world, &provider.agree(&link).await)).await;
    assert!(page.status == 200 && page.text.contains("Do not give this code"), "{}", page.text);
    assert_eq!(provider.count(Asked::Code), 1, "Alice's alone");
    let code = page.text.split("<code>").nth(1).unwrap().split("</code>").next().unwrap().to_owned();
    assert!(connections(&world, "carol").await.is_empty() && connections(&world, "bob").await.is_empty());

    // Bob types the code where the authorization began.
    let list = bob.get("/console/connections").await;
    let finish = list.text.split("href=\"").find(|rest| rest.split('"').next().unwrap().ends_with("/finish"));
    let finish = finish.unwrap_or_else(|| panic!("{}", list.text)).split('"').next().unwrap().to_owned();
    assert_eq!(carol.get(&finish).await.status, 404);
    let page = bob.get(&finish).await;
    assert!(page.text.contains("Type only a code that you see on a screen of your own"), "{}", page.text);
    let typed = form(&page, "/finish");
    assert_eq!(carol.submit(&typed).await.status, 403, "another session's form");
    let wrong = bob.submit(&typed.clone().with("code", "0000-0000-0000")).await;
    assert!(wrong.status == 422 && wrong.text.contains("This code does not fit"), "{}", wrong.text);
    let done = bob.submit(&form(&wrong, "/finish").with("code", &code.to_lowercase())).await;
    assert!(done.status == 200 && done.text.contains("✓</span> active"), "{}", done.text);
    assert_eq!(connections(&world, "bob").await.len(), 1);

    // A session that has ended is none.
    bob.cookies = kept;
    let link = begun(&mut bob, &provider).await;
    let overview = bob.get("/console").await;
    let connect = bob.cookies.get("actchain-connect").unwrap().clone();
    bob.submit(&form(&overview, "/console/sign-out")).await;
    bob.cookies.insert("actchain-connect".to_owned(), connect);
    let page = bob.get(&path_of(&world, &provider.agree(&link).await)).await;
    assert!(page.text.contains("Do not give this code") && !page.text.contains("See your connections"));
    assert_eq!(connections(&world, "bob").await.len(), 1);
    let authorized: Vec<Value> = server
        .documents()
        .await
        .into_iter()
        .filter(|one| one["action"] == "vault.connection.authorized")
        .map(|one| one["detail"]["browser"].clone())
        .collect();
    assert_eq!(authorized, ["another", "same", "another", "another", "another"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_a_provider_leads_back_to_the_console() {
    let (world, provider) = usual().await;
    let mut browser = person(&world, ConsoleRole::User, "alice").await;
    let link = begun(&mut browser, &provider).await;
    let back = provider.agree(&link).await;
    let mut declined = back.clone();
    let kept: Vec<(String, String)> =
        back.query_pairs().into_owned().filter(|(name, _)| name != "code").collect();
    declined.query_pairs_mut().clear().extend_pairs(kept).append_pair("error", "access_denied");
    let page = browser.get(&path_of(&world, &declined)).await;
    assert_eq!(page.status, 403);
    assert!(page.text.contains("<a href=\"/console/connections\">See your connections</a>"), "{}", page.text);
    let garbage = browser.get("/vault/callback/mail?state=x").await;
    assert!(garbage.status == 400 && garbage.text.contains("See your connections"), "{}", garbage.text);
    let mut signed_out = Browser::new(&world.server);
    assert!(!signed_out.get("/vault/callback/mail?state=x").await.text.contains("href"));
    assert!(connections(&world, "alice").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_passwords_are_written_and_never_shown() {
    let vault = VaultWorld::new().await;
    let world = &vault.world;
    let (key, password) = ("key-of-alice-0123456789", "password-of-alice-0123456789");
    let mut browser = person(world, ConsoleRole::User, "alice").await;
    let choice = browser.get(NEW).await;
    assert!(
        choice.text.contains("provider=keys") && choice.text.contains("provider=logins"),
        "{}",
        choice.text
    );
    assert!(
        !choice.text.contains("provider=acme"),
        "no owner can be sent to a provider without an authorization endpoint"
    );
    let page = browser.get(&format!("{NEW}?provider=keys")).await;
    assert!(page.text.contains("type=\"password\"") && !page.text.contains("owner_sub"), "{}", page.text);
    let keyed = browser.submit(&form(&page, NEW).with("key", key).with("name", "mine")).await;
    assert!(keyed.status == 200 && keyed.text.contains("✓</span> active"), "{}", keyed.text);
    let page = browser.get(&format!("{NEW}?provider=logins")).await;
    let filled = form(&page, NEW).with("username", "alice").with("password", password);
    let login = browser.submit(&filled).await;
    assert!(login.status == 200 && login.text.contains("✓</span> active"), "{}", login.text);
    assert_eq!(browser.submit(&filled).await.status, 200, "a second click");
    assert_eq!(connections(world, "alice").await.len(), 2);
    let for_other = form(&page, NEW).with("username", "x").with("password", password).with("owner_iss", IDP);
    assert_eq!(browser.submit(&for_other.clone()).await.status, 400);
    let for_other = form(&browser.get(&format!("{NEW}?provider=logins")).await, NEW);
    let for_other = for_other.with("username", "x").with("password", password);
    let for_other = for_other.with("owner_iss", IDP).with("owner_sub", "bob");
    assert_eq!(browser.submit(&for_other).await.status, 403, "users connect for themselves");

    // The key is replaced: the connection stays.
    let all = connections(world, "alice").await;
    let id = all.iter().find(|one| one["provider"] == "keys").unwrap()["id"].as_str().unwrap().to_owned();
    world.server.sql().await.execute("UPDATE connection SET needs_reconnect_at = now()").await.unwrap();
    let list = browser.get("/console/connections?state=needs_reconnect").await;
    assert!(list.text.contains(&format!("{NEW}?connection={id}")), "{}", list.text);
    let page = browser.get(&format!("{NEW}?connection={id}")).await;
    assert!(!page.text.contains(key));
    let second = "second-key-of-alice-0123456789";
    let renewed = browser.submit(&form(&page, NEW).with("key", second)).await;
    assert!(renewed.text.contains("✓</span> active") && renewed.text.contains(&id), "{}", renewed.text);

    // An administrator stores a key for a user, after a fresh sign-in.
    let mut admin = person(world, ConsoleRole::Admin, "ada").await;
    let page = admin.get(&format!("{NEW}?provider=keys")).await;
    let filled = form(&page, NEW).with("key", key).with("owner_iss", IDP).with("owner_sub", "bob");
    world.server.pass(901);
    assert_eq!(admin.submit(&filled).await.status, 403);
    let mut admin = person(world, ConsoleRole::Admin, "ada").await;
    let page = admin.get(&format!("{NEW}?provider=keys")).await;
    let filled = form(&page, NEW).with("key", key).with("owner_iss", IDP).with("owner_sub", "bob");
    assert_eq!(admin.submit(&filled).await.status, 200);
    assert_eq!(connections(world, "bob").await.len(), 1);
    let log = json!(world.server.documents().await).to_string();
    let stored = world.server.dump().await;
    for secret in [key, password, second] {
        for text in [&keyed.text, &login.text, &renewed.text, &list.text, &log, &stored] {
            assert!(!text.contains(secret), "{secret}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_refuses_is_connected_again_by_its_owner() {
    let (world, provider) = usual().await;
    let mut browser = person(&world, ConsoleRole::User, "alice").await;
    let link = begun(&mut browser, &provider).await;
    browser.get(&path_of(&world, &provider.agree(&link).await)).await;
    let id = connections(&world, "alice").await[0]["id"].as_str().unwrap().to_owned();
    world.server.sql().await.execute("UPDATE connection SET needs_reconnect_at = now()").await.unwrap();
    let item = browser.get(&format!("/console/connections/{id}")).await;
    assert!(item.text.contains("Connect again"), "{}", item.text);
    // An administrator sees it; but its own account is not Alice's.
    let mut admin = person(&world, ConsoleRole::Admin, "ada").await;
    let seen = admin.get("/console/connections").await;
    assert!(seen.text.contains(&id) && !seen.text.contains("Connect again"), "{}", seen.text);
    assert_eq!(admin.get(&format!("{NEW}?connection={id}")).await.status, 403);
    let own = admin.get(&format!("{NEW}?provider=mail")).await;
    let forged = form(&own, NEW).with("connection", &id);
    assert_eq!(admin.submit(&forged).await.status, 403);
    let mut stranger = person(&world, ConsoleRole::User, "bob").await;
    let forged = form(&stranger.get(&format!("{NEW}?provider=mail")).await, NEW).with("connection", &id);
    assert_eq!(stranger.submit(&forged).await.status, 404);

    let page = browser.get(&format!("{NEW}?connection={id}")).await;
    assert!(page.text.contains("again"), "{}", page.text);
    let link = leaving(&browser.submit(&form(&page, NEW)).await, &provider);
    let answer = browser.get(&path_of(&world, &provider.agree(&link).await)).await;
    assert_eq!(answer.header("location"), Some(format!("/console/connections/{id}").as_str()));
    let all = connections(&world, "alice").await;
    assert_eq!((all.len(), &all[0]["id"], &all[0]["state"]), (1, &json!(id), &json!("active")));
    // An administrator connects an account of its own.
    let link = leaving(&admin.submit(&form(&own, NEW)).await, &provider);
    assert_eq!(admin.get(&path_of(&world, &provider.agree(&link).await)).await.status, 303);
    let all = connections(&world, "ada").await;
    assert_eq!((all.len(), &all[0]["owner"]["sub"]), (1, &json!("ada")));
    // An operator is no owner of an account.
    let mut operator = Browser::of_operator(&world.server).await;
    let page = operator.get(&format!("{NEW}?provider=mail")).await;
    assert!(page.status == 200 && !page.text.contains("Begin"), "{}", page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnecting_shows_who_used_it_what_names_it_and_whether_the_provider_was_informed() {
    let vault = VaultWorld::new().await;
    let world = &vault.world;
    let id = vault.api_key().await;
    let other = vault.api_key().await;
    let ([root, _], [first, second]) = vault.granted(&id).await;
    drop(first);
    vault.fetch(&second, &id).await.with_status(200);
    let naming = async |connection: &str| {
        let path = format!("/delegate?connection={connection}");
        let list = world.as_alice("GET", &path, json!({})).await.with_status(200);
        list.json["items"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(naming(&id).await, [json!(root)], "its child names nothing by itself");
    assert!(naming(&other).await.is_empty());
    assert!(
        world.as_user("bob", "GET", &format!("/delegate?connection={id}"), json!({})).await.json["items"]
            == json!([])
    );

    let mut browser = person(world, ConsoleRole::User, "alice").await;
    let list = browser.get("/console/connections").await;
    let rows: Vec<&str> = list.text.split("<tr data-row").skip(1).collect();
    let row = |id: &str| *rows.iter().find(|row| row.contains(id)).unwrap();
    assert!(row(&id).contains("/console/agents/email-svc") && row(&other).contains("never"), "{}", list.text);
    let page = browser.get(&format!("/console/connections/{id}/disconnect")).await;
    assert!(page.text.contains("email-svc") && page.text.contains("1 ×"), "{}", page.text);
    assert!(page.text.contains(&format!("/console/delegations/{root}")), "{}", page.text);
    assert_eq!(connections(world, "alice").await[0]["state"], "active", "nothing changes on GET");
    let done = browser.submit(&form(&page, "/disconnect").with("reason", "enough")).await;
    assert!(
        done.text.contains("disconnected") && done.text.contains("has no way to revoke"),
        "{}",
        done.text
    );
    assert!(!done.text.contains("Disconnect…"), "{}", done.text);
    vault.fetch(&second, &id).await.assert_problem(409, "connection_disconnected");

    // A provider that can revoke.
    let provider = Provider::start().await;
    world.server.apply(&provider.manifest("mail", "scopes: [mail.read]")).await.unwrap();
    let link = begun(&mut browser, &provider).await;
    browser.get(&path_of(world, &provider.agree(&link).await)).await;
    let all = connections(world, "alice").await;
    let mail = all.iter().find(|one| one["provider"] == "mail").unwrap()["id"].as_str().unwrap().to_owned();
    let page = browser.get(&format!("/console/connections/{mail}/disconnect")).await;
    let done = browser.submit(&form(&page, "/disconnect")).await;
    assert!(done.text.contains("The provider was informed"), "{}", done.text);
    assert_eq!(provider.count(Asked::Revoke), 1);
}
