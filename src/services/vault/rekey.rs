//! Rekeys stored secrets while servers run: the master key rewraps all keys, and a new data key reseals all secrets
//! in batches. An interrupted run loses nothing; the next run resumes.

use serde::Serialize;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use crate::domain::audit::detail::SealingChange;
use crate::domain::audit::{Actor, Event, EventKind};
use crate::domain::data_key::{self, DataKeys, StoredDataKey};
use crate::domain::vault::rekey::{self as sealed_rows, SealedRow};
use crate::platform::db;
use crate::platform::fault::Fault;
use crate::services::keys;
use crate::services::transaction::AuditedTransaction;

/// Number of secrets per transaction.
const BATCH: i64 = 100;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rekeyed {
    /// Number of keys rewrapped by the master key.
    pub wrapped: usize,
    /// Id of the active data key.
    pub data_key: String,
    /// Whether the run resumed an earlier one.
    pub resumed: bool,
    /// Number of resealed secrets.
    pub sealed: usize,
}

/// Rewraps and reseals everything. `report` receives the number of resealed secrets and of remaining ones.
pub async fn rekey(
    pool: &PgPool,
    keys: &DataKeys,
    now: OffsetDateTime,
    mut report: impl FnMut(usize, i64),
) -> Result<Rekeyed, Fault> {
    keys::ensure_data_key(pool, keys.master(), now).await?;
    let wrapped = keys::rewrap(pool, keys.master(), now).await?;
    let mut connection = pool.acquire().await?;
    let left = sealed_rows::left(&mut connection).await?;
    drop(connection);
    let mut done = Rekeyed { wrapped, resumed: left > 0, ..Rekeyed::default() };
    done.data_key = if done.resumed { active(pool).await? } else { begin(pool, keys, now).await? };
    loop {
        let (sealed, left) = some(pool, keys, now).await?;
        done.sealed += sealed;
        if left == 0 {
            return Ok(done);
        }
        if sealed == 0 {
            // The remaining rows are locked by other transactions.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        report(done.sealed, left);
    }
}

async fn active(pool: &PgPool) -> Result<String, Fault> {
    let mut work = db::begin(pool, "BEGIN").await?;
    Ok(data_key::store::lock_active(&mut work).await?.id)
}

async fn begin(pool: &PgPool, keys: &DataKeys, now: OffsetDateTime) -> Result<String, Fault> {
    let mut work = AuditedTransaction::begin_serialized(pool).await?;
    let made = StoredDataKey::generate(keys.master(), now)?;
    data_key::store::put_active(work.connection(), &made).await?;
    work.commit(&[event(&made.id, SealingChange::Created, now)]).await?;
    Ok(made.id)
}

/// Reseals a batch of secrets under retired keys; returns the numbers of resealed and remaining secrets.
async fn some(pool: &PgPool, keys: &DataKeys, now: OffsetDateTime) -> Result<(usize, i64), Fault> {
    let mut work = AuditedTransaction::begin(pool).await?;
    let found = sealed_rows::lock_some(work.connection(), BATCH).await?;
    let mut key = String::new();
    for SealedRow { place, row, sealed } in &found {
        let secret = keys.open(work.connection(), row, sealed).await?;
        let resealed = keys.seal(work.connection(), row, &secret).await?;
        sealed_rows::put(work.connection(), place, &resealed).await?;
        key = resealed.key;
    }
    let left = sealed_rows::left(work.connection()).await?;
    if !found.is_empty() {
        let detail = SealingChange::Resealed {
            secrets: u64::try_from(found.len()).unwrap_or(u64::MAX),
            left: u64::try_from(left).unwrap_or_default(),
        };
        work.commit(&[event(&key, detail, now)]).await?;
    }
    Ok((found.len(), left))
}

fn event(key: &str, detail: SealingChange, now: OffsetDateTime) -> Event {
    Event {
        target: Some(key.to_owned()),
        ..Event::new(now, EventKind::VaultKeyRotated(detail), Actor::Operator)
    }
}
