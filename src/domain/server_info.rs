//! The server that was started last on a database. It says under which issuer everything in the database was made.

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::platform::fault::Fault;

/// A server, as it has registered itself at its start.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ServerInfo {
    /// Its issuer identifier.
    pub issuer: String,
    /// The address at which it listens.
    pub listen: String,
    /// Its process id on its machine.
    pub pid: i64,
    /// When it began to serve.
    pub started_at: OffsetDateTime,
}

/// Reads the server that was started last; `None` where none ever was.
pub async fn find(connection: &mut PgConnection) -> Result<Option<ServerInfo>, Fault> {
    let found = sqlx::query_as("SELECT issuer, listen, pid, started_at FROM server_info");
    Ok(found.fetch_optional(connection).await?)
}

/// Writes the server that was started last.
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
