//! The state of the log for people: what vouches for it, where its events are, and how it compares with a kept checkpoint.

use std::sync::Arc;

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::checkpoint::log_keys;
use super::cosignatures::{is_cosigned_by, with_witnesses};
use super::health::{COMPARED, health};
use super::log_evaluation::{continues, is_within};
use super::transparency;
use crate::app::App;
use crate::domain::audit::checkpoint_list::{self, StoredCheckpoint};
use crate::domain::audit::health::LogHealth;
use crate::domain::audit::log_checks::{self, KeptCheckpoint, KnownRoot};
use crate::domain::audit::partitions::{self, Partition};
use crate::domain::audit::witness::{ConfiguredWitness, Witnesses};
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
    /// The newest checkpoint.
    pub checkpoint: Option<ShownCheckpoint>,
    /// The newest checkpoints, the newest first.
    pub checkpoints: Vec<ListedCheckpoint>,
    pub witnesses: Vec<WitnessState>,
    /// The keys that checkpoints are signed with.
    pub keys: String,
    pub indexed: u64,
    pub partitions: Vec<Partition>,
}

/// A checkpoint as a signed note, with the names of the witnesses whose cosignature is valid.
#[derive(Debug)]
pub struct ShownCheckpoint {
    pub note: String,
    pub cosigned_by: Vec<String>,
}

/// A checkpoint, and who vouches for it.
#[derive(Debug)]
pub struct ListedCheckpoint {
    pub size: i64,
    pub made_at: OffsetDateTime,
    /// The names of the witnesses whose cosignature is valid.
    pub cosigned_by: Vec<String>,
}

/// A witness of the configuration.
#[derive(Debug)]
pub struct WitnessState {
    pub name: String,
    /// Size of the newest checkpoint for which a cosignature is stored; `None` if there is none, or if it is not valid.
    pub cosigned: Option<u64>,
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
    let mut witnesses = Vec::new();
    for witness in app.witnesses.iter() {
        witnesses.push(witness_state(&mut connection, witness).await?);
    }
    let checkpoints = checkpoint_list::newest(&mut connection, LISTED).await?;
    Ok(LogState {
        health,
        checkpoints: checkpoints.into_iter().map(|one| listed(&app.witnesses, one)).collect(),
        witnesses,
        checkpoint: newest
            .map(|(_, note)| ShownCheckpoint { cosigned_by: cosigned_by(&app.witnesses, &note), note }),
        keys: transparency::published_keys(&mut connection, ctx.issuer).await?,
        indexed: index::indexed(&mut connection).await?,
        partitions: partitions::list(&mut connection).await?,
    })
}

/// Rows alone vouch for nothing: signatures are verified.
fn listed(witnesses: &Witnesses, stored: StoredCheckpoint) -> ListedCheckpoint {
    let StoredCheckpoint { size, made_at, note } = stored;
    ListedCheckpoint { size, made_at, cosigned_by: cosigned_by(witnesses, &note) }
}

fn cosigned_by(witnesses: &Witnesses, note: &str) -> Vec<String> {
    witnesses.cosigners(note).into_iter().map(str::to_owned).collect()
}

async fn witness_state(
    connection: &mut PgConnection,
    witness: &ConfiguredWitness,
) -> Result<WitnessState, Fault> {
    let name = witness.key.name().to_owned();
    let size = store::last_cosigned(connection, &witness.key.text()).await?;
    let Some(size) = size else { return Ok(WitnessState { name, cosigned: None }) };
    let note = store::find_checkpoint(connection, size).await?.unwrap_or_default();
    let note = with_witnesses(connection, size, note).await?;
    Ok(WitnessState { name, cosigned: is_cosigned_by(&witness.key, &note).then_some(size) })
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
