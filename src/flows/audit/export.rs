//! The log as a file that verifies offline.

use futures_util::TryStreamExt as _;
use sqlx::PgConnection;

use super::{Voucher, published_key};
use crate::domain::audit::store;
use crate::platform::fault::{During, Fault};

/// Writes the log as JSON Lines, one document a line, and at last the checkpoint over them with its key.
pub async fn export(
    connection: &mut PgConnection,
    note: &str,
    issuer: &str,
    out: &mut (dyn std::io::Write + Send),
) -> Result<u64, Fault> {
    sqlx::query("SET statement_timeout = 0").execute(&mut *connection).await?;
    let key = published_key(connection, issuer).await?;
    let size = note.lines().nth(1).and_then(|size| size.parse().ok());
    let size = size.ok_or_else(|| Fault::new("a checkpoint without a size"))?;
    let mut rows = Box::pin(store::documents(connection, 0, size));
    while let Some((_, document)) = rows.try_next().await? {
        writeln!(out, "{document}").during("writing the export")?;
    }
    let voucher = Voucher { checkpoint: note.to_owned(), key };
    let line = serde_json::to_string(&voucher).during("writing the export")?;
    writeln!(out, "{line}").and_then(|()| out.flush()).during("writing the export")?;
    Ok(size)
}
