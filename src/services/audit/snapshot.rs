//! One snapshot of the log, read by several connections.

use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use tokio::sync::{Mutex, MutexGuard};

use crate::platform::fault::Fault;

/// Read-only transactions with the same snapshot. While they are open, no partition can be dropped.
pub(super) struct LogSnapshot<'a> {
    readers: Vec<Mutex<&'a mut PgConnection>>,
}

impl<'a> LogSnapshot<'a> {
    /// Begins a transaction on each connection.
    pub(super) async fn begin(
        connection: &'a mut PgConnection,
        others: &'a mut [PgConnection],
    ) -> Result<Self, Fault> {
        // The lock comes before the snapshot, which the first query takes: the partitions of the snapshot stay.
        for statement in
            ["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "LOCK TABLE audit_event IN ACCESS SHARE MODE"]
        {
            connection.execute(statement).await?;
        }
        let snapshot: String =
            sqlx::query_scalar("SELECT pg_export_snapshot()").fetch_one(&mut *connection).await?;
        settle(connection).await?;
        for other in others.iter_mut() {
            other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            // Safe: PostgreSQL made the text of the snapshot, and it has no quotes.
            other.execute(AssertSqlSafe(format!("SET TRANSACTION SNAPSHOT '{snapshot}'"))).await?;
            settle(other).await?;
        }
        let readers = std::iter::once(connection).chain(others).map(Mutex::new).collect();
        Ok(Self { readers })
    }

    /// Number of connections.
    pub(super) fn connections(&self) -> usize {
        self.readers.len()
    }

    /// The connection for the n-th part of some work, once it is free.
    pub(super) async fn reader(&self, n: usize) -> Result<MutexGuard<'_, &'a mut PgConnection>, Fault> {
        let reader = n.checked_rem(self.readers.len()).and_then(|place| self.readers.get(place));
        let reader = reader.ok_or_else(|| Fault::new("a snapshot without a connection"))?;
        Ok(reader.lock().await)
    }

    /// The connection that took the snapshot, once it is free.
    pub(super) async fn first(&self) -> Result<MutexGuard<'_, &'a mut PgConnection>, Fault> {
        self.reader(0).await
    }

    /// Ends the transactions.
    pub(super) async fn end(self) -> Result<(), Fault> {
        for reader in self.readers {
            reader.into_inner().execute("ROLLBACK").await?;
        }
        Ok(())
    }
}

/// Settings for a long log: no limit of time, plans that read whole tables, and events in the order of their index: sorted,
/// a chunk of them exceeds the memory of a sort, and is written to disk.
async fn settle(connection: &mut PgConnection) -> Result<(), Fault> {
    for statement in [
        "SET LOCAL statement_timeout = 0",
        "SET LOCAL idle_in_transaction_session_timeout = 0",
        "SET LOCAL enable_seqscan = on",
        "SET LOCAL enable_bitmapscan = off",
        "SET LOCAL enable_sort = off",
    ] {
        connection.execute(statement).await?;
    }
    Ok(())
}
