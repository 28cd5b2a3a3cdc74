//! People sign in to the console at their issuer (OpenID Connect Core 1.0, RFC 9207, RFC 7636), and out again.

use std::time::Duration;

use actchain::domain::console::ConsoleRole;
use actchain::domain::issuer::Issuer;
use actchain::domain::principal::Principal;
use actchain::domain::registry;
use actchain::domain::sign_in::{SignIn, SignInEndpoints, path_name};
use actchain::jobs;
use actchain::platform::secret::MasterKey;
use actchain::services::erasure::{ErasureOutcome, erase};
use actchain::services::principals;
use actchain::services::vault::rekey;
use actchain_protocol::base64url;
use actchain_protocol::digest::sha256;
use actchain_protocol::jose::{SigningAlg, SigningKey};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sqlx::Executor as _;
use wiremock::ResponseTemplate;

use crate::support::Answer;
use crate::support::browser::{Browser, fields as headers, form};
use crate::support::sign_in::{CLIENT, SECRET, SignInIdp};
use crate::support::world::{IDP, MAIL, World};

const ROLES: &str = ", scopes: [openid, groups], label: email, \
    roles: [{role: auditor, claim: groups, value: audit}, {role: admin, claim: groups, value: ops}, {role: admin, sub: root}]";

async fn idp(world: &World) -> SignInIdp {
    let idp = SignInIdp::start().await;
    idp.declare(world, ROLES).await;
    idp
}

/// The details of the refused sign-ins, as `cause: error`.
async fn causes(world: &World) -> Vec<String> {
    let events = world.server.documents().await.into_iter();
    let refused = events.filter(|one| one["action"] == "console.refused");
    refused
        .map(|one| {
            assert_eq!(
                (&one["reason"], &one["actor"]["type"]),
                (&json!("sign_in_refused"), &json!("server"))
            );
            let text = |name: &str| one["detail"][name].as_str().unwrap_or_default().to_owned();
            format!("{}: {}", text("cause"), text("error"))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_at_its_issuer_and_returns_to_the_page() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let mut browser = Browser::new(&world.server);
    let page = browser.get("/console/sign-in").await;
    assert!(page.text.contains(&format!("href=\"{}\"", idp.entry())), "{}", page.text);
    let first = browser.get("/console/approvals?tab=decided").await;
    let list = browser.get(first.header("location").unwrap()).await;
    assert_eq!(
        list.header("location"),
        Some(format!("{}?next=%2Fconsole%2Fapprovals%3Ftab%3Ddecided", idp.entry()).as_str())
    );
    let flow = idp.begin(&mut browser, "?next=%2Fconsole%2Fapprovals%3Ftab%3Ddecided").await;
    let back = format!("{}/console/callback/{}", world.server.app.issuer, path_name(&idp.issuer));
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", CLIENT),
        ("redirect_uri", &back),
        ("scope", "openid groups"),
        ("code_challenge_method", "S256"),
        ("tenant", "1"),
        ("max_age", ""),
        ("prompt", ""),
    ] {
        assert_eq!(flow.param(name), value, "{name}");
    }
    idp.answers_claims(&idp.claims(&world, &flow, "alice"));
    let done = idp.come_back(&mut browser, &flow).await;
    assert_eq!(
        (done.status, done.header("location")),
        (303, Some("/console/approvals?tab=decided")),
        "{}",
        done.text
    );
    let cookies: Vec<&str> =
        done.headers.get_all("set-cookie").iter().map(|one| one.to_str().unwrap()).collect();
    assert!(
        cookies.iter().all(|one| one.contains("; HttpOnly; SameSite=Lax")) && cookies.len() == 2,
        "{cookies:?}"
    );
    assert_eq!(browser.cookies.len(), 1, "the cookie of the sign-in is cleared");

    let requests = idp.server.received_requests().await.unwrap();
    let request = requests.iter().find(|one| one.url.path() == "/token").unwrap();
    let basic = format!(
        "Basic {}",
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("{CLIENT}:{SECRET}"))
    );
    assert_eq!(request.headers["authorization"], basic.as_str());
    let form: std::collections::BTreeMap<String, String> =
        url::form_urlencoded::parse(&request.body).into_owned().collect();
    assert_eq!(
        (form["grant_type"].as_str(), form["code"].as_str()),
        ("authorization_code", "code-0123456789")
    );
    assert_eq!(form["redirect_uri"], back);
    assert_eq!(base64url::encode(sha256(&[form["code_verifier"].as_bytes()])), flow.param("code_challenge"));

    let me = browser.get("/console/me").await;
    for part in ["alice@example.com", &idp.issuer, "as user"] {
        assert!(me.text.contains(part), "{part}: {}", me.text);
    }
    let events = world.server.documents().await;
    let signed_in = events.iter().find(|one| one["action"] == "console.signed_in").unwrap();
    assert_eq!(
        (&signed_in["console"]["role"], &signed_in["actor"]["type"]),
        (&json!("user"), &json!("user"))
    );
    let log = json!(events).to_string();
    for secret in [
        flow.param("state"),
        flow.param("nonce"),
        "alice@example.com",
        "code-0123456789",
        &form["code_verifier"],
    ] {
        assert!(!log.contains(secret), "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_follows_from_claims_and_the_person_is_the_one_of_exchanges() {
    let world = World::new().await;
    let idp = idp(&world).await;
    for (sub, groups, role) in [
        ("ada", json!(["staff", "ops"]), "administrator, because groups has ops"),
        ("eve", json!(["audit", "ops"]), "administrator, because groups has ops"),
        ("max", json!("audit"), "auditor, because groups has audit"),
        ("root", json!([]), "administrator, because sub is root"),
        ("bob", json!("ops audit"), "<dd>user</dd>"),
        ("joe", json!({"ops": true}), "<dd>user</dd>"),
    ] {
        let mut browser = idp.signed_in(&world, sub, json!({"groups": groups})).await;
        let page = browser.get("/console/me").await;
        assert!(page.text.contains(role), "{sub}: {}", page.text);
    }
    let asked = json!({"delegator": {"iss": idp.issuer, "sub": "bob"}, "scopes": ["mail.read"], "audiences": [MAIL],
                       "capability_ceiling": "observe", "expires_in": 600});
    let id = world.as_agent(&world.user_proxy, "POST", "/delegate", asked).await.with_status(202).id();
    let mut bob = idp.signed_in(&world, "bob", json!({})).await;
    let page = bob.get(&format!("/console/approvals/{id}")).await;
    assert_eq!(bob.submit(&form(&page, "/approve")).await.status, 200);
    let mut joe = idp.signed_in(&world, "joe", json!({})).await;
    assert_eq!(joe.get(&format!("/console/approvals/{id}")).await.status, 404);
    let claims = json!({"iss": idp.issuer, "sub": "bob", "aud": "actchain", "iat": world.server.now(), "exp": world.server.now() + 60});
    let token = idp.key.sign("JWT", &claims).unwrap();
    let exchange =
        world.user_proxy.exchange(&world.server, &token, crate::support::agent::JWT).param("audience", MAIL);
    assert_eq!(exchange.send().await.with_status(200).claims()["dlg"], json!(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_token_that_does_not_answer_the_request_gives_no_session() {
    let world = World::configured("[limits]\nfailed_auth_per_minute = 100").await;
    let idp = idp(&world).await;
    let now = world.server.now();
    let (other, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let (edwards, _) = SigningKey::generate(SigningAlg::Ed25519).unwrap();
    let mut expected = Vec::new();
    for (name, value, cause) in [
        ("nonce", json!("another"), "nonce"),
        ("nonce", Value::Null, "nonce"),
        ("iss", json!("https://evil.example"), "issuer_unknown"),
        ("iss", json!(IDP), "issuer_unknown"),
        ("aud", json!("another-client"), "audience"),
        ("aud", json!([CLIENT, "another-client"]), "azp"),
        ("azp", json!("another-client"), "azp"),
        ("exp", json!(now), "expired"),
        ("iat", json!(now + 60), "not_yet_valid"),
        ("sub", json!(""), "claims"),
        ("act", json!({"sub": "mallory"}), "has_actor"),
        ("events", json!({}), "wrong_kind"),
    ] {
        let mut browser = Browser::new(&world.server);
        let flow = idp.begin(&mut browser, "").await;
        let mut claims = idp.claims(&world, &flow, "alice");
        claims[name] = value.clone();
        idp.answers_claims(&claims);
        let refused = idp.come_back(&mut browser, &flow).await;
        assert_eq!(refused.status, 403, "{name} {value}: {}", refused.text);
        assert!(
            refused.text.contains("Not signed in") && refused.text.contains("Request <code>"),
            "{}",
            refused.text
        );
        assert_eq!(browser.get("/console").await.status, 303, "{name} {value}");
        expected.push(format!("id_token_invalid: {cause}"));
    }
    for (key, typ, cause) in [
        (&other, "JWT", "kid_unknown"),
        (&edwards, "JWT", "algorithm_not_allowed"),
        (&idp.key, "logout+jwt", "wrong_kind"),
        (&idp.key, "at+jwt", "wrong_kind"),
    ] {
        let mut browser = Browser::new(&world.server);
        let flow = idp.begin(&mut browser, "").await;
        idp.answers_token(&key.sign(typ, &idp.claims(&world, &flow, "alice")).unwrap());
        assert_eq!(idp.come_back(&mut browser, &flow).await.status, 403, "{typ} {cause}");
        expected.push(format!("id_token_invalid: {cause}"));
    }
    let none = base64url::encode(r#"{"alg":"none"}"#);
    let mut browser = Browser::new(&world.server);
    let flow = idp.begin(&mut browser, "").await;
    let claims = base64url::encode(idp.claims(&world, &flow, "alice").to_string());
    idp.answers_token(&format!("{none}.{claims}."));
    assert_eq!(idp.come_back(&mut browser, &flow).await.status, 403);
    let found = causes(&world).await;
    assert_eq!(found[..expected.len()], expected[..]);
    assert!(found.last().unwrap().starts_with("id_token_invalid"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_is_used_once_in_its_own_browser_and_for_ten_minutes() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let mut browser = Browser::new(&world.server);
    let flow = idp.begin(&mut browser, "").await;
    let second = idp.begin(&mut browser, "").await;
    idp.answers_claims(&idp.claims(&world, &flow, "alice"));
    let mut other = Browser::new(&world.server);
    assert_eq!(idp.come_back(&mut other, &flow).await.status, 410, "a browser without the cookie");
    idp.begin(&mut other, "").await;
    assert_eq!(idp.come_back(&mut other, &flow).await.status, 410, "a browser with another cookie");
    for query in ["", "?state=", "?code=x", "?state=AAAA", "?state=a&state=b&code=x", "?state=%ff&code=x"] {
        let answer = browser.get(&format!("{}{query}", flow.callback)).await;
        assert!([400, 410].contains(&answer.status), "{query}: {}", answer.status);
    }
    let wrong = browser.get(&format!("{}?code=x&state={}", flow.callback, "A".repeat(43))).await;
    assert_eq!(wrong.status, 410);
    assert_eq!(idp.come_back(&mut browser, &flow).await.status, 303, "none of these has used it up");
    let kept = browser.cookies.clone();
    assert_eq!(idp.come_back(&mut browser, &flow).await.status, 410, "a replayed callback");
    assert_eq!(browser.cookies, kept);
    // The cookie of sign-ins was cleared with the first: another tab begins again.
    assert_eq!(idp.come_back(&mut browser, &second).await.status, 410);

    let late = idp.begin(&mut browser, "").await;
    world.server.pass(601);
    assert_eq!(idp.come_back(&mut browser, &late).await.status, 410);
    assert!(causes(&world).await.is_empty(), "what is not known is not recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tabs_of_one_browser_do_not_disturb_each_other() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let mut browser = Browser::new(&world.server);
    let first = idp.begin(&mut browser, "").await;
    let kept = browser.cookies.clone();
    idp.begin(&mut browser, "").await;
    assert_eq!(browser.cookies, kept);
    idp.answers_claims(&idp.claims(&world, &first, "alice"));
    assert_eq!(idp.come_back(&mut browser, &first).await.status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_session_begins_always_and_the_one_before_ends() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let mut browser = Browser::of(&world.server, ConsoleRole::User, Some(&Principal::new(IDP, "bob"))).await;
    let fixed = browser.cookies.clone();
    assert_eq!(browser.get("/console").await.status, 200);
    let flow = idp.begin(&mut browser, "").await;
    idp.answers_claims(&idp.claims(&world, &flow, "alice"));
    assert_eq!(idp.come_back(&mut browser, &flow).await.status, 303);
    assert!(fixed.iter().all(|(name, value)| browser.cookies[name] != *value));
    assert!(browser.get("/console").await.text.contains("alice"));
    let mut old = Browser::new(&world.server);
    old.cookies = fixed;
    assert_eq!(old.get("/console").await.status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_leads_to_no_other_place_than_the_console() {
    let world = World::new().await;
    let idp = idp(&world).await;
    for next in [
        "//evil.example/console",
        "/\\evil.example",
        "\\\\evil.example",
        "https://evil.example/console",
        "javascript:alert(1)",
        "%2F%2Fevil.example",
        "/console/../oauth/token",
        "/console/%2e%2e/oauth",
        "/console/sign-in?next=x",
        "/console\r\nset-cookie: a=b",
        "/consoles",
    ] {
        let mut browser = Browser::new(&world.server);
        let query: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
        let flow = idp.begin(&mut browser, &format!("?next={query}")).await;
        idp.answers_claims(&idp.claims(&world, &flow, "alice"));
        let back = idp.come_back(&mut browser, &flow).await;
        assert_eq!((back.status, back.header("location")), (303, Some("/console")), "{next}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_counts_only_from_the_issuer_that_was_asked() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let other = SignInIdp::at("/other").await;
    world.server.apply(&other.yaml("").replace("alias: staff", "alias: others")).await.unwrap();
    let mut browser = Browser::new(&world.server);
    let list = browser.get("/console/sign-in?next=%2Fconsole").await;
    assert!(
        list.status == 200 && list.text.contains(&idp.entry()) && list.text.contains(&other.entry()),
        "{}",
        list.text
    );

    let code = ("code", "code-0123456789");
    let mut expected = Vec::new();
    for (back, status, cause) in [
        (vec![code], 403, "other_issuer: "),
        (vec![code, ("iss", &other.issuer)], 403, "other_issuer: "),
        (vec![code, ("iss", "")], 403, "other_issuer: "),
        (vec![("error", "access_denied"), ("iss", &idp.issuer)], 403, "declined: access_denied"),
        (vec![("error", "<script>\u{e9}"), ("iss", &idp.issuer)], 403, "declined: "),
        (vec![("error", "access_denied")], 403, "other_issuer: "),
    ] {
        let flow = idp.begin(&mut browser, "").await;
        idp.answers_claims(&idp.claims(&world, &flow, "alice"));
        let answer = browser.get(&flow.back(&back)).await;
        assert_eq!(answer.status, status, "{back:?}: {}", answer.text);
        assert!(!answer.text.contains("<script>\u{e9}"));
        expected.push(cause.to_owned());
    }
    // The code of one issuer at the redirect URI of the other.
    let mut flow = idp.begin(&mut browser, "").await;
    flow.callback = format!("/console/callback/{}", path_name(&other.issuer));
    assert_eq!(browser.get(&flow.back(&[code, ("iss", &other.issuer)])).await.status, 403);
    expected.push("other_issuer: ".to_owned());
    let asked = other.server.received_requests().await.unwrap();
    assert!(asked.iter().all(|one| one.url.path() != "/token"), "no code went to the other issuer");
    assert_eq!(causes(&world).await, expected);

    idp.publish(json!({"authorization_response_iss_parameter_supported": null})).await;
    world.server.apply(&idp.yaml(ROLES)).await.unwrap();
    let flow = idp.begin(&mut browser, "").await;
    idp.answers_claims(&idp.claims(&world, &flow, "alice"));
    assert_eq!(browser.get(&flow.back(&[code])).await.status, 303, "an issuer that does not send iss");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_fails_gives_a_page_with_a_next_step() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let raw = |text: String| ResponseTemplate::new(200).set_body_raw(text, "application/json");
    for (response, cause) in [
        (ResponseTemplate::new(500), "issuer_unavailable: "),
        (ResponseTemplate::new(302).insert_header("location", "http://127.0.0.1:1/"), "issuer_unavailable: "),
        (raw("x".repeat(50 * 1024 * 1024)), "issuer_unavailable: "),
        (raw("<html>".into()), "code_refused: no_json"),
        (raw(r#"{"access_token": "a", "token_type": "Bearer"}"#.into()), "code_refused: no_id_token"),
        (raw(r#"{"id_token": 7}"#.into()), "code_refused: no_id_token"),
        (raw(r#"{"id_token": "a.b.c"}"#.into()), "id_token_invalid: malformed"),
        (
            ResponseTemplate::new(400)
                .set_body_json(json!({"error": "invalid_grant", "error_description": "<b>"})),
            "code_refused: invalid_grant",
        ),
        (
            ResponseTemplate::new(401).set_body_json(json!({"error": "invalid_client"})),
            "code_refused: invalid_client",
        ),
    ] {
        let mut browser = Browser::new(&world.server);
        let flow = idp.begin(&mut browser, "").await;
        idp.answers(response);
        let page = idp.come_back(&mut browser, &flow).await;
        let status = if cause.starts_with("id_token") { 403 } else { 502 };
        assert_eq!(page.status, status, "{cause}: {}", page.text);
        assert!(
            page.text.contains("href=\"/console/sign-in\"") && page.text.contains("Request <code>"),
            "{}",
            page.text
        );
        assert_eq!(causes(&world).await.pop().unwrap(), cause);
    }
    let mut browser = Browser::new(&world.server);
    let flow = idp.begin(&mut browser, "").await;
    idp.answers_claims(&idp.claims(&world, &flow, "alice"));
    idp.hide_keys().await;
    assert_eq!(idp.come_back(&mut browser, &flow).await.status, 502, "no keys to verify the token");
    assert_eq!(causes(&world).await.pop().unwrap(), "issuer_unavailable: ");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_does_not_answer_is_not_waited_for() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let mut browser = Browser::new(&world.server);
    let flow = idp.begin(&mut browser, "").await;
    // Longer than any machine is busy.
    idp.answers(ResponseTemplate::new(200).set_delay(Duration::from_secs(24 * 3600)));
    assert_eq!(idp.come_back(&mut browser, &flow).await.status, 502);
    assert_eq!(causes(&world).await, ["issuer_unavailable: "]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gives_much_leads_to_a_fresh_sign_in_and_back_to_the_page() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let asked =
        json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read"], "audiences": [MAIL]});
    let id = world.as_agent(&world.user_proxy, "POST", "/delegate", asked).await.with_status(202).id();
    let path = format!("/console/approvals/{id}");
    let refused = async |browser: &mut Browser<'_>| {
        let page = browser.get(&path).await;
        let refused = browser.submit(&form(&page, "/approve")).await;
        assert_eq!(refused.status, 403, "{}", refused.text);
        refused
    };
    // An issuer that does not say when it authenticated a person may have done it yesterday.
    let mut unknown = idp.signed_in(&world, "root", json!({"auth_time": null})).await;
    refused(&mut unknown).await;
    let mut browser = idp.signed_in(&world, "root", json!({})).await;
    world.server.pass(900);
    let page = refused(&mut browser).await;
    let entry = format!("{}?purpose=fresh&amp;next=", idp.entry());
    assert!(page.text.contains(&entry), "{}", page.text);
    let page = browser.get(&path).await;
    let narrowed = form(&page, "/approve").with("max_uses", "2");
    let page = browser.submit(&narrowed).await;
    assert!(page.text.contains("%3Fchosen%3Dyes%26max_uses%3D2"), "what was chosen is kept: {}", page.text);

    let query = format!("?purpose=fresh&next={}", path.replace('/', "%2F"));
    for (auth_time, sentence, cause) in [
        (
            Value::Null,
            "Ask its administrator for the claim auth_time",
            "auth_time_missing: auth_time_missing",
        ),
        (json!(world.server.now() - 911), "signed in too long ago", "auth_time_too_old: auth_time"),
        (json!(world.server.now() + 60), "signed in too long ago", "auth_time_too_old: auth_time"),
    ] {
        let flow = idp.begin(&mut browser, &query).await;
        assert_eq!((flow.param("max_age"), flow.param("prompt")), ("900", "login"));
        let mut claims = idp.claims(&world, &flow, "root");
        claims["auth_time"] = auth_time;
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        idp.answers_claims(&claims);
        let page = idp.come_back(&mut browser, &flow).await;
        assert!(page.status == 403 && page.text.contains(sentence), "{}", page.text);
        assert_eq!(causes(&world).await.pop().unwrap(), cause);
    }
    let flow = idp.begin(&mut browser, &query).await;
    idp.answers_claims(&idp.claims(&world, &flow, "root"));
    let back = idp.come_back(&mut browser, &flow).await;
    assert_eq!(back.header("location"), Some(format!("{path}#signed-in-again").as_str()));
    let page = browser.get(&path).await;
    assert!(page.text.contains("id=\"signed-in-again\""), "{}", page.text);
    let state = world.as_admin("GET", &format!("/delegate/{id}"), Value::Null).await.json["state"].clone();
    assert_eq!(state, "requested", "nothing is carried out by itself");
    assert_eq!(browser.submit(&form(&page, "/approve")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authentication_context_has_to_be_a_declared_one() {
    let world = World::new().await;
    let idp = SignInIdp::start().await;
    idp.declare(&world, ", acr: [phr, mfa]").await;
    let mut browser = Browser::new(&world.server);
    for (acr, status) in [(json!("pwd"), 403), (Value::Null, 403), (json!("mfa"), 303)] {
        let flow = idp.begin(&mut browser, "").await;
        assert_eq!(flow.param("acr_values"), "phr mfa");
        let mut claims = idp.claims(&world, &flow, "alice");
        claims["acr"] = acr.clone();
        idp.answers_claims(&claims);
        let back = idp.come_back(&mut browser, &flow).await;
        assert_eq!(back.status, status, "{acr}: {}", back.text);
    }
    assert_eq!(causes(&world).await, ["authentication_context: acr", "authentication_context: acr"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_declaration_ends_the_sessions_of_the_issuer() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let mut other = Browser::of(&world.server, ConsoleRole::User, Some(&Principal::new(IDP, "bob"))).await;
    let mut browser = idp.signed_in(&world, "root", json!({})).await;
    idp.declare(&world, ROLES).await;
    assert_eq!(browser.get("/console").await.status, 200, "the same declaration changes nothing");
    idp.declare(&world, "").await;
    assert_eq!((browser.get("/console").await.status, other.get("/console").await.status), (303, 200));
    let mut browser = idp.signed_in(&world, "root", json!({})).await;
    assert!(browser.get("/console").await.text.contains("as user"));
    let without = idp.yaml("").split(", sign_in").next().unwrap().to_owned() + "}\n";
    world.server.apply(&without).await.unwrap();
    assert_eq!(browser.get("/console").await.status, 303);
    assert_eq!(browser.get(&idp.entry()).await.status, 404);
    assert!(!browser.get("/console/sign-in").await.text.contains(&idp.issuer));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_all_ends_sessions_and_covers_what_was_authenticated_before() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let alice = Principal::new(&idp.issuer, "alice");
    let asked = json!({"delegator": alice, "scopes": ["mail.read"], "audiences": [MAIL], "expires_in": 600, "capability_ceiling": "observe"});
    let id = world.as_agent(&world.user_proxy, "POST", "/delegate", asked).await.with_status(202).id();
    let mut browser = idp.signed_in(&world, "alice", json!({})).await;
    let page = browser.get(&format!("/console/approvals/{id}")).await;
    principals::revoke_all(&world.server.operator(), &alice, "Alice's laptop was stolen").await.unwrap();
    assert_eq!(browser.submit(&form(&page, "/approve")).await.status, 401, "in mid-form");
    let flow = idp.begin(&mut browser, "?next=%2Fconsole").await;
    idp.answers_claims(&idp.claims(&world, &flow, "alice"));
    let refused = idp.come_back(&mut browser, &flow).await;
    let again = format!("{}?purpose=fresh", idp.entry());
    assert!(
        refused.status == 403 && refused.text.contains(&again),
        "no loop by an old sign-in there: {}",
        refused.text
    );
    world.server.pass(120);
    let flow = idp.begin(&mut browser, "?purpose=fresh").await;
    let mut claims = idp.claims(&world, &flow, "alice");
    claims["auth_time"] = json!(world.server.now());
    idp.answers_claims(&claims);
    assert_eq!(idp.come_back(&mut browser, &flow).await.status, 303);
    assert_eq!(browser.get("/console").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_of_sign_ins_and_sessions_open_nothing_to_a_thief() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let mut browser = Browser::new(&world.server);
    let flow = idp.begin(&mut browser, "").await;
    let dump = world.server.dump().await;
    let cookie = browser.cookies.values().next().unwrap().clone();
    for secret in [flow.param("state"), cookie.as_str(), SECRET] {
        assert!(!dump.contains(secret), "{secret}");
    }
    let mut sql = world.server.sql().await;
    sql.execute("UPDATE console_sign_in SET return_to = '//evil.example'").await.unwrap();
    idp.answers_claims(&idp.claims(&world, &flow, "alice"));
    assert_eq!(idp.come_back(&mut browser, &flow).await.status, 503, "a changed row is no sign-in");

    let mut browser = idp.signed_in(&world, "alice", json!({})).await;
    let cookie = browser.cookies.values().next().unwrap().clone();
    assert!(!world.server.dump().await.contains(&cookie));
    sql.execute("UPDATE console_session SET role = 'admin'").await.unwrap();
    assert_eq!(browser.get("/console").await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_out_leads_to_the_issuer_and_everywhere_ends_all_sessions() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let mut first = idp.signed_in(&world, "alice", json!({})).await;
    let mut second = idp.signed_in(&world, "alice", json!({})).await;
    let mut bob = idp.signed_in(&world, "bob", json!({})).await;
    let page = first.get("/console").await;
    let kept = first.cookies.clone();
    let out = first.submit(&form(&page, "/console/sign-out")).await;
    assert!(out.status == 200 && first.cookies.is_empty(), "{}", out.text);
    let back: String = url::form_urlencoded::byte_serialize(
        format!("{}/console/sign-in", world.server.app.issuer).as_bytes(),
    )
    .collect();
    let end = format!("{}/end?client_id={CLIENT}&amp;post_logout_redirect_uri={back}", idp.server.uri());
    assert!(out.text.contains(&end), "{}", out.text);
    first.cookies = kept;
    assert_eq!((first.get("/console").await.status, second.get("/console").await.status), (303, 200));

    let mut third = idp.signed_in(&world, "alice", json!({})).await;
    let page = second.get("/console/me").await;
    let out = second.submit(&form(&page, "/sign-out-everywhere")).await;
    assert!(out.text.contains("Signed out") && second.cookies.is_empty(), "{}", out.text);
    assert_eq!((third.get("/console").await.status, bob.get("/console").await.status), (303, 200));
    let events = world.server.documents().await;
    let count = |action: &str| events.iter().filter(|one| one["action"] == action).count();
    assert_eq!((count("console.signed_out"), count("console.session_ended")), (2, 1));
    assert_eq!(bob.get("/console/signed-out/0123456789abcdef").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_person_has_no_session_left() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let mut browser = idp.signed_in(&world, "alice", json!({})).await;
    assert!(world.server.dump().await.contains("alice@example.com"));
    let alice = Principal::new(&idp.issuer, "alice");
    let erased = erase(&world.server.operator(), &alice).await.unwrap();
    assert!(matches!(erased, ErasureOutcome::Erased(_)), "{erased:?}");
    assert_eq!(browser.get("/console").await.status, 303);
    assert!(!world.server.dump().await.contains("alice@example.com"));
}

async fn log_out(idp: &SignInIdp, browser: &mut Browser<'_>, token: &str) -> Answer {
    let fields = [("logout_token".to_owned(), token.to_owned())];
    // A server sends neither cookies nor the fields of a browser.
    browser.post_with(&idp.logout_path(), &fields, headers(&[])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_at_the_issuer_ends_the_sessions_that_it_names() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let mut idp_server = Browser::new(&world.server);
    let mut alice = idp.signed_in(&world, "alice", json!({"sid": "one"})).await;
    let mut again = idp.signed_in(&world, "alice", json!({"sid": "two"})).await;
    let mut bob = idp.signed_in(&world, "bob", json!({"sid": "three"})).await;
    let page = bob.get("/console/me").await;
    let sign = |change: &dyn Fn(&mut Value)| {
        let mut claims = idp.logout_claims(&world, "j1");
        claims["sid"] = json!("one");
        change(&mut claims);
        idp.key.sign("logout+jwt", &claims).unwrap()
    };
    let (stranger, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let mut forged = idp.logout_claims(&world, "j1");
    forged["sid"] = json!("one");
    let invalid = [
        sign(&|claims| claims["aud"] = json!("another")),
        sign(&|claims| claims["iss"] = json!(IDP)),
        sign(&|claims| claims["nonce"] = json!("n")),
        sign(&|claims| claims["events"] = json!({})),
        sign(&|claims| claims["iat"] = json!(world.server.now() - 601)),
        sign(&|claims| drop(claims.as_object_mut().unwrap().remove("sid"))),
        sign(&|claims| drop(claims.as_object_mut().unwrap().remove("jti"))),
        stranger.sign("logout+jwt", &forged).unwrap(),
        "x.y.z".to_owned(),
        String::new(),
    ];
    for token in &invalid {
        let answer = log_out(&idp, &mut idp_server, token).await;
        assert_eq!((answer.status, answer.error()), (400, "invalid_request"), "{token}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    assert_eq!(alice.get("/console").await.status, 200);

    let valid = sign(&|_| {});
    let done = log_out(&idp, &mut idp_server, &valid).await;
    assert_eq!((done.status, done.header("cache-control")), (200, Some("no-store")), "{}", done.text);
    assert_eq!((alice.get("/console").await.status, again.get("/console").await.status), (303, 200));
    assert_eq!(log_out(&idp, &mut idp_server, &valid).await.status, 400, "a token is used once");
    let of_person = sign(&|claims| {
        claims["jti"] = json!("j2");
        claims["sub"] = json!("alice");
        claims.as_object_mut().unwrap().remove("sid");
    });
    let mut last = idp.signed_in(&world, "alice", json!({"sid": "four"})).await;
    assert_eq!(log_out(&idp, &mut idp_server, &of_person).await.status, 200);
    for ended in [&mut again, &mut last] {
        assert_eq!(ended.get("/console").await.status, 303);
    }
    let of_bob = sign(&|claims| {
        claims["jti"] = json!("j3");
        claims["sid"] = json!("three");
    });
    assert_eq!(log_out(&idp, &mut idp_server, &of_bob).await.status, 200);
    assert_eq!(bob.submit(&form(&page, "/sign-out-everywhere")).await.status, 401, "in mid-form");
    let events = world.server.documents().await;
    let ended: Vec<&Value> = events.iter().filter(|one| one["action"] == "console.session_ended").collect();
    assert_eq!(ended.len(), 4);
    assert!(ended.iter().all(|one| one["actor"]["type"] == "server" && one["target"] == json!(idp.issuer)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_began_before_a_logout_at_the_issuer_gives_no_session() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let mut browser = Browser::new(&world.server);
    let flow = idp.begin(&mut browser, "").await;
    idp.answers_claims(&idp.claims(&world, &flow, "alice"));
    let mut claims = idp.logout_claims(&world, "j1");
    claims["sid"] = json!("session-of-alice");
    let token = idp.key.sign("logout+jwt", &claims).unwrap();
    assert_eq!(log_out(&idp, &mut Browser::new(&world.server), &token).await.status, 200);
    assert_eq!(idp.come_back(&mut browser, &flow).await.status, 403);
    assert_eq!(causes(&world).await, ["logged_out: "]);
    world.server.pass(1);
    idp.signed_in(&world, "alice", json!({"sid": "another"})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_of_a_tenant_get_roles_of_their_tenant_alone() {
    let world = World::new().await;
    let idp = SignInIdp::at("/{tenantid}/v2.0").await;
    let yaml = |roles: &str| {
        format!(
            "issuers:\n  - {{iss: \"{}\", discover: true, discovery_tenant: common, tenants: [a, b], audiences: [actchain], alias: staff,\n     \
             claims: {{subject: oid}}, sign_in: {{client_id: {CLIENT}, client_secret: {SECRET}, roles: [{roles}]}}}}\n",
            idp.issuer
        )
    };
    let refused = world.server.apply(&yaml("{role: admin, claim: groups, value: ops}")).await.unwrap_err();
    assert!(refused.contains("issuers[0].sign_in") && refused.contains("tenant"), "{refused}");
    world.server.apply(&yaml("{role: admin, claim: groups, value: ops, tenant: a}")).await.unwrap();
    for (tenant, tid, role) in [
        ("a", "a", Some("as administrator")),
        ("b", "b", Some("as user")),
        ("b", "a", None),
        ("c", "c", None),
    ] {
        let mut browser = Browser::new(&world.server);
        let flow = idp.begin(&mut browser, "").await;
        let iss = idp.issuer.replace("{tenantid}", tenant);
        let mut claims = idp.claims(&world, &flow, "pairwise");
        for (name, value) in
            [("iss", json!(iss)), ("tid", json!(tid)), ("oid", json!("ada")), ("groups", json!(["ops"]))]
        {
            claims[name] = value;
        }
        idp.answers_claims(&claims);
        let back = browser.get(&flow.back(&[("code", "c"), ("iss", &iss)])).await;
        assert_eq!(back.status, if role.is_some() { 303 } else { 403 }, "{tenant} {tid}: {}", back.text);
        if let Some(role) = role {
            let page = browser.get("/console").await;
            assert!(
                page.text.contains(role) && page.text.contains("ada") && page.text.contains(&iss),
                "{}",
                page.text
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_begins_a_limited_number_of_sign_ins() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let mut browser = Browser::new(&world.server);
    for _ in 0..60 {
        idp.begin(&mut browser, "").await;
    }
    let limited = browser.get(&idp.entry()).await;
    assert!(limited.status == 429 && limited.header("retry-after").is_some(), "{}", limited.text);
    assert_eq!(browser.get("/console/sign-in").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_sign_ins_do_not_fill_the_log_and_unfinished_ones_not_the_tables() {
    let world = World::configured("[limits]\nfailed_auth_per_minute = 3").await;
    let idp = idp(&world).await;
    let mut browser = Browser::new(&world.server);
    for _ in 0..5 {
        let flow = idp.begin(&mut browser, "").await;
        let answer = browser.get(&flow.back(&[("error", "access_denied"), ("iss", &idp.issuer)])).await;
        assert_eq!(answer.status, 403);
    }
    assert_eq!(causes(&world).await.len(), 3);

    idp.begin(&mut browser, "").await;
    let mut claims = idp.logout_claims(&world, "j1");
    claims["sub"] = json!("alice");
    let token = idp.key.sign("logout+jwt", &claims).unwrap();
    assert_eq!(log_out(&idp, &mut browser, &token).await.status, 200);
    let rows = async || {
        let sql = "SELECT (SELECT count(*) FROM console_sign_in) + (SELECT count(*) FROM console_logout)";
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut world.server.sql().await).await.unwrap()
    };
    assert_eq!(rows().await, 2);
    world.server.pass(86_400);
    jobs::sweep::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    assert_eq!(rows().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_sign_in_is_checked_and_its_secret_is_never_shown() {
    let world = World::new().await;
    let idp = SignInIdp::start().await;
    for (member, word) in [
        (", scopes: [profile]", "openid"),
        (", scopes: [openid, \"a b\"]", "scope"),
        (", acr: [\"a b\"]", "acr"),
        (", roles: [{role: admin}]", "claim and value, or sub"),
        (", roles: [{role: admin, claim: groups}]", "claim and value, or sub"),
        (", roles: [{role: admin, sub: a, claim: groups, value: b}]", "claim and value, or sub"),
        (", roles: [{role: admin, claim: groups, value: ''}]", "1 to 512 bytes"),
        (", roles: [{role: admin, sub: \"a\\u0001\"}]", "no control characters"),
        (", roles: [{role: admin, sub: a, tenant: b}]", "tenant"),
        (", roles: [{role: operator, sub: a}]", "this value is not known"),
        (", auth: none", "no client secret"),
        (", auth: private_key_jwt", "no client secret"),
        (", unknown: 1", "unknown"),
    ] {
        let refused = world.server.apply(&idp.yaml(member)).await.unwrap_err();
        assert!(refused.contains("sign_in") && refused.contains(word), "{member}: {refused}");
    }
    let inline = format!(
        "issuers:\n  - {{iss: {IDP}, jwks: {{keys: [{}]}}, audiences: [actchain], sign_in: {{client_id: {CLIENT}, auth: none}}}}\n",
        world.idp.public_jwk()
    );
    let refused = world.server.apply(&inline).await.unwrap_err();
    assert!(refused.contains("sign_in needs the endpoints"), "{refused}");
    for (more, word) in [
        (json!({"authorization_endpoint": null}), "authorization_endpoint"),
        (json!({"token_endpoint": "http://10.0.0.1/token"}), "token_endpoint"),
        (json!({"end_session_endpoint": "javascript:alert(1)"}), "end_session_endpoint"),
    ] {
        idp.publish(more).await;
        let refused = world.server.apply(&idp.yaml("")).await.unwrap_err();
        assert!(refused.contains("issuers[0].sign_in") && refused.contains(word), "{refused}");
    }
    idp.publish(json!({})).await;
    let without = idp.yaml("").replace(&format!(", client_secret: {SECRET}"), "");
    let needed = world.server.apply(&without).await.unwrap_err();
    assert!(needed.contains("client_secret"), "{needed}");
    idp.declare(&world, ROLES).await;
    world.server.apply(&without).await.unwrap();
    idp.signed_in(&world, "alice", json!({})).await;
    // A secret must not go to an address that was declared without it.
    idp.publish(json!({"token_endpoint": format!("{}/elsewhere", idp.server.uri())})).await;
    assert!(world.server.apply(&without).await.unwrap_err().contains("client_secret"));

    let exported = world.as_admin("GET", "/api/v1/manifest", Value::Null).await.with_status(200);
    assert!(!exported.text.contains(SECRET) && exported.text.contains(CLIENT), "{}", exported.text);
    let listed = world.as_admin("GET", "/api/v1/issuers", Value::Null).await.with_status(200);
    assert!(!listed.text.contains(SECRET) && listed.text.contains(CLIENT), "{}", listed.text);
    // The metadata of the issuer is unavailable: it is kept, with a warning.
    idp.server.reset().await;
    idp.declare(&world, "").await;
    let changed = "issuers:\n  - {iss: \"http://127.0.0.1:1\", discover: false, jwks_uri: \"http://127.0.0.1:1/jwks\", audiences: [a], alias: x,\n     sign_in: {client_id: c, auth: none}}\n";
    let refused = world.server.apply(changed).await.unwrap_err();
    assert!(refused.contains("issuers[0].sign_in"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_client_and_one_with_a_key_redeem_their_codes() {
    let world = World::new().await;
    // All at once: a later one must not have the address of an earlier one.
    let issuers = [SignInIdp::start().await, SignInIdp::start().await, SignInIdp::start().await];
    for (idp, auth) in issuers.iter().zip(["none", "private_key_jwt", "client_secret_post"]) {
        let secret =
            if auth == "client_secret_post" { format!(", client_secret: {SECRET}") } else { String::new() };
        let yaml =
            idp.yaml(&format!(", auth: {auth}")).replace(&format!(", client_secret: {SECRET}"), &secret);
        world
            .server
            .apply(&yaml.replace("alias: staff", &format!("alias: {}", auth.replace('_', "-"))))
            .await
            .unwrap();
        idp.signed_in(&world, "alice", json!({})).await;
        let requests = idp.server.received_requests().await.unwrap();
        let request = requests.iter().find(|one| one.url.path() == "/token").unwrap();
        let form: std::collections::BTreeMap<String, String> =
            url::form_urlencoded::parse(&request.body).into_owned().collect();
        assert!(!request.headers.contains_key("authorization") && form["client_id"] == CLIENT, "{auth}");
        assert_eq!(
            form.get("client_secret").map(String::as_str),
            (auth == "client_secret_post").then_some(SECRET)
        );
        let assertion = form.get("client_assertion").map(|jwt| crate::support::claims_of(jwt));
        let audience = assertion.as_ref().map(|claims| claims["aud"].clone());
        assert_eq!(audience, (auth == "private_key_jwt").then(|| json!(idp.issuer)), "{auth}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_of_sign_ins_opens_under_a_new_master_key() {
    let world = World::new().await;
    let idp = idp(&world).await;
    let master = MasterKey::generate().unwrap();
    let twin = world.server.twin_under(&master).await;
    rekey(&twin.app.pool, &twin.app.vault.keys, twin.clock.now(), |_, _| ()).await.unwrap();
    let alone = world.server.twin_under_only(&master).await;
    let registry = alone.app.registry();
    let sign_in = registry.issuers[&idp.issuer].sign_in.as_ref().unwrap();
    assert_eq!(sign_in.secret(&idp.issuer, &alone.app.seal).unwrap().expose_secret(), SECRET);
    assert!(sign_in.secret(&idp.issuer, &world.server.app.seal).is_err(), "the old key opens it no longer");
    assert!(sign_in.secret("https://other.example", &alone.app.seal).is_err());
    let mut moved = sign_in.clone();
    moved.endpoints.token_endpoint = "https://evil.example/token".to_owned();
    assert!(moved.secret(&idp.issuer, &alone.app.seal).is_err(), "a secret is not sent to another address");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_server_has_the_console_where_people_sign_in_or_as_configured() {
    let public = "issuer = \"https://as.example.com\"\n";
    for (config, status) in
        [("", 404), ("[console]\nenabled = true", 200), ("[console]\nenabled = false", 404)]
    {
        let world = World::configured(&format!("{public}{config}")).await;
        let page = Browser::new(&world.server).get("/console/sign-in").await;
        assert_eq!(page.status, status, "{config}");
        let made = actchain::services::console::make_link(&world.server.operator()).await;
        assert_eq!(made.is_ok(), status == 200, "{config}: a link that leads nowhere is not made");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_https_no_other_host_can_have_set_the_cookie_of_a_sign_in() {
    let world = World::configured("issuer = \"https://as.example.com/t1\"").await;
    let app = &world.server.app;
    let mut browser = Browser::new(&world.server);
    assert_eq!(browser.get("/t1/console/sign-in").await.status, 404);
    // The metadata of an issuer over http is not read by a public server.
    let endpoint = |path: &str| format!("https://idp.example.com/{path}");
    let settings = json!({"client_id": CLIENT, "auth": "none", "scopes": ["openid"]});
    let sign_in = SignIn {
        settings: serde_json::from_value(settings).unwrap(),
        endpoints: SignInEndpoints {
            authorization_endpoint: endpoint("authorize"),
            token_endpoint: endpoint("token"),
            end_session_endpoint: None,
            authorization_response_iss_parameter_supported: true,
        },
        sealed: None,
    };
    let issuer = Issuer { sign_in: Some(sign_in), ..app.registry().issuers[IDP].clone() };
    let mut sql = world.server.sql().await;
    registry::store::put_issuer(&app.rows, &mut sql, &issuer).await.unwrap();
    registry::store::raise_version(&mut sql).await.unwrap();
    app.refresh_registry().await.unwrap();
    let left = browser.get(&format!("/t1/console/sign-in/{}", path_name(IDP))).await;
    let cookie = left.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-actchain-") && cookie.ends_with("; Secure"), "{cookie}");
    let place = left.header("location").unwrap();
    assert!(place.starts_with("https://idp.example.com/authorize?"), "{place}");
    assert!(
        place.contains("redirect_uri=https%3A%2F%2Fas.example.com%2Ft1%2Fconsole%2Fcallback%2F"),
        "{place}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_people_decide_in_the_console_a_token_of_a_user_gives_nothing() {
    let world = World::configured("[delegations]\ndecide_in = \"console\"").await;
    let terms = json!({"scopes": ["mail.send"], "audiences": [MAIL], "expires_in": 600, "capability_ceiling": "observe",
                       "ceremony_required_for": ["mail.send"]});
    let id = world.asked("bob", terms.clone()).await;
    let refused = async |method: &str, path: String, body: Value| {
        let answer = world.as_user("bob", method, &path, body).await;
        answer.assert_problem(403, "console_required");
    };
    refused("POST", format!("/delegate/{id}/approve"), json!({})).await;
    refused("POST", "/delegate".into(), json!({"delegate": "user-proxy", "scopes": ["mail.read"]})).await;
    let bob = Principal::new(IDP, "bob");
    let mut browser = Browser::of(&world.server, ConsoleRole::User, Some(&bob)).await;
    let page = browser.get(&format!("/console/approvals/{id}")).await;
    assert_eq!(browser.submit(&form(&page, "/approve")).await.status, 200);
    refused("POST", format!("/delegate/{id}/renew"), json!({"expires_in": 1200})).await;
    let asked = world.first_hop_of("bob").param("scope", "mail.send").send().await;
    let ceremony = asked.json["ceremony"].as_str().unwrap().to_owned();
    refused("POST", format!("/delegate/{id}/ceremonies/{ceremony}/approve"), json!({})).await;
    let denied =
        world.as_user("bob", "POST", &format!("/delegate/{id}/ceremonies/{ceremony}/deny"), json!({})).await;
    assert_eq!(denied.status, 200, "{}", denied.text);
    let again = world.asked("bob", terms).await;
    world.as_user("bob", "POST", &format!("/delegate/{again}/deny"), json!({})).await.with_status(200);
    world.as_user("bob", "POST", &format!("/delegate/{id}/revoke"), json!({})).await.with_status(200);
}
