//! The server that was started last on a database: its issuer is the one under which all data was created.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::platform::fault::Fault;

/// A server, as registered at its start.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ServerInfo {
    pub issuer: String,
    /// The address on which the server listens.
    pub listen: String,
    /// Process id on the machine of the server.
    pub pid: i64,
    pub started_at: OffsetDateTime,
}

/// Reads the server that was started last; `None` if no server was ever started.
pub async fn find(connection: &mut PgConnection) -> Result<Option<ServerInfo>, Fault> {
    let found = sqlx::query_as("SELECT issuer, listen, pid, started_at FROM server_info");
    Ok(found.fetch_optional(connection).await?)
}

pub async fn put(connection: &mut PgConnection, info: &ServerInfo) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO server_info (issuer, listen, pid, started_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (one) DO UPDATE SET issuer = excluded.issuer, listen = excluded.listen, pid = excluded.pid,
             started_at = excluded.started_at",
    )
    .bind(&info.issuer)
    .bind(&info.listen)
    .bind(info.pid)
    .bind(info.started_at)
    .execute(connection)
    .await?;
    Ok(())
}
