//! The steps that have an id, in PostgreSQL.

use std::collections::HashMap;

use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::{CheckedStep, StepOutcome};
use crate::platform::fault::Fault;

/// A step can be repeated for at least this long.
const MIN_KEPT: Duration = Duration::days(1);

/// What a report of a step changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepRecord {
    /// The step is new, and a use.
    New,
    /// The step was reported before it was done, and is done now.
    Done,
}

/// Records the steps that have an id; returns those of which this is not a repetition. The caller has locked the uses of the
/// delegation, and names each id once.
pub async fn record(
    connection: &mut PgConnection,
    delegation_id: &str,
    steps: &[CheckedStep],
    now: OffsetDateTime,
    expires_at: OffsetDateTime,
) -> Result<HashMap<String, StepRecord>, Fault> {
    let with_id = steps.iter().filter_map(|one| Some((one.step.tool_use_id.as_deref()?, one.step.outcome)));
    let (ids, done): (Vec<&str>, Vec<bool>) =
        with_id.map(|(id, outcome)| (id, outcome != StepOutcome::Proposed)).unzip();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(String, bool)> = sqlx::query_as(
        "INSERT INTO reported_step AS s (delegation_id, tool_use_id, is_done, kept_until)
         SELECT $1, reported.*, $4 FROM unnest($2::text[], $3::boolean[]) AS reported (tool_use_id, is_done)
         ON CONFLICT (delegation_id, tool_use_id) DO UPDATE SET is_done = true
             WHERE excluded.is_done AND NOT s.is_done
         RETURNING tool_use_id, xmax = 0",
    )
    .bind(delegation_id)
    .bind(ids)
    .bind(done)
    .bind(expires_at.max(now + MIN_KEPT))
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, is_new)| (id, if is_new { StepRecord::New } else { StepRecord::Done }))
        .collect())
}

/// Deletes what no report repeats any more; returns the number of rows.
pub async fn delete_old(connection: &mut PgConnection, until: OffsetDateTime) -> Result<u64, Fault> {
    let deleted = sqlx::query("DELETE FROM reported_step WHERE kept_until < $1")
        .bind(until)
        .execute(connection)
        .await?;
    Ok(deleted.rows_affected())
}
