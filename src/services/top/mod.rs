//! What `actchain top` shows, read at one moment. Each part is read by itself: a part that cannot be read says why, and the
//! others are shown. Reads only, and the work does not grow with the log.

mod ledger_metrics;
mod rows;

use serde::Serialize;
use time::Duration;

pub use self::ledger_metrics::{Histogram, LedgerMetrics, LedgerNumbers, LedgerState, MetricsReader};
pub use self::rows::{ChainLine, EventLine, FindingLine, SettingLine, WaitingLine};
use crate::domain::audit::activity::{WindowActivity, activity};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::health::LogHealth;
use crate::domain::audit::search::Order;
use crate::domain::audit::witness::Witnesses;
use crate::domain::decision::MatterFilter;
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::waiting::BoundedCount;
use crate::domain::refusal::Error;
use crate::domain::server_info::{self, ServerInfo};
use crate::platform::config::Setting;
use crate::platform::fault::{Context as _, Fault};
use crate::services::audit::chains;
use crate::services::audit::health::{self, LogTrust};
use crate::services::audit::query::{self, AuditQuery, ChainConditions};
use crate::services::console;
use crate::services::delegations::{self, MatterScope};
use crate::services::page::PageRequest;
use crate::services::request_context::RequestContext;

/// The windows of rates, the shortest first.
pub const WINDOWS: [Duration; 3] = [Duration::MINUTE, Duration::minutes(5), Duration::HOUR];
/// Maximum number of events.
const MAX_EVENTS: usize = 30;
/// Maximum number of events with findings, of chains, and of matters that wait.
const MAX_ROWS: usize = 10;
/// How old the newest event of a chain can be.
const CHAIN_AGE: Duration = Duration::HOUR;

/// A part of the snapshot, or the sentence that says why it cannot be read.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Part<T> {
    Read(T),
    Unreadable { error: String },
}

impl<T> From<Result<T, Error>> for Part<T> {
    fn from(read: Result<T, Error>) -> Self {
        match read {
            Ok(part) => Self::Read(part),
            Err(Error::Refused(refusal)) => Self::Unreadable { error: refusal.sentence().to_owned() },
            Err(Error::Failed(fault)) => Self::Unreadable { error: fault.to_string() },
        }
    }
}

impl<T> Part<T> {
    pub fn as_read(&self) -> Result<&T, &str> {
        match self {
            Self::Read(part) => Ok(part),
            Self::Unreadable { error } => Err(error),
        }
    }
}

/// What waits for a decision: how much, and the newest.
#[derive(Debug, Clone, Serialize)]
pub struct WaitingPart {
    #[serde(flatten)]
    pub count: BoundedCount,
    pub items: Vec<WaitingLine>,
}

#[derive(Debug, Clone)]
pub struct TopSnapshot {
    /// The server that was started last on this database.
    pub server: Option<ServerInfo>,
    /// In the order of [`WINDOWS`].
    pub rates: Part<Vec<WindowActivity>>,
    pub waiting: Part<WaitingPart>,
    pub chains: Part<Vec<ChainLine>>,
    pub events: Part<Vec<EventLine>>,
    /// The newest events with findings.
    pub findings: Part<Vec<EventLine>>,
    pub log: Part<LogHealth>,
    pub ledger: LedgerState,
    pub settings: Part<Vec<SettingLine>>,
}

impl TopSnapshot {
    /// Whether each part could be read. Metrics that are not reachable are no missing part.
    pub fn is_complete(&self) -> bool {
        self.rates.as_read().is_ok()
            && self.waiting.as_read().is_ok()
            && self.chains.as_read().is_ok()
            && self.events.as_read().is_ok()
            && self.findings.as_read().is_ok()
            && self.log.as_read().is_ok()
            && self.settings.as_read().is_ok()
    }
}

/// Reads all parts, for an operator. `settings` are those of the configuration at this time.
///
/// # Errors
/// A fault if the database does not answer.
pub async fn snapshot(
    ctx: &RequestContext<'_>,
    metrics: &mut MetricsReader,
    settings: Result<Vec<Setting>, Fault>,
) -> Result<TopSnapshot, Fault> {
    let server = server_info::find(&mut *ctx.pool.acquire().await?).await?;
    let lines = |settings: Vec<Setting>| settings.into_iter().map(SettingLine::from).collect();
    Ok(TopSnapshot {
        rates: rates(ctx).await.into(),
        waiting: waiting(ctx).await.into(),
        chains: chains(ctx).await.into(),
        events: events(ctx, Filter::default(), MAX_EVENTS).await.into(),
        findings: events(ctx, flagged(), MAX_ROWS).await.into(),
        log: log(ctx).await.into(),
        ledger: metrics.read(server.as_ref()).await,
        settings: settings.map(lines).map_err(Error::from).into(),
        server,
    })
}

async fn rates(ctx: &RequestContext<'_>) -> Result<Vec<WindowActivity>, Error> {
    Ok(activity(&mut *ctx.pool.acquire().await?, &WINDOWS, ctx.now).await?)
}

async fn waiting(ctx: &RequestContext<'_>) -> Result<WaitingPart, Error> {
    let page = PageRequest { cursor: None, limit: u32::try_from(MAX_ROWS).ok() };
    let found =
        delegations::waiting(ctx, MatterScope::AllDelegators, &MatterFilter::default(), &page).await?;
    let count = console::count_waiting(ctx).await?;
    Ok(WaitingPart { count, items: found.items.iter().map(WaitingLine::from).collect() })
}

/// The newest chains with an event of late whose last hop's delegation is active.
async fn chains(ctx: &RequestContext<'_>) -> Result<Vec<ChainLine>, Error> {
    let wanted = AuditQuery {
        filter: Filter { from: Some(ctx.now - CHAIN_AGE), ..Filter::default() },
        order: Order::Newest,
        limit: Some(MAX_ROWS),
        chains: ChainConditions { state: Some(DelegationState::Active), ..ChainConditions::default() },
        ..AuditQuery::default()
    };
    let found = chains::list(ctx, &wanted).await?;
    Ok(found.items.iter().map(|chain| ChainLine::of(chain, &found.beside.people)).collect())
}

fn flagged() -> Filter {
    Filter { has_findings: Some("true".to_owned()), ..Filter::default() }
}

async fn events(ctx: &RequestContext<'_>, filter: Filter, limit: usize) -> Result<Vec<EventLine>, Error> {
    let wanted = AuditQuery { filter, order: Order::Newest, limit: Some(limit), ..AuditQuery::default() };
    let found = query::list(ctx, &wanted).await?;
    Ok(found.items.iter().map(|event| EventLine::of(event, &found.beside.people)).collect())
}

async fn log(ctx: &RequestContext<'_>) -> Result<LogHealth, Error> {
    let audit = &ctx.config.audit;
    let witnesses = Witnesses::new(&audit.witnesses, audit.witness_quorum);
    let witnesses = witnesses.context("reading audit.witnesses and audit.witness_quorum")?;
    let trust = LogTrust { rows: ctx.rows, witnesses: &witnesses, seen: None };
    Ok(health::check(&mut *ctx.pool.acquire().await?, trust, ctx.now).await?.health)
}
