//! The newest checkpoints, with what witnesses have signed.

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use crate::platform::fault::Fault;

/// A checkpoint as it is stored.
#[derive(Debug, FromRow)]
pub struct StoredCheckpoint {
    /// Number of events that it covers.
    pub size: i64,
    pub made_at: OffsetDateTime,
    /// The signed note, with the lines of witnesses. Nothing of it is verified.
    pub note: String,
}

/// At most `most` checkpoints, the newest first.
pub async fn newest(connection: &mut PgConnection, most: u32) -> Result<Vec<StoredCheckpoint>, Fault> {
    let checkpoints = sqlx::query_as(
        "SELECT size, made_at, note || coalesce((
             SELECT string_agg(line, '' ORDER BY at, key) FROM audit_cosignature
             WHERE audit_cosignature.size = audit_checkpoint.size
         ), '') AS note
         FROM audit_checkpoint ORDER BY size DESC LIMIT $1",
    )
    .bind(i64::from(most))
    .fetch_all(connection)
    .await?;
    Ok(checkpoints)
}
