//! The steps that have an id, in PostgreSQL.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::known::{KnownStep, KnownSteps, StepKey};
use crate::platform::fault::Fault;

/// Rows that one sweep deletes.
const PIECE: i64 = 5_000;

/// Those of these steps that were reported before. The caller has locked the uses of their delegations.
pub async fn known(connection: &mut PgConnection, keys: &BTreeSet<&StepKey>) -> Result<KnownSteps, Fault> {
    if keys.is_empty() {
        return Ok(KnownSteps::default());
    }
    let (delegations, ids) = columns(keys.iter().copied());
    // The ledger keeps the plan: each row is found by the index.
    let rows: Vec<(String, String, bool, Vec<u8>, OffsetDateTime)> = sqlx::query_as(
        "SELECT input.delegation_id, input.tool_use_id, s.is_done, s.content, s.kept_until
         FROM unnest($1::text[], $2::text[]) AS input (delegation_id, tool_use_id)
         CROSS JOIN LATERAL (
             SELECT is_done, content, kept_until FROM reported_step
             WHERE delegation_id = input.delegation_id AND tool_use_id = input.tool_use_id OFFSET 0
         ) s",
    )
    .bind(delegations)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    let known = rows.into_iter().map(|(delegation_id, tool_use_id, is_done, content, kept_until)| {
        (StepKey { delegation_id, tool_use_id }, KnownStep { is_done, content, kept_until })
    });
    Ok(KnownSteps::new(known.collect::<BTreeMap<_, _>>()))
}

/// Stores the steps that were recorded.
pub async fn put(connection: &mut PgConnection, steps: &KnownSteps) -> Result<(), Fault> {
    let (keys, changed): (Vec<&StepKey>, Vec<&KnownStep>) = steps.changed().unzip();
    if keys.is_empty() {
        return Ok(());
    }
    let (delegations, ids) = columns(keys.into_iter());
    sqlx::query(
        "INSERT INTO reported_step (delegation_id, tool_use_id, is_done, content, kept_until)
         SELECT * FROM unnest($1::text[], $2::text[], $3::boolean[], $4::bytea[], $5::timestamptz[])
         ON CONFLICT (delegation_id, tool_use_id) DO UPDATE
         SET is_done = excluded.is_done, content = excluded.content, kept_until = excluded.kept_until",
    )
    .bind(delegations)
    .bind(ids)
    .bind(changed.iter().map(|one| one.is_done).collect::<Vec<_>>())
    .bind(changed.iter().map(|one| one.content.as_slice()).collect::<Vec<_>>())
    .bind(changed.iter().map(|one| one.kept_until).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

fn columns<'a>(keys: impl Iterator<Item = &'a StepKey>) -> (Vec<&'a str>, Vec<&'a str>) {
    keys.map(|key| (key.delegation_id.as_str(), key.tool_use_id.as_str())).unzip()
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
