//! The steps that have an id, in PostgreSQL.

use std::collections::HashMap;

use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::{CheckedStep, StepOutcome};
use crate::domain::row_mac::RowMac;
use crate::platform::fault::Fault;

/// A step can be repeated for at least this long.
const MIN_KEPT: Duration = Duration::days(1);
/// Rows that one sweep deletes.
const PIECE: i64 = 5_000;

/// What a report of a step changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepRecord {
    /// The step is new, and a use.
    New,
    /// The step was reported before it was done, and is done now.
    Done,
}

/// The steps of a report that have an id, each of which is named once.
#[derive(Debug, Clone, Copy)]
pub struct StepsUnder<'a> {
    pub delegation_id: &'a str,
    /// When the delegation ends.
    pub expires_at: OffsetDateTime,
    pub steps: &'a [CheckedStep],
}

/// Records the steps that have an id; returns those of which this is not a repetition. A known id with another use of a tool
/// is a new step. The caller has locked the uses of the delegation.
pub async fn record(
    connection: &mut PgConnection,
    rows: &RowMac,
    StepsUnder { delegation_id, expires_at, steps }: StepsUnder<'_>,
    now: OffsetDateTime,
) -> Result<HashMap<String, StepRecord>, Fault> {
    let ids: Vec<&str> = steps.iter().filter_map(|one| one.step.tool_use_id.as_deref()).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let known: Vec<(String, bool, Vec<u8>)> = sqlx::query_as(
        "SELECT tool_use_id, is_done, content FROM reported_step WHERE delegation_id = $1 AND tool_use_id = ANY ($2)",
    )
    .bind(delegation_id)
    .bind(ids)
    .fetch_all(&mut *connection)
    .await?;
    let mut changes = HashMap::new();
    let (mut ids, mut done, mut contents) = (Vec::new(), Vec::new(), Vec::new());
    for one in steps {
        let Some(id) = one.step.tool_use_id.clone() else { continue };
        let is_done = one.step.outcome != StepOutcome::Proposed;
        let content = one.content(rows);
        let (record, content) = match known.iter().find(|(known, ..)| *known == id) {
            // What came of a step is reported with or without its input.
            Some((_, was_done, before)) if *before == content || is_done && !one.names_input() => {
                match is_done && !was_done {
                    true => (StepRecord::Done, before.clone()),
                    false => continue,
                }
            }
            _ => (StepRecord::New, content),
        };
        ids.push(id.clone());
        done.push(is_done);
        contents.push(content);
        changes.insert(id, record);
    }
    sqlx::query(
        "INSERT INTO reported_step (delegation_id, tool_use_id, is_done, content, kept_until)
         SELECT $1, reported.*, $5 FROM unnest($2::text[], $3::boolean[], $4::bytea[]) AS reported
         ON CONFLICT (delegation_id, tool_use_id) DO UPDATE
         SET is_done = excluded.is_done, content = excluded.content, kept_until = excluded.kept_until",
    )
    .bind(delegation_id)
    .bind(ids)
    .bind(done)
    .bind(contents)
    .bind(expires_at.max(now + MIN_KEPT))
    .execute(connection)
    .await?;
    Ok(changes)
}

/// Deletes what no report repeats any more: the steps of delegations that have ended. Returns the number of rows.
pub async fn delete_old(connection: &mut PgConnection, until: OffsetDateTime) -> Result<u64, Fault> {
    let deleted = sqlx::query(
        "DELETE FROM reported_step WHERE ctid = ANY (ARRAY(
             SELECT s.ctid FROM reported_step s
             WHERE s.kept_until < $1
               AND NOT EXISTS (SELECT FROM delegation d WHERE d.id = s.delegation_id AND d.expires_at >= $1)
             LIMIT $2))",
    )
    .bind(until)
    .bind(PIECE)
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected())
}
