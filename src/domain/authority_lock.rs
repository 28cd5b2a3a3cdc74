//! The authority lock: all transactions that add or use authority share it from their beginning to their commit;
//! transactions that revoke authority take it exclusively. So data read under the lock stays valid until the commit,
//! and no row is added below a revoked one. The queue of the lock manager is fair: neither side starves the other.

use sqlx::PgConnection;

use crate::platform::fault::Fault;
use crate::platform::locks::Lock;

/// Begins a transaction with the shared lock: in one message, and before the first snapshot is taken.
pub const BEGIN_SHARED: &str = "BEGIN; SELECT pg_advisory_xact_lock_shared(7223459)";

/// Begins a transaction with the exclusive lock.
pub const BEGIN_EXCLUSIVE: &str = "BEGIN; SELECT pg_advisory_xact_lock(7223459)";

/// Takes the exclusive lock in a transaction that does not have it yet, until the transaction ends.
pub async fn upgrade(connection: &mut PgConnection) -> Result<(), Fault> {
    let lock = Lock::Authority.number();
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(lock).execute(connection).await?;
    Ok(())
}

/// Raises the epoch: tokens may have been revoked, so earlier computed status is outdated.
pub async fn raise_epoch(connection: &mut PgConnection) -> Result<(), Fault> {
    sqlx::query("UPDATE revocation_epoch SET number = number + 1").execute(connection).await?;
    Ok(())
}

/// Revokes all tokens that were recorded so far, and everything below this index of the status lists. The number jumps, so
/// that no server takes a list that it made before for a present one.
pub async fn mark_restored(connection: &mut PgConnection, status_index: i64) -> Result<i64, Fault> {
    Ok(sqlx::query_scalar(
        "UPDATE revocation_epoch SET restored_epoch = number, restored_status_index = $1, number = number + 1000000
         RETURNING restored_epoch",
    )
    .bind(status_index)
    .fetch_one(connection)
    .await?)
}

/// The epoch, and the index of the status lists below which all are invalid.
pub async fn epoch_and_restored_index(connection: &mut PgConnection) -> Result<(i64, Option<i64>), Fault> {
    Ok(sqlx::query_as("SELECT number, restored_status_index FROM revocation_epoch")
        .fetch_one(connection)
        .await?)
}

pub async fn revocation_epoch(connection: &mut PgConnection) -> Result<i64, Fault> {
    Ok(sqlx::query_scalar("SELECT number FROM revocation_epoch").fetch_one(connection).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_begin_with_the_authority_lock() {
        let lock = format!("({})", Lock::Authority.number());
        assert!(BEGIN_SHARED.ends_with(&lock) && BEGIN_EXCLUSIVE.ends_with(&lock));
    }
}
