//! Sessions that wait for the locks of a test.

use sqlx::{Executor as _, PgConnection};

/// Waits until another session waits for a lock of this transaction; returns whether that session has changed or locked
/// a row.
pub async fn waiting(sql: &mut PgConnection) -> bool {
    loop {
        let found: Option<bool> = sqlx::query_scalar(
            "SELECT backend_xid IS NOT NULL FROM pg_stat_activity
             WHERE datname = current_database() AND pg_backend_pid() = ANY (pg_blocking_pids(pid))",
        )
        .fetch_optional(&mut *sql)
        .await
        .unwrap();
        if let Some(found) = found {
            return found;
        }
        // The statistics of a transaction are read once.
        sql.execute("SELECT pg_stat_clear_snapshot()").await.unwrap();
        tokio::task::yield_now().await;
    }
}
