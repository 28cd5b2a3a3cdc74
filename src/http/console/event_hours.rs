//! Exchanges and refusals by hour, as bars with their table, and the most frequent reasons.

use std::collections::BTreeMap;

use maud::{Markup, html};
use time::{Duration, OffsetDateTime};

use super::guard::ConsoleRequest;
use super::links::form_encoded;
use super::words;
use crate::domain::audit::Action;
use crate::platform::clock::{self, rfc3339};
use crate::services::audit::hourly_counts::HourlyEvents;

/// Reasons that are listed.
const REASONS: usize = 5;
const REFUSED: &str = "refused";
const WIDTH: u64 = 720;
const HEIGHT: u64 = 72;

/// What happened in one hour.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Hour {
    exchanged: u64,
    refused: u64,
}

/// Nothing where nothing was exchanged or refused.
pub(super) fn show(known: &ConsoleRequest<'_>, counts: &HourlyEvents) -> Markup {
    let hours = hours(counts);
    let most = hours.values().map(|hour| hour.exchanged.max(hour.refused)).max().unwrap_or_default();
    html! {
        @if most > 0 {
            h2 { "The last 24 hours" }
            (bars(&hours, most))
            details {
                summary { "Exchanges and refusals by hour, as a table" }
                table.rows {
                    thead { tr { th { "hour" } th { "exchanged" } th { "refused" } } }
                    tbody {
                        @for (from, Hour { exchanged, refused }) in hours.iter().rev() {
                            tr {
                                td data-label="hour" { (words::instant(&rfc3339(*from), known.context.now)) }
                                td data-label="exchanged" { (exchanged) }
                                td data-label="refused" { (refused) }
                            }
                        }
                    }
                }
            }
            (reasons(known, counts))
        }
    }
}

/// Every hour of the period, also one without events.
fn hours(counts: &HourlyEvents) -> BTreeMap<OffsetDateTime, Hour> {
    let mut hours = BTreeMap::new();
    if let (Some(from), Some(to)) = (clock::instant(&counts.from), clock::instant(&counts.to)) {
        let each = std::iter::successors(Some(from), |hour| Some(*hour + Duration::HOUR));
        hours.extend(each.take_while(|hour| *hour < to).map(|hour| (hour, Hour::default())));
    }
    for one in &counts.counts {
        let Some(hour) = clock::instant(&one.hour).and_then(|hour| hours.get_mut(&hour)) else { continue };
        if one.outcome == REFUSED {
            hour.refused += one.events;
        } else if one.action.parse().is_ok_and(Action::is_exchange) {
            hour.exchanged += one.events;
        }
    }
    hours
}

/// The bars say what the table says.
fn bars(hours: &BTreeMap<OffsetDateTime, Hour>, most: u64) -> Markup {
    let slot = WIDTH / u64::try_from(hours.len()).unwrap_or(u64::MAX).max(1);
    let bar = slot / 3;
    // One event is seen beside thousands.
    let height = |events: u64| (events * HEIGHT).div_ceil(most.max(1));
    html! {
        svg.bars viewBox={ "0 0 " (WIDTH) " " (HEIGHT + 1) } aria-hidden="true" {
            line x1="0" y1=(HEIGHT) x2=(WIDTH) y2=(HEIGHT) {}
            @for (at, hour) in (0u64..).zip(hours.values()) {
                @let (exchanged, refused) = (height(hour.exchanged), height(hour.refused));
                rect x=(at * slot + 2) y=(HEIGHT - exchanged) width=(bar) height=(exchanged) {}
                rect.bad x=(at * slot + 2 + bar) y=(HEIGHT - refused) width=(bar) height=(refused) {}
            }
        }
        p.dim aria-hidden="true" { "each hour: exchanged on the left, " span.bad { "refused" } " on the right; at most " (most) }
    }
}

/// The most frequent reasons of refusals, each with its events.
fn reasons(known: &ConsoleRequest<'_>, counts: &HourlyEvents) -> Markup {
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for one in counts.counts.iter().filter(|one| one.outcome == REFUSED) {
        *reasons.entry(&one.reason).or_default() += one.events;
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, events)| std::cmp::Reverse(*events));
    html! {
        @if !reasons.is_empty() {
            h3 { "Most frequent reasons of refusals" }
            ul {
                @for (reason, events) in reasons.iter().take(REASONS) {
                    @let query = format!("outcome=refused&reason={}&from={}", form_encoded(reason), form_encoded(&counts.from));
                    li { a href={ (known.url("/console/events")) "?" (query) } { code { (reason) } } " " (events) }
                }
            }
        }
    }
}
