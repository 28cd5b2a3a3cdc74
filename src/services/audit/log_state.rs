//! The state of the log for people: what vouches for it, where its events are, and how it compares with a kept checkpoint.

use std::sync::Arc;

use sqlx::PgConnection;

use super::checkpoint::log_keys;
use super::health::health;
use super::transparency;
use crate::app::App;
use crate::domain::audit::health::LogHealth;
use crate::domain::audit::log_checks::{self, KeptCheckpoint};
use crate::domain::audit::partitions::{self, Partition};
use crate::domain::audit::{index, store, tree};
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;
use actchain_protocol::merkle;
use actchain_protocol::signed_note;

/// What a person reads about the log.
#[derive(Debug)]
pub struct LogState {
    pub health: Arc<LogHealth>,
    /// The newest checkpoint, as a signed note.
    pub checkpoint: Option<String>,
    /// The key of each witness that has cosigned it.
    pub cosigned_by: Vec<String>,
    /// The keys that checkpoints are signed with.
    pub keys: String,
    pub indexed: u64,
    pub partitions: Vec<Partition>,
}

/// How the log compares with a checkpoint that a person kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptComparison {
    /// It is no checkpoint, or no key of this log has signed it.
    NotOurs,
    /// The log continues it.
    Continued { kept: u64, size: u64 },
    /// The log is shorter: events are missing.
    Truncated { kept: u64, size: u64 },
    /// The log of today does not begin with the kept one.
    Rewritten { kept: u64, size: u64 },
}

/// Requires a caller who may read the whole log.
pub fn require_reader(ctx: &RequestContext<'_>) -> Result<(), Refusal> {
    match ctx.caller {
        Caller::Auditor(_) => Ok(()),
        _ => ctx.caller.require_administrator(),
    }
}

pub async fn read(app: &App, ctx: &RequestContext<'_>) -> Result<LogState, Error> {
    require_reader(ctx)?;
    let health = health(app, ctx.now).await;
    let mut connection = ctx.pool.acquire().await.map_err(Fault::from)?;
    let newest = transparency::newest_checkpoint(&mut connection).await?;
    let cosigned_by = match &newest {
        None => Vec::new(),
        Some((size, _)) => {
            let lines = store::cosignatures(&mut connection, *size..=*size).await?;
            lines.into_iter().map(|(_, key, _)| key).collect()
        }
    };
    Ok(LogState {
        health,
        checkpoint: newest.map(|(_, note)| note),
        cosigned_by,
        keys: transparency::published_keys(&mut connection, ctx.issuer).await?,
        indexed: index::indexed(&mut connection).await?,
        partitions: partitions::list(&mut connection).await?,
    })
}

/// Compares the log with a checkpoint, which a person outside may have kept. That the log continues it is recorded: for
/// some days, this person vouches for the log.
pub async fn compare(app: &App, ctx: &RequestContext<'_>, note: &str) -> Result<KeptComparison, Error> {
    require_reader(ctx)?;
    let mut connection = ctx.pool.acquire().await.map_err(Fault::from)?;
    let found = compare_with(&mut connection, note).await?;
    if let KeptComparison::Continued { kept: size, .. } = found {
        let stored = log_checks::read::<KeptCheckpoint>(&mut connection, ctx.rows).await?;
        let check = KeptCheckpoint { compared_at: ctx.now, size };
        // If another server has recorded a comparison meanwhile, that one is as good.
        log_checks::replace(&mut connection, ctx.rows, &stored, &check).await?;
        *app.log_health.lock().await = None;
    }
    Ok(found)
}

async fn compare_with(connection: &mut PgConnection, note: &str) -> Result<KeptComparison, Fault> {
    let keys = log_keys(connection, note.lines().next().unwrap_or_default()).await?;
    let Some(kept) = signed_note::open(note, &keys) else { return Ok(KeptComparison::NotOurs) };
    let head = store::head(connection).await?;
    let (before, size) = (kept.size, head.size());
    if before > size {
        return Ok(KeptComparison::Truncated { kept: before, size });
    }
    let path = tree::consistency(connection, before, size).await?;
    Ok(match merkle::verify_consistency(before, size, &path, &kept.root, &head.root()) {
        true => KeptComparison::Continued { kept: before, size },
        false => KeptComparison::Rewritten { kept: before, size },
    })
}
