//! `/console/events`: the list with its filters, and one event with its authorization, its content and its proof.

use actchain::domain::audit::Action;
use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use actchain::jobs;
use actchain_protocol::merkle;
use actchain_protocol::signed_note::{self, Checkpoint};
use actchain_protocol::tlog_proof::Proof;

use crate::support::agent::JWT;
use crate::support::browser::Browser;
use crate::support::world::{IDP, MAIL, World};
use crate::transparency::checkpoint;

async fn browser<'a>(world: &'a World, role: ConsoleRole, sub: &str) -> Browser<'a> {
    Browser::of(&world.server, role, Some(&Principal::new(IDP, sub))).await
}

/// The `seq` of the newest event of an action.
async fn newest(world: &World, action: &str) -> u64 {
    let events = world.server.events().await;
    events.iter().rev().find(|one| one["action"] == action).unwrap()["seq"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_listed_by_filters_to_those_who_may_see_them() {
    let world = World::new().await;
    world.second_hop().await;
    world
        .user_proxy
        .exchange(&world.server, &world.user_token(), JWT)
        .param("audience", MAIL)
        .param("scope", "no")
        .send()
        .await
        .with_status(400);
    let exchange = format!("/console/events/{}\"", newest(&world, "oauth.token.exchanged").await);
    let refusal = format!("/console/events/{}\"", newest(&world, "oauth.token.refused").await);
    let mut auditor = browser(&world, ConsoleRole::Auditor, "ann").await;
    for (query, present, absent) in [
        ("", &exchange, None),
        ("?outcome=refused", &refusal, Some(&exchange)),
        ("?findings=yes", &refusal, Some(&exchange)),
        ("?rule=AC-004&reason=scope_exceeds_grant", &refusal, Some(&exchange)),
        ("?action=oauth.token.exchanged&actor=email-svc&subject_sub=alice", &exchange, Some(&refusal)),
        ("?session=session-1&window=1h", &exchange, None),
        ("?from=2025-12-31&to=2026-01-02", &exchange, None),
    ] {
        let page = auditor.get(&format!("/console/events{query}")).await.with_status(200);
        assert!(page.text.contains(present), "{query}: {}", page.text);
        assert!(absent.is_none_or(|absent| !page.text.contains(absent)), "{query}");
    }
    let page = auditor.get("/console/events?action=oauth.token.exchanged&actor=email-svc").await;
    let row = page.text.split("<tr").find(|row| row.contains(&exchange)).unwrap();
    for part in
        ["<bdi>alice</bdi> → ", ">user-proxy<", ">email-svc<", "/console/sessions/session-1\"", " µs</td>"]
    {
        assert!(row.contains(part), "{part}: {row}");
    }
    // The views that are links ask for what exists.
    let page = auditor.get("/console/events").await;
    let views = page.text.split("class=\"filters\"").nth(1).unwrap().split("</p>").next().unwrap();
    let asked: Vec<&str> =
        views.split("?action=").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(asked.len(), 3, "{views}");
    assert!(asked.iter().all(|name| name.parse::<Action>().is_ok()), "{asked:?}");
    assert!(auditor.get("/console/events?subject_sub=zoe").await.text.contains("Nothing matches"));
    for query in ["?findings=no", "?window=2h", "?from=soon", "?outcome=x", "?other=1", "?cursor=x"] {
        assert!(
            [400, 422].contains(&auditor.get(&format!("/console/events{query}")).await.status),
            "{query}"
        );
    }
    let mut alice = browser(&world, ConsoleRole::User, "alice").await;
    assert!(alice.get("/console/events").await.text.contains(&exchange));
    let mut eve = browser(&world, ConsoleRole::User, "eve").await;
    let seen = eve.get("/console/events").await;
    assert!(!seen.text.contains(&exchange) && !seen.text.contains("client.created"), "{}", seen.text);
    for tab in ["overview", "content", "forensics"] {
        let path = format!("/console/events/{}?tab={tab}", newest(&world, "oauth.token.exchanged").await);
        assert_eq!(eve.get(&path).await.status, 404, "{tab}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_a_file_of_the_events_that_its_filters_show_to_its_reader() {
    let world = World::new().await;
    world.second_hop().await;
    world.first_hop_of("bob").send().await;
    let mut auditor = browser(&world, ConsoleRole::Auditor, "ann").await;
    let page = auditor.get("/console/events?action=oauth.token.exchanged&actor=email-svc").await;
    let link = "/console/events/export?action=oauth.token.exchanged&amp;actor=email-svc&amp;format=csv";
    assert!(page.text.contains(link), "{}", page.text);
    let rows = |file: &str| file.lines().filter(|line| line.contains("oauth.token.exchanged")).count();
    let csv = auditor.get(&link.replace("&amp;", "&")).await.with_status(200);
    assert!(
        csv.header("content-disposition").unwrap().contains("attachment") && rows(&csv.text) == 1,
        "{}",
        csv.text
    );
    let lines = auditor.get("/console/events/export?format=jsonl&outcome=refused").await.with_status(200);
    assert!(lines.text.contains("oauth.token.refused") && rows(&lines.text) == 0, "{}", lines.text);
    let sarif = auditor.get("/console/events/export?format=sarif").await.with_status(200);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&sarif.text).unwrap()["version"], "2.1.0");
    for query in ["", "?format=xml", "?format=csv&outcome=x", "?format=csv&other=1"] {
        let answer = auditor.get(&format!("/console/events/export{query}")).await;
        assert!([400, 422].contains(&answer.status), "{query}: {}", answer.text);
    }
    // Each file is an event of its reader, who has the own events alone.
    let exported =
        world.server.events().await.iter().filter(|one| one["action"] == "admin.audit_exported").count();
    assert_eq!(exported, 3);
    let mut eve = browser(&world, ConsoleRole::User, "eve").await;
    let file = eve.get("/console/events/export?format=csv").await.with_status(200);
    assert_eq!(rows(&file.text), 0, "{}", file.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_says_by_what_right_it_happened_and_what_proves_it() {
    let world = World::new().await;
    world.second_hop().await;
    let seq = newest(&world, "oauth.token.exchanged").await;
    let path = |tab: &str| format!("/console/events/{seq}?tab={tab}");
    let mut admin = browser(&world, ConsoleRole::Admin, "root").await;
    let page = admin.get(&path("overview")).await.with_status(200);
    for part in ["/console/delegations/D\"", "/console/delegations/E\"", "✓</span> active", "mail.read", MAIL]
    {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    world.server.revoke("E").await;
    let page = admin.get(&path("overview")).await;
    assert!(page.text.contains("✗</span> revoked"), "{}", page.text);

    let page = admin.get(&path("content")).await.with_status(200);
    for part in
        ["&quot;sub&quot;: &quot;alice&quot;", "person-", "✓</span> matches the document", "127.0.0.1"]
    {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }

    let page = admin.get(&path("forensics")).await.with_status(200);
    assert!(page.text.contains("No checkpoint covers the event yet."), "{}", page.text);
    assert!(!page.text.contains("check-proof"), "nothing to check: {}", page.text);
    jobs::checkpoint::run_once(&world.server.app, world.server.clock.now()).await.unwrap();
    let page = admin.get(&path("forensics")).await;
    assert!(
        page.text.contains("This server verified at")
            && page.text.contains("Of the same request")
            && page.text.contains("Of the same session"),
        "{}",
        page.text
    );
    let mut sql = world.server.sql().await;
    let changed =
        "UPDATE audit_event SET document = replace(document, 'mail.read', 'mail.rEad') WHERE seq = $1";
    let seq = i64::try_from(seq).unwrap();
    assert_eq!(sqlx::query(changed).bind(seq).execute(&mut sql).await.unwrap().rows_affected(), 1);
    let page = admin.get(&path("forensics")).await;
    assert!(
        page.text.contains("The log does not prove this document")
            && !page.text.contains("This server verified"),
        "{}",
        page.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_delegation_is_direct() {
    let world = World::new().await;
    world.management_token(&world.user_proxy).await;
    let seq = newest(&world, "oauth.token.issued").await;
    let mut auditor = browser(&world, ConsoleRole::Auditor, "ann").await;
    let page = auditor.get(&format!("/console/events/{seq}")).await.with_status(200);
    for part in
        ["Direct (no delegation), by", ">user-proxy<", "registered by an operator at", "/console/events/"]
    {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    // Each id of an event leads to its page, and no other text does.
    let id = world.server.events().await[0]["id"].as_str().unwrap().to_owned();
    auditor.get(&format!("/console/events/{id}")).await.with_status(200);
    for other in ["999999", "no-such-event", "0?tab=other"] {
        assert!(
            [400, 404].contains(&auditor.get(&format!("/console/events/{other}")).await.status),
            "{other}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_an_event_prove_it_without_the_server() {
    let world = World::new().await;
    let server = &world.server;
    world.first_hop().await;
    let mut auditor = Browser::of(server, ConsoleRole::Auditor, Some(&Principal::new(IDP, "ann"))).await;
    assert_eq!(auditor.get("/console/events/2/proof").await.status, 404, "no checkpoint covers it yet");
    checkpoint(server).await;
    let page = auditor.get("/console/events/2?tab=forensics").await.with_status(200);
    assert!(page.text.contains("/console/events/2/proof\" download"), "{}", page.text);
    let proof = auditor.get("/console/events/2/proof").await.with_status(200);
    assert_eq!(proof.header("content-disposition"), Some("attachment; filename=\"event-2.tlog-proof\""));
    let document = auditor.get("/console/events/2/document").await.with_status(200).text;
    let proof = Proof::parse(&proof.text).unwrap();
    let (text, _) = signed_note::parts(&proof.checkpoint).unwrap();
    let signed = Checkpoint::parse(&text).unwrap();
    let leaf = merkle::leaf(document.as_bytes());
    assert!(merkle::verify_inclusion(&leaf, 2, signed.size, &proof.path, &signed.root));
    let changed = merkle::leaf(format!("{document} ").as_bytes());
    assert!(!merkle::verify_inclusion(&changed, 2, signed.size, &proof.path, &signed.root));
    let mut eve = Browser::of(server, ConsoleRole::User, Some(&Principal::new(IDP, "eve"))).await;
    for path in ["/console/events/2/proof", "/console/events/2/document"] {
        assert_eq!(eve.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn once_a_registration_is_archived_no_later_change_of_the_client_takes_its_place() {
    let world = World::new().await;
    world.management_token(&world.user_proxy).await;
    let seq = newest(&world, "oauth.token.issued").await;
    let mut auditor = browser(&world, ConsoleRole::Auditor, "ann").await;
    let keys = world.user_proxy.key.public_jwk();
    let renamed = format!(
        "clients:\n  - {{id: user-proxy, kind: agent, name: Renamed, auth: private_key_jwt, jwks: {{keys: [{keys}]}}, scopes: [mail.read], \
         audiences: [\"{MAIL}\"], grant_types: [client_credentials]}}"
    );
    world.server.apply_replacing(&renamed, &["user-proxy"]).await.unwrap();
    let registration =
        r#"DELETE FROM audit_event WHERE document LIKE '%"client.changed"%"create"%"user-proxy"%'"#;
    let deleted = sqlx::query(registration).execute(&mut world.server.sql().await).await.unwrap();
    assert_eq!(deleted.rows_affected(), 1);
    let page = auditor.get(&format!("/console/events/{seq}")).await.with_status(200);
    assert!(
        page.text.contains("Direct (no delegation), by") && !page.text.contains("registered by"),
        "{}",
        page.text
    );
}
