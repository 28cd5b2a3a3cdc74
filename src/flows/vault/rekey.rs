//! New keys for what is kept, while servers run: the master key wraps all keys anew, and a fresh data key seals all secrets
//! anew, some at a time. Whatever interrupts it, nothing is lost, and the next run goes on.

use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use crate::domain::audit::{Action, Event};
use crate::domain::data_key::{self, DataKeys, StoredDataKey};
use crate::domain::vault::resealing::{self, Kept};
use crate::flows::keys;
use crate::flows::work::Work;
use crate::platform::fault::Fault;

/// So many secrets in one transaction.
const BATCH: i64 = 100;

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rekeyed {
    /// Keys that the master key has wrapped anew.
    pub wrapped: usize,
    /// The data key that seals now.
    pub data_key: String,
    /// Whether a run before had begun with it.
    pub resumed: bool,
    /// Secrets that were sealed anew.
    pub sealed: usize,
}

/// Does it all; `report` hears how many secrets were sealed anew, and how many are left.
pub async fn rekey(
    pool: &PgPool,
    keys: &DataKeys,
    now: OffsetDateTime,
    mut report: impl FnMut(usize, i64),
) -> Result<Rekeyed, Fault> {
    keys::ensure_data_key(pool, keys.master(), now).await?;
    let wrapped = keys::wrap_anew(pool, keys.master(), now).await?;
    let mut connection = pool.acquire().await?;
    let left = resealing::left(&mut connection).await?;
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
            // Rows that others hold at the moment.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        report(done.sealed, left);
    }
}

async fn active(pool: &PgPool) -> Result<String, Fault> {
    let mut work = pool.begin().await?;
    Ok(data_key::store::lock_active(&mut work).await?.id)
}

async fn begin(pool: &PgPool, keys: &DataKeys, now: OffsetDateTime) -> Result<String, Fault> {
    let mut work = Work::alone(pool).await?;
    let made = StoredDataKey::generate(keys.master(), now)?;
    data_key::store::put_active(work.connection(), &made).await?;
    work.commit(&[event(&made.id, json!({"change": "created"}), now)]).await?;
    Ok(made.id)
}

/// Some of what is sealed under keys that are retired; gives how many, and how many are left.
async fn some(pool: &PgPool, keys: &DataKeys, now: OffsetDateTime) -> Result<(usize, i64), Fault> {
    let mut work = Work::begin(pool).await?;
    let found = resealing::lock_some(work.connection(), BATCH).await?;
    let mut key = String::new();
    for Kept { place, row, sealed } in &found {
        let secret = keys.open(work.connection(), row, sealed).await?;
        let anew = keys.seal(work.connection(), row, &secret).await?;
        resealing::put(work.connection(), place, &anew).await?;
        key = anew.key;
    }
    let left = resealing::left(work.connection()).await?;
    if !found.is_empty() {
        let detail = json!({"change": "sealed anew", "secrets": found.len(), "left": left});
        work.commit(&[event(&key, detail, now)]).await?;
    }
    Ok((found.len(), left))
}

fn event(key: &str, detail: serde_json::Value, now: OffsetDateTime) -> Event {
    Event { detail: Some(detail), ..Event::of_operator(now, Action::VaultKeyChanged, key) }
}
