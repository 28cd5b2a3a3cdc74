//! State transitions of standing grants in PostgreSQL. Each one is a guarded update; the number of changed rows shows
//! whether the transition was possible.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{GrantFacts, StandingGrant};
use crate::domain::limit::stored_number;
use crate::domain::principal::Principal;
use crate::domain::row_mac::RowMac;
use crate::platform::fault::{Context as _, Fault};

fn listed(names: &BTreeSet<String>) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// How long the keys of an expired grant are compared with proofs.
pub const KEYS_KEPT: Duration = Duration::hours(1);

pub async fn insert(rows: &RowMac, connection: &mut PgConnection, one: &StandingGrant) -> Result<(), Fault> {
    let details: Option<Value> = one
        .limits
        .details
        .as_ref()
        .map(serde_json::to_value)
        .transpose()
        .context("writing a standing grant")?;
    note_keys(connection, &one.client_id, &one.keys).await?;
    sqlx::query(
        "INSERT INTO standing_grant (id, grantor_iss, grantor_sub, client_id, keys, scopes, audiences, authorization_details,
                                     capability_ceiling, max_ttl, max_uses, max_depth, created_at, created_by, expires_at,
                                     mac, offline_access, created_epoch)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                 (SELECT number FROM revocation_epoch))",
    )
    .bind(&one.id)
    .bind(&one.grantor.iss)
    .bind(&one.grantor.sub)
    .bind(&one.client_id)
    .bind(listed(&one.keys))
    .bind(listed(&one.limits.scopes))
    .bind(listed(&one.limits.audiences))
    .bind(details)
    .bind(&one.limits.ceiling)
    .bind(stored_number(one.limits.max_ttl))
    .bind(one.limits.max_uses)
    .bind(one.limits.max_depth.map(stored_number))
    .bind(one.created_at)
    .bind(one.created_by)
    .bind(one.facts.expires_at)
    .bind(rows.of(one))
    .bind(one.limits.offline_access)
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes a set of keys, so that a proof under another key finds its rows.
async fn note_keys(
    connection: &mut PgConnection,
    client_id: &str,
    keys: &BTreeSet<String>,
) -> Result<(), Fault> {
    sqlx::query("INSERT INTO standing_grant_keys (client_id, keys) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(client_id)
        .bind(listed(keys))
        .execute(connection)
        .await?;
    Ok(())
}

/// Deletes the sets of keys of an agent that no grant has which lasts or has expired of late: the clocks of servers differ.
/// Under the exclusive authority lock, so that no grant with one of them is being written. Active and suspended grants have
/// an index each.
async fn forget_keys(
    connection: &mut PgConnection,
    client_id: &str,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    sqlx::query(
        "DELETE FROM standing_grant_keys k
         WHERE client_id = $1
           AND NOT EXISTS (SELECT FROM standing_grant_status g
                           WHERE g.client_id = k.client_id AND g.keys = k.keys AND g.expires_at > $2
                             AND g.revoked_at IS NULL AND g.suspended_at IS NULL AND g.principal_revoked_at IS NULL)
           AND NOT EXISTS (SELECT FROM standing_grant_status g
                           WHERE g.client_id = k.client_id AND g.keys = k.keys AND g.expires_at > $2
                             AND g.revoked_at IS NULL AND g.suspended_at IS NOT NULL AND g.principal_revoked_at IS NULL)",
    )
    .bind(client_id)
    .bind(now - KEYS_KEPT)
    .execute(connection)
    .await?;
    Ok(())
}

/// After a revoke-all of a user or an agent: deletes the sets of keys that only standing grants have which it ended, so that
/// a proof suspends none of those. Under the exclusive authority lock.
pub async fn forget_ended_keys(
    connection: &mut PgConnection,
    who: &Principal,
    client_id: Option<&str>,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    let clients: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT client_id FROM standing_grant WHERE grantor_sub = $2 AND grantor_iss = $1",
    )
    .bind(&who.iss)
    .bind(&who.sub)
    .fetch_all(&mut *connection)
    .await?;
    for client_id in clients.iter().map(String::as_str).chain(client_id) {
        forget_keys(connection, client_id, now).await?;
    }
    Ok(())
}

/// Moves the expiry; `false` if the grant has ended, or has changed since it was read.
pub async fn mark_renewed(
    rows: &RowMac,
    connection: &mut PgConnection,
    one: &StandingGrant,
    to: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let renewed = StandingGrant { facts: GrantFacts { expires_at: to, ..one.facts.clone() }, ..one.clone() };
    let done = sqlx::query(
        "UPDATE standing_grant SET expires_at = $3, mac = $5
         WHERE id = $1 AND revoked_at IS NULL AND mac = $2 AND expires_at > $4",
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

/// Revokes a standing grant; `false` if it is revoked or expired already, or does not exist. What came of it needs no
/// update: its delegations read this row. Under the exclusive authority lock.
pub async fn mark_revoked(
    connection: &mut PgConnection,
    id: &str,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let client_id: Option<String> = sqlx::query_scalar(
        "UPDATE standing_grant SET revoked_at = $2, expiry_logged = true
         WHERE id = $1 AND revoked_at IS NULL AND expires_at > $2 RETURNING client_id",
    )
    .bind(id)
    .bind(now)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(client_id) = client_id else { return Ok(false) };
    forget_keys(connection, &client_id, now).await?;
    Ok(true)
}

/// Pins the confirmed keys, ends the suspension, and revokes the tokens of its delegations that are bound to other keys;
/// `false` if the grant is not suspended, or has changed since it was read. Servers read again which of its delegations can
/// be chosen.
pub async fn mark_revalidated(
    rows: &RowMac,
    connection: &mut PgConnection,
    one: &StandingGrant,
    keys: &BTreeSet<String>,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let confirmed = StandingGrant { keys: keys.clone(), ..one.clone() };
    note_keys(connection, &one.client_id, keys).await?;
    let done = sqlx::query(
        "UPDATE standing_grant SET keys = $3, mac = $5, suspended_at = NULL, suspension_cause = NULL, seen_key = NULL,
                                   suspension_logged = false
         WHERE id = $1 AND revoked_at IS NULL AND suspended_at IS NOT NULL AND mac = $2 AND expires_at > $4",
    )
    .bind(&one.id)
    .bind(rows.of(one))
    .bind(listed(keys))
    .bind(now)
    .bind(rows.of(&confirmed))
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() != 1 {
        return Ok(false);
    }
    forget_keys(connection, &one.client_id, now).await?;
    end_unconfirmed(connection, &confirmed, now).await?;
    // An update of this column raises `candidate_version`.
    sqlx::query(
        "UPDATE delegation SET suspended_at = suspended_at
         WHERE standing_grant_id = $1 AND revoked_at IS NULL AND expires_at > $2",
    )
    .bind(&one.id)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(true)
}

/// Revokes the tokens under keys that are not confirmed, so that they do not become active again with the others. Refresh
/// tokens of later hops outlast the tokens from which they came, so they are found by their earlier actors, too.
async fn end_unconfirmed(
    connection: &mut PgConnection,
    one: &StandingGrant,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    let ended: Vec<Uuid> = sqlx::query_scalar(
        "UPDATE issued_token SET revoked_at = $3
         WHERE delegation_id IN (SELECT id FROM delegation WHERE standing_grant_id = $1 AND expires_at > $3)
           AND expires_at > $3 AND revoked_at IS NULL
           AND NOT (coalesce(jkt = ANY ($2), false) AND coalesce(auth_key = ANY ($2), true))
         RETURNING jti",
    )
    .bind(&one.id)
    .bind(listed(&one.keys))
    .bind(now)
    .fetch_all(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE issued_token t SET revoked_at = $4
         WHERE t.status_index < 0 AND t.revoked_at IS NULL
           AND t.lineage && ($5 || ARRAY(
               SELECT jti FROM issued_token
               WHERE client_id = $2 AND delegation_id IS NULL AND expires_at = 'infinity' AND jkt <> ALL ($3)))
           AND EXISTS (SELECT FROM delegation below JOIN delegation d ON d.id = ANY (below.path)
                       WHERE below.id = t.delegation_id AND d.standing_grant_id = $1)",
    )
    .bind(&one.id)
    .bind(&one.client_id)
    .bind(listed(&one.keys))
    .bind(now)
    .bind(&ended)
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks expired standing grants that a revoke-all had ended before: that end has its event. Returns their number.
pub async fn mark_revoked_with_principal(
    connection: &mut PgConnection,
    until: OffsetDateTime,
    most: i64,
) -> Result<u64, Fault> {
    let done = sqlx::query(
        "UPDATE standing_grant SET expiry_logged = true
         WHERE id = ANY (ARRAY(SELECT g.id FROM standing_grant g JOIN standing_grant_status s USING (id)
                               WHERE g.expires_at <= $1 AND NOT g.expiry_logged AND s.principal_revoked_at < g.expires_at
                               ORDER BY g.expires_at, g.id LIMIT $2 FOR UPDATE OF g SKIP LOCKED))",
    )
    .bind(until)
    .bind(most)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Marks standing grants that have expired without an event, oldest expiry first, and returns their ids for the event.
pub async fn mark_expiries_logged(
    connection: &mut PgConnection,
    until: OffsetDateTime,
    most: i64,
) -> Result<Vec<String>, Fault> {
    Ok(sqlx::query_scalar(
        "UPDATE standing_grant SET expiry_logged = true
         WHERE id = ANY (ARRAY(SELECT id FROM standing_grant WHERE expires_at <= $1 AND NOT expiry_logged
                               ORDER BY expires_at, id LIMIT $2 FOR UPDATE SKIP LOCKED))
         RETURNING id",
    )
    .bind(until)
    .bind(most)
    .fetch_all(connection)
    .await?)
}
