//! Lists of standing grants, newest first. Reads only.

use std::collections::HashMap;

use sqlx::{PgConnection, Postgres, QueryBuilder};
use time::OffsetDateTime;

use super::StandingGrantState;
use crate::domain::principal::Principal;
use crate::platform::clock;
use crate::platform::fault::Fault;

/// All set members must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StandingGrantFilter {
    pub grantor: Option<Principal>,
    pub client_id: Option<String>,
    pub state: Option<StandingGrantState>,
    /// The end of the lifetime is before this time.
    pub ends_before: Option<OffsetDateTime>,
}

/// Position in a list: time of creation and id of the last row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantCursor {
    pub created_at: OffsetDateTime,
    pub id: String,
}

impl GrantCursor {
    pub fn parse(text: &str) -> Option<Self> {
        let (micros, id) = text.split_once('.')?;
        Some(Self { created_at: clock::from_micros(micros.parse().ok()?), id: id.to_owned() })
    }

    pub fn to_text(&self) -> String {
        format!("{}.{}", clock::micros(self.created_at), self.id)
    }
}

#[derive(Debug, Clone, Copy)]
pub struct GrantQuery<'a> {
    pub filter: &'a StandingGrantFilter,
    pub after: Option<&'a GrantCursor>,
    pub limit: i64,
    pub now: OffsetDateTime,
}

pub async fn page(connection: &mut PgConnection, query: GrantQuery<'_>) -> Result<Vec<GrantCursor>, Fault> {
    let GrantQuery { filter, after, limit, now } = query;
    let mut sql =
        QueryBuilder::<Postgres>::new("SELECT s.created_at, s.id FROM standing_grant_status s WHERE true");
    if let Some(who) = &filter.grantor {
        sql.push(" AND s.grantor_iss = ").push_bind(who.iss.clone());
        sql.push(" AND s.grantor_sub = ").push_bind(who.sub.clone());
    }
    if let Some(client_id) = &filter.client_id {
        sql.push(" AND s.client_id = ").push_bind(client_id.clone());
    }
    if let Some(state) = filter.state {
        sql.push(" AND standing_grant_state(").push_bind(now);
        sql.push(", s.expires_at, s.revoked_at, s.principal_revoked_at, s.suspended_at) = ")
            .push_bind(state.name());
    }
    if let Some(time) = filter.ends_before {
        sql.push(" AND s.expires_at < ").push_bind(time);
    }
    if let Some(after) = after {
        sql.push(" AND (s.created_at, s.id) < (").push_bind(after.created_at);
        sql.push(", ").push_bind(after.id.clone()).push(")");
    }
    sql.push(" ORDER BY s.created_at DESC, s.id DESC LIMIT ").push_bind(limit);
    let rows: Vec<(OffsetDateTime, String)> = sql.build_query_as().fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(created_at, id)| GrantCursor { created_at, id }).collect())
}

/// A row of a list as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantNow {
    pub id: String,
    pub client_id: String,
    pub state: StandingGrantState,
}

/// The current states of these standing grants, of one grantor or of all.
pub async fn states(
    connection: &mut PgConnection,
    ids: &[String],
    grantor: Option<&Principal>,
    now: OffsetDateTime,
) -> Result<Vec<GrantNow>, Fault> {
    let rows: Vec<(String, String, StandingGrantState)> = sqlx::query_as(
        "SELECT id, client_id, standing_grant_state($2, expires_at, revoked_at, principal_revoked_at, suspended_at)
         FROM standing_grant_status
         WHERE id = ANY ($1) AND ($3::text IS NULL OR (grantor_iss = $3 AND grantor_sub = $4)) ORDER BY id",
    )
    .bind(ids)
    .bind(now)
    .bind(grantor.map(|who| &who.iss))
    .bind(grantor.map(|who| &who.sub))
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(id, client_id, state)| GrantNow { id, client_id, state }).collect())
}

/// When a request last became active under each of these standing grants; those without a request are left out.
pub async fn last_uses(
    connection: &mut PgConnection,
    ids: &[String],
) -> Result<HashMap<String, OffsetDateTime>, Fault> {
    let rows: Vec<(String, OffsetDateTime)> = sqlx::query_as(
        "SELECT input.id, used.requested_at FROM unnest($1::text[]) AS input (id)
         CROSS JOIN LATERAL (
             SELECT requested_at FROM delegation WHERE standing_grant_id = input.id
             ORDER BY requested_at DESC LIMIT 1
         ) used",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}
