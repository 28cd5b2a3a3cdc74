//! What an open page of the console learns without a reload: how much waits, what is newer than its list, and the states of
//! its rows. Each message says how all of it is now, so that nothing is missed after an interruption.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::live_subject::{FollowedSubject, LiveSubject, RowState};
use super::session::is_still_open;
use crate::app::App;
use crate::domain::audit::filter::Filter;
use crate::domain::console::{KnownSeq, LogChange};
use crate::domain::delegation::waiting::{self, BoundedCount};
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;
use crate::services::audit::follow::{self, StreamItem};
use crate::services::caller::Caller;
use crate::services::delegations;
use crate::services::request_context::RequestContext;

/// The shortest time between two readings for a page.
const PAUSE: Duration = Duration::from_secs(1);
/// Events that change the rows of open pages, by the beginning of their actions.
const SHOWN: [&str; 7] =
    ["delegation.", "principal.", "client.", "console.", "admin.", "vault.connection.", "standing_grant."];

/// What a page shows. An event that does not change it is not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveState {
    /// Decisions that wait for the person.
    pub waiting: BoundedCount,
    /// Rows above the list, where the page has one.
    pub newer: Option<BoundedCount>,
    pub states: Vec<(String, RowState)>,
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
    subject: LiveSubject,
) -> Result<mpsc::Receiver<LiveItem>, Error> {
    let session = ctx.caller.session().ok_or(Refusal::NotFound)?.session;
    let subject = subject.follow(ctx).await?;
    let changes = app.change_feed.subscribe(async || read_log(app).await).await?;
    let (sender, receiver) = mpsc::channel(1);
    let page =
        LivePage { app: Arc::clone(app), scope: waiting_scope(ctx), session, subject, changes, sender };
    // Runs on the worker of the request and ends with the worker.
    tokio::spawn(page.run());
    Ok(receiver)
}

/// The reader of the log for all open pages.
async fn read_log(app: &Arc<App>) -> Result<Arc<watch::Sender<LogChange>>, Error> {
    let mut events = follow::follow(app, &Caller::Operator, Some(Filter::default()), None).await?;
    let first = match events.recv().await {
        Some(StreamItem::Heartbeat(next)) => next.saturating_sub(1),
        Some(StreamItem::Events(events)) => events.last().map_or(0, |(seq, _)| *seq),
        None => return Err(Fault::new("the log cannot be followed").into()),
    };
    let sender = Arc::new(watch::Sender::new(LogChange { shown: first, newest: first }));
    let shared = Arc::clone(&sender);
    tokio::spawn(async move {
        loop {
            let item = tokio::select! {
                item = events.recv() => item,
                () = shared.closed() => return,
            };
            match item {
                Some(StreamItem::Events(events)) => {
                    let shown = events.iter().rev().find(|(_, document)| is_shown(document));
                    shared.send_modify(|change| {
                        change.newest = events.last().map_or(change.newest, |(seq, _)| *seq);
                        change.shown = shown.map_or(change.shown, |(seq, _)| *seq);
                    });
                }
                Some(StreamItem::Heartbeat(_)) => {}
                None => return,
            }
        }
    });
    Ok(sender)
}

/// Whether an event changes the rows of open pages.
fn is_shown(document: &str) -> bool {
    #[derive(Deserialize)]
    struct Named {
        action: String,
        outcome: String,
        standing_grant_id: Option<String>,
    }
    let shows = |event: Named| {
        SHOWN.iter().any(|beginning| event.action.starts_with(beginning))
            || (event.outcome == "refused" && event.standing_grant_id.is_some())
    };
    // An event that cannot be read is taken for one that does.
    serde_json::from_str::<Named>(document).map_or(true, shows)
}

struct LivePage {
    app: Arc<App>,
    scope: WaitingScope,
    session: Uuid,
    subject: FollowedSubject,
    changes: watch::Receiver<LogChange>,
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
        let (mut sent, mut last_sent): (Option<LiveState>, _) = (None, Instant::now());
        loop {
            let known = *self.changes.borrow_and_update();
            if !is_still_open(&self.app, self.session, self.app.clock.now()).await? {
                return Ok(());
            }
            let state = self.now().await?;
            let is_new = sent.as_ref() != Some(&state);
            let item = if is_new {
                LiveItem::Now { seq: known.shown, state: state.clone() }
            } else {
                LiveItem::Alive
            };
            sent = Some(state);
            let follows_log = self.subject.follows_log();
            // Of events that change nothing here, a person learns nothing: not even that there are any.
            let is_quiet = follows_log && !is_new && last_sent.elapsed() < heartbeat;
            if !is_quiet {
                if self.sender.send_timeout(item, write_timeout).await.is_err() {
                    return Ok(());
                }
                last_sent = Instant::now();
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.sender.closed() => return Ok(()),
            }
            if self.subject.has_more() {
                continue;
            }
            let is_news = |change: LogChange, known: LogChange| {
                change.shown != known.shown || (follows_log && change.newest != known.newest)
            };
            tokio::select! {
                changed = self.changes.wait_for(|change| is_news(*change, known)) => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(heartbeat) => {}
                () = self.sender.closed() => return Ok(()),
            }
        }
    }

    async fn now(&mut self) -> Result<LiveState, Fault> {
        let now = self.app.clock.now();
        let (scope, subject) = (&self.scope, &mut self.subject);
        self.app
            .read(async |connection| {
                let waiting = scope.count(connection, now).await?;
                let newer = subject.count_newer(connection, now).await?;
                Ok(LiveState { waiting, newer, states: subject.states(connection, now).await? })
            })
            .await
    }
}
