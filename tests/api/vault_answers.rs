//! Responses of providers that deviate from RFC 6749 §5: no token is lost because of their form, and an error that only
//! the owner can fix is reported as such.

use std::io::Write as _;

use actchain::domain::vault::Credential;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::provider::{After, Asked, Behaviour, Provider, Said, Wrong};
use crate::support::vault::names;
use crate::support::vault_story::Story;
use crate::support::world::World;
use crate::support::{Answer, http};

/// Values that no member of a token response should have.
const ODD: [&str; 11] =
    ["null", "true", "false", "0", "-1", "1e999", "1.5", r#""""#, r#""\ud800""#, r#"["x"]"#, r#"{"x":[]}"#];

/// A response with one more member at the beginning, in exactly this spelling.
fn with_member(answer: &Value, name: &str, written: &str) -> String {
    let mut others = answer.clone();
    others.as_object_mut().unwrap().remove(name);
    format!("{{{:?}:{written},{}", name, &others.to_string()[1..])
}

/// The normal response in every form that still contains tokens, with a name for each form.
fn ways() -> Vec<(String, Wrong)> {
    let mut ways: Vec<(String, Wrong)> = Vec::new();
    for name in ["token_type", "expires_in", "scope", "error", "ok", "authed_user", "extra"] {
        for odd in ODD {
            let rework = move |right: Value| Said::json(with_member(&right, name, odd));
            ways.push((format!("{name}: {odd}"), Wrong::reworked(rework)));
        }
    }
    let mut way = |name: &str, rework: fn(Value) -> Said| ways.push((name.into(), Wrong::reworked(rework)));
    way("201", |right| Said { status: 201, ..Said::json(right.to_string()) });
    way("a byte order mark", |right| Said::json(format!("\u{feff}{right}")));
    way("text/html", |right| Said { kind: "text/html", ..Said::json(right.to_string()) });
    way("form-encoded", |right| {
        let members = right.as_object().unwrap().iter();
        let texts = members.map(|(name, value)| (name, value.as_str().unwrap_or("299")));
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        let body = form.extend_pairs(texts).finish();
        Said { kind: "application/x-www-form-urlencoded", ..Said::json(body) }
    });
    way("longer than what is read", |right| {
        let whole = right.to_string();
        Said::json(format!("{},\"x\":\"{}\"}}", &whole[..whole.len() - 1], "x".repeat(1_000_000)))
    });
    way("another encoding beside the tokens", |right| {
        let mut body = right.to_string().into_bytes();
        body.truncate(body.len() - 1);
        body.extend(b",\"name\":\"\xe8\"}");
        Said::json(body)
    });
    way("compressed although that was not asked for", |right| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(right.to_string().as_bytes()).unwrap();
        Said { coding: Some("gzip"), ..Said::json(encoder.finish().unwrap()) }
    });
    way("the tokens in an object of their own", |right| {
        Said::json(json!({"ok": true, "authed_user": right, "token_type": null}).to_string())
    });
    ways
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_renewal_are_kept_in_whatever_way_they_are_answered() {
    let story = Story::lasting(Behaviour::default()).await;
    story.pass(100);
    for (name, way) in ways() {
        let before = story.provider.count(Asked::Refresh);
        story.provider.once(Asked::Refresh, way);
        let fetched = story.fetch().await;
        assert_eq!(fetched.status, 200, "{name}: {}", fetched.text);
        let newest = story.provider.newest().unwrap();
        assert_eq!(fetched.json["access_token"], newest, "{name}");
        assert_eq!(story.provider.count(Asked::Refresh), before + 1, "{name}: nothing is sent twice");
        // The provider rotates refresh tokens: the next round needs the refresh token of this round.
        story.pass(3_600);
    }
    assert_eq!(story.shown().await["state"], "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_code_are_kept_in_whatever_way_they_are_answered() {
    let (world, provider) = (World::new().await, Provider::start().await);
    world.server.apply(&provider.manifest("mail", "scopes: [mail.read]")).await.unwrap();
    for (name, way) in ways() {
        provider.once(Asked::Code, way);
        let (id, page) = dance(&world, &provider).await;
        assert_eq!(page.status, 200, "{name}: {}", page.text);
        let mut sql = world.server.sql().await;
        let held = world.server.app.vault.open(&mut sql, &id).await.unwrap().unwrap();
        let Credential::Oauth2(tokens) = &held.credential else { panic!("no tokens") };
        assert_eq!(Some(tokens.access_token.expose_secret().to_owned()), provider.newest(), "{name}");
        assert!(tokens.refresh_token.is_some(), "{name}");
    }
}

/// Begins an authorization, agrees, and comes back in the same browser.
async fn dance(world: &World, provider: &Provider) -> (String, Answer) {
    let begun = world.as_alice("POST", "/api/v1/connections", json!({"provider": "mail"})).await;
    assert_eq!(begun.status, 202, "{}", begun.text);
    let cookie = begun.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let back = provider.agree(begun.json["authorization_url"].as_str().unwrap()).await;
    let page = http().get(back).header("cookie", cookie).send().await.unwrap();
    (begun.json["connection"].as_str().unwrap().to_owned(), Answer::read(page).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn long_tokens_are_kept_and_presented() {
    let story = Story::new().await;
    let (access, refresh) = ("a".repeat(13 * 1024), "r".repeat(13 * 1024));
    let answer = json!({"access_token": access, "refresh_token": refresh, "expires_in": 300});
    story.provider.once(Asked::Refresh, Wrong::json(200, answer));
    story.pass(100);
    assert_eq!(story.fetched().await, access);
    assert_eq!(story.stored().await.refresh_token.unwrap().expose_secret(), refresh);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_two_tokens_is_kept_without_the_other() {
    let story = Story::lasting(Behaviour::default()).await;
    let first = story.imported["refresh_token"].as_str().unwrap();
    // The new refresh token is unusable: the old refresh token stays (RFC 6749 §6).
    for (number, odd) in ODD.iter().enumerate() {
        let access = format!("access-{number}");
        let answer = with_member(&json!({"access_token": access, "expires_in": 100}), "refresh_token", odd);
        story.provider.once(Asked::Refresh, Wrong::says(200, "application/json", &answer));
        story.pass(100);
        assert_eq!(story.fetched().await, access, "{odd}");
        assert_eq!(story.stored().await.refresh_token.unwrap().expose_secret(), first, "{odd}");
    }
    // A new refresh token without an access token is stored; the old access token is returned until its expiry.
    let kept = story.fetched().await;
    story
        .provider
        .once(Asked::Refresh, Wrong::json(200, json!({"access_token": false, "refresh_token": "r-2"})));
    let before = story.provider.count(Asked::Refresh);
    story.pass(60);
    assert_eq!(story.fetched().await, kept);
    assert_eq!(story.stored().await.refresh_token.unwrap().expose_secret(), "r-2");
    story.pass(40);
    let waits = story.fetch().await;
    waits.assert_problem(503, "provider_unavailable");
    assert_eq!(waits.header("retry-after"), Some("20"));
    assert_eq!(story.provider.count(Asked::Refresh), before + 1);
    story.pass(20);
    assert_eq!(story.fetch().await.status, 409, "the provider does not know the token that it gave here");
    assert_eq!(story.provider.asked_for().last().unwrap()["refresh_token"], "r-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_without_tokens_condemns_nothing_and_nothing_is_sent_again_soon() {
    let lost = [
        Wrong::says(200, "text/html", "<html>Welcome</html>"),
        Wrong::says(200, "application/json", ""),
        Wrong::says(204, "application/json", ""),
        Wrong::says(200, "application/json", &"x".repeat(1_000_000)),
        Wrong::json(200, json!({"access_token": ""})),
        Wrong::json(200, json!([{"access_token": "a"}])),
        Wrong::json(200, json!({"access_token": {"access_token": "a"}})),
    ];
    let story = Story::lasting(Behaviour { rotates: false, ..Behaviour::default() }).await;
    story.pass(100);
    for wrong in lost {
        let before = story.provider.count(Asked::Refresh);
        story.provider.always(Asked::Refresh, wrong.clone());
        let refused = story.fetch().await;
        refused.assert_problem(503, "provider_unavailable");
        assert_eq!(refused.header("retry-after"), Some("60"), "{wrong:?}");
        story.pass(59);
        assert_eq!(story.fetch().await.header("retry-after"), Some("1"), "{wrong:?}");
        assert_eq!(story.provider.count(Asked::Refresh), before + 1, "{wrong:?}");
        assert_eq!(story.shown().await["state"], "active", "{wrong:?}");
        story.provider.behaves();
        story.pass(1);
        assert_eq!(story.fetched().await, story.provider.newest().unwrap(), "{wrong:?}");
        story.pass(3_600);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_owner_can_cure_is_answered_as_that_once_and_asked_no_more() {
    for (wrong, code) in [
        // OpenID Connect Core 1.0 §3.1.2.6; Microsoft returns these errors from its token endpoint.
        (Wrong::json(400, json!({"error": "interaction_required"})), "interaction_required"),
        (Wrong::json(400, json!({"error": "consent_required", "suberror": "x"})), "consent_required"),
        (Wrong::json(400, json!({"error": "login_required"})), "login_required"),
        (Wrong::json(200, json!({"ok": false, "error": "invalid_refresh_token"})), "invalid_refresh_token"),
        (Wrong::says(200, "text/plain", "error=bad_refresh_token&error_uri="), "bad_refresh_token"),
        (
            Wrong::json(400, json!({"object": "error", "status": 400, "code": "invalid_grant"})),
            "invalid_grant",
        ),
        // HubSpot; declared by its template.
        (Wrong::json(400, json!({"status": "BAD_REFRESH_TOKEN", "message": "x"})), "BAD_REFRESH_TOKEN"),
        (Wrong::json(403, json!({"error": "of_this_provider"})), "of_this_provider"),
    ] {
        let story = Story::new().await;
        let more = "scopes: [files.read], reconnect_errors: [OF_THIS_PROVIDER, bad_refresh_token]";
        story.vault.world.server.apply(&story.provider.manifest("third", more)).await.unwrap();
        story.provider.always(Asked::Refresh, wrong);
        story.pass(100);
        let token = story.token().await;
        for _ in 0..2 {
            let refused = story.vault.fetch(&token, &story.id).await;
            refused.assert_problem(409, "connection_needs_reconnect");
        }
        assert_eq!(story.provider.count(Asked::Refresh), 1, "{code}");
        assert_eq!(story.shown().await["state"], "needs_reconnect");
        let mut events = story.vault.vault_events().await;
        events.retain(|event| event["action"] == "vault.connection.needs_reconnect");
        assert_eq!((events.len(), &events[0]["detail"]["error"]), (1, &json!(code)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_refusal_is_asked_about_once_for_each_fetch() {
    let story = Story::new().await;
    story
        .provider
        .always(Asked::Refresh, Wrong::json(400, json!({"status": "BAD_CLIENT_ID", "message": "x"})));
    story.pass(100);
    story.fetch().await.assert_problem(503, "provider_unavailable");
    assert_eq!(story.provider.count(Asked::Refresh), 1);
    assert_eq!(story.shown().await["state"], "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_that_a_provider_does_not_say_are_not_known_to_be_few() {
    let story = Story::lasting(Behaviour::default()).await;
    let limited = json!([{"type": "vault_connection", "identifier": story.id, "scopes": ["files.read"]}]);
    let fetch = async || {
        let [_, token] = story.vault.chain(&limited).await;
        story.vault.fetch(&token, &story.id).await
    };
    assert_eq!(fetch().await.status, 200);
    for scope in [json!(""), json!(" "), json!([]), json!({}), json!(7), json!("\u{e9}")] {
        let said = scope.clone();
        let rework = move |mut right: Value| {
            right["scope"] = said.clone();
            Said::json(right.to_string())
        };
        story.provider.once(Asked::Refresh, Wrong::reworked(rework));
        story.pass(3_600);
        let whole = story.fetch().await;
        assert_eq!((whole.status, whole.json.get("scope")), (200, None), "{scope}");
        fetch().await.assert_problem(403, "connection_scope_exceeded");
        assert_eq!(story.shown().await["scopes"], Value::Null, "{scope}");
    }
    story.provider.becomes(|kind| kind.grants = Some("files.read".into()));
    story.pass(3_600);
    assert_eq!(story.fetch().await.json["scope"], "files.read");
    assert_eq!(fetch().await.status, 200, "they are known again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_scope_of_a_new_connection_is_unknown() {
    let (world, provider) = (World::new().await, Provider::start().await);
    world.server.apply(&provider.manifest("mail", "scopes: [mail.read]")).await.unwrap();
    for scope in [json!(""), json!([]), json!({})] {
        let rework = move |mut right: Value| {
            right["scope"] = scope.clone();
            Said::json(right.to_string())
        };
        provider.once(Asked::Code, Wrong::reworked(rework));
        let (id, page) = dance(&world, &provider).await;
        assert_eq!(page.status, 200, "{}", page.text);
        let shown = world.as_alice("GET", &format!("/api/v1/connections/{id}"), json!({})).await;
        assert_eq!(shown.json["scopes"], Value::Null);
    }
    let credential = json!({"access_token": "a", "scope": ""});
    let body = json!({"provider": "mail", "credential": credential});
    let imported = world.as_alice("POST", "/api/v1/connections", body).await;
    assert_eq!((imported.status, &imported.json["scopes"]), (201, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_get_a_lifetime_only_if_the_provider_sent_one() {
    let story = Story::lasting(Behaviour::default()).await;
    for (written, expected) in [
        ("299", json!(299)),
        ("299.5", json!(299)),
        (r#""299.5""#, json!(299)),
        ("2.995e2", json!(299)),
        ("null", Value::Null),
        ("-299", Value::Null),
        ("0", Value::Null),
        ("1e300", Value::Null),
        (r#""soon""#, Value::Null),
        ("[299]", Value::Null),
    ] {
        let rework = move |right: Value| Said::json(with_member(&right, "expires_in", written));
        story.provider.once(Asked::Refresh, Wrong::reworked(rework));
        story.pass(3_600);
        let fetched = story.fetch().await;
        let said = fetched.json.get("expires_in").cloned().unwrap_or_default();
        assert_eq!((fetched.status, said), (200, expected.clone()), "{written}");
        assert_eq!(story.shown().await["expires_at"].is_null(), expected.is_null(), "{written}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_type_of_an_answer_is_an_http_authentication_scheme() {
    let story = Story::lasting(Behaviour::default()).await;
    for (said, expected) in [
        (json!("bot"), "Bearer"),
        (json!("user"), "Bearer"),
        (json!("bearer"), "Bearer"),
        (json!(["bearer"]), "Bearer"),
        (json!("dpop"), "DPoP"),
    ] {
        let kind = said.clone();
        let rework = move |mut right: Value| {
            right["token_type"] = kind.clone();
            Said::json(right.to_string())
        };
        story.provider.once(Asked::Refresh, Wrong::reworked(rework));
        story.pass(3_600);
        assert_eq!(story.fetch().await.json["token_type"], expected, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_counts_as_revoked_only_if_the_provider_says_so() {
    for wrong in [
        Wrong::json(200, json!({"ok": false, "error": "not_authed"})),
        Wrong::json(200, json!({"ok": false})),
        Wrong::json(200, json!({"error": "server_error"})),
        Wrong::json(400, json!({"error": "unsupported_token_type"})),
        Wrong::says(302, "text/plain", ""),
    ] {
        let story = Story::new().await;
        let server = &story.vault.world.server;
        let more = "scopes: [files.read], revocation_token: access_token";
        server.apply(&story.provider.manifest("third", more)).await.unwrap();
        story.provider.once(Asked::Revoke, wrong.clone());
        let path = format!("/api/v1/connections/{}/disconnect", story.id);
        let ended = story.vault.world.as_alice("POST", &path, json!({})).await;
        assert_eq!((ended.status, &ended.json["provider_revoked"]), (200, &json!(false)), "{wrong:?}");
        story.pass(61);
        actchain::jobs::vault::run_once(&server.app, server.clock.now()).await.unwrap();
        let access_token = story.imported["access_token"].as_str().unwrap();
        assert_eq!(story.provider.revocation_requests(), [access_token; 2], "{wrong:?}");
        let events = story.vault.vault_events().await;
        assert_eq!(events.last().unwrap()["detail"]["provider_revoked"], true, "{wrong:?}");
    }
    // RFC 7009 §2.2: an invalid token needs no revocation.
    let story = Story::new().await;
    story.provider.once(Asked::Revoke, Wrong::json(400, json!({"error": "invalid_token"})));
    let path = format!("/api/v1/connections/{}/disconnect", story.id);
    let ended = story.vault.world.as_alice("POST", &path, json!({})).await;
    assert_eq!(ended.json["provider_revoked"], true, "{}", ended.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_an_unwell_server_are_not_taken() {
    let story = Story::new().await;
    let tokens = json!({"access_token": "of-an-error", "refresh_token": "of-an-error"});
    let wrong = Wrong { after: After::ItsWork, ..Wrong::json(500, tokens) };
    story.provider.once(Asked::Refresh, wrong);
    story.pass(100);
    let details = names(&story.id);
    let [_, token] = story.vault.chain(&details).await;
    assert_ne!(story.vault.fetch(&token, &story.id).await.json["access_token"], "of-an-error");
}

/// RFC 8414 §3.3: a document of another issuer is not used; the other well-known location is read instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_is_discovered_by_the_document_that_is_its_own() {
    let world = World::new().await;
    for (number, first) in [
        ResponseTemplate::new(200).set_body_json(json!({})),
        ResponseTemplate::new(200).set_body_json(json!({"issuer": null, "token_endpoint": null})),
        ResponseTemplate::new(200).set_body_json(json!({"issuer": "https://other.example",
                                                        "token_endpoint": "https://other.example/t"})),
        ResponseTemplate::new(200).set_body_raw("<html>", "application/json"),
        ResponseTemplate::new(500),
    ]
    .into_iter()
    .enumerate()
    {
        let server = MockServer::start().await;
        let at = server.uri();
        let own = json!({"issuer": at, "token_endpoint": format!("{at}/token"), "revocation_endpoint": "",
                         "authorization_endpoint": null, "scopes_supported": null,
                         "authorization_response_iss_parameter_supported": null});
        let place = |well_known: &str| Mock::given(path(format!("/.well-known/{well_known}")));
        place("oauth-authorization-server").respond_with(first).mount(&server).await;
        let second = ResponseTemplate::new(200).set_body_json(own);
        place("openid-configuration").respond_with(second).mount(&server).await;
        let yaml = format!("providers: [{{id: found-{number}, issuer: '{at}', client_id: us}}]");
        world.server.apply(&yaml).await.unwrap();
        let shown = world.as_admin("GET", "/api/v1/providers", Value::Null).await;
        let found = &shown.json["items"][number];
        assert_eq!(found["id"], format!("found-{number}"), "{}", shown.text);
        assert_eq!(found["oauth"]["token_endpoint"], format!("{at}/token"));
        assert!(found["oauth"]["revocation_endpoint"].is_null(), "{found}");
    }
}
