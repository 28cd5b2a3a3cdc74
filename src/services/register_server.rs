//! A server registers its issuer at startup, so that commands on the same database use it. The registration gives no
//! authority and is no event.

use sqlx::postgres::PgPool;

use crate::domain::server_info::{self, ServerInfo};
use crate::platform::fault::Fault;

/// Registers the server that was started last on this database.
pub async fn register_server(pool: &PgPool, info: &ServerInfo) -> Result<(), Fault> {
    let mut connection = pool.acquire().await?;
    let before = server_info::find(&mut connection).await?;
    if let Some(before) = before.filter(|before| before.issuer != info.issuer) {
        tracing::warn!(
            before = before.issuer,
            now = info.issuer,
            "the issuer has changed: tokens and delegations of the issuer before are not accepted under this one"
        );
    }
    server_info::put(&mut connection, info).await
}
