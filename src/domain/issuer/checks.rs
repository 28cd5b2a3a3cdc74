//! When the metadata of issuers is read again, and which differences were reported. Rows without authority.

use std::collections::BTreeSet;

use sqlx::{FromRow, PgConnection};
use time::{Duration, OffsetDateTime};

use super::discovered::MetadataMember;
use crate::platform::fault::{Context, Fault};

/// Time between two reads of the metadata of an issuer.
const INTERVAL: Duration = Duration::hours(1);
/// Longest time between two reads while the metadata is unavailable.
const LONGEST_PAUSE: Duration = Duration::hours(6);
/// A difference is reported again after this time, however often it comes and goes.
const REPORT_INTERVAL: Duration = Duration::days(1);
/// Time until another server reads the metadata, if this one does not end.
const LEASE: Duration = Duration::minutes(5);

/// A check of the metadata of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataCheck {
    pub iss: String,
    /// Number of failures since the last document that could be read.
    pub failures: i32,
    /// Reported differences.
    pub reported: BTreeSet<MetadataMember>,
    pub reported_at: Option<OffsetDateTime>,
}

#[derive(FromRow)]
struct CheckRow {
    iss: String,
    failures: i32,
    reported: serde_json::Value,
    reported_at: Option<OffsetDateTime>,
}

impl MetadataCheck {
    /// This check after the metadata was unavailable.
    pub fn failed(self) -> Self {
        Self { failures: self.failures.saturating_add(1), ..self }
    }

    /// This check after a document was read.
    pub fn succeeded(self) -> Self {
        Self { failures: 0, ..self }
    }

    /// Whether one of these differences is to be reported.
    pub fn is_news(&self, differing: &BTreeSet<MetadataMember>, now: OffsetDateTime) -> bool {
        let is_recent = self.reported_at.is_some_and(|at| (now - at).abs() < REPORT_INTERVAL);
        let is_known = is_recent && differing.is_subset(&self.reported);
        !differing.is_empty() && !is_known
    }

    /// This check after these differences were reported.
    pub fn reporting(self, differing: BTreeSet<MetadataMember>, now: OffsetDateTime) -> Self {
        Self { reported: differing, reported_at: Some(now), ..self }
    }

    /// The time until the next check: an hour, and after failures 2, 4, 8 … minutes.
    fn pause(&self) -> Duration {
        match self.failures.clamp(0, 12) {
            0 => INTERVAL,
            failures => (Duration::MINUTE * (1_i32 << failures)).min(LONGEST_PAUSE),
        }
    }
}

/// Takes the next check that is due from all other servers; `None` if none is due.
pub async fn mark_begun(
    connection: &mut PgConnection,
    now: OffsetDateTime,
) -> Result<Option<MetadataCheck>, Fault> {
    sqlx::query(
        "INSERT INTO issuer_metadata_check (iss, next_at) SELECT iss, $1 FROM issuer WHERE discovered IS NOT NULL
         ON CONFLICT (iss) DO NOTHING",
    )
    .bind(now)
    .execute(&mut *connection)
    .await?;
    let row: Option<CheckRow> = sqlx::query_as(
        "UPDATE issuer_metadata_check SET next_at = $2
         WHERE iss = (SELECT due.iss FROM issuer_metadata_check due JOIN issuer USING (iss)
                      WHERE due.next_at <= $1 AND issuer.discovered IS NOT NULL
                      ORDER BY due.next_at LIMIT 1 FOR UPDATE OF due SKIP LOCKED)
         RETURNING iss, failures, reported, reported_at",
    )
    .bind(now)
    .bind(now + LEASE)
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let reported = serde_json::from_value(row.reported).context("reading issuer_metadata_check")?;
        Ok(MetadataCheck { iss: row.iss, failures: row.failures, reported, reported_at: row.reported_at })
    })
    .transpose()
}

/// Stores the result of a check, and when the next one is due.
pub async fn mark_checked(
    connection: &mut PgConnection,
    check: &MetadataCheck,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    sqlx::query(
        "UPDATE issuer_metadata_check SET next_at = $2, failures = $3, reported = $4, reported_at = $5 WHERE iss = $1",
    )
    .bind(&check.iss)
    .bind(now + check.pause())
    .bind(check.failures)
    .bind(serde_json::to_value(&check.reported).context("writing issuer_metadata_check")?)
    .bind(check.reported_at)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_lengthen_the_pause_up_to_six_hours() {
        let after = |failures| {
            let check =
                MetadataCheck { iss: String::new(), failures, reported: BTreeSet::new(), reported_at: None };
            check.pause().whole_minutes()
        };
        assert_eq!([0, 1, 2, 5, 9, 1_000].map(after), [60, 2, 4, 32, 360, 360]);
    }
}
