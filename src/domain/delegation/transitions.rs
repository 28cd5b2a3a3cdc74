//! The moves of delegations in PostgreSQL: each one guarded row, which tells by how many rows it moved whether it was
//! possible.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;

use super::{Delegation, DelegationLimits, DelegationRecord};
use crate::domain::row_mac::RowMac;
use crate::platform::fault::{Context, Fault};

/// Inserts a delegation; `false` if one of that id is there already.
pub async fn insert(rows: &RowMac, connection: &mut PgConnection, one: &Delegation) -> Result<bool, Fault> {
    let details = stored_details(&one.terms)?;
    let done = sqlx::query(
        "INSERT INTO delegation (id, path, parent, root_iss, root_sub, delegator_iss, delegator_sub, delegate, scopes,
                                 audiences, authorization_details, max_depth, max_uses, origin, requested_at,
                                 activated_at, expires_at, capability_ceiling, ceremony_required_for, reason, agent,
                                 requested_by_iss, requested_by_sub, requested_ttl, mac, created_epoch)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
                 $23, $24, $25, (SELECT number FROM revocation_epoch))
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(&one.id)
    .bind(&one.path)
    .bind(&one.parent)
    .bind(&one.root.iss)
    .bind(&one.root.sub)
    .bind(&one.delegator.iss)
    .bind(&one.delegator.sub)
    .bind(&one.delegate)
    .bind(one.terms.scopes.to_stored())
    .bind(one.terms.audiences.to_stored())
    .bind(details)
    .bind(one.terms.max_depth.map(stored_number))
    .bind(one.facts.max_uses)
    .bind(one.origin)
    .bind(one.requested_at)
    .bind(one.facts.activated_at)
    .bind(one.facts.expires_at)
    .bind(&one.terms.ceiling)
    .bind(one.terms.ceremonies.iter().cloned().collect::<Vec<_>>())
    .bind(&one.reason)
    .bind(one.agent.as_ref().map(Json))
    .bind(one.requested_by.as_ref().map(|who| &who.iss))
    .bind(one.requested_by.as_ref().map(|who| &who.sub))
    .bind(one.requested_ttl.map(stored_number))
    .bind(rows.of(one))
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    count_uses(connection, one).await?;
    Ok(true)
}

fn stored_details(terms: &DelegationLimits) -> Result<Option<Value>, Fault> {
    terms.details.as_ref().map(serde_json::to_value).transpose().context("writing a delegation")
}

/// As stored: what is more than a column can say is as much as it can.
pub(super) fn stored_number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Uses are counted apart from the row that everybody shares, with and without a limit.
async fn count_uses(connection: &mut PgConnection, one: &Delegation) -> Result<(), Fault> {
    sqlx::query("INSERT INTO delegation_usage (delegation_id, uses) VALUES ($1, 0) ON CONFLICT DO NOTHING")
        .bind(&one.id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Takes a delegation back; `false` if that has been done already, or there is none. One row, whatever hangs below.
pub async fn mark_revoked(
    connection: &mut PgConnection,
    id: &str,
    reason: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE delegation SET revoked_at = $3, revoke_reason = $2, expiry_logged = true
         WHERE id = $1 AND revoked_at IS NULL AND expires_at > $3",
    )
    .bind(id)
    .bind(reason)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Denies what waits for its delegator; `false` if it does not wait any more.
pub async fn mark_denied(
    connection: &mut PgConnection,
    id: &str,
    reason: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE delegation SET revoked_at = $3, revoke_reason = $2, expiry_logged = true
         WHERE id = $1 AND revoked_at IS NULL AND expires_at > $3
           AND (activated_at IS NULL OR pending_jwk IS NOT NULL)",
    )
    .bind(id)
    .bind(reason)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Writes what an approval made of a request, if it still waits just as it was read; `false` if it does not.
pub async fn mark_approved(
    rows: &RowMac,
    connection: &mut PgConnection,
    asked: &Delegation,
    approved: &Delegation,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let one = &Delegation { requested_ttl: None, pending_jwk: None, ..approved.clone() };
    let done = sqlx::query(
        "UPDATE delegation SET activated_at = $2, expires_at = $3, scopes = $4, audiences = $5, authorization_details = $6,
             capability_ceiling = $7, ceremony_required_for = $8, max_depth = $9, max_uses = $10, requested_ttl = NULL,
             pending_jwk = NULL, mac = $12
         WHERE id = $1 AND revoked_at IS NULL AND expires_at > $11 AND (activated_at IS NULL OR pending_jwk IS NOT NULL)
           AND mac = $13",
    )
    .bind(&one.id)
    .bind(one.facts.activated_at)
    .bind(one.facts.expires_at)
    .bind(one.terms.scopes.to_stored())
    .bind(one.terms.audiences.to_stored())
    .bind(stored_details(&one.terms)?)
    .bind(&one.terms.ceiling)
    .bind(one.terms.ceremonies.iter().cloned().collect::<Vec<_>>())
    .bind(one.terms.max_depth.map(stored_number))
    .bind(one.facts.max_uses)
    .bind(now)
    .bind(rows.of(one))
    .bind(rows.of(asked))
    .execute(&mut *connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Moves the end of an active delegation; `false` if it is not active any more, or not just as it was read.
pub async fn mark_renewed(
    rows: &RowMac,
    connection: &mut PgConnection,
    one: &Delegation,
    to: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let renewed =
        Delegation { facts: DelegationRecord { expires_at: to, ..one.facts.clone() }, ..one.clone() };
    let done = sqlx::query(
        "UPDATE delegation SET expires_at = $3, mac = $5
         WHERE id = $1 AND revoked_at IS NULL AND activated_at IS NOT NULL AND mac = $2 AND expires_at > $4",
    )
    .bind(&one.id)
    .bind(rows.of(one))
    .bind(to)
    .bind(now)
    .bind(rows.of(&renewed))
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Makes a delegation wait for its delegator to confirm another key; `false` if it has ended, or is not just as it was read.
pub async fn mark_key_rotating(
    rows: &RowMac,
    connection: &mut PgConnection,
    one: &Delegation,
    jwk: &Value,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let key_rotating = Delegation { pending_jwk: Some(jwk.clone()), ..one.clone() };
    let done = sqlx::query(
        "UPDATE delegation SET pending_jwk = $2, mac = $5
         WHERE id = $1 AND revoked_at IS NULL AND activated_at IS NOT NULL AND expires_at > $3 AND mac = $4",
    )
    .bind(&one.id)
    .bind(jwk)
    .bind(now)
    .bind(rows.of(one))
    .bind(rows.of(&key_rotating))
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Locks and reads the counts of a path, in the order in which everybody locks them.
pub async fn lock_usage(
    connection: &mut PgConnection,
    ids: &[String],
) -> Result<HashMap<String, i64>, Fault> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT delegation_id, uses FROM delegation_usage
         WHERE delegation_id = ANY ($1) ORDER BY delegation_id FOR NO KEY UPDATE",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Adds reported commands to locked counts; those that reach a limit are exhausted from then on. Gives their ids.
pub async fn mark_used(
    connection: &mut PgConnection,
    ids: &[String],
    count: i64,
    now: OffsetDateTime,
) -> Result<Vec<String>, Fault> {
    let exhausted: Vec<(String, bool)> = sqlx::query_as(
        "UPDATE delegation_usage u
         SET uses = u.uses + $2,
             exhausted_at = CASE WHEN u.uses + $2 >= d.max_uses THEN $3 END,
             used_up_at = CASE WHEN u.uses + $2 >= d.max_uses THEN $3 END
         FROM delegation d WHERE d.id = u.delegation_id AND u.delegation_id = ANY ($1)
         RETURNING u.delegation_id, u.exhausted_at IS NOT NULL",
    )
    .bind(ids)
    .bind(count)
    .bind(now)
    .fetch_all(connection)
    .await?;
    Ok(exhausted.into_iter().filter_map(|(id, exhausted)| exhausted.then_some(id)).collect())
}

/// Those that have expired without the log knowing it yet; they are marked as known. Oldest end first. What a revocation
/// or a cut-off above ended before has not expired: the log says nothing more about it.
pub async fn mark_expiries_logged(
    connection: &mut PgConnection,
    until: OffsetDateTime,
    most: i64,
) -> Result<Vec<String>, Fault> {
    let ids = sqlx::query_scalar(
        "UPDATE delegation SET expiry_logged = true
         WHERE id = ANY (ARRAY(SELECT id FROM delegation
                               WHERE expires_at <= $1 AND NOT expiry_logged AND delegation_state(path, $1) = 'expired'
                               ORDER BY expires_at, id LIMIT $2 FOR UPDATE SKIP LOCKED))
         RETURNING id",
    )
    .bind(until)
    .bind(most)
    .fetch_all(connection)
    .await?;
    Ok(ids)
}

/// Passes over those that ended before their expiry by what is above them: the log knows of that end. Gives how many.
pub async fn mark_revoked_by_ancestor(
    connection: &mut PgConnection,
    until: OffsetDateTime,
    most: i64,
) -> Result<u64, Fault> {
    let done = sqlx::query(
        "UPDATE delegation SET expiry_logged = true
         WHERE id = ANY (ARRAY(SELECT id FROM delegation
                               WHERE expires_at <= $1 AND NOT expiry_logged AND delegation_state(path, $1) = 'revoked'
                               ORDER BY expires_at, id LIMIT $2 FOR UPDATE SKIP LOCKED))",
    )
    .bind(until)
    .bind(most)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Takes several delegations back; gives those that had not ended.
pub async fn mark_all_revoked(
    connection: &mut PgConnection,
    ids: &[String],
    reason: &str,
    now: OffsetDateTime,
) -> Result<Vec<String>, Fault> {
    let revoked = sqlx::query_scalar(
        "UPDATE delegation SET revoked_at = $3, revoke_reason = $2, expiry_logged = true
         WHERE id = ANY ($1) AND revoked_at IS NULL AND expires_at > $3 RETURNING id",
    )
    .bind(ids)
    .bind(reason)
    .bind(now)
    .fetch_all(connection)
    .await?;
    Ok(revoked)
}

/// Notes that the log knows of their end.
pub async fn mark_expiry_logged(connection: &mut PgConnection, ids: &[String]) -> Result<(), Fault> {
    sqlx::query("UPDATE delegation SET expiry_logged = true WHERE id = ANY ($1)")
        .bind(ids)
        .execute(connection)
        .await?;
    Ok(())
}
