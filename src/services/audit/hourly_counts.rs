//! How many events each hour had, by what happened.

use std::ops::Range;

use serde::Serialize;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::domain::audit::hourly_counts::{CountKey, HourlyCounts, KEPT, hour_of};
use crate::domain::audit::{search, store};
use crate::domain::refusal::{Error, Refusal};
use crate::platform::clock::rfc3339;
use crate::platform::db;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;

/// The period without `from`.
const DEFAULT: Duration = Duration::days(1);

/// A period of whole hours, as requested.
#[derive(Debug, Clone, Copy, Default)]
pub struct CountedPeriod {
    pub from: Option<OffsetDateTime>,
    pub to: Option<OffsetDateTime>,
}

/// The counts of a period.
#[derive(Debug, Serialize)]
pub struct HourlyEvents {
    /// The beginning of the first hour.
    pub from: String,
    /// The end of the last hour.
    pub to: String,
    pub counts: Vec<EventCount>,
}

/// The events of one hour to which the same happened.
#[derive(Debug, Serialize)]
pub struct EventCount {
    /// The beginning of the hour.
    pub hour: String,
    pub action: String,
    pub outcome: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    pub events: u64,
}

/// Counts the events of a period, at most a month.
///
/// # Errors
/// A refusal of users and agents, who see only some of the events.
pub async fn count(ctx: &RequestContext<'_>, period: CountedPeriod) -> Result<HourlyEvents, Error> {
    if matches!(ctx.caller, Caller::User(_) | Caller::Agent(_)) {
        return Err(Refusal::InsufficientScope.into());
    }
    let period = hours(period, ctx.now)?;
    // One snapshot: an event that is indexed meanwhile is counted once.
    let mut snapshot = db::begin(ctx.pool, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let range = search::search_range(&mut snapshot).await?;
    let mut counts = HourlyCounts::default();
    counts.add_stored(&mut snapshot, &period).await?;
    for (_, document) in store::documents_in(&mut snapshot, range.unindexed("the counts")?).await? {
        counts.add(&serde_json::from_str::<Value>(&document).unwrap_or_default());
    }
    let (from, to) = (rfc3339(period.start), rfc3339(period.end));
    let counts = counts.within(&period).map(|(key, events)| {
        let CountKey { hour, action, outcome, reason } = key;
        EventCount { hour: rfc3339(hour), action, outcome, reason, events }
    });
    Ok(HourlyEvents { from, to, counts: counts.collect() })
}

/// The whole hours of a period.
fn hours(period: CountedPeriod, now: OffsetDateTime) -> Result<Range<OffsetDateTime>, Refusal> {
    let end = match period.to {
        Some(to) if hour_of(to) == to => to,
        to => hour_of(to.unwrap_or(now)) + Duration::HOUR,
    };
    let start = hour_of(period.from.unwrap_or(end - DEFAULT));
    if start >= end || end - start > KEPT {
        return Err(Refusal::Malformed("from is before to, by at most 31 days"));
    }
    if start < hour_of(now) + Duration::HOUR - KEPT {
        return Err(Refusal::Malformed("Counts are kept for 31 days"));
    }
    Ok(start..end)
}
