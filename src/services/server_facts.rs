//! What administrators see about the database of a running server, and about the server that was started last on it.

use super::request_context::RequestContext;
use crate::domain::refusal::Error;
use crate::domain::server_info::{self, ServerInfo};
use crate::platform::db::{self, Schema};

#[derive(Debug)]
pub struct ServerFacts {
    /// The version of PostgreSQL.
    pub postgresql: String,
    /// The last migration of this program.
    pub schema_version: i64,
    /// The migrations of the database, compared with those of this program.
    pub schema: Schema,
    pub started_last: Option<ServerInfo>,
}

/// # Errors
/// A refusal of callers that do not administer, or a fault.
pub async fn server_facts(ctx: &RequestContext<'_>) -> Result<ServerFacts, Error> {
    ctx.caller.require_administrator()?;
    let mut connection = ctx.pool.acquire().await?;
    Ok(ServerFacts {
        postgresql: db::server_version(&mut connection).await?,
        schema_version: db::own_version(),
        schema: db::schema(&mut connection).await?,
        started_last: server_info::find(&mut connection).await?,
    })
}
