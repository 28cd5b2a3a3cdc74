//! The state of the log for people: what vouches for it, where its events are, and how it compares with a kept checkpoint.

use std::sync::Arc;

use sqlx::PgConnection;

use super::checkpoint::log_keys;
use super::health::{COMPARED, health};
use super::log_evaluation::{continues, is_within};
use super::transparency;
use crate::app::App;
use crate::domain::audit::checkpoint_list::{self, ListedCheckpoint};
use crate::domain::audit::health::LogHealth;
use crate::domain::audit::log_checks::{self, KeptCheckpoint, KnownRoot};
use crate::domain::audit::partitions::{self, Partition};
use crate::domain::audit::{index, store};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::row_mac::RowMac;
use crate::platform::fault::Fault;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;
use actchain_protocol::merkle::Frontier;
use actchain_protocol::signed_note;

/// Number of checkpoints that are listed.
const LISTED: u32 = 10;

/// What a person reads about the log.
#[derive(Debug)]
pub struct LogState {
    pub health: Arc<LogHealth>,
    /// The newest checkpoint, as a signed note.
    pub checkpoint: Option<String>,
    /// The key of each witness that has cosigned it.
    pub cosigned_by: Vec<String>,
    /// The newest checkpoints, the newest first.
    pub checkpoints: Vec<ListedCheckpoint>,
    /// The witnesses of the configuration, each with the size of the newest checkpoint that it has cosigned.
    pub witnesses: Vec<(String, Option<u64>)>,
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
    /// It covers no event, so every log continues it.
    Empty,
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
    let mut witnesses = Vec::new();
    for witness in app.witnesses.iter() {
        let size = store::last_cosigned(&mut connection, &witness.key.text()).await?;
        witnesses.push((witness.key.name().to_owned(), size));
    }
    Ok(LogState {
        health,
        checkpoints: checkpoint_list::newest(&mut connection, LISTED).await?,
        witnesses,
        checkpoint: newest.map(|(_, note)| note),
        cosigned_by,
        keys: transparency::published_keys(&mut connection, ctx.issuer).await?,
        indexed: index::indexed(&mut connection).await?,
        partitions: partitions::list(&mut connection).await?,
    })
}

/// Compares the log with a checkpoint, which a person outside may have kept. The comparison is recorded: for some days,
/// the log must continue this checkpoint, which vouches for it.
pub async fn compare(app: &App, ctx: &RequestContext<'_>, note: &str) -> Result<KeptComparison, Error> {
    require_reader(ctx)?;
    let mut connection = ctx.pool.acquire().await.map_err(Fault::from)?;
    let keys = log_keys(&mut connection, note.lines().next().unwrap_or_default()).await?;
    let Some(kept) = signed_note::open(note, &keys) else { return Ok(KeptComparison::NotOurs) };
    let known = KnownRoot { size: kept.size, root: kept.root };
    let head = store::head(&mut connection).await?;
    let (before, size) = (kept.size, head.size());
    let found = match continues(&mut connection, known, &head).await? {
        _ if before == 0 => return Ok(KeptComparison::Empty),
        true => KeptComparison::Continued { kept: before, size },
        false if before > size => KeptComparison::Truncated { kept: before, size },
        false => KeptComparison::Rewritten { kept: before, size },
    };
    let kept = KeptCheckpoint { compared_at: ctx.now, known };
    // Again where another comparison is recorded at this moment: this one may be what contradicts the log.
    while !keep_comparison(&mut connection, ctx.rows, &kept, &head).await? {}
    drop(connection);
    app.log_health.lock().await.health = None;
    Ok(found)
}

/// Records a comparison, unless one that counts more is recorded: one that the log does not continue, or of a larger
/// checkpoint. `false` if another server has recorded one at this moment.
async fn keep_comparison(
    connection: &mut PgConnection,
    rows: &RowMac,
    kept: &KeptCheckpoint,
    head: &Frontier,
) -> Result<bool, Fault> {
    let stored = log_checks::read::<KeptCheckpoint>(connection, rows).await?;
    if let Some(one) = stored.check.filter(|one| is_within(one.compared_at, COMPARED, kept.compared_at)) {
        let counts_more = !continues(connection, one.known, head).await?
            || (continues(connection, kept.known, head).await? && kept.known.size < one.known.size);
        if counts_more {
            return Ok(true);
        }
    }
    log_checks::replace(connection, rows, &stored, kept).await
}
