//! `/console/live`: what an open page shows, kept up to date by server-sent events (HTML Living Standard §9.2).

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, HeaderName, HeaderValue, VARY, X_CONTENT_TYPE_OPTIONS};
use actix_web::web::Bytes;
use futures_util::{StreamExt as _, stream};
use maud::{Markup, html};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::delegations_query::DelegationsView;
use super::guard::{ConsoleRequest, Incoming, PageAnswer, serve};
use super::links::form_encoded;
use super::live_parts::{AwaitedCheckpoint, Deadlines, LiveBadge, part};
use super::log_badge::sees_log;
use super::{frame, words};
use crate::app::App;
use crate::domain::audit::filter::Filter;
use crate::domain::delegation::DelegationState;
use crate::domain::delegation::list::{Cursor, DelegationFilter};
use crate::domain::refusal::Refusal;
use crate::platform::clock;
use crate::services::console::{
    LiveItem, LiveList, LiveLog, LiveState, LiveSubject, LogRows, RowState, follow_page,
};

/// Tells reverse proxies not to buffer this response.
const NO_BUFFERING: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// The list of a page: its filter, and the rows that it shows.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LiveQuery {
    /// The path and query of the list below the issuer, to which "show" leads; absent for a page without a list.
    list: Option<String>,
    /// Rows of a tree that are newer are roots.
    view: DelegationsView,
    state: Option<String>,
    delegator_iss: Option<String>,
    delegator_sub: Option<String>,
    delegate: Option<String>,
    parent: Option<String>,
    task: Option<String>,
    from: Option<String>,
    to: Option<String>,
    newest: Option<String>,
    /// Ids of the rows, separated by commas.
    rows: Option<String>,
    /// Whether the rows are connections, or standing grants.
    connections: bool,
    grants: bool,
    /// For a list of what the log has: `events` or `chains`, its filter as a query, and the size of the log.
    log: Option<String>,
    filter: Option<String>,
    size: Option<u64>,
    /// Ends of waits on the page, in seconds since 1970, separated by commas.
    until: Option<String>,
    /// Number of events that a checkpoint has to cover before `list` is shown again.
    covered: Option<u64>,
}

impl LiveQuery {
    fn subject(&self) -> Result<LiveSubject, Refusal> {
        let rows = self.rows.iter().flat_map(|rows| rows.split(',')).filter(|id| !id.is_empty());
        let rows: Vec<String> = rows.map(str::to_owned).collect();
        if self.connections {
            return Ok(LiveSubject::Connections(rows));
        }
        if self.grants {
            return Ok(LiveSubject::StandingGrants(rows));
        }
        if let Some(name) = &self.log {
            return Ok(LiveSubject::Log(Box::new(self.log_list(name)?)));
        }
        if self.list.is_none() || self.covered.is_some() {
            return Ok(LiveSubject::Nothing);
        }
        let time = |text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => clock::instant(text).map(Some).ok_or(Refusal::Malformed("A time is not readable")),
        };
        let state = self.state.as_ref().map(|name| name.parse::<DelegationState>());
        let newest = self.newest.as_ref().map(|text| Cursor::parse(text));
        Ok(LiveSubject::Delegations(Box::new(LiveList {
            filter: DelegationFilter {
                state: state.transpose().map_err(|_| Refusal::Malformed("There is no such state"))?,
                delegator_iss: self.delegator_iss.clone(),
                delegator_sub: self.delegator_sub.clone(),
                delegate: self.delegate.clone(),
                parent: self.parent.clone(),
                task_id: self.task.clone(),
                is_root: self.view == DelegationsView::Tree,
                from: time(&self.from)?,
                to: time(&self.to)?,
                ..DelegationFilter::default()
            },
            newest: match newest {
                None => None,
                Some(read) => Some(read.ok_or(Refusal::Malformed("newest is not from this server"))?),
            },
            rows,
        })))
    }

    fn log_list(&self, name: &str) -> Result<LiveLog, Refusal> {
        let rows = match name {
            "events" => LogRows::Events,
            "chains" => LogRows::Chains,
            _ => return Err(Refusal::Malformed("log is events or chains")),
        };
        let mut filter = Filter::default();
        for (name, value) in
            url::form_urlencoded::parse(self.filter.as_deref().unwrap_or_default().as_bytes())
        {
            if !filter.set(&name, &value)? {
                return Err(Refusal::Malformed("The filter of the list is not readable"));
            }
        }
        let size = self.size.ok_or(Refusal::Malformed("size is the size of the log"))?;
        Ok(LiveLog { filter, size, rows })
    }

    /// What newer rows are called.
    fn newer(&self) -> NewerName {
        match self.log.as_deref() {
            Some("chains") => NewerName::Moved,
            _ => NewerName::Newer,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NewerName {
    Newer,
    /// Chains with newer events.
    Moved,
}

/// The URL of the stream of a list: `list` is its path and query, for "show".
pub(super) fn feed(list: &str, filter: &DelegationFilter, rows: &LiveRows) -> String {
    let time = |at: Option<time::OffsetDateTime>| at.map(clock::rfc3339);
    let members = [
        ("list", Some(list.to_owned())),
        ("view", filter.is_root.then(|| "tree".to_owned())),
        ("state", filter.state.map(|state| <&str>::from(state).to_owned())),
        ("delegator_iss", filter.delegator_iss.clone()),
        ("delegator_sub", filter.delegator_sub.clone()),
        ("delegate", filter.delegate.clone()),
        ("parent", filter.parent.clone()),
        ("task", filter.task_id.clone()),
        ("from", time(filter.from)),
        ("to", time(filter.to)),
        ("newest", rows.newest.clone()),
    ];
    let set = members.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let mut query: Vec<String> =
        set.map(|(name, value)| format!("{name}={}", form_encoded(&value))).collect();
    // Ids consist of unreserved characters (RFC 3986 §2.3). Encoded commas would exceed the 8 KiB that proxies accept.
    query.push(format!("rows={}", rows.ids.join(",")));
    format!("/console/live?{}", query.join("&"))
}

/// The URL of the stream of a list of what the log has.
pub(super) fn log_feed(list: &str, log: &LiveLog) -> String {
    let name = match log.rows {
        LogRows::Events => "events",
        LogRows::Chains => "chains",
    };
    let mut filter = url::form_urlencoded::Serializer::new(String::new());
    filter.extend_pairs(log.filter.parameters());
    let (list, filter) = (form_encoded(list), form_encoded(&filter.finish()));
    format!("/console/live?list={list}&log={name}&size={}&filter={filter}", log.size)
}

/// The URL of the stream of connections.
pub(super) fn connections_feed<'a>(ids: impl Iterator<Item = &'a str>) -> String {
    format!("/console/live?connections=true&rows={}", ids.collect::<Vec<_>>().join(","))
}

/// The URL of the stream of standing grants.
pub(super) fn grants_feed<'a>(ids: impl Iterator<Item = &'a str>) -> String {
    format!("/console/live?grants=true&rows={}", ids.collect::<Vec<_>>().join(","))
}

/// The URL of the stream of a page with ends of waits.
pub(super) fn deadlines_feed<'a>(ends: impl Iterator<Item = &'a str>) -> String {
    let ends: BTreeSet<i64> = ends.filter_map(clock::instant).map(OffsetDateTime::unix_timestamp).collect();
    let ends: Vec<String> = ends.iter().map(i64::to_string).collect();
    format!("/console/live?until={}", ends.join(","))
}

/// The URL of the stream of a page that is shown again when a checkpoint covers `size` events.
pub(super) fn checkpoint_feed(page: &str, size: u64) -> String {
    format!("/console/live?list={}&covered={size}", form_encoded(page))
}

/// The rows of a list on a page.
#[derive(Debug, Default)]
pub(super) struct LiveRows {
    /// The cursor of the newest row.
    pub(super) newest: Option<String>,
    pub(super) ids: Vec<String>,
}

pub(super) async fn get(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |known| {
        let query: LiveQuery = known.query()?;
        let subject = query.subject()?;
        let person = match &known.session.who {
            Some(who) => who.key(),
            None => known.session.id.to_string(),
        };
        let limits = &known.app.limits;
        let of_person = limits.live_pages.enter(&person).ok_or(Refusal::RateLimited)?;
        let of_server =
            Arc::clone(&limits.all_live_pages).try_acquire_owned().map_err(|_| Refusal::RateLimited)?;
        let permits = (of_person, of_server);
        let items = follow_page(known.app, &known.context, subject).await?;
        let show = known
            .url(query.list.as_deref().filter(|list| list.starts_with("/console/")).unwrap_or("/console"));
        let deadlines = Deadlines::of(query.until.as_deref())?;
        let badge = sees_log(known.session.role).then(LiveBadge::default);
        let awaited = query.covered.map(|size| AwaitedCheckpoint { size, page: show.clone() });
        let place = ListPlace { show, newer: query.newer() };
        let app = Arc::clone(known.app);
        // The permits are free again when the connection closes, not before.
        let open = OpenPage { app, items, place, deadlines, badge, awaited };
        let rest = stream::unfold((open, permits), async |(mut open, permits)| {
            let text = open.next_message().await?;
            Some((Ok::<_, Infallible>(Bytes::from(text)), (open, permits)))
        });
        Ok(PageAnswer::Response(stream_of(&known, rest.boxed_local())))
    })
    .await
}

struct OpenPage {
    app: Arc<App>,
    items: mpsc::Receiver<LiveItem>,
    place: ListPlace,
    deadlines: Deadlines,
    /// For those who see the state of the log.
    badge: Option<LiveBadge>,
    awaited: Option<AwaitedCheckpoint>,
}

impl OpenPage {
    async fn next_message(&mut self) -> Option<String> {
        let item = self.items.recv().await?;
        let moved = self.moved().await;
        Some(match item {
            LiveItem::Now { seq, state } => format!("id: {seq}\n{}", message(&state, &self.place, &moved)),
            LiveItem::Alive if moved.0.is_empty() => ":\n\n".to_owned(),
            LiveItem::Alive => data(moved),
        })
    }

    /// What has changed beside the list of the page.
    async fn moved(&mut self) -> Markup {
        let covered = match &self.awaited {
            Some(awaited) if awaited.is_covered(&self.app).await => self.awaited.take(),
            _ => None,
        };
        let badge = match &mut self.badge {
            None => Markup::default(),
            Some(badge) => badge.moved(&self.app).await,
        };
        html! {
            (self.deadlines.moved(self.app.clock.now()))
            (badge)
            @if let Some(awaited) = covered { (awaited.shown_again()) }
        }
    }
}

fn stream_of(
    known: &ConsoleRequest<'_>,
    messages: impl futures_util::Stream<Item = Result<Bytes, Infallible>> + 'static,
) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/event-stream; charset=utf-8")
        .insert_header((actix_web::http::header::CONTENT_SECURITY_POLICY, frame::policy(&known.app.issuer)))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((VARY, "HX-Request"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header(NO_BUFFERING)
        .force_close()
        .streaming(messages)
}

/// Where the newest rows of a list are, and what they are called.
struct ListPlace {
    show: String,
    newer: NewerName,
}

/// One message: parts of the page, each with its target.
fn message(now: &LiveState, ListPlace { show, newer: name }: &ListPlace, moved: &Markup) -> String {
    let parts = html! {
        (part("#waiting", frame::waiting(&now.waiting)))
        @if let Some(newer) = now.newer {
            (part("#newer", html! {
                @if newer.number > 0 {
                    (words::bounded(&newer))
                    @match name {
                        NewerName::Newer => " newer · ",
                        NewerName::Moved if newer.number == 1 => " chain moved · ",
                        NewerName::Moved => " chains moved · ",
                    }
                    a href=(show) hx-get=(show) data-newer=(newer.number) { "show" }
                }
            }))
        }
        @for (id, state) in &now.states {
            (part(&format!("[data-state-of=\"{id}\"]"), state_of_row(*state)))
            @if let RowState::StandingGrant(_, refused) = state {
                (part(&format!("[data-refused-of=\"{id}\"]"), html! { (words::bounded(refused)) }))
            }
        }
        (moved)
    };
    data(parts)
}

fn data(parts: Markup) -> String {
    let lines: String = parts.into_string().lines().map(|line| format!("data: {line}\n")).collect();
    lines + "\n"
}

fn state_of_row(state: RowState) -> Markup {
    match state {
        RowState::Delegation(state) => words::state(state),
        RowState::Connection(state) => words::connection_state(state),
        RowState::StandingGrant(state, _) => words::grant_state(state),
    }
}
