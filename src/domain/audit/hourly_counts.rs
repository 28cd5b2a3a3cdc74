//! How many events each hour had, by what happened. The indexer counts the events of each block; newer events are counted from
//! their documents.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use time::{Duration, OffsetDateTime};

use super::filter::instant;
use crate::platform::clock::from_seconds;
use crate::platform::fault::Fault;

const HOUR_SECONDS: i64 = 3_600;
/// How long counts are kept.
pub const KEPT: Duration = Duration::days(31);

/// What is counted apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, FromRow)]
pub struct CountKey {
    /// The beginning of the hour.
    pub hour: OffsetDateTime,
    pub action: String,
    pub outcome: String,
    /// Empty for events without a reason.
    pub reason: String,
}

#[derive(Debug, Default)]
pub struct HourlyCounts(BTreeMap<CountKey, u64>);

/// The beginning of the hour.
pub fn hour_of(at: OffsetDateTime) -> OffsetDateTime {
    let seconds = at.unix_timestamp();
    from_seconds(seconds - seconds.rem_euclid(HOUR_SECONDS)).unwrap_or(at)
}

impl HourlyCounts {
    pub fn add(&mut self, event: &Value) {
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let hour = hour_of(instant(event));
        let key = CountKey { hour, action: text("action"), outcome: text("outcome"), reason: text("reason") };
        *self.0.entry(key).or_default() += 1;
    }

    /// The counts of a period, in the order of time.
    pub fn within(self, period: &Range<OffsetDateTime>) -> impl Iterator<Item = (CountKey, u64)> {
        self.0.into_iter().filter(|(key, _)| period.contains(&key.hour))
    }

    /// Adds what is stored of a period.
    pub async fn add_stored(
        &mut self,
        connection: &mut PgConnection,
        period: &Range<OffsetDateTime>,
    ) -> Result<(), Fault> {
        #[derive(FromRow)]
        struct Row {
            #[sqlx(flatten)]
            key: CountKey,
            #[sqlx(try_from = "i64")]
            events: u64,
        }
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT hour, action, outcome, reason, events FROM audit_hour WHERE hour >= $1 AND hour < $2",
        )
        .bind(period.start)
        .bind(period.end)
        .fetch_all(connection)
        .await?;
        for Row { key, events } in rows {
            *self.0.entry(key).or_default() += events;
        }
        Ok(())
    }

    /// Adds these counts to the stored ones, and removes old ones. The time of an event alone removes nothing: a clock may
    /// be ahead.
    pub async fn store(&self, connection: &mut PgConnection) -> Result<(), Fault> {
        let Some(newest) = self.0.keys().map(|key| key.hour).max() else { return Ok(()) };
        let texts = |of: fn(&CountKey) -> &String| self.0.keys().map(of).cloned().collect::<Vec<_>>();
        sqlx::query(
            "WITH kept AS (SELECT least($6, now() - interval '31 days') AS since),
             outdated AS (DELETE FROM audit_hour USING kept WHERE hour < kept.since)
             INSERT INTO audit_hour AS stored (hour, action, outcome, reason, events)
             SELECT input.* FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::bigint[]) AS input (hour), kept
             WHERE input.hour >= kept.since
             ON CONFLICT (hour, action, outcome, reason) DO UPDATE SET events = stored.events + excluded.events",
        )
        .bind(self.0.keys().map(|key| key.hour).collect::<Vec<_>>())
        .bind(texts(|key| &key.action))
        .bind(texts(|key| &key.outcome))
        .bind(texts(|key| &key.reason))
        .bind(self.0.values().map(|events| i64::try_from(*events).unwrap_or(i64::MAX)).collect::<Vec<_>>())
        .bind(newest - KEPT)
        .execute(connection)
        .await?;
        Ok(())
    }
}
