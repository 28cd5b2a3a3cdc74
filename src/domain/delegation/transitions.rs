//! State transitions of delegations in PostgreSQL. Each one is a guarded update; the number of changed rows shows
//! whether the transition was possible.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;

use super::{Delegation, DelegationLimits, DelegationRecord};
use crate::domain::limit::stored_number;
use crate::domain::row_mac::RowMac;
use crate::domain::session::report::NewestExchange;
use crate::platform::fault::{Context, Fault};

/// Inserts a delegation; `false` if the id exists already.
pub async fn insert(rows: &RowMac, connection: &mut PgConnection, one: &Delegation) -> Result<bool, Fault> {
    let details = stored_details(&one.terms)?;
    let done = sqlx::query(
        "INSERT INTO delegation (id, path, parent, root_iss, root_sub, delegator_iss, delegator_sub, delegate, scopes,
                                 audiences, authorization_details, max_depth, max_uses, origin, requested_at,
                                 activated_at, expires_at, capability_ceiling, ceremony_required_for, reason, agent,
                                 requested_by_iss, requested_by_sub, requested_ttl, mac, offline_access, standing_grant_id,
                                 created_epoch)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
                 $23, $24, $25, $26, $27, (SELECT number FROM revocation_epoch))
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
    .bind(one.terms.offline_access)
    .bind(&one.standing_grant_id)
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

/// Creates the row that counts uses, with or without a limit. It is apart from the row that all transactions share.
async fn count_uses(connection: &mut PgConnection, one: &Delegation) -> Result<(), Fault> {
    sqlx::query("INSERT INTO delegation_usage (delegation_id, uses) VALUES ($1, 0) ON CONFLICT DO NOTHING")
        .bind(&one.id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Revokes a delegation; `false` if it is revoked or expired already, or does not exist. Descendants need no update.
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

/// Denies a request or a key rotation that waits for the delegator; `false` if nothing waits.
pub async fn mark_denied(
    connection: &mut PgConnection,
    id: &str,
    reason: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE delegation SET revoked_at = $3, revoke_reason = $2, expiry_logged = true
         WHERE id = $1 AND revoked_at IS NULL AND expires_at > $3
           AND (activated_at IS NULL OR pending_jwk IS NOT NULL OR suspended_at IS NOT NULL)",
    )
    .bind(id)
    .bind(reason)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Writes the approved limits of a request; `false` if the request no longer waits, or has changed since it was read.
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
             pending_jwk = NULL, mac = $12, offline_access = $14
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
    .bind(one.terms.offline_access)
    .execute(&mut *connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Delegations that a suspension is about.
#[derive(Debug, Clone)]
pub enum Suspended<'a> {
    /// All that are active.
    All,
    /// Those that were requested or activated since, and those with one of these ids.
    Since(OffsetDateTime, &'a [String]),
    /// Those with one of these ids.
    These(&'a [String]),
}

/// Suspends delegations that were activated and have not ended, until their delegators approve them. Returns their ids.
pub async fn mark_suspended(
    connection: &mut PgConnection,
    which: &Suspended<'_>,
    now: OffsetDateTime,
) -> Result<Vec<String>, Fault> {
    let (since, ids) = match which {
        Suspended::All => (None, None),
        Suspended::Since(since, ids) => (Some(*since), Some(*ids)),
        Suspended::These(ids) => (None, Some(*ids)),
    };
    let mut suspended: Vec<String> = sqlx::query_scalar(
        "UPDATE delegation SET suspended_at = $1
         WHERE revoked_at IS NULL AND activated_at IS NOT NULL AND suspended_at IS NULL AND expires_at > $1
           AND ($2::timestamptz IS NULL AND $3::text[] IS NULL
                OR greatest(requested_at, activated_at) >= $2 OR id = ANY ($3))
         RETURNING id",
    )
    .bind(now)
    .bind(since)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    suspended.sort();
    Ok(suspended)
}

/// Ends the suspension of a delegation; `false` if it is not suspended, or has ended.
pub async fn mark_resumed(
    connection: &mut PgConnection,
    id: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE delegation SET suspended_at = NULL
         WHERE id = $1 AND suspended_at IS NOT NULL AND revoked_at IS NULL AND expires_at > $2",
    )
    .bind(id)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Moves the expiry of an active delegation; `false` if it is not active, or has changed since it was read.
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

/// Stores a new key that the delegator has to confirm; `false` if the delegation has ended, or has changed since it
/// was read.
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

/// The uses of a delegation, as locked.
#[derive(Debug, Clone)]
pub struct LockedUsage {
    pub uses: i64,
    pub newest: Option<NewestExchange>,
}

/// Locks and reads the counts of a path, in the order of ids that all transactions use.
pub async fn lock_usage(
    connection: &mut PgConnection,
    ids: &[String],
) -> Result<HashMap<String, LockedUsage>, Fault> {
    let rows: Vec<(String, i64, Option<String>, Option<OffsetDateTime>)> = sqlx::query_as(
        "SELECT delegation_id, uses, session_id, session_at FROM delegation_usage
         WHERE delegation_id = ANY ($1) ORDER BY delegation_id FOR NO KEY UPDATE",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    let usage = rows.into_iter().map(|(id, uses, session_id, session_at)| {
        let newest = session_id.zip(session_at).map(|(session_id, at)| NewestExchange { session_id, at });
        (id, LockedUsage { uses, newest })
    });
    Ok(usage.collect())
}

/// Adds reported commands to locked counts. Delegations that reach their limit are exhausted from now on; returns
/// their ids.
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
             used_up_at = CASE WHEN u.uses + $2 >= d.max_uses THEN $3 END,
             first_used_at = coalesce(u.first_used_at, $3), last_used_at = greatest(u.last_used_at, $3)
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

/// Marks delegations that have expired without an event, oldest expiry first, and returns their ids for the event.
/// Those that a revocation or a revoke-all had ended before are left out: they get no further event.
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

/// Marks expired delegations that an ancestor had ended before: that end has its event. Returns their number.
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

/// Revokes several delegations; returns the ids of those that were neither revoked nor expired.
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

/// Notes that the audit log has an event of their expiry.
pub async fn mark_expiry_logged(connection: &mut PgConnection, ids: &[String]) -> Result<(), Fault> {
    sqlx::query("UPDATE delegation SET expiry_logged = true WHERE id = ANY ($1)")
        .bind(ids)
        .execute(connection)
        .await?;
    Ok(())
}
