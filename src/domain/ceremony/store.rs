//! Ceremonies in PostgreSQL.

use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Ceremony, Open};
use crate::platform::fault::{Context, Fault};
use crate::platform::locks::KeyedLock;
use actchain_protocol::authorization_details::Details;

#[derive(FromRow)]
struct Row {
    id: Uuid,
    delegation_id: String,
    client_id: String,
    fingerprint: Vec<u8>,
    scopes: Vec<String>,
    audiences: Vec<String>,
    authorization_details: Option<Value>,
    capability: Option<String>,
    requested_at: OffsetDateTime,
    expires_at: OffsetDateTime,
    approved_at: Option<OffsetDateTime>,
    denied_at: Option<OffsetDateTime>,
    used_at: Option<OffsetDateTime>,
}

impl TryFrom<Row> for Ceremony {
    type Error = Fault;

    fn try_from(row: Row) -> Result<Self, Fault> {
        let unreadable = || Fault::new(format!("ceremony {} cannot be read", row.id));
        let details = match &row.authorization_details {
            None => None,
            Some(value) => Some(Details::from_value(value).ok_or_else(unreadable)?),
        };
        Ok(Self {
            id: row.id,
            fingerprint: <[u8; 32]>::try_from(row.fingerprint.as_slice()).map_err(|_| unreadable())?,
            delegation_id: row.delegation_id,
            client_id: row.client_id,
            scopes: row.scopes.into_iter().collect(),
            audiences: row.audiences.into_iter().collect(),
            details,
            capability: row.capability,
            requested_at: row.requested_at,
            expires_at: row.expires_at,
            approved_at: row.approved_at,
            denied_at: row.denied_at,
            used_at: row.used_at,
        })
    }
}

pub async fn insert(connection: &mut PgConnection, one: &Ceremony) -> Result<(), Fault> {
    let details = one.details.as_ref().map(serde_json::to_value).transpose().context("writing a ceremony")?;
    sqlx::query(
        "INSERT INTO ceremony (id, delegation_id, client_id, fingerprint, scopes, audiences, authorization_details,
                               capability, requested_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(one.id)
    .bind(&one.delegation_id)
    .bind(&one.client_id)
    .bind(one.fingerprint.as_slice())
    .bind(one.scopes.iter().cloned().collect::<Vec<_>>())
    .bind(one.audiences.iter().cloned().collect::<Vec<_>>())
    .bind(details)
    .bind(&one.capability)
    .bind(one.requested_at)
    .bind(one.expires_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// The confirmation of this matter that is neither used nor expired: approved ones first, then the newest.
pub async fn open(
    connection: &mut PgConnection,
    delegation_id: &str,
    client_id: &str,
    fingerprint: &[u8; 32],
    now: OffsetDateTime,
) -> Result<Option<Ceremony>, Fault> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT * FROM ceremony
         WHERE delegation_id = $1 AND client_id = $2 AND fingerprint = $3 AND used_at IS NULL AND expires_at > $4
         ORDER BY approved_at IS NOT NULL DESC, requested_at DESC, id LIMIT 1",
    )
    .bind(delegation_id)
    .bind(client_id)
    .bind(fingerprint.as_slice())
    .bind(now)
    .fetch_optional(connection)
    .await?;
    row.map(Ceremony::try_from).transpose()
}

pub async fn find(
    connection: &mut PgConnection,
    delegation_id: &str,
    id: Uuid,
) -> Result<Option<Ceremony>, Fault> {
    let row: Option<Row> = sqlx::query_as("SELECT * FROM ceremony WHERE delegation_id = $1 AND id = $2")
        .bind(delegation_id)
        .bind(id)
        .fetch_optional(connection)
        .await?;
    row.map(Ceremony::try_from).transpose()
}

/// The confirmations with these ids.
pub async fn find_all(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Ceremony>, Fault> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT * FROM ceremony WHERE id = ANY ($1)").bind(ids).fetch_all(connection).await?;
    rows.into_iter().map(Ceremony::try_from).collect()
}

/// A confirmation, locked until the transaction ends.
pub async fn find_for_update(
    connection: &mut PgConnection,
    delegation_id: &str,
    id: Uuid,
) -> Result<Option<Ceremony>, Fault> {
    let row: Option<Row> =
        sqlx::query_as("SELECT * FROM ceremony WHERE delegation_id = $1 AND id = $2 FOR NO KEY UPDATE")
            .bind(delegation_id)
            .bind(id)
            .fetch_optional(connection)
            .await?;
    row.map(Ceremony::try_from).transpose()
}

/// The delegation whose delegator decides the confirmation.
pub async fn delegation_of(connection: &mut PgConnection, id: Uuid) -> Result<Option<String>, Fault> {
    let found = sqlx::query_scalar("SELECT delegation_id FROM ceremony WHERE id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await?;
    Ok(found)
}

/// The place of a confirmation in the order of their requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub requested_at: OffsetDateTime,
    pub id: Uuid,
}

/// Confirmations of a delegation, newest first, after a position; at most `most`.
pub async fn list(
    connection: &mut PgConnection,
    delegation_id: &str,
    after: Option<&Position>,
    most: i64,
) -> Result<Vec<Ceremony>, Fault> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT * FROM ceremony
         WHERE delegation_id = $1 AND ($3::timestamptz IS NULL OR (requested_at, id) < ($3, $4))
         ORDER BY requested_at DESC, id DESC LIMIT $2",
    )
    .bind(delegation_id)
    .bind(most)
    .bind(after.map(|position| position.requested_at))
    .bind(after.map(|position| position.id))
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Ceremony::try_from).collect()
}

/// Waits for its turn to request confirmations at these delegations, and reads the open ones. The turn lasts until
/// the transaction ends. Turns are taken in the order of their keys, and before any other lock except the authority
/// lock.
pub async fn lock_open(
    connection: &mut PgConnection,
    delegations: &[&str],
    now: OffsetDateTime,
) -> Result<Vec<Open>, Fault> {
    sqlx::query(
        "SELECT pg_advisory_xact_lock($2, key)
         FROM (SELECT DISTINCT hashtext(id) AS key FROM unnest($1::text[]) AS input (id) ORDER BY key) keys",
    )
    .bind(delegations)
    .bind(KeyedLock::Confirmations.number())
    .execute(&mut *connection)
    .await?;
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT * FROM ceremony WHERE delegation_id = ANY ($1) AND used_at IS NULL AND expires_at > $2",
    )
    .bind(delegations)
    .bind(now)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|row| Ok(Ceremony::try_from(row)?.open(now))).collect()
}

/// Records the decision of a pending confirmation; `false` if it is no longer pending.
pub async fn mark_decided(
    connection: &mut PgConnection,
    decided: &Ceremony,
    now: OffsetDateTime,
) -> Result<bool, Fault> {
    let done = sqlx::query(
        "UPDATE ceremony SET approved_at = $2, denied_at = $3
         WHERE id = $1 AND approved_at IS NULL AND denied_at IS NULL AND used_at IS NULL AND expires_at > $4",
    )
    .bind(decided.id)
    .bind(decided.approved_at)
    .bind(decided.denied_at)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Marks confirmations as used. The ledger has locked the unused ones, so that each is used once.
pub async fn mark_used(
    connection: &mut PgConnection,
    ids: &[Uuid],
    now: OffsetDateTime,
) -> Result<(), Fault> {
    sqlx::query("UPDATE ceremony SET used_at = $2 WHERE id = ANY ($1)")
        .bind(ids)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}
