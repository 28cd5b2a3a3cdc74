//! Queries of the log: pages of events, and one event. Reads only. Administrators and auditors see all events,
//! users the events about them, agents none.

use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use super::archived::why_absent;
use super::log_names::{PersonalContext, context_of, with_log_names};
use super::transparency::{self, Inclusion};
use crate::domain::audit::chain::Chain;
use crate::domain::audit::chain_keys::KeyContinuity;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::{self, EventRow, EventSearch, Order};
use crate::domain::delegation::DelegationState;
use crate::domain::refusal::{Error, Refusal};
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;

/// Maximum and default number of events of a page.
const MAX_LIMIT: usize = 1_000;
const DEFAULT_LIMIT: usize = 50;
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    pub filter: Filter,
    pub order: Order,
    pub limit: Option<usize>,
    /// Cursor from the previous page.
    pub cursor: Option<String>,
    pub chains: ChainConditions,
}

/// What a chain has to be, beside its events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChainConditions {
    /// The state of the delegation of its last hop.
    pub state: Option<DelegationState>,
    pub key_continuity: Option<KeyContinuity>,
}

impl ChainConditions {
    pub(super) fn match_chain(self, chain: &Chain) -> bool {
        (self.state.is_none() || chain.state == self.state)
            && self.key_continuity.is_none_or(|wanted| {
                // Between the events that a list has read, there may be a mismatch.
                chain.key_continuity == wanted || (wanted == KeyContinuity::KeyMismatch && !chain.complete)
            })
    }
}

/// A page of events or chains, with what is kept beside the documents.
#[derive(Debug, Serialize)]
pub struct LogPage<T> {
    pub items: Vec<T>,
    /// Cursor of the next page; `None` on the last page.
    pub next: Option<String>,
    #[serde(flatten)]
    pub beside: PersonalContext,
    /// Size of the log that was searched.
    #[serde(skip)]
    pub size: u64,
}

impl<T> LogPage<T> {
    pub fn empty() -> Self {
        Self { items: Vec::new(), next: None, beside: PersonalContext::default(), size: 0 }
    }
}

/// One event with its document as recorded.
#[derive(Debug, Serialize)]
pub struct EventDetail {
    pub event: Value,
    pub document: String,
    /// `None` while no checkpoint covers the event.
    pub inclusion: Option<Inclusion>,
    #[serde(flatten)]
    pub beside: PersonalContext,
}

/// The filter restricted to the events that the caller can see; `None` if the caller can see none of them.
pub fn visible(caller: &Caller, filter: Filter) -> Result<Option<Filter>, Refusal> {
    filter.check()?;
    match caller {
        Caller::Admin(_) | Caller::Auditor(_) | Caller::Operator => Ok(Some(filter)),
        Caller::User(user) => Ok(filter.about(&user.who)),
        Caller::Agent(_) => Err(Refusal::InsufficientScope),
    }
}

impl AuditQuery {
    pub(super) fn limit(&self, default: usize, max: usize) -> Result<usize, Refusal> {
        match self.limit.unwrap_or(default) {
            limit if (1..=max).contains(&limit) => Ok(limit),
            _ if max == MAX_LIMIT => Err(Refusal::Malformed("limit is 1 to 1000")),
            _ => Err(Refusal::Malformed("limit is 1 to 100")),
        }
    }

    /// Hash of everything that a cursor depends on.
    fn fingerprint(&self, of: &str) -> String {
        self.filter.fingerprint(&format!("{of} {:?} {:?}", self.order, self.chains))
    }

    pub(super) fn after(&self, of: &str) -> Result<Option<u64>, Refusal> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let (seq, query) =
            cursor.split_once('.').ok_or(Refusal::Malformed("cursor is not from this server"))?;
        let seq = seq.parse().map_err(|_| Refusal::Malformed("cursor is not from this server"))?;
        if query == self.fingerprint(of) {
            Ok(Some(seq))
        } else {
            Err(Refusal::Malformed("cursor belongs to another query"))
        }
    }

    pub(super) fn cursor(&self, of: &str, next: Option<u64>) -> Option<String> {
        next.map(|seq| format!("{seq}.{}", self.fingerprint(of)))
    }
}

pub async fn list(ctx: &RequestContext<'_>, audit_query: &AuditQuery) -> Result<LogPage<Value>, Error> {
    let limit = audit_query.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let after = audit_query.after("events")?;
    let Some(filter) = visible(&ctx.caller, audit_query.filter.clone())? else {
        return Ok(LogPage::empty());
    };
    let mut connection = ctx.pool.acquire().await?;
    let filter = with_log_names(&mut connection, &filter).await?;
    let search_range = search::search_range(&mut connection).await?;
    let search = EventSearch { filter: &filter, besides: &[], without: &[], order: audit_query.order };
    let page = search::bounded_page(&mut connection, search, &search_range, after, limit).await?;
    let beside = context_of(&mut connection, page.found.iter()).await?;
    let items = page.found.into_iter().map(|found| found.event).collect();
    let next = audit_query.cursor("events", page.next);
    Ok(LogPage { items, next, beside, size: search_range.size })
}

/// One event by id or `seq`, as recorded, with what the log has as its inclusion proof: it may not prove the document.
pub async fn examine(ctx: &RequestContext<'_>, name: &str) -> Result<EventDetail, Error> {
    let mut connection = ctx.pool.acquire().await?;
    let found = event(ctx, &mut connection, name).await?;
    // An event that no checkpoint covers yet cannot be proven.
    let inclusion = match transparency::newest_inclusion(&mut connection, found.seq).await {
        Ok(inclusion) => Some(inclusion),
        Err(Error::Refused(_)) => None,
        Err(failed) => return Err(failed),
    };
    let beside = context_of(&mut connection, std::iter::once(&found)).await?;
    Ok(EventDetail { event: found.event, document: found.document, inclusion, beside })
}

/// One event by id or `seq`, as recorded, with its inclusion proof.
///
/// # Errors
/// A fault if the log does not prove the document.
pub async fn show(ctx: &RequestContext<'_>, name: &str) -> Result<EventDetail, Error> {
    let detail = examine(ctx, name).await?;
    match detail.inclusion.as_ref().filter(|inclusion| !inclusion.proves(&detail.document)) {
        Some(wrong) => Err(transparency::unproven(wrong.seq, wrong.size).into()),
        None => Ok(detail),
    }
}

pub(super) async fn event(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    name: &str,
) -> Result<EventRow, Error> {
    let filter = visible(&ctx.caller, Filter::default())?.ok_or(Refusal::NotFound)?;
    let filter = with_log_names(connection, &filter).await?;
    let search_range = search::search_range(connection).await?;
    let found = match name.parse::<u64>() {
        Ok(seq) => search::at(connection, seq).await?.filter(|found| filter.matches(&found.event, None)),
        Err(_) => {
            let filter = Filter { id: Some(name.to_owned()), ..filter };
            let search = EventSearch { filter: &filter, besides: &[], without: &[], order: Order::Newest };
            search::page(connection, search, &search_range, None, 1).await?.found.pop()
        }
    };
    match found {
        Some(found) => Ok(found),
        None => Err(why_absent(&ctx.caller, connection, name).await?.into()),
    }
}
