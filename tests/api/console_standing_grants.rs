//! Standing grants in the console: granted after they were shown, confirmed with both keys on the page, revoked at once.

use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use serde_json::{Value, json};

use crate::support::agent::{Agent, JWT};
use crate::support::browser::{Browser, form};
use crate::support::ends::new_key;
use crate::support::world::{IDP, MAIL, World};

const PAGE: &str = "/console/standing-grants";
const GRANTS: &str = "/api/v1/standing-grants";

async fn asked(world: &World, scopes: Value) -> (u16, Value) {
    let body = json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": scopes, "audiences": [MAIL], "expires_in": 600,
                      "max_uses": 5, "max_depth": 1, "reason": "<b>to help</b>"});
    let answer = world.as_agent(&world.user_proxy, "POST", "/delegate", body).await;
    (answer.status, answer.json)
}

async fn bob(world: &World) -> Browser<'_> {
    Browser::of(&world.server, ConsoleRole::User, Some(&Principal::new(IDP, "bob"))).await
}

/// A grant of Bob, made over the API.
async fn consented(world: &World) -> String {
    let body = json!({"client_id": "email-svc", "keys": [world.email_svc.jkt()], "scopes": ["mail.read"], "audiences": [MAIL]});
    world.as_user("bob", "POST", GRANTS, body).await.with_status(201).id()
}

/// The link with this text on a page.
fn link(text: &str, name: &str) -> String {
    let (before, _) =
        text.split_once(&format!("\">{name}</a>")).unwrap_or_else(|| panic!("no {name} in {text}"));
    before.rsplit_once("href=\"").unwrap().1.replace("&amp;", "&")
}

#[tokio::test(flavor = "multi_thread")]
async fn always_allow_fills_in_the_limits_of_the_request_and_shows_them_before_they_are_granted() {
    let world = World::new().await;
    let (status, request) = asked(&world, json!(["mail.read", "mail.send"])).await;
    assert_eq!(status, 202);
    let mut browser = bob(&world).await;
    let page = browser.get(&format!("/console/approvals/{}", request["id"].as_str().unwrap())).await;
    let new = browser.get(&link(&page.text, "Always allow…")).await;
    assert_eq!(new.status, 200, "{}", new.text);
    for filled in
        ["value=\"user-proxy\"", "mail.read mail.send", MAIL, "value=\"600\"", "value=\"5\"", "value=\"1\""]
    {
        assert!(new.text.contains(filled), "{filled}: {}", new.text);
    }
    let fields = "client_id=user-proxy&scopes=mail.read&audiences=https%3A%2F%2Fmail.example.com&max_ttl=600&max_uses=5&max_depth=1";
    let preview = browser.get(&format!("{PAGE}/new?{fields}&preview=yes")).await;
    assert!(
        preview.text.contains("without a click") && preview.text.contains("may not pass it on"),
        "{}",
        preview.text
    );
    let pinned = format!("name=\"keys\" value=\"{}\"", world.user_proxy.jkt());
    let shown = preview.text.contains(&format!("data-copy=\"{}\"", world.user_proxy.jkt()));
    assert!(
        shown && preview.text.contains(&pinned),
        "the keys are shown, and no others granted: {}",
        preview.text
    );
    assert_eq!(asked(&world, json!(["mail.read"])).await.0, 202, "nothing is granted yet");
    let unseen = browser.submit(&form(&preview, "/new").with("keys", "")).await;
    assert_eq!(unseen.status, 400, "keys that were not shown: {}", unseen.text);
    let made = browser.submit(&form(&preview, "/new")).await;
    assert!(made.text.contains("✓</span> active") && made.text.contains("user-proxy"), "{}", made.text);
    assert_eq!(asked(&world, json!(["mail.read"])).await.0, 201);
    assert_eq!(asked(&world, json!(["mail.send"])).await.0, 202);
    let list = browser.get(PAGE).await;
    for shown in ["user-proxy", "mail.read", "10 min", "5 uses", "not passed on", "renew", ">1</span></td>"] {
        assert!(list.text.contains(shown), "{shown}: {}", list.text);
    }
    let documents = world.server.documents().await;
    let created = documents.iter().find(|one| one["action"] == "standing_grant.created").unwrap();
    assert_eq!(
        (&created["console"]["role"], &created["detail"]["created_by"]),
        (&json!("user"), &json!("user"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn to_give_renew_and_confirm_need_a_fresh_sign_in_and_to_revoke_does_not() {
    let world = World::new().await;
    let id = consented(&world).await;
    let mut browser = bob(&world).await;
    let grant = format!("{PAGE}/{id}");
    let fields = "client_id=user-proxy&scopes=mail.read&audiences=https%3A%2F%2Fmail.example.com";
    world.server.pass(1_000);
    let preview = browser.get(&format!("{PAGE}/new?{fields}&preview=yes")).await;
    let stale = browser.submit(&form(&preview, "/new")).await;
    assert!(stale.status == 403 && stale.text.contains("Sign in once more"), "{}", stale.text);
    let page = browser.get(&grant).await;
    assert_eq!(browser.submit(&form(&page, "/renew")).await.status, 403);
    let foreign = Agent { key: new_key(), ..world.email_svc.clone() };
    world.management_token(&foreign).await;
    let page = browser.get(&grant).await;
    let confirm = form(&page, "/confirm").with(&format!("key:{}", foreign.jkt()), "on");
    assert_eq!(browser.submit(&confirm).await.status, 403);
    let shown = world.as_user("bob", "GET", &format!("{GRANTS}/{id}"), Value::Null).await;
    assert_eq!(shown.json["state"], "suspended");
    let revoke = browser.get(&format!("{grant}/revoke")).await;
    assert!(revoke.text.contains("0 delegations and 0 tokens"), "{}", revoke.text);
    let done = browser.submit(&form(&revoke, "/revoke")).await;
    assert!(done.status == 200 && done.text.contains("✗</span> revoked"), "{}", done.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_key_is_shown_beside_the_old_one_and_nothing_passes_until_it_is_confirmed() {
    let world = World::new().await;
    let id = consented(&world).await;
    let body = json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read"], "audiences": [MAIL]});
    world.as_agent(&world.email_svc, "POST", "/delegate", body.clone()).await.with_status(201);
    let foreign = Agent { key: new_key(), ..world.email_svc.clone() };
    let waits = world.as_agent(&foreign, "POST", "/delegate", body.clone()).await.with_status(202);
    assert_eq!(waits.json["standing_grant_exceeded"]["limit"], "suspended");
    let mut browser = bob(&world).await;
    let page = browser.get(&format!("{PAGE}/{id}")).await;
    for shown in [
        "suspended: key changed",
        foreign.jkt(),
        world.email_svc.jkt(),
        "Confirm the new key",
        "1 delegation and 0 tokens",
        "<dt>from</dt><dd>127.0.0.1</dd>",
    ] {
        assert!(page.text.contains(shown), "{shown}: {}", page.text);
    }
    let refused = browser.get(PAGE).await;
    assert!(refused.text.contains("suspended: key changed"), "{}", refused.text);
    // The page and the API say the same state.
    let api = world.as_user("bob", "GET", &format!("{GRANTS}/{id}"), Value::Null).await;
    assert_eq!(api.json["suspension"]["seen_key"], foreign.jkt());
    let nothing = browser.submit(&form(&page, "/confirm")).await;
    assert_eq!(nothing.status, 400, "no key is ticked: {}", nothing.text);
    let confirm = form(&page, "/confirm").with(&format!("key:{}", foreign.jkt()), "on");
    // The form of another session.
    let mut carol = Browser::of(&world.server, ConsoleRole::User, Some(&Principal::new(IDP, "carol"))).await;
    assert_eq!(carol.submit(&confirm).await.status, 403);
    assert_eq!(carol.get(&format!("{PAGE}/{id}")).await.status, 404);
    for unseen in [confirm.clone().without("client_version"), confirm.clone().with("client_version", "x")] {
        assert_eq!(browser.submit(&unseen).await.status, 409, "which registration was shown?");
    }
    let done = browser.submit(&confirm).await;
    assert!(done.status == 200 && done.text.contains("✓</span> active"), "{}", done.text);
    world.as_agent(&foreign, "POST", "/delegate", body).await.with_status(201);
    for what in ["suspended: key changed", "keys confirmed", "used: a request became active"] {
        let page = browser.get(&format!("{PAGE}/{id}")).await;
        assert!(page.text.contains(what), "{what}: {}", page.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_gives_for_a_user_only_where_the_issuer_lets_it() {
    let world = World::new().await;
    let mut admin = Browser::of(&world.server, ConsoleRole::Admin, Some(&Principal::new(IDP, "root"))).await;
    let fields = format!(
        "client_id=user-proxy&scopes=mail.read&audiences=https%3A%2F%2Fmail.example.com&grantor_iss={}&grantor_sub=bob&preview=yes",
        url::form_urlencoded::byte_serialize(IDP.as_bytes()).collect::<String>()
    );
    let preview = admin.get(&format!("{PAGE}/new?{fields}")).await;
    assert!(preview.text.contains("You give as an administrator"), "{}", preview.text);
    let refused = admin.submit(&form(&preview, "/new")).await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    assert!(refused.text.contains("lets only the user give a standing grant"), "{}", refused.text);
    let issuer = format!(
        "issuers: [{{iss: {IDP}, jwks: {{keys: [{}]}}, audiences: [actchain], algorithms: [ES256], may_act: authorize, \
         standing_grants: by_user_or_admin}}]",
        world.idp.public_jwk()
    );
    world.server.apply(&issuer).await.unwrap();
    let preview = admin.get(&format!("{PAGE}/new?{fields}")).await;
    let made = admin.submit(&form(&preview, "/new")).await;
    assert!(made.text.contains("by an administrator, in place of the user"), "{}", made.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_cannot_be_read_is_named() {
    let world = World::new().await;
    let mut browser = bob(&world).await;
    let page =
        browser.get(&format!("{PAGE}/new?client_id=a&scopes=b&audiences=c&max_uses=x&preview=yes")).await;
    assert_eq!(page.status, 422, "{}", page.text);
    let page = browser.get(&format!("{PAGE}?state=green")).await;
    assert_eq!(page.status, 422, "{}", page.text);
    let page = browser.get(&format!("{PAGE}/new?client_id=a&colour=red")).await;
    assert_eq!(page.status, 400, "{}", page.text);
}

/// What `email-svc` requests from Bob.
async fn requested(world: &World) -> (u16, Value) {
    let body = json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read"], "audiences": [MAIL]});
    let answer = world.as_agent(&world.email_svc, "POST", "/delegate", body).await;
    (answer.status, answer.json)
}

async fn token(world: &World) -> String {
    let exchange =
        world.email_svc.exchange(&world.server, &world.token_of("bob"), JWT).param("audience", MAIL);
    exchange.send().await.with_status(200).token().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_on_the_page_ends_what_came_of_the_grant() {
    let world = World::new().await;
    let id = consented(&world).await;
    assert_eq!(requested(&world).await.0, 201);
    let token = token(&world).await;
    assert!(world.is_active(&token).await);
    let mut browser = bob(&world).await;
    let revoke = browser.get(&format!("{PAGE}/{id}/revoke")).await;
    assert!(revoke.text.contains("1 delegation and 1 token"), "{}", revoke.text);
    assert!(world.is_active(&token).await, "nothing is revoked yet");
    let done = browser.submit(&form(&revoke, "/revoke")).await;
    assert!(done.text.contains("✗</span> revoked"), "{}", done.text);
    assert!(!world.is_active(&token).await);
    assert_eq!(requested(&world).await.0, 202);
    let log = browser.get(&format!("{PAGE}/{id}")).await;
    for what in ["granted", "used: a request became active", "a token was issued", "revoked"] {
        assert!(log.text.contains(what), "{what}: {}", log.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_renewed_on_its_page_and_shown_as_expired_afterwards() {
    let world = World::new().await;
    let id = consented(&world).await;
    assert_eq!(requested(&world).await.0, 201);
    let mut browser = bob(&world).await;
    let page = browser.get(&format!("{PAGE}/{id}")).await;
    let before = world.as_user("bob", "GET", &format!("{GRANTS}/{id}"), Value::Null).await.json;
    let renewed = browser.submit(&form(&page, "/renew").with("expires_in", "3000000")).await;
    assert!(renewed.status == 200 && renewed.text.contains("✓</span> active"), "{}", renewed.text);
    let after = world.as_user("bob", "GET", &format!("{GRANTS}/{id}"), Value::Null).await.json;
    assert!(after["expires_at"].as_str() > before["expires_at"].as_str(), "{after}");
    let overview = browser.get("/console").await;
    assert!(!overview.text.contains(&format!("{PAGE}/{id}")), "it lasts for a while: {}", overview.text);
    world.server.pass(3_000_000 - 86_400);
    let mut browser = bob(&world).await;
    let overview = browser.get("/console").await;
    assert!(overview.text.contains(&format!("{PAGE}/{id}")), "it ends within a week: {}", overview.text);
    assert_eq!(requested(&world).await.0, 201);
    world.server.pass(86_400);
    let mut browser = bob(&world).await;
    let page = browser.get(&format!("{PAGE}/{id}")).await;
    assert!(page.text.contains("–</span> expired") && !page.text.contains("/renew\""), "{}", page.text);
    assert!(page.text.contains("Renewals") && page.text.contains(": until "), "{}", page.text);
    actchain::jobs::expiry::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    let page = browser.get(&format!("{PAGE}/{id}")).await;
    assert!(page.text.contains("data-label=\"what\">expired"), "{}", page.text);
    let (status, waits) = requested(&world).await;
    assert_eq!((status, &waits["standing_grant_exceeded"]["limit"]), (202, &json!("expired")));
    let page = browser.get(&format!("{PAGE}/{id}")).await;
    assert!(page.text.contains("refused: the grant had expired"), "{}", page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_offline_access_fills_in_its_box_and_the_page_says_it_in_words() {
    let world = World::new().await;
    let body = json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read"], "audiences": [MAIL], "offline_access": true});
    let asked = world.as_agent(&world.user_proxy, "POST", "/delegate", body).await.with_status(202);
    let mut browser = bob(&world).await;
    let page = browser.get(&format!("/console/approvals/{}", asked.id())).await;
    let new = browser.get(&link(&page.text, "Always allow…")).await;
    assert!(new.text.contains("name=\"offline_access\" value=\"yes\" checked"), "{}", new.text);
    let fields = "client_id=user-proxy&scopes=mail.read&audiences=https%3A%2F%2Fmail.example.com";
    for (more, offline) in [("", false), ("&offline_access=yes", true)] {
        let preview = browser.get(&format!("{PAGE}/new?{fields}{more}&preview=yes")).await;
        assert_eq!(preview.text.contains("without you, with a refresh token"), offline, "{}", preview.text);
        let made = browser.submit(&form(&preview, "/new")).await;
        assert_eq!(made.text.contains("also while the user is away"), offline, "{}", made.text);
    }
}

/// An agent with a secret has no registered key: the grant pins the key of its request.
#[tokio::test(flavor = "multi_thread")]
async fn always_allow_pins_the_key_of_the_request_where_it_is_not_registered() {
    let world = World::new().await;
    let (status, request) = requested(&world).await;
    assert_eq!(status, 202);
    let mut browser = bob(&world).await;
    let page = browser.get(&format!("/console/approvals/{}", request["id"].as_str().unwrap())).await;
    let new = browser.get(&link(&page.text, "Always allow…")).await;
    let jkt = world.email_svc.jkt();
    assert!(new.text.contains(&format!("name=\"keys\" value=\"{jkt}\"")), "{}", new.text);
    let fields = "client_id=email-svc&scopes=mail.read&audiences=https%3A%2F%2Fmail.example.com";
    let preview = browser.get(&format!("{PAGE}/new?{fields}&keys={jkt}&preview=yes")).await;
    let made = browser.submit(&form(&preview, "/new")).await;
    assert!(made.text.contains("✓</span> active"), "{}", made.text);
    assert_eq!(requested(&world).await.0, 201);
}
