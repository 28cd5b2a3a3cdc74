//! Standing grants in PostgreSQL.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::{AssertSqlSafe, FromRow, PgConnection};
use time::OffsetDateTime;

use super::coverage::MAX_BETWEEN;
use super::{GrantCreator, GrantFacts, GrantedLimits, KeySuspension, KeySuspicion, StandingGrant};
use crate::domain::limit::read_number;
use crate::domain::principal::Principal;
use crate::domain::row_mac::RowMac;
use crate::platform::fault::Fault;
use crate::platform::locks::KeyedLock;
use actchain_protocol::authorization_details::Details;

#[derive(FromRow)]
pub(super) struct StandingGrantRow {
    id: String,
    grantor_iss: String,
    grantor_sub: String,
    client_id: String,
    keys: Vec<String>,
    scopes: Vec<String>,
    audiences: Vec<String>,
    authorization_details: Option<Value>,
    capability_ceiling: Option<String>,
    max_ttl: i32,
    max_uses: Option<i64>,
    max_depth: Option<i32>,
    offline_access: bool,
    created_at: OffsetDateTime,
    created_by: GrantCreator,
    expires_at: OffsetDateTime,
    revoked_at: Option<OffsetDateTime>,
    principal_revoked_at: Option<OffsetDateTime>,
    suspended_at: Option<OffsetDateTime>,
    suspension_cause: Option<KeySuspicion>,
    seen_key: Option<String>,
    mac: Option<Vec<u8>>,
}

/// The stored row with derived columns. The MAC is joined because the view does not have it.
pub(super) const STANDING_GRANT: &str =
    "SELECT s.*, m.mac FROM standing_grant m JOIN standing_grant_status s ON s.id = m.id";

impl StandingGrantRow {
    /// # Errors
    /// A fault for a row whose MAC does not fit its content.
    pub(super) fn check(mut self, rows: &RowMac) -> Result<StandingGrant, Fault> {
        let mac = self.mac.take();
        rows.check(StandingGrant::try_from(self)?, mac.as_deref())
    }
}

impl TryFrom<StandingGrantRow> for StandingGrant {
    type Error = Fault;

    fn try_from(row: StandingGrantRow) -> Result<Self, Fault> {
        let details = match row.authorization_details {
            None => None,
            Some(value) => Some(Details::from_value(&value).ok_or_else(|| {
                Fault::new(format!("standing grant {}: its authorization_details cannot be read", row.id))
            })?),
        };
        let seen_key = row.seen_key;
        let suspension = row.suspended_at.zip(row.suspension_cause);
        Ok(Self {
            id: row.id,
            grantor: Principal::new(row.grantor_iss, row.grantor_sub),
            client_id: row.client_id,
            keys: row.keys.into_iter().collect(),
            limits: GrantedLimits {
                scopes: row.scopes.into_iter().collect(),
                audiences: row.audiences.into_iter().collect(),
                details,
                ceiling: row.capability_ceiling,
                max_ttl: read_number(row.max_ttl)?,
                max_uses: row.max_uses,
                max_depth: row.max_depth.map(read_number).transpose()?,
                offline_access: row.offline_access,
            },
            created_at: row.created_at,
            created_by: row.created_by,
            facts: GrantFacts {
                expires_at: row.expires_at,
                revoked_at: row.revoked_at,
                principal_revoked_at: row.principal_revoked_at,
                suspension: suspension.map(|(at, cause)| KeySuspension { at, cause, seen_key }),
            },
        })
    }
}

pub async fn find(
    rows: &RowMac,
    connection: &mut PgConnection,
    id: &str,
) -> Result<Option<StandingGrant>, Fault> {
    let row: Option<StandingGrantRow> =
        sqlx::query_as(AssertSqlSafe(format!("{STANDING_GRANT} WHERE m.id = $1")))
            .bind(id)
            .fetch_optional(connection)
            .await?;
    row.map(|row| row.check(rows)).transpose()
}

/// The standing grants with these ids, in this order; unknown ids are left out.
pub async fn find_all(
    rows: &RowMac,
    connection: &mut PgConnection,
    ids: &[String],
) -> Result<Vec<StandingGrant>, Fault> {
    let read: Vec<StandingGrantRow> = sqlx::query_as(AssertSqlSafe(format!(
        "{STANDING_GRANT} WHERE m.id = ANY ($1) ORDER BY array_position($1, m.id)"
    )))
    .bind(ids)
    .fetch_all(connection)
    .await?;
    read.into_iter().map(|row| row.check(rows)).collect()
}

/// Locks the row of a standing grant until the transaction ends.
pub async fn lock(connection: &mut PgConnection, id: &str) -> Result<(), Fault> {
    sqlx::query("SELECT FROM standing_grant WHERE id = $1 FOR NO KEY UPDATE")
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Waits for the turn to create a standing grant between a user and an agent, until the transaction ends: the limits are
/// counted before.
pub async fn lock_parties(connection: &mut PgConnection, parties: GrantParties<'_>) -> Result<(), Fault> {
    let GrantParties { grantor, client_id } = parties;
    sqlx::query("SELECT pg_advisory_xact_lock($4, hashtext(concat_ws(E'\n', $1::text, $2::text, $3::text)))")
        .bind(&grantor.iss)
        .bind(&grantor.sub)
        .bind(client_id)
        .bind(KeyedLock::StandingGrants.number())
        .execute(connection)
        .await?;
    Ok(())
}

/// A user and an agent.
#[derive(Debug, Clone, Copy)]
pub struct GrantParties<'a> {
    pub grantor: &'a Principal,
    pub client_id: &'a str,
}

/// Finds the rows by one range of the index `standing_grant_between`.
pub const BETWEEN_SQL: &str = "SELECT id FROM standing_grant
    WHERE grantor_iss = $1 AND grantor_sub = $2 AND client_id = $3 AND revoked_at IS NULL
      AND NOT coalesce(revocation_covers(greatest(
              (SELECT revocation_epoch FROM principal_revocation WHERE iss = $1 AND sub = $2),
              (SELECT cutoff_epoch FROM client WHERE client_id = $3)), created_epoch), false)
    ORDER BY expires_at DESC, id LIMIT $4";

/// The standing grants between a user and an agent that are revoked neither themselves nor with one of the two, those that end last first: at most the number
/// that can be active, and one that has expired. One range of an index, whatever the user has otherwise.
pub async fn between(
    rows: &RowMac,
    connection: &mut PgConnection,
    GrantParties { grantor, client_id }: GrantParties<'_>,
) -> Result<Vec<StandingGrant>, Fault> {
    let read: Vec<StandingGrantRow> = sqlx::query_as(AssertSqlSafe(format!(
        "{STANDING_GRANT} WHERE m.id = ANY (ARRAY({BETWEEN_SQL})) ORDER BY s.expires_at DESC, s.id"
    )))
    .bind(&grantor.iss)
    .bind(&grantor.sub)
    .bind(client_id)
    .bind(i64::try_from(MAX_BETWEEN + 1).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    read.into_iter().map(|row| row.check(rows)).collect()
}

/// The sets of keys of the standing grants between a user and an agent that end after `since` and are not revoked, without one
/// grant; at most `most`.
pub async fn key_sets(
    connection: &mut PgConnection,
    GrantParties { grantor, client_id }: GrantParties<'_>,
    without: Option<&str>,
    since: OffsetDateTime,
    most: usize,
) -> Result<BTreeSet<BTreeSet<String>>, Fault> {
    let found: Vec<Vec<String>> = sqlx::query_scalar(
        "SELECT DISTINCT keys FROM standing_grant
         WHERE grantor_iss = $1 AND grantor_sub = $2 AND client_id = $3 AND revoked_at IS NULL AND expires_at > $4
           AND id IS DISTINCT FROM $5 LIMIT $6",
    )
    .bind(&grantor.iss)
    .bind(&grantor.sub)
    .bind(client_id)
    .bind(since)
    .bind(without)
    .bind(i64::try_from(most).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().map(|keys| keys.into_iter().collect()).collect())
}

/// Ids of delegations that became active under a standing grant and have not ended by themselves, newest first.
pub async fn delegations_of(
    connection: &mut PgConnection,
    id: &str,
    most: i64,
    now: OffsetDateTime,
) -> Result<Vec<String>, Fault> {
    Ok(sqlx::query_scalar(
        "SELECT id FROM delegation WHERE standing_grant_id = $1 AND revoked_at IS NULL AND expires_at > $3
         ORDER BY requested_at DESC, id DESC LIMIT $2",
    )
    .bind(id)
    .bind(most)
    .bind(now)
    .fetch_all(connection)
    .await?)
}

/// Standing grants whose rows have no MAC, unchecked, at most `most`. Only for sealing rows for the first time.
pub async fn unsealed(connection: &mut PgConnection, most: i64) -> Result<Vec<StandingGrant>, Fault> {
    let read: Vec<StandingGrantRow> =
        sqlx::query_as(AssertSqlSafe(format!("{STANDING_GRANT} WHERE m.mac IS NULL ORDER BY m.id LIMIT $1")))
            .bind(most)
            .fetch_all(connection)
            .await?;
    read.into_iter().map(StandingGrant::try_from).collect()
}
