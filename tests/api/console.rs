//! The console as a browser without scripts meets it: entering, sessions, moves, and who sees what.

use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use actchain::http::console_routes;
use actchain::jobs;
use actchain::services::principals;
use actchain::services::restored::{self, ReviewScope};
use serde_json::{Value, json};
use sqlx::Executor as _;

use crate::support::browser::{Browser, fields, form, link};
use crate::support::world::{IDP, MAIL, World};

/// A request of `user-proxy` for Bob's authority.
async fn asked(world: &World, more: Value) -> String {
    let mut body = json!({"delegator": {"iss": IDP, "sub": "bob"}, "scopes": ["mail.read", "mail.send"],
                          "audiences": [MAIL], "expires_in": 7200, "max_uses": 5});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = world.as_agent(&world.user_proxy, "POST", "/delegate", body).await.with_status(202);
    answer.json["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_link_is_good_once_and_a_preview_does_not_use_it_up() {
    let world = World::new().await;
    let link = link(&world.server).await;
    let mut browser = Browser::new(&world.server);
    assert_eq!(browser.get("/console").await.header("location"), Some("/console/sign-in?next=%2Fconsole"));
    for _ in 0..2 {
        let shown = browser.get(&link).await;
        assert_eq!(shown.status, 200, "{}", shown.text);
    }
    assert!(browser.cookies.is_empty());
    let elsewhere = browser.post_with(&link, &[], fields(&[("sec-fetch-site", "cross-site")])).await;
    assert_eq!(elsewhere.status, 403);
    let entered = browser.post(&link, &[]).await;
    let cookie = entered.header("set-cookie").unwrap();
    assert!(
        cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax") && cookie.starts_with("actchain-"),
        "{cookie}"
    );
    assert_eq!(browser.get("/console").await.status, 200);
    let mut second = Browser::new(&world.server);
    assert_eq!(second.post(&link, &[]).await.status, 410, "a link is good once");
    assert_eq!(second.post("/console/enter/AAAA", &[]).await.status, 410);

    let late = crate::support::browser::link(&world.server).await;
    world.server.pass(301);
    assert_eq!(second.post(&late, &[]).await.status, 410, "and for five minutes");
    world.server.pass(3_300);
    assert_eq!(browser.get("/console").await.status, 303, "an operator's session lasts an hour");
    let events = world.server.documents().await;
    let entered = events.iter().find(|one| one["action"] == "console.operator_entered").unwrap();
    assert_eq!(
        (&entered["actor"], &entered["console"]["role"]),
        (&json!({"type": "operator"}), &json!("operator"))
    );
    let text = json!(events).to_string();
    let secret = link.rsplit('/').next().unwrap();
    assert!(!text.contains(secret), "the log has no secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_by_sign_out_by_idleness_and_with_its_row() {
    let world = World::new().await;
    let server = &world.server;
    let mut browser = Browser::of_operator(server).await;
    let page = browser.get("/console").await;
    let kept = browser.cookies.clone();
    let out = browser.submit(&form(&page, "/console/sign-out")).await;
    assert_eq!(out.status, 200);
    assert!(browser.cookies.is_empty() && out.text.contains("Sign in"));
    browser.cookies = kept;
    assert_eq!(browser.get("/console").await.status, 303, "the old cookie opens nothing");

    let mut idle = Browser::of_operator(server).await;
    for _ in 0..2 {
        server.pass(1_700);
        assert_eq!(idle.get("/console").await.status, 200, "used within half an hour");
    }
    let mut idle = Browser::of_operator(server).await;
    server.pass(1_801);
    assert_eq!(idle.get("/console").await.status, 303);

    let mut robbed = Browser::of_operator(server).await;
    let mut sql = server.sql().await;
    let cookie = robbed.cookies.values().next().unwrap().clone();
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT s::text FROM console_session s").fetch_all(&mut sql).await.unwrap();
    assert!(!rows.join("").contains(&cookie), "the table has no cookie");
    // A writer to the database makes the operator's session a longer one.
    sql.execute("UPDATE console_session SET expires_at = expires_at + interval '1 day'").await.unwrap();
    assert_eq!(robbed.get("/console").await.status, 503, "a changed row is no session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_needs_the_origin_and_the_token_of_its_own_form() {
    let world = World::new().await;
    let id = asked(&world, json!({})).await;
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get(&format!("/console/approvals/{id}")).await;
    let (approve, deny) = (form(&page, "/approve"), form(&page, "/deny"));
    let own = world.server.app.issuer.clone();
    for headers in [
        fields(&[]),
        fields(&[("origin", "null")]),
        fields(&[("origin", "https://evil.example")]),
        fields(&[("sec-fetch-site", "same-site"), ("origin", &own)]),
        fields(&[("sec-fetch-site", "cross-site"), ("origin", &own)]),
        fields(&[("sec-fetch-site", "none")]),
    ] {
        let answer = browser.post_with(&deny.action, &deny.fields, headers.clone()).await;
        assert_eq!(answer.status, 403, "{headers:?}");
    }
    let token = approve.value("form_token").to_owned();
    for wrong in [
        deny.clone().without("form_token"),
        deny.clone().with("form_token", "AAAA"),
        deny.clone().with("form_token", &token),
    ] {
        assert_eq!(browser.submit(&wrong).await.status, 403, "another form's token");
    }
    let mut other = Browser::of_operator(&world.server).await;
    assert_eq!(other.submit(&deny).await.status, 403, "another session's form");
    let mut signed_out = Browser::new(&world.server);
    assert_eq!(signed_out.submit(&deny).await.status, 401);
    assert_eq!(
        world.as_admin("GET", &format!("/delegate/{id}"), Value::Null).await.json["state"],
        "requested"
    );
    let own_origin = fields(&[("origin", &own)]);
    assert_eq!(
        browser.post_with(&deny.action, &deny.fields, own_origin).await.status,
        303,
        "an older browser"
    );
    assert_eq!(world.as_admin("GET", &format!("/delegate/{id}"), Value::Null).await.json["state"], "revoked");
    let get = browser.get(&format!("/console/approvals/{id}/deny")).await;
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")), "only POST changes anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_narrows_and_what_changed_meanwhile_is_not_approved() {
    let world = World::new().await;
    let id = asked(&world, json!({"reason": "to answer your mail"})).await;
    let mut browser = Browser::of_operator(&world.server).await;
    let list = browser.get("/console/approvals").await;
    assert!(list.text.contains(&id), "{}", list.text);
    let page = browser.get(&format!("/console/approvals/{id}")).await;
    assert!(page.text.contains("says the agent") && page.text.contains("to answer your mail"));
    assert!(page.text.contains("You decide as an administrator"));
    let whole = form(&page, "/approve");
    let none = whole.clone().without("scope:mail.read").without("scope:mail.send");
    assert_eq!(browser.submit(&none).await.status, 400, "an approval of nothing is a denial");
    let wider =
        whole.clone().without("scope:mail.read").without("scope:mail.send").with("scope:calendar.read", "on");
    assert_eq!(browser.submit(&wider).await.status, 400);
    assert_eq!(browser.submit(&whole.clone().with("max_uses", "6")).await.status, 400, "more than was asked");
    let other = asked(&world, json!({"max_uses": 4})).await;
    let other = browser.get(&format!("/console/approvals/{other}")).await;
    let other = form(&other, "/approve").value("shown").to_owned();
    for shown in ["AAAA", &other] {
        assert_eq!(browser.submit(&whole.clone().with("shown", shown)).await.status, 409, "{shown}");
    }

    let narrow = whole.without("scope:mail.send").with("expires_in", "900").with("max_uses", "2");
    let done = browser.submit(&narrow).await;
    assert_eq!(done.status, 200, "{}", done.text);
    let stored = world.as_admin("GET", &format!("/delegate/{id}"), Value::Null).await.json;
    assert_eq!(
        (&stored["state"], &stored["scopes"], &stored["max_uses"]),
        (&json!("active"), &json!(["mail.read"]), &json!(2))
    );
    assert_eq!(browser.submit(&narrow).await.status, 200, "a second click of the same form is one move");
    let approved = world.server.documents().await;
    let approved: Vec<&Value> = approved
        .iter()
        .filter(|one| one["action"] == "delegation.activated" && one["delegation_id"] == json!(id))
        .collect();
    assert_eq!((approved.len(), &approved[0]["console"]["role"]), (1, &json!("operator")));
    let decided = browser.get("/console/approvals?tab=decided").await;
    assert!(decided.text.contains("never used"), "{}", decided.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn cutting_shows_what_it_affects_and_does_it() {
    let world = World::new().await;
    world.third_hop().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let list = browser.get("/console/delegations?state=active&delegate=user-proxy").await;
    assert!(list.text.contains("/console/delegations/D\""), "{}", list.text);
    let shown = browser.get("/console/delegations/D").await;
    assert!(shown.text.contains("/console/delegations/E\""), "its children");
    let page = browser.get("/console/delegations/D/cut").await;
    assert!(page.text.contains("Ends 3 delegations of 3 agents and 3 tokens"), "{}", page.text);
    assert!(
        page.text.contains("email-svc") && page.text.contains("when the last token expires"),
        "{}",
        page.text
    );
    let cut = browser.submit(&form(&page, "/cut").with("reason", "enough")).await;
    assert!(cut.text.contains("Ended 3 delegations and 3 tokens"), "{}", cut.text);
    let cut = browser.get("/console/delegations/D").await;
    assert!(cut.text.contains("revoked") && cut.text.contains("enough"), "{}", cut.text);
    assert!(!cut.text.contains("Cut…"), "what has ended cannot be cut");
    let child = world.as_admin("GET", "/delegate/F", Value::Null).await.json;
    assert_eq!(child["state"], "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_texts_are_shown_as_text() {
    let world = World::new().await;
    let hostile = "<script>alert(1)</script>\" onload=\"x\" \u{202e}evil <img src=x onerror=y> {{7*7}}";
    let id =
        asked(&world, json!({"reason": hostile, "agent": {"type": "<b>planner</b>", "model": "m"}})).await;
    let mut browser = Browser::of_operator(&world.server).await;
    for path in [
        format!("/console/approvals/{id}"),
        format!("/console/delegations/{id}"),
        "/console/approvals".to_owned(),
        "/console/delegations?delegator_sub=%3Cscript%3Ealert(1)%3C%2Fscript%3E".to_owned(),
        "/console/delegations?delegate=%22%3E%3Cscript%3E".to_owned(),
        "/console/nothing%3Cscript%3E".to_owned(),
    ] {
        let page = browser.get(&path).await;
        let text = page.text.replace("<script src=\"/console/assets/", "");
        assert!(
            !text.contains("<script") && !text.contains("<img") && !text.contains("<b>"),
            "{path}: {text}"
        );
        assert!(!text.contains('\u{202e}') && !text.contains(" style="), "{path}");
    }
    let page = browser.get(&format!("/console/approvals/{id}")).await;
    assert!(page.text.contains("U+202E"), "{}", page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_forbids_what_it_does_not_need() {
    let world = World::new().await;
    let mut browser = Browser::of_operator(&world.server).await;
    for path in [
        "/console",
        "/console/approvals",
        "/console/delegations",
        "/console/connections",
        "/console/me",
        "/console/approvals/none",
    ] {
        let page = browser.get(path).await;
        let policy = page.header("content-security-policy").unwrap_or_else(|| panic!("{path}"));
        for part in [
            "default-src 'none'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"));
        let header = |name: &str| page.header(name);
        assert_eq!(
            (
                header("cache-control"),
                header("referrer-policy"),
                header("cross-origin-opener-policy"),
                header("x-content-type-options")
            ),
            (Some("no-store"), Some("same-origin"), Some("same-origin"), Some("nosniff")),
            "{path}"
        );
    }
    let page = browser.get("/console").await;
    let script = page.text.split("src=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let script = browser.get(&script).await;
    assert_eq!(script.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert!(script.header("cache-control").unwrap().contains("immutable"));
    let host = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let elsewhere = host
        .get(format!("{}/console/me", world.server.base))
        .header("host", "localhost:1")
        .send()
        .await
        .unwrap();
    let place = elsewhere.headers()["location"].to_str().unwrap();
    assert_eq!(
        (elsewhere.status().as_u16(), place),
        (308, format!("{}/console/me", world.server.app.issuer).as_str())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_no_page_has_is_a_page_that_leads_on() {
    let world = World::new().await;
    let mut browser = Browser::of_operator(&world.server).await;
    for path in ["/console/nothing", "/console/", "/console/agents/a/b/c/d"] {
        let page = browser.get(path).await;
        let media_type = page.headers["content-type"].to_str().unwrap();
        assert_eq!((page.status, media_type), (404, "text/html; charset=utf-8"), "{path}");
        assert!(page.text.contains("href=\"/console\""), "{path}: {}", page.text);
    }
    let mut stranger = Browser::new(&world.server);
    assert_eq!(stranger.get("/console/nothing").await.status, 303, "first the sign-in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_console_has_none_of_its_paths() {
    let world = World::configured("[console]\nenabled = false").await;
    let mut browser = Browser::new(&world.server);
    for path in ["/console", "/console/sign-in", "/console/enter/AAAA", "/console/assets/console.css"] {
        assert_eq!(browser.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_no_page() {
    let world = World::new().await;
    let token = world.user_token();
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let answer =
        client.get(format!("{}/console", world.server.base)).bearer_auth(token).send().await.unwrap();
    assert_eq!(answer.status(), 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_comes_to_its_routes_alone() {
    let world = World::new().await;
    let server = &world.server;
    let alice = Principal::new(IDP, "alice");
    let mut signed_out = Browser::new(server);
    // An event about Alice, in a session of this id.
    world.first_hop().await;
    let newest = server.events().await.pop().unwrap();
    let txn = newest["txn"].as_str().unwrap().to_owned();
    let newest = newest["seq"].to_string();
    for role in [ConsoleRole::User, ConsoleRole::Auditor, ConsoleRole::Admin, ConsoleRole::Operator] {
        let who = (role != ConsoleRole::Operator).then_some(&alice);
        let mut browser = Browser::of(server, role, who).await;
        for (method, path, roles) in console_routes() {
            let id = match path {
                path if path.starts_with("/console/sessions/") => "session-1",
                path if path.starts_with("/console/events/") => newest.as_str(),
                _ => "D",
            };
            let path = path.replace("{id}", id).replace("{kind}", "clients").replace("{ceremony}", "none");
            let path = path.replace("{jkt}", "none").replace("{txn}", &txn);
            let path = path.replace("session-1/export", "session-1/export?format=csv");
            let path = path.replace("events/export", "events/export?format=csv");
            let (Some(roles), "GET") = (roles, method) else { continue };
            let expected = if roles.contains(&role) { 200 } else { 404 };
            // A stream does not end.
            if path == "/console/live" {
                assert_eq!(browser.stream(server, &path, None).await.status(), expected, "{role:?}");
                continue;
            }
            let answer = browser.get(&path).await;
            // An active delegation has no such page.
            let expected = if path.ends_with("/again") { 404 } else { expected };
            // Alice has no connection and no standing grant, and the server no sink.
            let no_row = [
                "/console/connections/D",
                "/console/approvals/D/uses/none",
                "/console/sinks/D",
                "/console/standing-grants/D",
            ];
            let expected = if no_row.iter().any(|row| path.starts_with(row)) { 404 } else { expected };
            // There is no agent of this name.
            let missing = ["/console/agents/D", "/console/registry/clients/D"];
            let expected = if missing.iter().any(|one| path.starts_with(one)) { 404 } else { expected };
            assert_eq!(answer.status, expected, "{role:?} {path}: {}", answer.text);
            assert_eq!(signed_out.get(&path).await.status, 303, "{path}");
        }
        for (method, path, roles) in console_routes() {
            let path = path.replace("{id}", "none").replace("{ceremony}", "none");
            let (Some(roles), "POST") = (roles, method) else { continue };
            // Without a form's token, a role that may come is refused for that.
            let expected = if roles.contains(&role) { 403 } else { 404 };
            assert_eq!(browser.post(&path, &[]).await.status, expected, "{role:?} {path}");
            assert_eq!(signed_out.post(&path, &[]).await.status, 401, "{path}");
        }
        let navigation = browser.get("/console").await.text;
        let seen = |place: &str| navigation.contains(&format!("href=\"/console/{place}"));
        let administers = matches!(role, ConsoleRole::Admin | ConsoleRole::Operator);
        assert_eq!(
            (seen("registry"), seen("approvals")),
            (administers, role != ConsoleRole::Auditor),
            "{role:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_decides_about_its_own_and_sees_nothing_of_others() {
    let world = World::new().await;
    let server = &world.server;
    let id = asked(&world, json!({})).await;
    let (bob, alice) = (Principal::new(IDP, "bob"), Principal::new(IDP, "alice"));
    let mut others = Browser::of(server, ConsoleRole::User, Some(&alice)).await;
    for path in [
        format!("/console/approvals/{id}"),
        format!("/console/delegations/{id}"),
        format!("/console/delegations/{id}/cut"),
    ] {
        assert_eq!(others.get(&path).await.status, 404, "{path}");
    }
    assert!(!others.get("/console/approvals").await.text.contains(&id));
    let mut own = Browser::of(server, ConsoleRole::User, Some(&bob)).await;
    let overview = own.get("/console").await;
    assert!(overview.text.contains(&id), "{}", overview.text);
    let page = own.get(&format!("/console/approvals/{id}")).await;
    assert!(!page.text.contains("You decide as an administrator"));
    let stolen = form(&page, "/approve");
    assert_eq!(others.submit(&stolen).await.status, 403);
    assert_eq!(own.submit(&form(&page, "/approve")).await.status, 200);
    let event = server
        .documents()
        .await
        .into_iter()
        .find(|one| one["action"] == "delegation.activated" && one["delegation_id"] == json!(id))
        .unwrap();
    assert_eq!((&event["actor"]["type"], &event["console"]["role"]), (&json!("user"), &json!("user")));
    // A revoke-all ends the sessions with the next request.
    principals::revoke_all(&server.operator(), &bob, "Bob leaves").await.unwrap();
    assert_eq!(own.get("/console").await.status, 303);
    assert_eq!(others.get("/console").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gives_much_needs_a_fresh_sign_in_and_what_takes_back_does_not() {
    let world = World::new().await;
    let server = &world.server;
    let (first, second) = (asked(&world, json!({})).await, asked(&world, json!({"max_uses": 6})).await);
    let admin = Principal::new(IDP, "ada");
    let mut browser = Browser::of(server, ConsoleRole::Admin, Some(&admin)).await;
    let page = browser.get("/console/agents/email-svc?tab=delegations").await;
    assert!(page.text.contains("<svg") && page.text.contains("/console/delegations/E\""), "{}", page.text);
    server.pass(901);
    let page = browser.get(&format!("/console/approvals/{first}")).await;
    let refused = browser.submit(&form(&page, "/approve")).await;
    assert_eq!((refused.status, refused.text.contains("Sign in once more")), (403, true), "{}", refused.text);
    // A page with choices of before shows them, and decides nothing.
    let query = "chosen=yes&max_uses=3&expires_in=900&scope%3Amail.read=on";
    let shown = browser.get(&format!("/console/approvals/{first}?{query}")).await.with_status(200);
    let field = |name: &str| shown.text.split("<input").find(|one| one.contains(name)).unwrap().to_owned();
    assert!(field("name=\"max_uses\"").contains("value=\"3\""), "{}", shown.text);
    assert!(field("value=\"900\"").contains("checked"), "{}", shown.text);
    let ticked = ["scope:mail.read", "scope:mail.send"].map(|name| field(name).contains(" checked"));
    assert_eq!(ticked, [true, false]);
    assert_eq!(browser.get(&format!("/console/approvals/{first}?other=1")).await.status, 400);
    assert_eq!(browser.submit(&form(&page, "/deny")).await.status, 200);
    let page = browser.get("/console/delegations/D").await;
    assert_eq!(browser.submit(&form(&page, "/renew")).await.status, 403);
    let page = browser.get("/console/delegations/D/cut").await;
    assert_eq!(browser.submit(&form(&page, "/cut")).await.status, 200);
    let page = browser.get("/console/agents/email-svc/disable").await;
    let disabled = browser.submit(&form(&page, "/disable")).await;
    assert!(disabled.text.contains("disabled"), "{}", disabled.text);
    assert_eq!(browser.submit(&form(&disabled, "/enable")).await.status, 403);
    let mut fresh = Browser::of(server, ConsoleRole::Admin, Some(&admin)).await;
    let page = fresh.get("/console/agents/email-svc").await;
    assert_eq!(fresh.submit(&form(&page, "/enable")).await.status, 200);
    let page = fresh.get(&format!("/console/approvals/{second}")).await;
    assert_eq!(fresh.submit(&form(&page, "/approve")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_and_ends_its_sessions() {
    let world = World::new().await;
    let server = &world.server;
    let (alice, bob) = (Principal::new(IDP, "alice"), Principal::new(IDP, "bob"));
    let mut one = Browser::of(server, ConsoleRole::User, Some(&alice)).await;
    let mut other = Browser::of(server, ConsoleRole::User, Some(&alice)).await;
    let mut stranger = Browser::of(server, ConsoleRole::User, Some(&bob)).await;
    let page = one.get("/console/me").await;
    let end = form(&page, "/end");
    let theirs = stranger.get("/console/me").await;
    assert!(!theirs.text.contains("/end\""), "one session alone");
    let done = one.submit(&end).await;
    assert!(done.status == 200 && !done.text.contains("/end\""), "{}", done.text);
    assert_eq!((other.get("/console").await.status, one.get("/console").await.status), (303, 200));
    let chosen = form(&page, "/preferences").with("actchain-theme", "dark").with("actchain-zone", "<x>");
    one.submit(&chosen).await;
    let page = one.get("/console").await;
    assert!(page.text.contains("data-theme=\"dark\"") && !page.text.contains("<x>"), "{}", page.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_shows_what_was_declared_without_secrets() {
    let world = World::new().await;
    let mut browser = Browser::of_operator(&world.server).await;
    for kind in ["clients", "issuers", "resources", "keys", "providers"] {
        let page = browser.get(&format!("/console/registry/{kind}")).await;
        assert_eq!(page.status, 200, "{kind}");
        assert!(!page.text.contains("secret-0123456789"), "{kind}");
    }
    assert_eq!(browser.get("/console/registry/secrets").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_shows_all_that_would_be_granted_as_text() {
    let world = World::new().await;
    let hostile = "\u{202e}<b>x</b>";
    let details = json!([{"type": "mailbox", "identifier": hostile}]);
    let more = json!({"authorization_details": details, "ceremony_required_for": ["mail.send"]});
    let id = asked(&world, more).await;
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get(&format!("/console/approvals/{id}")).await;
    for part in ["any capability", "asks each time for", "mailbox", "U+202E&lt;b&gt;x"] {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    assert!(!page.text.contains('\u{202e}'));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gives_much_of_ones_own_needs_a_fresh_sign_in_too() {
    let world = World::new().await;
    let server = &world.server;
    let bob = Principal::new(IDP, "bob");
    let (high, long) = (
        asked(&world, json!({})).await,
        asked(&world, json!({"max_uses": 6, "capability_ceiling": "observe", "expires_in": 172_800})).await,
    );
    let low = asked(&world, json!({"max_uses": 7, "capability_ceiling": "observe"})).await;
    let mut browser = Browser::of(server, ConsoleRole::User, Some(&bob)).await;
    server.pass(901);
    for (id, status) in [(&high, 403), (&long, 403), (&low, 200)] {
        let page = browser.get(&format!("/console/approvals/{id}")).await;
        assert_eq!(browser.submit(&form(&page, "/approve")).await.status, status, "{id}");
    }
    let page = browser.get(&format!("/console/approvals/{long}")).await;
    let shorter = form(&page, "/approve").with("expires_in", "3600");
    assert_eq!(browser.submit(&shorter).await.status, 200, "an hour is not much");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_is_offered_only_what_the_configuration_leaves() {
    let world = World::configured("[delegations]\nadmins_decide = false").await;
    let id = asked(&world, json!({})).await;
    let (admin, bob) = (Principal::new(IDP, "ada"), Principal::new(IDP, "bob"));
    // In the console, an operator has the rights of an administrator.
    for (role, who) in [(ConsoleRole::Admin, Some(&admin)), (ConsoleRole::Operator, None)] {
        let mut browser = Browser::of(&world.server, role, who).await;
        let page = browser.get(&format!("/console/approvals/{id}")).await;
        assert!(page.status == 200 && !page.text.contains("/approve"), "{role:?}: {}", page.text);
    }
    let mut own = Browser::of(&world.server, ConsoleRole::Admin, Some(&bob)).await;
    let page = own.get(&format!("/console/approvals/{id}")).await;
    assert_eq!(own.submit(&form(&page, "/approve")).await.status, 200, "an administrator's own request");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_id_is_a_url_has_a_page() {
    let world = World::new().await;
    let id = "https://agent.example/a";
    let yaml = format!(
        "clients:\n  - {{id: \"{id}\", kind: agent, auth: client_secret_basic, secret: a-secret-0123456789, scopes: [mail.read], audiences: [\"{MAIL}\"], grant_types: [token-exchange]}}\n"
    );
    world.server.apply(&yaml).await.unwrap();
    let mut browser = Browser::of_operator(&world.server).await;
    let list = browser.get("/console/agents?q=https").await;
    let link = list.text.split("href=\"/console/agents/https").nth(1).unwrap().split('"').next().unwrap();
    let link = format!("https{link}");
    let page = browser.get(&format!("/console/agents/{link}")).await;
    assert_eq!(page.status, 200, "{link}");
    let page = browser.get(&format!("/console/agents/{link}/disable")).await;
    let disabled = browser.submit(&form(&page, "/disable")).await;
    assert!(disabled.status == 200 && disabled.text.contains("disabled"), "{}", disabled.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn entering_ends_the_session_before_and_a_restored_backup_ends_all() {
    let world = World::new().await;
    let server = &world.server;
    let mut browser = Browser::of_operator(server).await;
    let before = browser.cookies.clone();
    let again = link(server).await;
    assert_eq!(browser.post(&again, &[]).await.status, 303);
    let mut old = Browser::new(server);
    old.cookies = before;
    assert_eq!((old.get("/console").await.status, browser.get("/console").await.status), (303, 200));
    let unused = link(server).await;
    restored::review_restored(&server.operator(), ReviewScope::All, None).await.unwrap();
    assert_eq!(browser.get("/console").await.status, 303);
    assert_eq!(browser.post(&unused, &[]).await.status, 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_sessions_are_deleted() {
    let world = World::new().await;
    let server = &world.server;
    let _browser = Browser::of_operator(server).await;
    let _unused = link(server).await;
    let rows = async || {
        let sql = "SELECT (SELECT count(*) FROM console_session) + (SELECT count(*) FROM console_link)";
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut server.sql().await).await.unwrap()
    };
    server.pass(7_200);
    jobs::sweep::run_once(&server.app, server.clock.now()).await.unwrap();
    assert_eq!(rows().await, 1, "the session is kept for a month");
    server.pass(31 * 86_400);
    jobs::sweep::run_once(&server.app, server.clock.now()).await.unwrap();
    assert_eq!(rows().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_is_confirmed_as_it_was_shown() {
    let world = World::new().await;
    let server = &world.server;
    let (bob, admin) = (Principal::new(IDP, "bob"), Principal::new(IDP, "ada"));
    let terms = json!({"scopes": ["mail.send", "both"], "ceremony_required_for": ["mail.send", "both"]});
    let id = world.granted("bob", terms).await.with_status(201).id();
    let ask = async |scope: &str| world.first_hop_of("bob").param("scope", scope).send().await;
    for scope in ["mail.send", "both"] {
        ask(scope).await.assert_refused(400, "insufficient_user_authentication", "ceremony_required");
        server.pass(1);
    }
    let path = format!("/console/approvals/{id}");
    let mut stale = Browser::of(server, ConsoleRole::Admin, Some(&admin)).await;
    let mut own = Browser::of(server, ConsoleRole::User, Some(&bob)).await;
    server.pass(60);
    let page = own.get(&path).await;
    assert!(page.text.contains("any capability") && page.text.contains("Allow this use"), "{}", page.text);
    // The newest is first: each form has the digest of its own use.
    let newest = form(&page, "/approve");
    let older = page.text.rsplit_once(" name=\"shown\"").unwrap().1;
    let older = actchain_testkit::answer::Answer {
        text: format!("<form><input name=\"shown\"{older}"),
        ..page.clone()
    };
    let of_other = newest.clone().with("shown", form(&older, "").value("shown"));
    assert_ne!(of_other.value("shown"), newest.value("shown"));
    assert_eq!(own.submit(&of_other).await.status, 409, "the digest of another use");
    assert_eq!(own.submit(&newest).await.status, 200);
    assert_eq!(own.submit(&newest).await.status, 200, "a second click");
    ask("both").await.with_status(200);
    let denied = form(&own.get(&path).await, "/deny");
    assert_eq!(own.submit(&denied).await.status, 200);
    assert!(!own.get(&path).await.text.contains("Allow this use"));
    // Bob's session was enough for its own; an administrator needs a fresh one.
    server.pass(901);
    ask("mail.send").await.assert_refused(400, "insufficient_user_authentication", "ceremony_required");
    let page = stale.get(&path).await;
    assert!(page.text.contains("in place of this user"), "{}", page.text);
    assert_eq!(stale.submit(&form(&page, "/approve")).await.status, 403);
    assert_eq!(stale.submit(&form(&page, "/deny")).await.status, 200);
}
