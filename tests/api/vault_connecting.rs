//! Connecting a third party's account: the authorization code flow of RFC 6749 §4.1 with RFC 7636, RFC 9207 and the
//! same browser from start to end.

use std::collections::BTreeMap;
use std::sync::Arc;

use actchain::domain::vault::Credential;
use actchain::domain::vault::credential_cache::OpenedConnection;
use actchain::jobs::sweep;
use reqwest::Url;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::support::management::Api;
use crate::support::provider::{After, Asked, Behaviour, CLIENT, ClientAuth, Provider, Wrong};
use crate::support::world::{IDP, World};
use crate::support::{Answer, http};

const SCOPES: &str = "scopes: [mail.read, mail.send]";

async fn with(kind: Behaviour, more: &str) -> (World, Provider) {
    let (world, provider) = (World::new().await, Provider::of(kind).await);
    world.server.apply(&provider.manifest("mail", more)).await.unwrap();
    (world, provider)
}

pub async fn usual() -> (World, Provider) {
    with(Behaviour::default(), SCOPES).await
}

/// An authorization that has begun.
pub struct Begun {
    answer: Answer,
    connection: String,
    url: String,
    cookie: String,
}

fn begun(answer: Answer) -> Begun {
    assert_eq!(answer.status, 202, "{}", answer.text);
    let text = |name: &str| answer.json[name].as_str().unwrap().to_owned();
    let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    Begun { connection: text("connection"), url: text("authorization_url"), cookie, answer }
}

async fn ask(world: &World, sub: &str, more: Value) -> Answer {
    let mut body = json!({"provider": "mail"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.as_user(sub, "POST", "/api/v1/connections", body).await
}

pub async fn begin(world: &World, more: Value) -> Begun {
    begun(ask(world, "alice", more).await)
}

/// A browser follows a URL.
async fn visit(url: &Url, cookie: Option<&str>) -> Answer {
    let mut request = http().get(url.clone());
    if let Some(cookie) = cookie {
        request = request.header("cookie", format!("theme=dark; {cookie}"));
    }
    Answer::read(request.send().await.unwrap()).await
}

/// Agrees at the provider and comes back in the same browser.
pub async fn dance(provider: &Provider, begun: &Begun) -> Answer {
    visit(&provider.agree(&begun.url).await, Some(&begun.cookie)).await
}

#[track_caller]
fn assert_shown(page: &Answer, status: u16, title: &str) {
    assert_eq!(page.status, status, "{}", page.text);
    assert!(page.text.contains(&format!("<h1>{title}</h1>")), "{}", page.text);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(
        (page.header("cache-control"), page.header("referrer-policy")),
        (Some("no-store"), Some("no-referrer"))
    );
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(!page.text.contains("<script"));
}

async fn held(world: &World, id: &str) -> Option<Arc<OpenedConnection>> {
    let mut sql = world.server.sql().await;
    world.server.app.vault.open(&mut sql, id).await.unwrap()
}

async fn access_token(world: &World, id: &str) -> String {
    let held = held(world, id).await.unwrap_or_else(|| panic!("nothing is stored for {id}"));
    let Credential::Oauth2(tokens) = &held.credential else { panic!("no tokens") };
    tokens.access_token.expose_secret().to_owned()
}

async fn show(world: &World, sub: &str, id: &str) -> Answer {
    world.as_user(sub, "GET", &format!("/api/v1/connections/{id}"), json!({})).await
}

async fn finish(world: &World, sub: &str, (id, code): (&str, &str)) -> Answer {
    let path = format!("/api/v1/connections/{id}/finish");
    world.as_user(sub, "POST", &path, json!({"code": code})).await
}

fn code_of(page: &Answer) -> String {
    assert_shown(page, 200, "Not connected yet");
    assert!(page.text.contains("Do not give this code to others"));
    page.text.split("<code>").nth(1).unwrap().split("</code>").next().unwrap().to_owned()
}

fn query_of(url: &str) -> BTreeMap<String, String> {
    Url::parse(url).unwrap().query_pairs().into_owned().collect()
}

fn with_param(url: &Url, name: &str, value: Option<&str>) -> Url {
    let mut changed = url.clone();
    let kept: Vec<(String, String)> = url.query_pairs().into_owned().filter(|(own, _)| own != name).collect();
    changed.query_pairs_mut().clear().extend_pairs(kept);
    if let Some(value) = value {
        changed.query_pairs_mut().append_pair(name, value);
    }
    changed
}

/// All stored rows as text.
async fn dump(world: &World) -> String {
    let mut sql = world.server.sql().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'",
    )
    .fetch_all(&mut sql)
    .await
    .unwrap();
    assert!(
        tables.iter().any(|table| table == "pending_authorization")
            && tables.iter().any(|table| table == "audit_event")
    );
    let mut all = String::new();
    for table in tables {
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!("SELECT t::text FROM {table} t")))
            .fetch_all(&mut sql)
            .await
            .unwrap();
        all.push_str(&rows.join("\n"));
    }
    all
}

async fn assert_nothing_shows(world: &World, secrets: &[String], answers: &[&Answer]) {
    assert!(!secrets.is_empty());
    let stored = dump(world).await;
    for secret in secrets {
        assert!(secret.len() > 12, "{secret}");
        assert!(!stored.contains(secret), "{secret} is stored");
        for answer in answers {
            assert!(
                !answer.text.contains(secret) && !format!("{:?}", answer.headers).contains(secret),
                "{secret}"
            );
        }
    }
}

async fn newest(world: &World, action: &str) -> Value {
    let events = world.server.events().await;
    events.into_iter().rfind(|event| event["action"] == action).unwrap_or_else(|| panic!("no {action}"))
}

async fn exec(world: &World, statement: &str) {
    sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut world.server.sql().await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_connects_an_account_and_no_secret_shows_anywhere() {
    let more =
        "scopes: [mail.read, mail.send], always_scopes: [offline], authorization_params: {prompt: consent}";
    let (world, provider) = with(Behaviour::default(), more).await;
    let begun = begin(&world, json!({"name": "work"})).await;
    assert_eq!(begun.answer.json["expires_in"], 600);
    assert_eq!(begun.answer.header("cache-control"), Some("no-store"));
    let query = query_of(&begun.url);
    let of = |name: &str| query.get(name).map(String::as_str);
    let redirect_uri = format!("{}/vault/callback/mail", world.server.app.issuer);
    assert_eq!((of("response_type"), of("client_id")), (Some("code"), Some(CLIENT)));
    assert_eq!((of("redirect_uri"), of("prompt")), (Some(redirect_uri.as_str()), Some("consent")));
    assert_eq!(
        (of("scope"), of("code_challenge_method")),
        (Some("mail.read mail.send offline"), Some("S256"))
    );
    assert_eq!(of("state").map(str::len), Some(43));
    let cookie = begun.answer.header("set-cookie").unwrap();
    assert!(cookie.starts_with("actchain-connect=") && !cookie.contains("Secure"), "{cookie}");
    for attribute in ["; HttpOnly", "; SameSite=Lax", "; Path=/", "; Max-Age=600"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    let requested = newest(&world, "vault.connection.requested").await;
    assert_eq!(requested["subject"], json!({"iss": IDP, "sub": "alice"}));
    assert_eq!(
        (&requested["target"], &requested["detail"]["provider"]),
        (&json!(begun.connection), &json!("mail"))
    );
    assert_eq!(show(&world, "alice", &begun.connection).await.status, 404, "not yet");

    let back = provider.agree(&begun.url).await;
    let page = visit(&back, Some(&begun.cookie)).await;
    assert_shown(&page, 200, "Connected");
    assert_eq!(access_token(&world, &begun.connection).await, provider.newest().unwrap());
    let shown = show(&world, "alice", &begun.connection).await;
    assert_eq!(
        (&shown.json["state"], &shown.json["name"]),
        (&json!("active"), &json!("work")),
        "{}",
        shown.text
    );
    assert_eq!(shown.json["scopes"], json!(["mail.read", "mail.send", "offline"]));
    assert_eq!(
        (&shown.json["has_refresh_token"], &shown.json["owner"]["sub"]),
        (&json!(true), &json!("alice"))
    );
    assert_eq!(show(&world, "bob", &begun.connection).await.status, 404);
    let authorized = newest(&world, "vault.connection.authorized").await;
    assert_eq!(authorized["detail"]["browser"], "same");
    let created = newest(&world, "vault.connection.created").await;
    assert_eq!((&created["detail"]["how"], &created["subject"]["sub"]), (&json!("oauth"), &json!("alice")));
    assert!(created["request_id"].is_string());

    let again = visit(&back, Some(&begun.cookie)).await;
    assert_shown(&again, 410, "Not connected");
    assert_eq!((provider.count(Asked::Code), provider.count(Asked::Revoke)), (1, 0));
    let mut secrets = provider.secrets();
    secrets.push(provider.asked_for()[0]["code_verifier"].clone());
    secrets.push(begun.cookie.split_once('=').unwrap().1.to_owned());
    let after = [&page, &shown, &again];
    assert_nothing_shows(&world, &secrets, &after).await;
    assert_nothing_shows(&world, &[query["state"].clone()], &after).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_https_the_cookie_has_a_prefix_that_no_other_host_can_set() {
    let world = World::configured("issuer = \"https://as.example.com/t1\"").await;
    let yaml = "providers:\n  - {id: mail, client_id: c, authorization_endpoint: \"https://mail.example.com/a?x=1\", \
                token_endpoint: \"https://mail.example.com/t\"}\n";
    world.server.apply(yaml).await.unwrap();
    let body = json!({"provider": "mail"});
    let answer =
        Api::post(&world.server, "/t1/api/v1/connections", body).user(&world.user_token()).send().await;
    let begun = begun(answer);
    let cookie = begun.answer.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-actchain-connect=") && cookie.ends_with("; Secure"), "{cookie}");
    assert!(cookie.contains("; Path=/;") && !cookie.contains("Domain"), "{cookie}");
    let query = query_of(&begun.url);
    assert_eq!(
        (query["redirect_uri"].as_str(), query["x"].as_str()),
        ("https://as.example.com/t1/vault/callback/mail", "1")
    );
    assert!(!query.contains_key("scope"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_that_returns_in_another_browser_waits_for_its_code() {
    let (world, provider) = usual().await;
    let begun = begin(&world, json!({})).await;
    let back = provider.agree(&begun.url).await;
    let page = visit(&back, None).await;
    let code = code_of(&page);
    assert_eq!(newest(&world, "vault.connection.authorized").await["detail"]["browser"], "another");
    // Nothing has happened yet, here or at the provider.
    assert_eq!(
        (show(&world, "alice", &begun.connection).await.status, provider.count(Asked::Code)),
        (404, 0)
    );
    let with_cookie = visit(&back, Some(&begun.cookie)).await;
    assert_shown(&with_cookie, 410, "Not connected");
    let mut secrets = provider.secrets();
    secrets.push(code.clone());
    assert_nothing_shows(&world, &secrets, &[&with_cookie]).await;

    assert_eq!(finish(&world, "bob", (&begun.connection, &code)).await.status, 404);
    assert_eq!(finish(&world, "alice", ("another", &code)).await.status, 404);
    let admin = format!("/api/v1/connections/{}/finish", begun.connection);
    assert_eq!(world.as_admin("POST", &admin, json!({"code": code})).await.status, 403);
    let wrong = finish(&world, "alice", (&begun.connection, "0000-0000-0000")).await;
    assert_eq!((wrong.status, wrong.reason()), (404, "not_found"));
    let refused = newest(&world, "vault.connection.authorization_refused").await;
    assert_eq!(refused["detail"]["tries"], 1);
    let key = |key: &str| {
        let path = format!("/api/v1/connections/{}/finish", begun.connection);
        let typed = code.to_lowercase().replace('-', " ");
        Api::post(&world.server, &path, json!({"code": typed})).user(&world.user_token()).key(key)
    };
    let done = key("once").send().await;
    assert_eq!((done.status, &done.json["state"]), (201, &json!("active")), "{}", done.text);
    let again = key("once").send().await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (201, Some("true")));
    assert_eq!(again.json, done.json);
    assert_eq!(key("twice").send().await.status, 404, "it is good once");
    assert_eq!(provider.count(Asked::Code), 1);
    assert_eq!(access_token(&world, &begun.connection).await, provider.newest().unwrap());
    let created = newest(&world, "vault.connection.created").await;
    assert_eq!((&created["actor"]["sub"], &created["detail"]["how"]), (&json!("alice"), &json!("oauth")));
    let mut secrets = provider.secrets();
    secrets.push(code.clone());
    assert_nothing_shows(&world, &secrets, &[&done, &wrong]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_follows_a_foreign_link_connects_no_account() {
    let (world, provider) = usual().await;
    let bait = begun(ask(&world, "mallory", json!({})).await);
    let own = begin(&world, json!({})).await;
    // Alice's browser follows Mallory's link; it has a cookie, but of Alice's own authorization.
    let page = visit(&provider.agree(&bait.url).await, Some(&own.cookie)).await;
    let code = code_of(&page);
    assert_eq!(show(&world, "mallory", &bait.connection).await.status, 404);
    assert_eq!(visit(&provider.agree(&bait.url).await, Some(&bait.cookie)).await.status, 410);
    for n in 0..5 {
        let guess = format!("{n}000-0000-0000");
        assert_eq!(finish(&world, "mallory", (&bait.connection, &guess)).await.status, 404);
    }
    let late = finish(&world, "mallory", (&bait.connection, &code)).await;
    assert_eq!(
        (late.status, late.reason()),
        (404, "not_found"),
        "after five wrong codes the authorization is deleted"
    );
    assert_eq!((provider.count(Asked::Code), held(&world, &bait.connection).await.is_none()), (0, true));
    // Her own authorization still succeeds.
    assert_shown(&dance(&provider, &own).await, 200, "Connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn states_that_are_wrong_or_late_and_queries_that_are_no_answers_lead_nowhere() {
    let (world, provider) = usual().await;
    let begun = begin(&world, json!({})).await;
    let back = provider.agree(&begun.url).await;
    let cookie = Some(begun.cookie.as_str());
    let before = world.server.events().await.len();
    let other = query_of(&begin(&world, json!({})).await.url)["code_challenge"].clone();
    assert_shown(&visit(&with_param(&back, "state", Some(&other)), cookie).await, 410, "Not connected");
    let text = back.as_str();
    for bad in [
        with_param(&back, "state", None),
        with_param(&back, "state", Some("x")),
        with_param(&back, "code", None),
        with_param(&back, "code", Some("")),
        with_param(&back, "code", Some("a\nb")),
        with_param(&back, "code", Some(&"a".repeat(5000))),
        format!("{text}&error=access_denied").parse().unwrap(),
        format!("{text}&code=other").parse().unwrap(),
        format!("{text}&state=other").parse().unwrap(),
        with_param(&back, "state", Some("%E8")),
        text.replace("code=", "code=%E8").parse().unwrap(),
    ] {
        assert_shown(&visit(&bad, cookie).await, 400, "Not connected");
    }
    assert_eq!(world.server.events().await.len(), before + 1, "strangers do not fill the log");
    let head = http().head(back.clone()).send().await.unwrap();
    assert_eq!(head.status().as_u16(), 405);
    // None of these requests has used the code, and unknown parameters are ignored.
    let more =
        "session_state=1&<script>=<script>&display_name=%E8&%E8=1&x=1&x=2&resource=a&resource=b&error=";
    let more = format!("{text}&{more}").parse().unwrap();
    assert_shown(&visit(&more, cookie).await, 200, "Connected");

    let late = begin(&world, json!({})).await;
    world.server.pass(600);
    assert_shown(&dance(&provider, &late).await, 410, "Not connected");
    let waits = begin(&world, json!({})).await;
    let code = code_of(&visit(&provider.agree(&waits.url).await, None).await);
    world.server.pass(600);
    assert_eq!(finish(&world, "alice", (&waits.connection, &code)).await.status, 404);
    assert_eq!(provider.count(Asked::Code), 1);
    let left = async || {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM pending_authorization");
        count.fetch_one(&mut world.server.sql().await).await.unwrap()
    };
    assert!(left().await >= 2);
    world.server.pass(61);
    sweep::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    assert_eq!(left().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_simultaneous_callbacks_on_two_servers_one_succeeds() {
    let (world, provider) = usual().await;
    let twin = world.server.twin().await;
    let begun = begin(&world, json!({})).await;
    let back = provider.agree(&begun.url).await;
    let mut elsewhere = back.clone();
    elsewhere.set_port(Url::parse(&twin.base).unwrap().port()).unwrap();
    let visits = (0..8).map(|n| visit(if n % 2 == 0 { &back } else { &elsewhere }, Some(&begun.cookie)));
    let pages = futures_util::future::join_all(visits).await;
    let with = |status| pages.iter().filter(|page| page.status == status).count();
    assert_eq!((with(200), with(410)), (1, 7));
    assert_eq!(provider.count(Asked::Code), 1);
    let events = world.server.events().await;
    let created = events.iter().filter(|event| event["action"] == "vault.connection.created");
    assert_eq!(created.count(), 1);
    // The same at `finish`.
    let begun = begin(&world, json!({})).await;
    let code = code_of(&visit(&provider.agree(&begun.url).await, None).await);
    let finished = (0..6).map(|_| finish(&world, "alice", (&begun.connection, &code)));
    let finished = futures_util::future::join_all(finished).await;
    let with = |status| finished.iter().filter(|answer| answer.status == status).count();
    assert_eq!((with(201), with(404), provider.count(Asked::Code)), (1, 5, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9207_a_response_of_another_issuer_is_not_accepted() {
    let kind = Behaviour { sends_issuer: true, ..Behaviour::default() };
    let (world, provider) = (World::new().await, Provider::of(kind).await);
    // As discovered: the metadata says that `iss` is always sent.
    let secret = crate::support::provider::SECRET;
    let base = &provider.base;
    let yaml = format!(
        "providers:\n  - {{id: mail, issuer: \"{base}\", client_id: {CLIENT:?}, client_secret: {secret:?}, {SCOPES}}}\n"
    );
    world.server.apply(&yaml).await.unwrap();
    for iss in [None, Some("https://evil.example.com"), Some("")] {
        let begun = begin(&world, json!({})).await;
        let back = with_param(&provider.agree(&begun.url).await, "iss", iss);
        assert_shown(&visit(&back, Some(&begun.cookie)).await, 403, "Not connected");
        let refused = newest(&world, "vault.connection.authorization_refused").await;
        assert_eq!(
            (&refused["reason"], &refused["target"]),
            (&json!("provider_refused"), &json!(begun.connection))
        );
        assert_eq!(dance(&provider, &begun).await.status, 410, "it was used up");
    }
    assert_eq!(provider.count(Asked::Code), 0, "the code went nowhere");
    assert_shown(&dance(&provider, &begin(&world, json!({})).await).await, 200, "Connected");
    // A provider that need not send `iss`, but sends it.
    let more = format!("{SCOPES}, issuer: \"{base}\"");
    world.server.apply(&provider.manifest("mail", &more)).await.unwrap();
    let begun = begin(&world, json!({})).await;
    let back = with_param(&provider.agree(&begun.url).await, "iss", Some("https://evil.example.com"));
    assert_eq!(visit(&back, Some(&begun.cookie)).await.status, 403);
    provider.becomes(|kind| kind.sends_issuer = false);
    assert_shown(&dance(&provider, &begin(&world, json!({})).await).await, 200, "Connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn rfc9700_a_response_at_the_redirect_uri_of_another_provider_is_not_accepted() {
    let (world, provider) = usual().await;
    let begun = begin(&world, json!({})).await;
    let mut back = provider.agree(&begun.url).await;
    assert!(back.path().ends_with("/vault/callback/mail"));
    back.set_path("/vault/callback/evil");
    assert_shown(&visit(&back, Some(&begun.cookie)).await, 403, "Not connected");
    assert_eq!(provider.count(Asked::Code), 0, "the code went nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_declines_sees_a_page_that_echoes_nothing_of_the_provider() {
    let (world, provider) = usual().await;
    for (error, logged) in
        [("access_denied", json!("access_denied")), ("<script>alert(1)</script> ", Value::Null)]
    {
        let begun = begin(&world, json!({})).await;
        let back = with_param(&provider.agree(&begun.url).await, "code", None);
        let mut back = with_param(&back, "error", Some(error));
        back.query_pairs_mut().append_pair("error_description", "a wonderful description");
        let page = visit(&back, Some(&begun.cookie)).await;
        assert_shown(&page, 403, "Not connected");
        assert!(!page.text.contains("wonderful") && !page.text.contains("alert"));
        let refused = newest(&world, "vault.connection.authorization_refused").await;
        assert_eq!((&refused["reason"], &refused["detail"]["error"]), (&json!("provider_refused"), &logged));
        assert_eq!(visit(&back, Some(&begun.cookie)).await.status, 410);
        assert_eq!(show(&world, "alice", &begun.connection).await.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_declines_sees_so_whatever_else_the_provider_sends() {
    let (world, provider) = usual().await;
    for more in [
        "error=access_denied&error_description=%E8",
        "error=access_denied&error_uri=%&error_description=a&error_description=b",
        "error=%E8",
        "error=access_denied&code=",
    ] {
        let begun = begin(&world, json!({})).await;
        let back = with_param(&provider.agree(&begun.url).await, "code", None);
        let declined: Url = format!("{back}&{more}").parse().unwrap();
        assert_shown(&visit(&declined, Some(&begun.cookie)).await, 403, "Not connected");
        let refused = newest(&world, "vault.connection.authorization_refused").await;
        let logged = (&refused["reason"], &refused["target"]);
        assert_eq!(logged, (&json!("provider_refused"), &json!(begun.connection)), "{more}");
        let again = visit(&declined, Some(&begun.cookie)).await;
        assert_shown(&again, 410, "Not connected");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn granted_scopes_are_stored_and_only_declared_scopes_are_requested() {
    let (world, provider) = usual().await;
    let narrow = begin(&world, json!({"scopes": ["mail.read"]})).await;
    assert_eq!(query_of(&narrow.url)["scope"], "mail.read");
    assert_eq!(dance(&provider, &narrow).await.status, 200);
    assert_eq!(show(&world, "alice", &narrow.connection).await.json["scopes"], json!(["mail.read"]));
    for (body, reason) in [
        (json!({"scopes": ["mail.read", "admin"]}), "scope_exceeds_grant"),
        (json!({"scopes": []}), "scope_empty"),
        (json!({"scopes": ["a b"]}), "scope_exceeds_grant"),
        (json!({"scopes": "mail.read"}), "malformed_request"),
        (json!({"name": ""}), "malformed_request"),
        (json!({"provider": "nothing"}), "provider_unknown"),
        (json!({"scopes": ["mail.read"], "credential": {"access_token": "x"}}), "malformed_request"),
    ] {
        let answer = ask(&world, "alice", body.clone()).await;
        assert_eq!((answer.status, answer.reason()), (400, reason), "{body}: {}", answer.text);
        assert_eq!(answer.header("set-cookie"), None);
    }
    let refused = newest(&world, "vault.connection.request_refused").await;
    assert_eq!(refused["subject"]["sub"], "alice");
    // The provider grants more or less than requested: the granted scope is stored.
    for (granted, stored) in
        [("mail.read other", json!(["mail.read", "other"])), ("mail.send", json!(["mail.send"]))]
    {
        provider.becomes(|kind| kind.grants = Some(granted.to_owned()));
        let begun = begin(&world, json!({})).await;
        assert_eq!(dance(&provider, &begun).await.status, 200);
        assert_eq!(show(&world, "alice", &begun.connection).await.json["scopes"], stored);
    }
    // No scope was requested, and none is in the response: the scope is unknown.
    provider.becomes(|kind| kind.grants = None);
    world.server.apply(&provider.manifest("mail", "scope_separator: comma")).await.unwrap();
    let begun = begin(&world, json!({})).await;
    assert_eq!(dance(&provider, &begun).await.status, 200);
    assert_eq!(show(&world, "alice", &begun.connection).await.json["scopes"], Value::Null);
    let commas = "scope_separator: comma, scopes: [a, b]";
    world.server.apply(&provider.manifest("mail", commas)).await.unwrap();
    assert_eq!(query_of(&begin(&world, json!({})).await.url)["scope"], "a,b");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_owners_are_sent_to_a_provider() {
    let (world, provider) = usual().await;
    let owner = json!({"iss": IDP, "sub": "alice"});
    let admin =
        world.as_admin("POST", "/api/v1/connections", json!({"provider": "mail", "owner": owner})).await;
    assert_eq!((admin.status, admin.reason()), (400, "malformed_request"), "{}", admin.text);
    let bob = ask(&world, "bob", json!({"owner": owner})).await;
    assert_eq!((bob.status, bob.reason()), (403, "insufficient_scope"));
    let agent =
        world.as_agent(&world.user_proxy, "POST", "/api/v1/connections", json!({"provider": "mail"})).await;
    let begun = begun(agent);
    assert_eq!(dance(&provider, &begun).await.status, 200);
    let path = format!("/api/v1/connections/{}", begun.connection);
    assert_eq!(
        world.as_agent(&world.user_proxy, "GET", &path, json!({})).await.json["owner"]["sub"],
        "user-proxy"
    );
    let yaml = "providers:\n  - {id: keys, kind: api_key}\n  - {id: closed, client_id: c, token_endpoint: \"https://a.example.com/t\"}\n";
    world.server.apply(yaml).await.unwrap();
    for provider in ["keys", "closed"] {
        let answer = ask(&world, "alice", json!({"provider": provider})).await;
        assert_eq!((answer.status, answer.reason()), (400, "malformed_request"), "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_connected_again_under_its_id() {
    let (world, provider) = usual().await;
    let first = begin(&world, json!({"name": "mine"})).await;
    assert_eq!(dance(&provider, &first).await.status, 200);
    let id = first.connection.as_str();
    let old = access_token(&world, id).await;
    exec(&world, "UPDATE connection SET needs_reconnect_at = now(), version = version + 1").await;
    assert_eq!(show(&world, "alice", id).await.json["state"], "needs_reconnect");
    let again = begin(&world, json!({"connection": id})).await;
    assert_eq!(again.connection, id);
    assert_eq!(newest(&world, "vault.connection.requested").await["detail"]["reconnects"], true);
    assert_eq!(dance(&provider, &again).await.status, 200);
    let shown = show(&world, "alice", id).await;
    assert_eq!(
        (&shown.json["state"], &shown.json["name"]),
        (&json!("active"), &json!("mine")),
        "{}",
        shown.text
    );
    assert_ne!(access_token(&world, id).await, old);
    let rotated = newest(&world, "vault.connection.rotated").await;
    assert_eq!((&rotated["detail"]["how"], &rotated["target"]), (&json!("oauth"), &json!(id)));
    // Also in another browser.
    let again = begin(&world, json!({"connection": id, "name": "renamed"})).await;
    let code = code_of(&visit(&provider.agree(&again.url).await, None).await);
    let done = finish(&world, "alice", (id, &code)).await;
    assert_eq!((done.status, &done.json["name"]), (200, &json!("renamed")), "{}", done.text);
    // Only the newest attempt counts.
    let (lost, kept) =
        (begin(&world, json!({"connection": id})).await, begin(&world, json!({"connection": id})).await);
    assert_eq!((dance(&provider, &lost).await.status, dance(&provider, &kept).await.status), (410, 200));

    let others = ask(&world, "bob", json!({"connection": id})).await;
    assert_eq!((others.status, others.reason()), (404, "not_found"));
    assert_eq!(ask(&world, "alice", json!({"connection": "no such thing"})).await.status, 404);
    world.server.apply(&provider.manifest("calendar", "")).await.unwrap();
    assert_eq!(ask(&world, "alice", json!({"provider": "calendar", "connection": id})).await.status, 400);
    // A connection that is disconnected meanwhile stays disconnected, and the new tokens are revoked at the provider.
    let late = begin(&world, json!({"connection": id})).await;
    let path = format!("/api/v1/connections/{id}/disconnect");
    assert_eq!(world.as_alice("POST", &path, json!({})).await.status, 200);
    assert_shown(&dance(&provider, &late).await, 410, "Not connected");
    assert!(!provider.honours(&provider.newest().unwrap()));
    assert_eq!(show(&world, "alice", id).await.json["state"], "disconnected");
    let ended = ask(&world, "alice", json!({"connection": id})).await;
    assert_eq!(
        (ended.status, ended.reason(), &ended.json["state"]),
        (409, "connection_disconnected", &json!("disconnected"))
    );
    let elsewhere = ask(&world, "alice", json!({"provider": "calendar", "connection": id})).await;
    assert_eq!(elsewhere.status, 400, "the provider is named before the state: {}", elsewhere.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_answers_anything_else_connects_nothing() {
    let (world, provider) = usual().await;
    let tokens = json!({"access_token": "access-of-a-strange-answer", "token_type": "Bearer"});
    let works = Wrong { after: After::ItsWork, ..Wrong::json(500, tokens.clone()) };
    for (wrong, reason) in [
        (Wrong::json(400, json!({"error": "invalid_grant"})), "provider_refused"),
        (Wrong::json(401, json!({"error": "invalid_client"})), "provider_refused"),
        (Wrong::json(200, json!({"error": "bad_verification_code"})), "provider_refused"),
        (Wrong::json(429, json!({"error": "slow_down"})), "provider_unavailable"),
        (Wrong::json(302, tokens.clone()), "provider_unavailable"),
        (Wrong::json(307, tokens.clone()), "provider_unavailable"),
        (works, "provider_unavailable"),
        (Wrong::json(503, json!({"error": "invalid_grant"})), "provider_unavailable"),
        (Wrong::json(200, json!({"access_token": 7})), "provider_unavailable"),
        (Wrong::json(400, json!({"status": "BAD_AUTH_CODE", "message": "x"})), "provider_refused"),
        (Wrong::json(400, json!({"message": "x"})), "provider_refused"),
        (Wrong::json(200, json!([tokens])), "provider_unavailable"),
        (Wrong::says(200, "text/html", "<html>access-of-a-strange-answer"), "provider_unavailable"),
        (Wrong::says(200, "application/json", ""), "provider_unavailable"),
        (
            Wrong::says(200, "application/json", &format!("{{\"x\": \"{}\"}}", "x".repeat(1 << 20))),
            "provider_unavailable",
        ),
    ] {
        provider.once(Asked::Code, wrong.clone());
        let begun = begin(&world, json!({})).await;
        let page = dance(&provider, &begun).await;
        assert_shown(&page, 502, "Not connected");
        assert!(!page.text.contains("strange"));
        let refused = newest(&world, "vault.connection.authorization_refused").await;
        assert_eq!(
            (&refused["reason"], &refused["target"]),
            (&json!(reason), &json!(begun.connection)),
            "{wrong:?}"
        );
        assert!(held(&world, &begun.connection).await.is_none());
        assert_eq!(show(&world, "alice", &begun.connection).await.status, 404);
    }
    assert!(!dump(&world).await.contains("of-a-strange-answer"));
    // At the management API, the response has the reason.
    for (wrong, status, reason) in [
        (Wrong::json(400, json!({"error": "invalid_grant"})), 502, "provider_refused"),
        (Wrong::json(500, json!({})), 503, "provider_unavailable"),
    ] {
        provider.once(Asked::Code, wrong);
        let begun = begin(&world, json!({})).await;
        let code = code_of(&visit(&provider.agree(&begun.url).await, None).await);
        let before = world.server.events().await.len();
        let answer = finish(&world, "alice", (&begun.connection, &code)).await;
        assert_eq!((answer.status, answer.reason()), (status, reason), "{}", answer.text);
        let events = world.server.events().await;
        let refused = events[before..]
            .iter()
            .filter(|event| event["action"] == "vault.connection.authorization_refused");
        assert_eq!(refused.count(), 1, "said once");
        assert_eq!(finish(&world, "alice", (&begun.connection, &code)).await.status, 404);
    }
    assert_eq!(dance(&provider, &begin(&world, json!({})).await).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_does_not_answer_ends_in_an_error_page() {
    let (world, provider) = usual().await;
    let (never, _gate) = Wrong::held();
    provider.once(Asked::Code, never);
    let begun = begin(&world, json!({})).await;
    let page = dance(&provider, &begun).await;
    assert_shown(&page, 502, "Not connected");
    assert!(held(&world, &begun.connection).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_hangs_up_loses_nothing() {
    let (world, provider) = usual().await;
    let (late, gate) = Wrong::held();
    provider.once(Asked::Code, late);
    let begun = begin(&world, json!({})).await;
    let back = provider.agree(&begun.url).await;
    tokio::select! {
        answer = http().get(back).header("cookie", &begun.cookie).send() => panic!("answered: {answer:?}"),
        () = provider.asked(Asked::Code, 1) => {}
    }
    gate.open();
    while held(&world, &begun.connection).await.is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_that_is_revoked_meanwhile_connects_nothing() {
    let (world, provider) = usual().await;
    let (same, other) = (begin(&world, json!({})).await, begin(&world, json!({})).await);
    let code = code_of(&visit(&provider.agree(&other.url).await, None).await);
    let principal = json!({"iss": IDP, "sub": "alice", "reason": "stolen"});
    assert_eq!(world.as_admin("POST", "/api/v1/principals/revoke-all", principal).await.status, 200);
    world.server.pass(120);
    assert_shown(&dance(&provider, &same).await, 410, "Not connected");
    assert_eq!(provider.count(Asked::Code), 0);
    assert_eq!(newest(&world, "vault.connection.authorization_refused").await["reason"], "principal_revoked");
    // Alice has a new token, but the old authorization was possibly not begun by her.
    let late = finish(&world, "alice", (&other.connection, &code)).await;
    assert!(late.status >= 400, "{}", late.text);
    assert!(held(&world, &other.connection).await.is_none());
    assert!(provider.newest().is_none_or(|token| !provider.honours(&token)));
    let agents = begun(
        world.as_agent(&world.user_proxy, "POST", "/api/v1/connections", json!({"provider": "mail"})).await,
    );
    world.server.disable("user-proxy").await;
    assert_eq!(dance(&provider, &agents).await.status, 410);
    assert_eq!(dance(&provider, &begin(&world, json!({})).await).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_has_twenty_pending_authorizations_and_one_more_ends_the_oldest() {
    let (world, provider) = usual().await;
    let mut all = Vec::new();
    for _ in 0..21 {
        all.push(begin(&world, json!({})).await);
        world.server.pass(1);
    }
    let bobs = begun(ask(&world, "bob", json!({})).await);
    assert_eq!(dance(&provider, &all[0]).await.status, 410);
    for one in [&all[1], &all[20], &bobs] {
        assert_eq!(dance(&provider, one).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_starts_another_authorization_of_the_same_connection() {
    let (world, provider) = usual().await;
    let token = world.user_token();
    let ask = async |body: Value| {
        Api::post(&world.server, "/api/v1/connections", body).user(&token).key("k").send().await
    };
    let first = begun(ask(json!({"provider": "mail"})).await);
    let second = begun(ask(json!({"provider": "mail"})).await);
    assert_eq!(
        (first.answer.header("idempotent-replayed"), second.answer.header("idempotent-replayed")),
        (None, Some("true"))
    );
    assert_eq!(first.connection, second.connection);
    assert_ne!(first.cookie, second.cookie);
    let state = query_of(&second.url)["state"].clone();
    assert_nothing_shows(&world, &[state], &[]).await;
    assert_eq!(ask(json!({"provider": "mail", "name": "x"})).await.status, 422);
    assert_eq!((dance(&provider, &first).await.status, dance(&provider, &second).await.status), (410, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_tampered_with_do_not_open() {
    let (world, provider) = usual().await;
    for change in [
        "owner_sub = 'mallory'".to_owned(),
        "connection = 'another'".to_owned(),
        "scopes = '{}'".to_owned(),
        // The secret of another browser.
        "browser_binding_hash = sha256('x')".to_owned(),
    ] {
        let begun = begin(&world, json!({})).await;
        exec(
            &world,
            &format!("UPDATE pending_authorization SET {change} WHERE connection = '{}'", begun.connection),
        )
        .await;
        let back = provider.agree(&begun.url).await;
        assert_shown(&visit(&back, Some("actchain-connect=x")).await, 503, "Not connected");
        exec(&world, "DELETE FROM pending_authorization").await;
    }
    assert_eq!(provider.count(Asked::Code), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_authenticates_to_the_provider_by_each_method() {
    for auth in [ClientAuth::Basic, ClientAuth::Post, ClientAuth::None] {
        let kind =
            Behaviour { auth, rotates: false, refreshes: false, expires_in: None, ..Behaviour::default() };
        let (world, provider) = with(kind, SCOPES).await;
        let begun = begin(&world, json!({})).await;
        assert_shown(&dance(&provider, &begun).await, 200, "Connected");
        let shown = show(&world, "alice", &begun.connection).await;
        assert_eq!(
            (&shown.json["has_refresh_token"], &shown.json["expires_at"]),
            (&json!(false), &Value::Null)
        );
    }
}
