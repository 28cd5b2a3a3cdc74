//! Queries of chains: pages of them, and a whole one. Reads only.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use super::archived::why_chain_absent;
use super::log_names::{PersonalContext, context_of, people_in, with_log_names};
use super::query::{AuditQuery, LogPage, visible};
use crate::domain::audit::chain::{self, Chain, ChainFacts};
use crate::domain::audit::chain_events::{self, ChainEvents};
use crate::domain::audit::field::{Field, term};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::{self, EventRow, EventSearch, Order, SearchRange};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::{client, delegation};
use crate::platform::fault::Fault;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;

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

#[derive(Debug, Serialize)]
pub struct ChainDetail {
    #[serde(flatten)]
    pub chain: Chain,
    pub items: Vec<Value>,
    #[serde(flatten)]
    pub beside: PersonalContext,
}

/// A page of chains with a matching event, ordered by the first matching event of each chain.
pub async fn list(ctx: &RequestContext<'_>, audit_query: &AuditQuery) -> Result<LogPage<Chain>, Error> {
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
        let page =
            search::bounded_page(&mut connection, search, &tracker.search_range, after, stride).await?;
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
        if after.is_none() || page.is_cut || scanned >= MAX_SCANNED {
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

pub async fn show(ctx: &RequestContext<'_>, txn: &str) -> Result<ChainDetail, Error> {
    let filter = visible(&ctx.caller, Filter::default())?.ok_or(Refusal::NotFound)?;
    let mut connection = ctx.pool.acquire().await?;
    let filter = with_log_names(&mut connection, &filter).await?;
    let search_range = search::search_range(&mut connection).await?;
    let events = VisibleEvents { caller: &ctx.caller, filter: &filter, search_range: &search_range };
    let chain_events = visible_chain(&mut connection, &events, txn).await?;
    let facts = facts(ctx, &mut connection, [&chain_events].into_iter()).await?;
    let chain =
        Chain::build(txn, &chain_events.found, chain_events.total, &facts).ok_or(Refusal::NotFound)?;
    let beside = context_of(&mut connection, chain_events.found.iter()).await?;
    let items = chain_events.found.into_iter().map(|found| found.event).collect();
    Ok(ChainDetail { chain, items, beside })
}

/// The events that a caller can see.
pub(super) struct VisibleEvents<'a> {
    pub(super) caller: &'a Caller,
    pub(super) filter: &'a Filter,
    pub(super) search_range: &'a SearchRange,
}

/// The events of a chain, at most 10,000.
///
/// # Errors
/// Refuses a chain that does not exist, that the caller cannot see, or whose events are all archived.
pub(super) async fn visible_chain(
    connection: &mut PgConnection,
    events: &VisibleEvents<'_>,
    txn: &str,
) -> Result<ChainEvents, Error> {
    let mut all =
        chain_events::load(connection, events.search_range, &[txn.to_owned()], MAX_CHAIN_EVENTS).await?;
    let chain_events = all.remove(txn).unwrap_or_default();
    if chain_events.found.is_empty() {
        return Err(why_chain_absent(events.caller, connection, txn).await?.into());
    }
    // All events of a chain have the same subject.
    match chain_events.found.iter().all(|found| events.filter.matches(&found.event, None)) {
        true => Ok(chain_events),
        false => Err(Refusal::NotFound.into()),
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
