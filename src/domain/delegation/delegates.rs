//! The delegates of active delegations: searched, and counted.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::domain::principal::Principal;
use crate::platform::fault::Fault;

/// A search for delegates of active delegations.
#[derive(Debug, Clone, Copy)]
pub struct AgentSearch<'a> {
    /// Only delegations rooted at this user.
    pub root: Option<&'a Principal>,
    /// Beginning of the id.
    pub prefix: &'a str,
    /// Only ids after this one.
    pub after: &'a str,
    pub limit: i64,
    pub now: OffsetDateTime,
}

/// Delegates of active delegations, by id.
pub async fn agents(connection: &mut PgConnection, search: AgentSearch<'_>) -> Result<Vec<String>, Fault> {
    let AgentSearch { root, prefix, after, limit, now } = search;
    let ids = sqlx::query_scalar(
        "SELECT k.client_id FROM client k
         WHERE k.client_id > $1 AND starts_with(k.client_id, $6) AND EXISTS (
             SELECT FROM delegation d
             WHERE d.delegate = k.client_id AND d.revoked_at IS NULL AND d.expires_at > $2
               AND ($3::text IS NULL OR (d.root_iss = $3 AND d.root_sub = $4))
               AND delegation_state(d.path, $2) = 'active')
         ORDER BY k.client_id LIMIT $5",
    )
    .bind(after)
    .bind(now)
    .bind(root.map(|root| &root.iss))
    .bind(root.map(|root| &root.sub))
    .bind(limit)
    .bind(prefix)
    .fetch_all(connection)
    .await?;
    Ok(ids)
}

/// A count of active delegations.
#[derive(Debug, Clone, Copy)]
pub struct DelegateCount<'a> {
    pub delegates: &'a [String],
    /// Only delegations rooted at this user.
    pub root: Option<&'a Principal>,
    /// Where counting stops.
    pub most: usize,
    pub now: OffsetDateTime,
}

/// The number of active delegations to each delegate.
pub async fn count_active(
    connection: &mut PgConnection,
    counting: DelegateCount<'_>,
) -> Result<BTreeMap<String, usize>, Fault> {
    let DelegateCount { delegates, root, most, now } = counting;
    let counts: Vec<(String, i64)> = sqlx::query_as(
        "SELECT wanted.id, (SELECT count(*) FROM (
             SELECT FROM delegation d
             WHERE d.delegate = wanted.id AND d.revoked_at IS NULL AND d.expires_at > $2
               AND ($3::text IS NULL OR (d.root_iss = $3 AND d.root_sub = $4))
               AND delegation_state(d.path, $2) = 'active' LIMIT $5) found)
         FROM unnest($1::text[]) AS wanted (id)",
    )
    .bind(delegates)
    .bind(now)
    .bind(root.map(|root| &root.iss))
    .bind(root.map(|root| &root.sub))
    .bind(i64::try_from(most).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    Ok(counts.into_iter().map(|(id, count)| (id, usize::try_from(count).unwrap_or(most))).collect())
}
