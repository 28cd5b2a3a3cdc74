//! What the newest events say, read backwards from the end of the log.

use std::collections::BTreeSet;

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::platform::fault::Fault;

/// The time of the newest event.
pub async fn newest_time(connection: &mut PgConnection) -> Result<Option<OffsetDateTime>, Fault> {
    let sql = "SELECT (document::jsonb ->> 'at')::timestamptz FROM audit_event ORDER BY seq DESC LIMIT 1";
    Ok(sqlx::query_scalar(sql).fetch_optional(connection).await?)
}

/// Ids of the delegations that events since a time are about, except their uses. Reads the log backwards.
pub async fn delegations_since(
    connection: &mut PgConnection,
    since: OffsetDateTime,
) -> Result<Vec<String>, Fault> {
    const PAGE: i64 = 10_000;
    let mut ids = BTreeSet::new();
    let mut before = i64::MAX;
    loop {
        let page: Vec<(i64, OffsetDateTime, Option<String>)> = sqlx::query_as(
            "SELECT seq, (d ->> 'at')::timestamptz,
                    CASE WHEN d ->> 'action' LIKE 'delegation.%' AND d ->> 'action' <> 'delegation.step' THEN d ->> 'delegation_id' END
             FROM (SELECT seq, document::jsonb AS d FROM audit_event WHERE seq < $1 ORDER BY seq DESC LIMIT $2) e
             ORDER BY seq DESC",
        )
        .bind(before)
        .bind(PAGE)
        .fetch_all(&mut *connection)
        .await?;
        let Some((last, oldest, _)) = page.last().cloned() else { break };
        ids.extend(page.into_iter().filter(|(_, at, _)| *at >= since).filter_map(|(_, _, id)| id));
        before = last;
        if oldest < since {
            break;
        }
    }
    Ok(ids.into_iter().collect())
}
