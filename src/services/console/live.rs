//! What an open page of the console learns without a reload: how much waits, what is newer than its list, and the states of
//! its rows. Each message says how all of it is now, so that nothing is missed after an interruption.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::session::is_still_open;
use crate::app::App;
use crate::domain::audit::filter::Filter;
use crate::domain::console::KnownSeq;
use crate::domain::delegation::list::{Cursor, DelegationFilter, VisibilityScope};
use crate::domain::delegation::waiting::{self, BoundedCount, NewerRows};
use crate::domain::delegation::{DelegationState, is_id};
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;
use crate::services::audit::follow::{self, StreamItem};
use crate::services::caller::Caller;
use crate::services::delegations;
use crate::services::request_context::RequestContext;

/// The shortest time between two readings for a page.
const PAUSE: Duration = Duration::from_secs(1);
/// Rows of a list whose states are followed.
const MAX_ROWS: usize = 200;
/// Events that change what open pages show, by the beginning of their actions.
const SHOWN: [&str; 5] = ["delegation.", "principal.", "client.", "console.", "admin."];

/// A list of delegations on an open page.
#[derive(Debug, Clone, Default)]
pub struct LiveList {
    pub filter: DelegationFilter,
    /// The newest row; `None` for a list without rows.
    pub newest: Option<Cursor>,
    pub rows: Vec<String>,
}

/// What a page shows. An event that does not change it is not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveState {
    /// Decisions that wait for the person.
    pub waiting: BoundedCount,
    /// Rows above the list, where the page has one.
    pub newer: Option<BoundedCount>,
    pub states: Vec<(String, DelegationState)>,
}

/// What a stream sends.
#[derive(Debug)]
pub enum LiveItem {
    Now {
        /// The `seq` of the last event that was known before the state was read.
        seq: KnownSeq,
        state: LiveState,
    },
    /// Nothing has changed.
    Alive,
}

/// Decisions that wait for the caller.
pub async fn count_waiting(ctx: &RequestContext<'_>) -> Result<BoundedCount, Fault> {
    waiting_scope(ctx).count(&mut *ctx.pool.acquire().await?, ctx.now).await
}

/// Whose decisions a caller makes.
enum WaitingScope {
    Nothing,
    AllDelegators,
    Delegator(Principal),
}

impl WaitingScope {
    async fn count(&self, connection: &mut PgConnection, now: OffsetDateTime) -> Result<BoundedCount, Fault> {
        match self {
            Self::Nothing => Ok(BoundedCount::default()),
            Self::AllDelegators => waiting::count(connection, None, now).await,
            Self::Delegator(who) => waiting::count(connection, Some(who), now).await,
        }
    }
}

fn waiting_scope(ctx: &RequestContext<'_>) -> WaitingScope {
    match &ctx.caller {
        _ if delegations::may_decide_for_users(ctx) => WaitingScope::AllDelegators,
        Caller::Auditor(_) => WaitingScope::Nothing,
        Caller::Admin(_) | Caller::User(_) | Caller::Agent(_) | Caller::Operator => {
            ctx.caller.principal(ctx.issuer).map_or(WaitingScope::Nothing, WaitingScope::Delegator)
        }
    }
}

/// Follows what the page of a session shows. The stream ends with the session.
///
/// # Errors
/// Refused where the list has too many rows or ids that are none.
pub async fn follow_page(
    app: &Arc<App>,
    ctx: &RequestContext<'_>,
    list: Option<LiveList>,
) -> Result<mpsc::Receiver<LiveItem>, Error> {
    let session = ctx.caller.session().ok_or(Refusal::NotFound)?.session;
    if list.as_ref().is_some_and(|list| list.rows.len() > MAX_ROWS || !list.rows.iter().all(|id| is_id(id))) {
        return Err(Refusal::Malformed("The rows of the list are not readable").into());
    }
    let visible = match &ctx.caller {
        Caller::User(user) => VisibilityScope::RootedAt(user.who.clone()),
        Caller::Admin(..) | Caller::Operator => VisibilityScope::Everything,
        // Auditors have no list of delegations.
        Caller::Agent(..) | Caller::Auditor(..) if list.is_some() => {
            return Err(Refusal::InsufficientScope.into());
        }
        Caller::Agent(..) | Caller::Auditor(..) => VisibilityScope::Everything,
    };
    let list = match list {
        None => None,
        Some(list) => Some(LiveList { rows: visible_rows(ctx, list.rows).await?, ..list }),
    };
    let changes = app.change_feed.subscribe(async || read_log(app).await).await?;
    let (sender, receiver) = mpsc::channel(1);
    let page =
        LivePage { app: Arc::clone(app), scope: waiting_scope(ctx), session, visible, list, changes, sender };
    // Runs on the worker of the request and ends with the worker.
    tokio::spawn(page.run());
    Ok(receiver)
}

/// The rows that the caller may see: a page names them, and a person can name others.
async fn visible_rows(ctx: &RequestContext<'_>, rows: Vec<String>) -> Result<Vec<String>, Fault> {
    let mut connection = ctx.pool.acquire().await?;
    let paths = crate::domain::delegation::store::all_paths(ctx.rows, &mut connection, &rows).await?;
    let seen = paths.iter().filter(|path| ctx.caller.may_see(path, ctx.issuer));
    Ok(seen.filter_map(|path| Some(path.leaf()?.id.clone())).collect())
}

/// The reader of the log for all open pages.
async fn read_log(app: &Arc<App>) -> Result<Arc<watch::Sender<KnownSeq>>, Error> {
    let mut events = follow::follow(app, &Caller::Operator, Some(Filter::default()), None).await?;
    let first = match events.recv().await {
        Some(StreamItem::Heartbeat(next)) => next.saturating_sub(1),
        Some(StreamItem::Events(events)) => events.last().map_or(0, |(seq, _)| *seq),
        None => return Err(Fault::new("the log cannot be followed").into()),
    };
    let sender = Arc::new(watch::Sender::new(first));
    let shared = Arc::clone(&sender);
    tokio::spawn(async move {
        loop {
            let item = tokio::select! {
                item = events.recv() => item,
                () = shared.closed() => return,
            };
            match item {
                Some(StreamItem::Events(events)) => {
                    let newest = events.iter().rev().find(|(_, document)| is_shown(document));
                    if let Some((seq, _)) = newest {
                        shared.send_replace(*seq);
                    }
                }
                Some(StreamItem::Heartbeat(_)) => {}
                None => return,
            }
        }
    });
    Ok(sender)
}

/// Whether an event changes what open pages show.
fn is_shown(document: &str) -> bool {
    #[derive(Deserialize)]
    struct Named {
        action: String,
    }
    // An event that cannot be read is taken for one that does.
    serde_json::from_str::<Named>(document)
        .map_or(true, |event| SHOWN.iter().any(|beginning| event.action.starts_with(beginning)))
}

struct LivePage {
    app: Arc<App>,
    scope: WaitingScope,
    session: Uuid,
    visible: VisibilityScope,
    list: Option<LiveList>,
    changes: watch::Receiver<KnownSeq>,
    sender: mpsc::Sender<LiveItem>,
}

impl LivePage {
    async fn run(mut self) {
        if let Err(fault) = self.work().await {
            tracing::warn!(error = %fault, "a live page was sent away");
        }
    }

    /// Runs until the page is closed or too slow, its session has ended, or the server stops.
    async fn work(&mut self) -> Result<(), Fault> {
        let heartbeat = Duration::from_secs(self.app.config.audit.heartbeat.into());
        let write_timeout = Duration::from_secs(self.app.config.audit.stream_write_timeout.into());
        let mut sent: Option<LiveState> = None;
        loop {
            let seq = *self.changes.borrow_and_update();
            if !is_still_open(&self.app, self.session, self.app.clock.now()).await? {
                return Ok(());
            }
            let state = self.now().await?;
            let is_new = sent.as_ref() != Some(&state);
            let item = if is_new { LiveItem::Now { seq, state: state.clone() } } else { LiveItem::Alive };
            sent = Some(state);
            if self.sender.send_timeout(item, write_timeout).await.is_err() {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.sender.closed() => return Ok(()),
            }
            tokio::select! {
                changed = self.changes.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(heartbeat) => {}
                () = self.sender.closed() => return Ok(()),
            }
        }
    }

    async fn now(&self) -> Result<LiveState, Fault> {
        let now = self.app.clock.now();
        self.app
            .read(async |connection| {
                let waiting = self.scope.count(connection, now).await?;
                let Some(LiveList { filter, newest, rows }) = &self.list else {
                    return Ok(LiveState { waiting, newer: None, states: Vec::new() });
                };
                // A page that is not the newest has rows and no newest one.
                let newer = if newest.is_some() || rows.is_empty() {
                    let list = NewerRows { visible: &self.visible, filter, newest: newest.as_ref() };
                    Some(waiting::count_newer(connection, list, now).await?)
                } else {
                    None
                };
                let states = waiting::states(connection, rows, now).await?;
                Ok(LiveState { waiting, newer, states })
            })
            .await
    }
}
