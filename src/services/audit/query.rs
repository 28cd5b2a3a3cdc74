//! Queries of the log: pages of events, and whole chains. Reads only. Administrators and auditors see all events,
//! users the events about them, agents none.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use super::archived::why_absent;
use super::log_names::{PersonalContext, context_of, people_in, with_log_names};
use super::transparency::{self, Inclusion};
use crate::domain::audit::chain::{self, Chain, ChainFacts};
use crate::domain::audit::chain_events::{self, ChainEvents};
use crate::domain::audit::chain_keys::KeyContinuity;
use crate::domain::audit::field::{Field, term};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::{self, EventRow, EventSearch, Order, SearchRange};
use crate::domain::delegation::DelegationState;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::{client, delegation};
use crate::platform::fault::Fault;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;

/// Maximum and default number of events of a page.
const MAX_LIMIT: usize = 1_000;
const DEFAULT_LIMIT: usize = 50;
/// Maximum and default number of chains of a page.
const MAX_CHAINS: usize = 100;
const DEFAULT_CHAINS: usize = 20;
/// Maximum number of events shown for a chain in a list.
const MAX_CHAIN_EVENTS_LISTED: usize = 100;
/// Maximum number of events shown for a single chain.
const MAX_CHAIN_EVENTS: usize = 10_000;
/// Maximum number of events read for a page of chains; then the page is returned incomplete.
const MAX_SCANNED: usize = 4_000;
/// Minimum and maximum number of events read at once.
const STRIDE: [usize; 2] = [16, 128];

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
    fn match_chain(self, chain: &Chain) -> bool {
        (self.state.is_none() || chain.state == self.state)
            && self.key_continuity.is_none_or(|wanted| chain.key_continuity == wanted)
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

#[derive(Debug, Serialize)]
pub struct ChainDetail {
    #[serde(flatten)]
    pub chain: Chain,
    pub items: Vec<Value>,
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
    fn limit(&self, default: usize, max: usize) -> Result<usize, Refusal> {
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

    fn after(&self, of: &str) -> Result<Option<u64>, Refusal> {
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

    fn cursor(&self, of: &str, next: Option<u64>) -> Option<String> {
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
    let page = search::page(&mut connection, search, &search_range, after, limit).await?;
    let beside = context_of(&mut connection, page.found.iter()).await?;
    let items = page.found.into_iter().map(|found| found.event).collect();
    let next = audit_query.cursor("events", page.next);
    Ok(LogPage { items, next, beside, size: search_range.size })
}

/// A page of chains with a matching event, ordered by the first matching event of each chain.
pub async fn chains(ctx: &RequestContext<'_>, audit_query: &AuditQuery) -> Result<LogPage<Chain>, Error> {
    let limit = audit_query.limit(DEFAULT_CHAINS, MAX_CHAINS)?;
    let mut after = audit_query.after("chains")?;
    let Some(filter) = visible(&ctx.caller, audit_query.filter.clone())? else {
        return Ok(LogPage::empty());
    };
    let mut connection = ctx.pool.acquire().await?;
    let filter = with_log_names(&mut connection, &filter).await?;
    let search_range = search::search_range(&mut connection).await?;
    let chained = [term(Field::Chained, "")];
    let search = EventSearch { filter: &filter, besides: &chained, without: &[], order: audit_query.order };
    let mut tracker = FirstSeenTracker { search, search_range, first_seen: HashMap::new() };
    let mut items: Vec<(u64, Chain)> = Vec::new();
    let mut scanned = 0;
    let [min, max] = STRIDE;
    let mut events_per_chain = 1;
    loop {
        // Each chain that is found is loaded, so that no more of them are read than the page needs.
        let stride = ((limit + 1 - items.len()) * events_per_chain).clamp(min, max);
        let page = search::page(&mut connection, search, &tracker.search_range, after, stride).await?;
        scanned += page.found.len() + page.scanned;
        let first_events = tracker.first_events(&mut connection, &page.found).await?;
        events_per_chain = page.found.len().div_ceil(first_events.len().max(1));
        let chains = first_events.iter().map(|(_, chain_events)| chain_events);
        let facts = facts(ctx, &mut connection, chains).await?;
        for (seq, chain_events) in first_events {
            let chain = chain_events
                .txn()
                .and_then(|txn| Chain::build(&txn, &chain_events.found, chain_events.total, &facts));
            let wanted = chain.filter(|chain| audit_query.chains.match_chain(chain));
            let Some(chain) = wanted else { continue };
            if items.len() == limit {
                let next = items.last().map(|(seq, _)| *seq);
                let size = tracker.search_range.size;
                return chains_page(&mut connection, audit_query, FoundChains { items, next, size }).await;
            }
            items.push((seq, chain));
        }
        after = page.next;
        if after.is_none() || scanned >= MAX_SCANNED {
            let found = FoundChains { items, next: after, size: tracker.search_range.size };
            return chains_page(&mut connection, audit_query, found).await;
        }
    }
}

/// The chains of a page, each with the `seq` of its first matching event.
struct FoundChains {
    items: Vec<(u64, Chain)>,
    next: Option<u64>,
    /// Size of the log that was searched.
    size: u64,
}

async fn chains_page(
    connection: &mut PgConnection,
    audit_query: &AuditQuery,
    FoundChains { items, next, size }: FoundChains,
) -> Result<LogPage<Chain>, Error> {
    let items: Vec<Chain> = items.into_iter().map(|(_, chain)| chain).collect();
    let people = people_in(connection, items.iter().map(|chain| &chain.subject)).await?;
    let beside = PersonalContext { people, ..PersonalContext::default() };
    Ok(LogPage { items, next: audit_query.cursor("chains", next), beside, size })
}

/// Finds the first matching event of each chain, so that each chain appears once.
struct FirstSeenTracker<'a> {
    search: EventSearch<'a>,
    search_range: SearchRange,
    /// `seq` of the first matching event, by chain.
    first_seen: HashMap<String, u64>,
}

impl FirstSeenTracker<'_> {
    async fn first_events(
        &mut self,
        connection: &mut PgConnection,
        found: &[EventRow],
    ) -> Result<Vec<(u64, ChainEvents)>, Fault> {
        let named = |one: &EventRow| Some((one.seq, one.event.get("txn")?.as_str()?.to_owned()));
        let events: Vec<(u64, String)> = found.iter().filter_map(named).collect();
        let txns: BTreeSet<&String> = events.iter().map(|(_, txn)| txn).collect();
        let new: Vec<String> = txns
            .into_iter()
            .filter(|txn| {
                self.first_seen.get(*txn).is_none_or(|first| events.iter().any(|(seq, _)| seq == first))
            })
            .cloned()
            .collect();
        let mut chain_events =
            chain_events::load(connection, &self.search_range, &new, MAX_CHAIN_EVENTS_LISTED).await?;
        for (txn, one) in &chain_events {
            if !self.first_seen.contains_key(txn) {
                let first = self.first(connection, txn, one).await?;
                self.first_seen.insert(txn.clone(), first);
            }
        }
        let is_first = |(seq, txn): &(u64, String)| self.first_seen.get(txn) == Some(seq);
        let first_events = events.into_iter().filter(is_first);
        Ok(first_events.filter_map(|(seq, txn)| Some((seq, chain_events.remove(&txn)?))).collect())
    }

    async fn first(&self, connection: &mut PgConnection, txn: &str, one: &ChainEvents) -> Result<u64, Fault> {
        let filter = self.search.filter;
        let whole = u64::try_from(one.found.len()) == Ok(one.total);
        let of_found = one
            .found
            .iter()
            .find(|found| filter.matches(&found.event, found.personal.as_deref()))
            .map(|found| found.seq);
        // The middle of a long chain is left out; the matching event may be there.
        let early = one
            .found
            .get(MAX_CHAIN_EVENTS_LISTED / 2)
            .is_some_and(|middle| of_found.is_some_and(|seq| seq < middle.seq));
        if whole || early {
            return Ok(of_found.unwrap_or(u64::MAX));
        }
        let filter = Filter { txn: Some(txn.to_owned()), ..filter.clone() };
        let search = EventSearch { filter: &filter, besides: &[], without: &[], order: Order::Oldest };
        let mut after = None;
        loop {
            let page = search::page(connection, search, &self.search_range, after, 1).await?;
            after = page.next;
            match page.found.first() {
                Some(found) => return Ok(found.seq),
                None if after.is_none() => return Ok(u64::MAX),
                None => {}
            }
        }
    }
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

pub async fn chain(ctx: &RequestContext<'_>, txn: &str) -> Result<ChainDetail, Error> {
    let filter = visible(&ctx.caller, Filter::default())?.ok_or(Refusal::NotFound)?;
    let mut connection = ctx.pool.acquire().await?;
    let filter = with_log_names(&mut connection, &filter).await?;
    let search_range = search::search_range(&mut connection).await?;
    let chain_events = visible_chain(&mut connection, &filter, &search_range, txn).await?;
    let facts = facts(ctx, &mut connection, [&chain_events].into_iter()).await?;
    let chain =
        Chain::build(txn, &chain_events.found, chain_events.total, &facts).ok_or(Refusal::NotFound)?;
    let beside = context_of(&mut connection, chain_events.found.iter()).await?;
    let items = chain_events.found.into_iter().map(|found| found.event).collect();
    Ok(ChainDetail { chain, items, beside })
}

/// The events of a chain, at most 10,000.
///
/// # Errors
/// Refuses a chain that does not exist, or that has an event outside the filter.
pub(super) async fn visible_chain(
    connection: &mut PgConnection,
    visible: &Filter,
    search_range: &SearchRange,
    txn: &str,
) -> Result<ChainEvents, Error> {
    let mut all = chain_events::load(connection, search_range, &[txn.to_owned()], MAX_CHAIN_EVENTS).await?;
    let chain_events = all.remove(txn).unwrap_or_default();
    // All events of a chain have the same subject.
    match chain_events.found.iter().all(|found| visible.matches(&found.event, None)) {
        true if !chain_events.found.is_empty() => Ok(chain_events),
        _ => Err(Refusal::NotFound.into()),
    }
}

async fn facts<'a>(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    chain_events: impl Iterator<Item = &'a ChainEvents>,
) -> Result<ChainFacts, Fault> {
    let (delegations, clients) = chain::named(chain_events.flat_map(|one| one.found.iter()));
    let delegations: Vec<String> = delegations.into_iter().collect();
    let mut facts = ChainFacts::default();
    for path in delegation::store::all_paths(ctx.rows, connection, &delegations).await? {
        facts.states.extend(path.leaf().map(|leaf| (leaf.id.clone(), path.state(ctx.now).0)));
    }
    let clients: Vec<String> = clients.into_iter().collect();
    for client in client::store::find_all(ctx.rows, connection, &clients).await? {
        // A client without registered DPoP keys may use any key.
        if client.dpop_restricted {
            let keys = client.dpop_keys.union(&client.removed_keys).cloned().collect();
            facts.keys.insert(client.client_id, keys);
        }
    }
    Ok(facts)
}
