//! Events counted by windows of time: by the index and by documents, as a comparison with every event counts them.

use std::collections::BTreeMap;

use actchain::domain::audit::activity::{WindowActivity, activity};
use actchain::domain::audit::append::append_events;
use actchain::domain::audit::detail::TokenRefusal;
use actchain::domain::audit::event_counts::EventCounts;
use actchain::domain::audit::{Event, EventKind};
use actchain::platform::clock::rfc3339;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::support::audit::{Dice, cover, event};
use crate::support::world::World;

/// What must be counted since an instant.
fn expected(events: &[Value], window: Duration, now: OffsetDateTime) -> WindowActivity {
    let (mut counts, mut reasons) = (EventCounts::default(), BTreeMap::<String, u64>::new());
    let from = rfc3339(now - window);
    for event in events.iter().filter(|event| event["at"].as_str().unwrap() >= from.as_str()) {
        let action = event["action"].as_str().unwrap();
        counts.events += 1;
        counts.exchanges += u64::from(action == "oauth.token.exchanged");
        counts.retrievals += u64::from(["vault.token.retrieved", "vault.proxy.called"].contains(&action));
        counts.steps += u64::from(action == "delegation.step");
        counts.findings +=
            u64::from(event.get("findings").is_some_and(|all| all != &Value::Array(Vec::new())));
        if event["outcome"] == "refused" {
            counts.refusals += 1;
            if let Some(reason) = event["reason"].as_str() {
                *reasons.entry(reason.to_owned()).or_default() += 1;
            }
        }
    }
    WindowActivity { seconds: window.whole_seconds(), complete: true, counts, reasons }
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_begin_anywhere_in_the_log_count_every_event_once() {
    let world = World::new().await;
    let mut dice = Dice(5);
    let mut sql = world.server.sql().await;
    let begin = world.server.clock.now();
    // One event a second, with clocks that differ by a few seconds.
    for from in (0..5_400).step_by(300) {
        let events: Vec<Event> = (from..from + 300)
            .map(|number| {
                let skew = Duration::seconds(i64::try_from(dice.roll(5)).unwrap());
                let at = begin + Duration::seconds(i64::try_from(number).unwrap()) + skew;
                let common = event(&world, &mut dice, number);
                // A few in each block: their postings are numbers and no bitmaps.
                match number % 97 {
                    0 => Event {
                        at,
                        kind: EventKind::TokenRefused(TokenRefusal::default()),
                        reason: Some("scope_exceeds_grant"),
                        ..common
                    },
                    _ => Event { at, ..common },
                }
            })
            .collect();
        append_events(&mut sql, &events).await.unwrap();
    }
    assert_eq!(cover(&world).await, 5_120);
    let events = world.server.events().await;
    let now = begin + Duration::seconds(5_405);
    // In the events that are not indexed, at and beside the edges of blocks, in the first block, before it, and in none.
    let windows = [0, 1, 60, 280, 285, 290, 300, 1_300, 1_306, 2_000, 3_600, 5_000, 5_405, 9_000]
        .map(Duration::seconds);
    let found = activity(&mut sql, &windows, now).await.unwrap();
    for (window, found) in windows.into_iter().zip(found) {
        assert_eq!(found, expected(&events, window, now));
    }
    let all = activity(&mut sql, &[Duration::days(1)], now).await.unwrap();
    assert_eq!(all[0].counts.events, u64::try_from(events.len()).unwrap());
    assert!(all[0].counts.refusals > 100 && all[0].reasons["scope_exceeds_grant"] == 56, "{all:?}");
}
