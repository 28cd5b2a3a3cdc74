//! The newest checkpoints, as people see them.

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

use crate::platform::fault::Fault;

/// A checkpoint, and who cosigned it.
#[derive(Debug, FromRow)]
pub struct ListedCheckpoint {
    /// Number of events that it covers.
    pub size: i64,
    pub made_at: OffsetDateTime,
    /// Names of the witnesses whose cosignature is stored.
    pub cosigned_by: Vec<String>,
}

/// At most `most` checkpoints, the newest first.
pub async fn newest(connection: &mut PgConnection, most: u32) -> Result<Vec<ListedCheckpoint>, Fault> {
    let checkpoints = sqlx::query_as(
        "SELECT size, made_at, ARRAY(
             SELECT split_part(key, '+', 1) FROM audit_cosignature
             WHERE audit_cosignature.size = audit_checkpoint.size ORDER BY at, key
         ) AS cosigned_by
         FROM audit_checkpoint ORDER BY size DESC LIMIT $1",
    )
    .bind(i64::from(most))
    .fetch_all(connection)
    .await?;
    Ok(checkpoints)
}
