//! `/console/agents`: the list, the tabs of an agent, the moves against it, and the form that writes a manifest.

use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use actchain_testkit::answer::Answer;
use serde_json::{Value, json};

use crate::support::browser::{Browser, form};
use crate::support::world::{IDP, MAIL, World};

fn row<'a>(page: &'a Answer, part: &str) -> &'a str {
    let found = page.text.split("<tr").find(|row| row.contains(part));
    found.unwrap_or_else(|| panic!("no row with {part}: {}", page.text))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_says_of_each_agent_what_it_is_and_did_of_late() {
    let world = World::new().await;
    let made = world.made_by_alice("task-1").await;
    world.third_hop().await;
    let wide = world.user_proxy.exchange(&world.server, "x", crate::support::agent::JWT);
    wide.send().await.with_status(400);
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get("/console/agents").await;
    let proxy = row(&page, "/console/agents/user-proxy\"");
    for part in ["User proxy", "private_key_jwt", "✓</span> enabled", "2026-01-01", "✗</span> 1"] {
        assert!(proxy.contains(part), "{part}: {proxy}");
    }
    assert!(proxy.contains("data-label=\"active delegations\">1<"), "{proxy}");
    let stranger = row(&page, "/console/agents/stranger\"");
    assert!(
        stranger.contains("never") && stranger.contains("data-label=\"active delegations\">0<"),
        "{stranger}"
    );
    assert!(row(&page, &made.agent.id).contains("task-1"));
    assert!(!page.text.contains("mail-server"), "a resource server is no agent");

    for (query, present, absent) in [
        ("q=user", "user-proxy", "email-svc"),
        ("task=task-1", made.agent.id.as_str(), "user-proxy"),
        ("state=disabled", "Nothing matches", "user-proxy"),
        ("state=enabled", "user-proxy", "Nothing matches"),
        ("q=unknown", "Nothing matches", "user-proxy"),
    ] {
        let page = browser.get(&format!("/console/agents?{query}")).await;
        let list = page.text.split("<form class=\"filter\"").nth(1).unwrap();
        let list = list.split("</form>").nth(1).unwrap();
        assert!(list.contains(present) && !list.contains(&format!(">{absent}<")), "{query}: {list}");
    }
    for query in ["state=x", "other=1"] {
        assert_eq!(browser.get(&format!("/console/agents?{query}")).await.status, 400, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_sees_the_agents_that_act_for_it_and_no_others() {
    let world = World::new().await;
    let (alice, bob) = (Principal::new(IDP, "alice"), Principal::new(IDP, "bob"));
    let mut own = Browser::of(&world.server, ConsoleRole::User, Some(&alice)).await;
    let page = own.get("/console/agents").await;
    assert!(row(&page, "user-proxy").contains("data-label=\"active delegations\">1<"), "{}", page.text);
    assert!(!page.text.contains("stranger") && !page.text.contains("private_key_jwt"), "{}", page.text);
    assert!(own.get("/console/agents?q=email").await.text.contains("email-svc"));
    assert_eq!(own.get("/console/agents?state=enabled").await.status, 400);
    let item = own.get("/console/agents/email-svc").await;
    assert!(item.text.contains("<svg") && item.text.contains("/console/delegations/E\""), "{}", item.text);
    for tab in ["overview", "keys"] {
        assert_eq!(own.get(&format!("/console/agents/email-svc?tab={tab}")).await.status, 404, "{tab}");
    }
    let mut other = Browser::of(&world.server, ConsoleRole::User, Some(&bob)).await;
    assert!(other.get("/console/agents").await.text.contains("No agent may act for you yet"));
    for tab in ["", "?tab=delegations", "?tab=activity"] {
        assert_eq!(other.get(&format!("/console/agents/email-svc{tab}")).await.status, 404, "{tab}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tabs_show_neighbours_events_and_keys() {
    let world = World::new().await;
    world.third_hop().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get("/console/agents/email-svc?tab=delegations").await;
    for part in ["<svg", "/console/delegations/E\"", "/console/delegations/F\"", "user-proxy", "followup-svc"]
    {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    let activity = browser.get("/console/agents/email-svc?tab=activity").await;
    let event = row(&activity, "oauth.token.exchanged");
    assert!(event.contains("alice"), "the person, not the pseudonym: {event}");
    let keys = browser.get("/console/agents/user-proxy?tab=keys").await;
    let key = row(&keys, world.user_proxy.jkt());
    assert!(key.contains("assertions") && key.contains("2026-01-01"), "{key}");
    let unregistered = browser.get("/console/agents/email-svc?tab=keys").await;
    assert!(row(&unregistered, world.email_svc.jkt()).contains("not registered"));
    assert_eq!(browser.get("/console/agents/email-svc?tab=x").await.status, 400);
    assert_eq!(browser.get("/console/agents/none?tab=activity").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_key_proves_nothing_any_more() {
    let world = World::new().await;
    let token = world.first_hop().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let jkt = world.user_proxy.jkt();
    let page = browser.get(&format!("/console/agents/user-proxy/keys/{jkt}")).await;
    assert!(page.text.contains("Affects 0 delegations and 1 token"), "{}", page.text);
    let done = browser.submit(&form(&page, "/remove")).await;
    assert!(row(&done, jkt).contains("removed"), "{}", done.text);
    let active = world.introspect(&world.mail_server, token.token()).await.json;
    assert_eq!(active["active"], json!(false));
    for path in ["user-proxy/keys/AAAA", "none/keys/AAAA"] {
        assert!(browser.get(&format!("/console/agents/{path}")).await.status >= 400, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_after_a_revoke_all_has_nothing_left_and_stays_registered() {
    let world = World::new().await;
    let token = world.second_hop().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get("/console/agents/email-svc/revoke-all").await;
    assert!(page.text.contains("Affects 2 delegations and 1 token"), "{}", page.text);
    let done = browser.submit(&form(&page, "/revoke-all").with("reason", "stolen laptop")).await;
    assert!(done.text.contains("✓</span> enabled"), "{}", done.text);
    assert_eq!(world.introspect(&world.mail_server, token.token()).await.json["active"], json!(false));
    let event = world.server.last_event().await;
    assert_eq!(
        (&event["action"], &event["reason_text"], &event["console"]["role"]),
        (&json!("principal.revoked"), &Value::Null, &json!("operator"))
    );
    assert_eq!(world.as_admin("GET", "/delegate/E", Value::Null).await.json["state"], "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_task_deactivates_its_agents() {
    let world = World::new().await;
    let made = world.made_by_alice("task-1").await;
    let mut browser = Browser::of_operator(&world.server).await;
    let overview = browser.get(&format!("/console/agents/{}", made.agent.id)).await;
    assert!(overview.text.contains("End its task…"), "{}", overview.text);
    let page = browser.get(&format!("/console/agents/{}/end-task", made.agent.id)).await;
    assert!(page.text.contains("Affects 1 delegation and 0 tokens"), "{}", page.text);
    let done = browser.submit(&form(&page, "/end-task")).await;
    assert!(done.text.contains("deactivated") && !done.text.contains("End its task…"), "{}", done.text);
    assert_eq!(
        browser.get("/console/agents/email-svc/end-task").await.status,
        404,
        "an agent without a task"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_affects_much_has_the_id_typed_and_what_gives_needs_a_fresh_sign_in() {
    let world = World::new().await;
    let mut yaml = String::from("delegations:\n");
    for number in 0..101 {
        yaml.push_str(&format!(
            "  - {{id: many-{number}, delegator: {{iss: {IDP}, sub: user-{number}}}, delegate: stranger, scopes: [mail.read], audiences: [\"{MAIL}\"], expires_in: 3600}}\n"
        ));
    }
    world.server.apply(&yaml).await.unwrap();
    let ada = Principal::new(IDP, "ada");
    let mut browser = Browser::of(&world.server, ConsoleRole::Admin, Some(&ada)).await;
    let graph = browser.get("/console/agents/stranger?tab=delegations").await;
    assert!(graph.text.contains("+93") && graph.text.contains("93 more delegations to it"), "{}", graph.text);
    assert_eq!(graph.text.matches("<line").count(), 8);
    let list = browser.get("/console/agents?q=stranger").await;
    assert!(row(&list, "/console/agents/stranger\"").contains(">100+<"), "{}", list.text);
    // Taking back needs no fresh sign-in.
    world.server.pass(901);
    let page = browser.get("/console/agents/stranger/disable").await;
    assert!(
        page.text.contains("Affects 101 delegations") && page.text.contains("Type the agent"),
        "{}",
        page.text
    );
    let disable = form(&page, "/disable");
    for typed in ["", "email-svc"] {
        assert_eq!(browser.submit(&disable.clone().with("typed", typed)).await.status, 400, "{typed}");
    }
    let done = browser.submit(&disable.with("typed", "stranger")).await;
    assert!(done.text.contains("disabled"), "{}", done.text);
    assert_eq!(browser.submit(&form(&done, "/enable")).await.status, 403);
    assert_eq!(browser.submit(&form(&done, "/rotate-secret")).await.status, 403);
    let mut fresh = Browser::of(&world.server, ConsoleRole::Admin, Some(&ada)).await;
    let page = fresh.get("/console/agents/stranger").await;
    assert!(fresh.submit(&form(&page, "/enable")).await.text.contains("✓</span> enabled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_secret_is_shown_once() {
    let world = World::new().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get("/console/agents/stranger").await;
    let again = form(&page, "/rotate-secret");
    let shown = browser.submit(&again).await;
    let secret =
        shown.text.split("Keep it now: <code>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    assert!(secret.len() >= 32, "{secret}");
    let replayed = browser.submit(&again).await;
    assert!(!replayed.text.contains(&secret) && replayed.text.contains("shown already"), "{}", replayed.text);
    assert!(!browser.get("/console/agents/stranger").await.text.contains(&secret));
    assert!(!json!(world.server.documents().await).to_string().contains(&secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn setting_up_writes_a_manifest_and_its_plan_and_changes_nothing() {
    let world = World::new().await;
    let mut browser = Browser::of_operator(&world.server).await;
    let page = browser.get("/console/agents/new").await;
    let events = world.server.documents().await.len();
    let asked = form(&page, "/new")
        .with("id", "planner")
        .with("name", "Planner \"1\"")
        .with("auth", "client_secret_basic")
        .with("scopes", "mail.read")
        .with("audiences", MAIL);
    let done = browser.submit(&asked).await;
    for part in ["id: planner", "It can be applied", "client", "is created", "actchain apply"] {
        assert!(done.text.contains(part), "{part}: {}", done.text);
    }
    let yaml = done.text.split("<pre tabindex=\"0\"><code>").nth(1).unwrap();
    let yaml = yaml
        .split("</code>")
        .next()
        .unwrap()
        .replace("&quot;", "\"")
        .replace("&lt;", "<")
        .replace("&amp;", "&");
    assert_eq!(browser.get("/console/agents/planner").await.status, 404, "nothing was changed");
    for (field, value, why) in [
        ("audiences", "https://nowhere.example", "nowhere.example"),
        ("scopes", "mail.fly", "mail.fly"),
        ("jwks", "{", "not JSON"),
        ("max_token_ttl", "soon", "whole number"),
    ] {
        let refused = browser.submit(&asked.clone().with(field, value)).await;
        assert!(refused.status == 200 && refused.text.contains(why), "{field}: {}", refused.text);
        assert!(!refused.text.contains("It can be applied"), "{field}");
    }
    assert_eq!(world.server.documents().await.len(), events, "neither a plan nor its refusal is an event");
    world.server.apply(&yaml).await.unwrap();
    let made = browser.get("/console/agents/planner").await;
    assert!(made.text.contains("Planner &quot;1&quot;"), "{}", made.text);
    let changed = browser.submit(&asked.with("scopes", "mail.read mail.send")).await;
    assert!(changed.text.contains("is changed") && changed.text.contains("+ mail.send"), "{}", changed.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_are_text_on_every_page_of_an_agent() {
    let world = World::new().await;
    let hostile = "<script>alert(1)</script>\" onload=\"x\" \u{202e}evil <img src=x>";
    let yaml = format!(
        "clients:\n  - {{id: hostile, kind: agent, name: {}, auth: client_secret_basic, secret: hostile-secret-0123456789, scopes: [mail.read], audiences: [\"{MAIL}\"], grant_types: [token-exchange]}}\n",
        json!(hostile)
    );
    world.server.apply(&yaml).await.unwrap();
    // The id of a task has no slash.
    let task = hostile.replace('/', "");
    let made = world.made_by_alice(&task).await;
    let mut browser = Browser::of_operator(&world.server).await;
    let encoded: String = url::form_urlencoded::byte_serialize(hostile.as_bytes()).collect();
    for path in [
        "/console/agents".to_owned(),
        format!("/console/agents?q={encoded}"),
        format!(
            "/console/agents?task={}",
            url::form_urlencoded::byte_serialize(task.as_bytes()).collect::<String>()
        ),
        "/console/agents/hostile".to_owned(),
        "/console/agents/hostile/disable".to_owned(),
        format!("/console/agents/{}", made.agent.id),
        format!("/console/agents/{}/end-task", made.agent.id),
        format!("/console/agents/{}?tab=activity", made.agent.id),
        "/console/registry/clients".to_owned(),
        "/console/registry/clients/hostile".to_owned(),
        format!("/console/registry/clients?q={encoded}"),
        format!("/console/check?client={encoded}&subject={encoded}&audience={encoded}"),
    ] {
        let page = browser.get(&path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.text);
        let is_named = !path.contains('?') && !path.ends_with("/disable");
        let shown = page.text.contains("U+202E") || page.text.contains(&made.agent.id) || !is_named;
        assert!(shown, "{path}: {}", page.text);
        for part in ["<script>", "<img", " onload=\"x"] {
            assert!(!page.text.contains(part), "{path}: {part} in {}", page.text);
        }
    }
    let page = browser.get("/console/agents/new").await;
    let done = browser
        .submit(&form(&page, "/new").with("id", hostile).with("auth", "none").with("scopes", hostile))
        .await;
    assert!(
        done.status == 200 && !done.text.contains("<script>") && !done.text.contains("<img"),
        "{}",
        done.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_written_in_another_way_is_for_the_same_roles() {
    let world = World::new().await;
    let bob = Principal::new(IDP, "bob");
    for (role, who) in [(ConsoleRole::User, Some(&bob)), (ConsoleRole::Auditor, Some(&bob))] {
        let mut browser = Browser::of(&world.server, role, who).await;
        for path in ["/console/agents/new", "/console/agents/%6eew", "/console/agents/n%65w"] {
            assert_eq!(browser.get(path).await.status, 404, "{path}");
        }
    }
}
