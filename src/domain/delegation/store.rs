//! Delegations in PostgreSQL.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, FromRow, PgConnection};
use time::OffsetDateTime;

use super::{AgentDescription, Delegation, DelegationLimits, DelegationPath, DelegationRecord, Provenance};
use crate::domain::limit::{Limit, read_number};
use crate::domain::principal::Principal;
use crate::domain::row_mac::RowMac;
use crate::platform::fault::Fault;
use actchain_protocol::authorization_details::Details;

#[derive(FromRow)]
pub(super) struct DelegationRow {
    id: String,
    path: Vec<String>,
    parent: Option<String>,
    root_iss: String,
    root_sub: String,
    delegator_iss: String,
    delegator_sub: String,
    delegate: String,
    scopes: Option<Vec<String>>,
    audiences: Option<Vec<String>>,
    authorization_details: Option<Value>,
    capability_ceiling: Option<String>,
    ceremony_required_for: Vec<String>,
    max_depth: Option<i32>,
    offline_access: bool,
    max_uses: Option<i64>,
    origin: Provenance,
    requested_at: OffsetDateTime,
    requested_by_iss: Option<String>,
    requested_by_sub: Option<String>,
    requested_ttl: Option<i32>,
    reason: Option<String>,
    agent: Option<Json<AgentDescription>>,
    pending_jwk: Option<Value>,
    suspended_at: Option<OffsetDateTime>,
    standing_grant_suspended_at: Option<OffsetDateTime>,
    standing_grant_id: Option<String>,
    principal_revoked_at: Option<OffsetDateTime>,
    activated_at: Option<OffsetDateTime>,
    expires_at: OffsetDateTime,
    revoked_at: Option<OffsetDateTime>,
    revoke_reason: Option<String>,
    uses: i64,
    used_up_at: Option<OffsetDateTime>,
    exhausted_at: Option<OffsetDateTime>,
    mac: Option<Vec<u8>>,
}

impl DelegationRow {
    /// # Errors
    /// A fault for a row whose MAC does not fit its content.
    pub(super) fn check(mut self, rows: &RowMac) -> Result<Delegation, Fault> {
        let mac = self.mac.take();
        rows.check(Delegation::try_from(self)?, mac.as_deref())
    }
}

/// The stored row with derived columns. The MAC is joined because the view does not have it.
const DELEGATION: &str = "SELECT d.*, m.mac FROM delegation_status d JOIN delegation m ON m.id = d.id";

impl TryFrom<DelegationRow> for Delegation {
    type Error = Fault;

    fn try_from(row: DelegationRow) -> Result<Self, Fault> {
        let details = match row.authorization_details {
            None => None,
            Some(value) => Some(Details::from_value(&value).ok_or_else(|| {
                Fault::new(format!("delegation {}: its authorization_details cannot be read", row.id))
            })?),
        };
        Ok(Self {
            id: row.id,
            path: row.path,
            parent: row.parent,
            root: Principal::new(row.root_iss, row.root_sub),
            delegator: Principal::new(row.delegator_iss, row.delegator_sub),
            delegate: row.delegate,
            terms: DelegationLimits {
                scopes: Limit::from_stored(row.scopes),
                audiences: Limit::from_stored(row.audiences),
                details,
                ceiling: row.capability_ceiling,
                ceremonies: row.ceremony_required_for.into_iter().collect(),
                max_depth: row.max_depth.map(read_number).transpose()?,
                offline_access: row.offline_access,
            },
            origin: row.origin,
            requested_at: row.requested_at,
            requested_by: row
                .requested_by_iss
                .zip(row.requested_by_sub)
                .map(|(iss, sub)| Principal::new(iss, sub)),
            facts: DelegationRecord {
                activated_at: row.activated_at,
                expires_at: row.expires_at,
                revoked_at: row.revoked_at,
                principal_revoked_at: row.principal_revoked_at,
                key_rotating: row.pending_jwk.is_some(),
                suspended_at: row.suspended_at,
                standing_grant_suspended_at: row.standing_grant_suspended_at,
                max_uses: row.max_uses,
                uses: row.uses,
                used_up_at: row.used_up_at,
                exhausted_at: row.exhausted_at,
            },
            requested_ttl: row.requested_ttl.map(read_number).transpose()?,
            reason: row.reason,
            agent: row.agent.map(|agent| agent.0),
            revoke_reason: row.revoke_reason,
            pending_jwk: row.pending_jwk,
            standing_grant_id: row.standing_grant_id,
        })
    }
}

pub async fn find(
    rows: &RowMac,
    connection: &mut PgConnection,
    id: &str,
) -> Result<Option<Delegation>, Fault> {
    let row: Option<DelegationRow> = sqlx::query_as(AssertSqlSafe(format!("{DELEGATION} WHERE d.id = $1")))
        .bind(id)
        .fetch_optional(connection)
        .await?;
    row.map(|row| row.check(rows)).transpose()
}

/// Times of the first and the last use of a delegation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UseTimes {
    pub first: Option<OffsetDateTime>,
    pub last: Option<OffsetDateTime>,
}

/// The times of uses of these delegations; those that were never used may be left out.
pub async fn use_times(
    connection: &mut PgConnection,
    ids: &[String],
) -> Result<HashMap<String, UseTimes>, Fault> {
    let rows: Vec<(String, Option<OffsetDateTime>, Option<OffsetDateTime>)> = sqlx::query_as(
        "SELECT delegation_id, first_used_at, last_used_at FROM delegation_usage WHERE delegation_id = ANY ($1)",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(id, first, last)| (id, UseTimes { first, last })).collect())
}

/// Locks the row of a delegation until the transaction ends.
pub async fn lock(connection: &mut PgConnection, id: &str) -> Result<(), Fault> {
    sqlx::query("SELECT FROM delegation WHERE id = $1 FOR NO KEY UPDATE")
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Delegations whose rows have no MAC, unchecked, at most `most`. Only for sealing rows for the first time.
pub async fn unsealed(connection: &mut PgConnection, most: i64) -> Result<Vec<Delegation>, Fault> {
    let read: Vec<DelegationRow> =
        sqlx::query_as(AssertSqlSafe(format!("{DELEGATION} WHERE m.mac IS NULL ORDER BY d.id LIMIT $1")))
            .bind(most)
            .fetch_all(connection)
            .await?;
    read.into_iter().map(Delegation::try_from).collect()
}

/// A delegation with its ancestors.
pub async fn path(
    rows: &RowMac,
    connection: &mut PgConnection,
    id: &str,
) -> Result<Option<DelegationPath>, Fault> {
    if !super::is_id(id) {
        return Ok(None);
    }
    let found = all_paths(rows, connection, &[id.to_owned()]).await?;
    Ok(found.into_iter().next())
}

/// Several delegations with their ancestors, in the order of `ids`; unknown ids are left out.
pub async fn all_paths(
    rows: &RowMac,
    connection: &mut PgConnection,
    ids: &[String],
) -> Result<Vec<DelegationPath>, Fault> {
    let read: Vec<DelegationRow> = sqlx::query_as(AssertSqlSafe(format!(
        "{DELEGATION} WHERE d.id = ANY (SELECT DISTINCT unnest(path) FROM delegation WHERE id = ANY ($1))"
    )))
    .bind(ids)
    .fetch_all(connection)
    .await?;
    let found = read.into_iter().map(|row| row.check(rows)).collect::<Result<Vec<_>, _>>()?;
    let by_id: HashMap<&str, &Delegation> = found.iter().map(|one| (one.id.as_str(), one)).collect();
    let there = ids.iter().filter_map(|id| by_id.get(id.as_str()));
    there.map(|leaf| with_ancestors(leaf, &by_id)).collect()
}

pub(super) fn with_ancestors(
    leaf: &Delegation,
    by_id: &HashMap<&str, &Delegation>,
) -> Result<DelegationPath, Fault> {
    let path = leaf.path.iter().map(|id| by_id.get(id.as_str()).map(|one| (*one).clone()));
    path.collect::<Option<Vec<_>>>()
        .map(DelegationPath)
        .ok_or_else(|| Fault::new(format!("delegation {} has an ancestor that is not there", leaf.id)))
}
