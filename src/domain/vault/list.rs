//! Pages of connections, in the order of their ids.

use sqlx::PgConnection;

use super::{Connection, ConnectionState, store};
use crate::domain::principal::Principal;
use crate::platform::fault::Fault;

#[derive(Debug, Clone, Default)]
pub struct ConnectionFilter {
    pub owner: Option<Principal>,
    pub provider: Option<String>,
    pub state: Option<ConnectionState>,
}

/// The connections after id `after`, by id.
pub async fn page(
    connection: &mut PgConnection,
    filter: &ConnectionFilter,
    after: &str,
    most: i64,
) -> Result<Vec<Connection>, Fault> {
    let rows: Vec<store::ConnectionRow> = sqlx::query_as(
        "SELECT * FROM connection
         WHERE id > $1 AND ($2::text IS NULL OR (owner_iss = $2 AND owner_sub = $3))
           AND ($4::text IS NULL OR provider = $4)
           AND ($5::text IS NULL OR $5 = CASE WHEN disconnected_at IS NOT NULL THEN 'disconnected'
                                              WHEN needs_reconnect_at IS NOT NULL THEN 'needs_reconnect' ELSE 'active' END)
         ORDER BY id LIMIT $6",
    )
    .bind(after)
    .bind(filter.owner.as_ref().map(|owner| &owner.iss))
    .bind(filter.owner.as_ref().map(|owner| &owner.sub))
    .bind(&filter.provider)
    .bind(filter.state.map(ConnectionState::name))
    .bind(most)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Connection::from).collect())
}

/// Ids of connections with their states; of one owner, if there is one.
pub async fn states(
    connection: &mut PgConnection,
    ids: &[String],
    owner: Option<&Principal>,
) -> Result<Vec<(String, ConnectionState)>, Fault> {
    let rows: Vec<store::ConnectionRow> = sqlx::query_as(
        "SELECT * FROM connection
         WHERE id = ANY ($1) AND ($2::text IS NULL OR (owner_iss = $2 AND owner_sub = $3)) ORDER BY id",
    )
    .bind(ids)
    .bind(owner.map(|owner| &owner.iss))
    .bind(owner.map(|owner| &owner.sub))
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Connection::from).map(|one| (one.id.clone(), one.state())).collect())
}
