//! Counts of events by hour.

use std::collections::BTreeMap;

use actchain::domain::console::ConsoleRole;
use actchain::domain::principal::Principal;
use actchain::services::audit::index;
use serde_json::{Value, json};
use sqlx::Executor as _;
use time::{Duration, OffsetDateTime};

use crate::support::audit::{Dice, auditor, cover, fill, read};
use crate::support::browser::Browser;
use crate::support::world::{IDP, World};

const COUNTS: &str = "/api/v1/audit-logs/counts";

/// The counts of all events whose time begins with this text, as the endpoint lists them.
fn expected(events: &[Value], day: &str) -> Vec<Value> {
    let mut counts: BTreeMap<[String; 4], u64> = BTreeMap::new();
    let text = |event: &Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
    for event in events.iter().filter(|event| text(event, "at").starts_with(day)) {
        let hour = format!("{}:00:00.000000Z", &text(event, "at")[..13]);
        let key = [hour, text(event, "action"), text(event, "outcome"), text(event, "reason")];
        *counts.entry(key).or_default() += 1;
    }
    let count = |([hour, action, outcome, reason], events): ([String; 4], u64)| match reason.as_str() {
        "" => json!({"hour": hour, "action": action, "outcome": outcome, "events": events}),
        _ => json!({"hour": hour, "action": action, "outcome": outcome, "reason": reason, "events": events}),
    };
    counts.into_iter().map(count).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_counted_once_before_and_after_it_is_indexed() {
    let world = World::new().await;
    let twin = world.server.twin().await;
    world.server.pass(1_800);
    fill(&world, &mut Dice(11), 2_100).await;
    world.server.pass(3_600);
    let (auditor, token) = auditor(&world).await;
    let period = format!("{COUNTS}?from={0}T00:00:00Z&to={0}T23:59:59.5Z", day(&world));
    let counts = async || read(&world, (&auditor, &token), &period).await.with_status(200).json;
    let wanted = json!(expected(&world.server.events().await, &day(&world)));
    let found = counts().await;
    assert_eq!(found["counts"], wanted, "not indexed");
    assert!(found["from"].as_str().unwrap().ends_with("T00:00:00.000000Z"));
    // Two servers index, and each block is counted once.
    let jobs = [&world.server, &twin].map(|server| index::run_once(&server.app.pool));
    futures_util::future::join_all(jobs).await;
    assert_eq!(cover(&world).await, 2_048);
    assert_eq!(counts().await["counts"], wanted, "in part indexed");
    fill(&world, &mut Dice(12), 100).await;
    let wanted = json!(expected(&world.server.events().await, &day(&world)));
    assert_eq!(counts().await["counts"], wanted, "with newer events");
    // Only whole hours: a minute of an hour is that hour.
    let hour = &found["counts"].as_array().unwrap().last().unwrap()["hour"].as_str().unwrap()[..13];
    let path = format!("{COUNTS}?from={hour}:10:00Z&to={hour}:11:00Z");
    let narrow = read(&world, (&auditor, &token), &path).await.json;
    let wanted: Vec<&Value> = wanted
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["hour"].as_str().unwrap().starts_with(hour))
        .collect();
    assert_eq!(narrow["counts"], json!(wanted));
}

fn day(world: &World) -> String {
    world.server.clock.now().date().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn old_counts_end_after_a_month_and_a_clock_that_is_ahead_ends_none() {
    let world = World::new().await;
    // The database has no other clock than that of the machine.
    let behind = OffsetDateTime::now_utc() - world.server.clock.now();
    world.server.pass(behind.whole_seconds());
    fill(&world, &mut Dice(13), 1_100).await;
    world.server.pass(40 * 365 * 86_400);
    fill(&world, &mut Dice(14), 1_100).await;
    cover(&world).await;
    let mut sql = world.server.sql().await;
    let hours = "SELECT count(*) FROM audit_hour WHERE hour < $1";
    let end = world.server.clock.now() - Duration::days(365);
    let stored: i64 = sqlx::query_scalar(hours).bind(end).fetch_one(&mut sql).await.unwrap();
    assert!(stored > 0, "those of forty years before are still there");
    // What is old by the clock of the database, too, ends with the next block.
    sql.execute(
        "UPDATE audit_hour SET hour = hour - interval '200 years' WHERE hour < now() + interval '1 year'",
    )
    .await
    .unwrap();
    fill(&world, &mut Dice(15), 1_100).await;
    cover(&world).await;
    let stored: i64 = sqlx::query_scalar(hours).bind(end).fetch_one(&mut sql).await.unwrap();
    assert_eq!(stored, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_for_those_who_see_all_events_and_of_a_readable_period() {
    let world = World::new().await;
    let (auditor, token) = auditor(&world).await;
    let agent = world.as_agent(&world.user_proxy, "GET", COUNTS, Value::Null).await;
    assert_eq!((agent.status, agent.reason()), (403, "insufficient_scope"));
    let user = world.as_user("alice", "GET", COUNTS, Value::Null).await;
    assert_eq!((user.status, user.reason()), (403, "insufficient_scope"));
    for query in [
        "from=yesterday",
        "to=2026-13-01",
        "from=2026-02-02T00:00:00Z&to=2026-02-01T00:00:00Z",
        "from=2026-02-02T00:00:00Z&to=2026-02-02T00:00:00Z",
        "from=2026-01-01T00:00:00Z&to=2026-02-02T00:00:00Z",
        "from=2025-01-01T00:00:00Z&to=2025-01-02T00:00:00Z",
        "window=24h",
    ] {
        let answer = read(&world, (&auditor, &token), &format!("{COUNTS}?{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.text);
    }
    let month = format!("{COUNTS}?from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00Z");
    read(&world, (&auditor, &token), &month).await.with_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_shows_exchanges_and_refusals_by_hour_with_their_reasons() {
    let world = World::new().await;
    let server = &world.server;
    let who = Principal::new(IDP, "ann");
    let mut auditor = Browser::of(server, ConsoleRole::Auditor, Some(&who)).await;
    assert!(!auditor.get("/console").await.text.contains("The last 24 hours"), "nothing happened");
    world.first_hop().await;
    world.first_hop().await;
    server.revoke("D").await;
    world.first_hop_of("alice").send().await.with_status(400);
    let page = auditor.get("/console").await.text;
    assert!(page.contains("The last 24 hours"), "{page}");
    let row = "<td data-label=\"exchanged\">2</td><td data-label=\"refused\">1</td>";
    assert_eq!(page.matches(row).count(), 1, "{page}");
    assert_eq!(page.matches("<td data-label=\"exchanged\">0</td>").count(), 23, "{page}");
    let link = "/console/events?outcome=refused&amp;reason=delegation_revoked&amp;from=";
    assert!(page.contains(link), "{page}");
    let mut alice = Browser::of(server, ConsoleRole::User, Some(&Principal::new(IDP, "alice"))).await;
    assert!(!alice.get("/console").await.text.contains("The last 24 hours"), "users do not see all events");
}
