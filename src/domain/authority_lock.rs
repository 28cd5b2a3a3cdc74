//! The gate in front of everything that authority rests on. The ledger's batches and all additions share it from their
//! beginning to their commit; whoever ends authority closes it. So what is read behind the gate holds until the commit,
//! and nothing is added below what has been ended. The lock manager's queue is fair: neither side starves the other.

use sqlx::PgConnection;

use crate::platform::fault::Fault;

/// Begins a transaction that shares the gate: in one message, and before its first snapshot is taken.
pub const BEGIN_SHARED: &str = "BEGIN; SELECT pg_advisory_xact_lock_shared(7223459)";

/// Begins a transaction that closes the gate.
pub const BEGIN_EXCLUSIVE: &str = "BEGIN; SELECT pg_advisory_xact_lock(7223459)";

/// Closes the gate in a transaction that does not hold it yet; it opens when the transaction ends.
pub async fn upgrade(connection: &mut PgConnection) -> Result<(), Fault> {
    sqlx::query("SELECT pg_advisory_xact_lock(7223459)").execute(connection).await?;
    Ok(())
}

/// Says that something may have ended tokens: what was computed before does not hold any more.
pub async fn raise_epoch(connection: &mut PgConnection) -> Result<(), Fault> {
    sqlx::query("UPDATE revocation_epoch SET number = number + 1").execute(connection).await?;
    Ok(())
}

/// The present epoch.
pub async fn revocation_epoch(connection: &mut PgConnection) -> Result<i64, Fault> {
    Ok(sqlx::query_scalar("SELECT number FROM revocation_epoch").fetch_one(connection).await?)
}
