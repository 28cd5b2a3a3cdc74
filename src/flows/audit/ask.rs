//! Asking the log: pages of events, and whole chains. Reads only. Administrators and auditors see all, users what is about
//! them, agents nothing.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};
use sqlx::PgConnection;

use super::transparency;
use crate::domain::audit::chain::{self, Chain, Facts};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::gather::{self, Gathered};
use crate::domain::audit::index::{Field, term};
use crate::domain::audit::search::{self, Extent, Found, Order, Search};
use crate::domain::delegation::State;
use crate::domain::refusal::{Refusal, Stop};
use crate::domain::row_mac::RowMac;
use crate::domain::{client, delegation};
use crate::flows::desk::{Call, Caller, Desk, Done};
use crate::platform::fault::Fault;

/// The most events of a page, and the usual number.
const MOST: usize = 1_000;
const USUAL: usize = 50;
/// The same for chains.
const MOST_CHAINS: usize = 100;
const USUAL_CHAINS: usize = 20;
/// The most events that are told of a chain in a list.
const TOLD: usize = 100;
/// The most that are told of one chain.
const TOLD_IN_FULL: usize = 10_000;
/// How many events are looked at for a page of chains before it is given as far as it came.
const PATIENCE: usize = 4_000;
/// How many events are looked at together, at least and at most: about two for each chain that is wanted.
const STRIDE: [usize; 2] = [16, 128];

/// What somebody asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What.
    pub filter: Filter,
    /// Which way.
    pub order: Order,
    /// How many.
    pub limit: Option<usize>,
    /// What the page before said.
    pub cursor: Option<String>,
    /// Chains only: the state of their delegation.
    pub state: Option<State>,
}

/// What the caller may see of it.
pub fn visible(caller: &Caller, filter: Filter) -> Result<Option<Filter>, Refusal> {
    filter.check()?;
    match caller {
        Caller::Admin(_) | Caller::Auditor(_) | Caller::Operator => Ok(Some(filter)),
        Caller::User(user) => Ok(filter.about(&user.who)),
        Caller::Agent(_) => Err(Refusal::InsufficientScope),
    }
}

impl Asked {
    fn limit(&self, usual: usize, most: usize) -> Result<usize, Refusal> {
        match self.limit.unwrap_or(usual) {
            limit if (1..=most).contains(&limit) => Ok(limit),
            _ if most == MOST => Err(Refusal::Malformed("limit is 1 to 1000")),
            _ => Err(Refusal::Malformed("limit is 1 to 100")),
        }
    }

    /// Stands for everything that a cursor depends on.
    fn fingerprint(&self, of: &str) -> String {
        self.filter.fingerprint(&format!("{of} {:?} {:?}", self.order, self.state))
    }

    fn after(&self, of: &str) -> Result<Option<u64>, Refusal> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let (seq, query) = cursor.split_once('.').ok_or(Refusal::Malformed("cursor is none of ours"))?;
        let seq = seq.parse().map_err(|_| Refusal::Malformed("cursor is none of ours"))?;
        if query == self.fingerprint(of) {
            Ok(Some(seq))
        } else {
            Err(Refusal::Malformed("cursor is of another query"))
        }
    }

    fn cursor(&self, of: &str, next: Option<u64>) -> Option<String> {
        next.map(|seq| format!("{seq}.{}", self.fingerprint(of)))
    }
}

/// A page of events.
pub async fn list(desk: &Desk<'_>, call: &Call, asked: &Asked) -> Result<Done, Stop> {
    let limit = asked.limit(USUAL, MOST)?;
    let after = asked.after("events")?;
    let Some(filter) = visible(&call.caller, asked.filter.clone())? else {
        return Ok(Done::with(json!({"items": [], "next": null}))?);
    };
    let mut connection = desk.pool.acquire().await?;
    let extent = search::extent(&mut connection).await?;
    let search = Search { filter: &filter, besides: &[], order: asked.order };
    let page = search::page(&mut connection, search, &extent, (after, limit)).await?;
    let items: Vec<Value> = page.found.into_iter().map(|found| found.event).collect();
    Ok(Done::with(json!({"items": items, "next": asked.cursor("events", page.next)}))?)
}

/// A page of chains that have an event as asked for, in the order of the first such event of each.
pub async fn chains(desk: &Desk<'_>, call: &Call, asked: &Asked) -> Result<Done, Stop> {
    let limit = asked.limit(USUAL_CHAINS, MOST_CHAINS)?;
    let mut after = asked.after("chains")?;
    let Some(filter) = visible(&call.caller, asked.filter.clone())? else {
        return Ok(Done::with(json!({"items": [], "next": null}))?);
    };
    let mut connection = desk.pool.acquire().await?;
    let extent = search::extent(&mut connection).await?;
    let chained = [term(Field::Chained, "")];
    let search = Search { filter: &filter, besides: &chained, order: asked.order };
    let mut lookout = Lookout { search, extent, known: HashMap::new() };
    let mut items: Vec<(u64, Chain)> = Vec::new();
    let mut looked = 0;
    let [least, most] = STRIDE;
    let stride = (limit * 2).clamp(least, most);
    loop {
        let page = search::page(&mut connection, search, &lookout.extent, (after, stride)).await?;
        looked += page.found.len() + page.vain;
        let firsts = lookout.firsts(&mut connection, &page.found).await?;
        let facts =
            facts(desk.rows, &mut connection, firsts.iter().map(|(_, gathered)| gathered), call).await?;
        for (seq, gathered) in firsts {
            let told =
                gathered.txn().and_then(|txn| Chain::tell(&txn, &gathered.found, gathered.total, &facts));
            let wanted = told.filter(|told| asked.state.is_none() || told.state == asked.state);
            let Some(told) = wanted else { continue };
            if items.len() == limit {
                let next = items.last().map(|(seq, _)| *seq);
                return chains_done(asked, items, next);
            }
            items.push((seq, told));
        }
        after = page.next;
        if after.is_none() || looked >= PATIENCE {
            return chains_done(asked, items, after);
        }
    }
}

fn chains_done(asked: &Asked, items: Vec<(u64, Chain)>, next: Option<u64>) -> Result<Done, Stop> {
    let items: Vec<Chain> = items.into_iter().map(|(_, chain)| chain).collect();
    Ok(Done::with(json!({"items": items, "next": asked.cursor("chains", next)}))?)
}

/// Finds out which events are the first of their chain that match: each chain has one, so that it is in one place only.
struct Lookout<'a> {
    search: Search<'a>,
    extent: Extent,
    /// The first event that matches, by chain.
    known: HashMap<String, u64>,
}

impl Lookout<'_> {
    async fn firsts(
        &mut self,
        connection: &mut PgConnection,
        found: &[Found],
    ) -> Result<Vec<(u64, Gathered)>, Fault> {
        let named = |one: &Found| Some((one.seq, one.event.get("txn")?.as_str()?.to_owned()));
        let events: Vec<(u64, String)> = found.iter().filter_map(named).collect();
        let txns: BTreeSet<&String> = events.iter().map(|(_, txn)| txn).collect();
        let new: Vec<String> = txns
            .into_iter()
            .filter(|txn| self.known.get(*txn).is_none_or(|first| events.iter().any(|(seq, _)| seq == first)))
            .cloned()
            .collect();
        let mut gathered = gather::chains(connection, &self.extent, &new, TOLD).await?;
        for (txn, one) in &gathered {
            if !self.known.contains_key(txn) {
                let first = self.first(connection, txn, one).await?;
                self.known.insert(txn.clone(), first);
            }
        }
        let is_first = |(seq, txn): &(u64, String)| self.known.get(txn) == Some(seq);
        let firsts = events.into_iter().filter(is_first);
        Ok(firsts.filter_map(|(seq, txn)| Some((seq, gathered.remove(&txn)?))).collect())
    }

    async fn first(&self, connection: &mut PgConnection, txn: &str, one: &Gathered) -> Result<u64, Fault> {
        let filter = self.search.filter;
        let whole = u64::try_from(one.found.len()) == Ok(one.total);
        let of_found = one.found.iter().find(|found| filter.matches(&found.event)).map(|found| found.seq);
        // Of a long chain the middle was left out: what matches may stand there.
        let early =
            one.found.get(TOLD / 2).is_some_and(|middle| of_found.is_some_and(|seq| seq < middle.seq));
        if whole || early {
            return Ok(of_found.unwrap_or(u64::MAX));
        }
        let filter = Filter { txn: Some(txn.to_owned()), ..filter.clone() };
        let search = Search { filter: &filter, besides: &[], order: Order::Oldest };
        let mut after = None;
        loop {
            let page = search::page(connection, search, &self.extent, (after, 1)).await?;
            after = page.next;
            match page.found.first() {
                Some(found) => return Ok(found.seq),
                None if after.is_none() => return Ok(u64::MAX),
                None => {}
            }
        }
    }
}

/// One event, by its id or its place: as it stands in the log, and proven to be there.
pub async fn show(desk: &Desk<'_>, call: &Call, name: &str) -> Result<Done, Stop> {
    let mut connection = desk.pool.acquire().await?;
    let found = event(&mut connection, call, name).await?;
    // What no checkpoint vouches for yet cannot be proven.
    let inclusion = match transparency::inclusion(&mut connection, found.seq, None).await {
        Ok(inclusion) => Some(inclusion),
        Err(Stop::Refused(_)) => None,
        Err(failed) => return Err(failed),
    };
    Ok(Done::with(json!({"event": found.event, "document": found.document, "inclusion": inclusion}))?)
}

async fn event(connection: &mut PgConnection, call: &Call, name: &str) -> Result<Found, Stop> {
    let filter = visible(&call.caller, Filter::default())?.ok_or(Refusal::NotFound)?;
    let extent = search::extent(connection).await?;
    if let Ok(seq) = name.parse::<u64>() {
        let found = search::at(connection, seq).await?;
        return found.filter(|found| filter.matches(&found.event)).ok_or(Refusal::NotFound.into());
    }
    let filter = Filter { id: Some(name.to_owned()), ..filter };
    let search = Search { filter: &filter, besides: &[], order: Order::Newest };
    let page = search::page(connection, search, &extent, (None, 1)).await?;
    page.found.into_iter().next().ok_or(Refusal::NotFound.into())
}

/// One chain in full.
pub async fn chain(desk: &Desk<'_>, call: &Call, txn: &str) -> Result<Done, Stop> {
    let filter = visible(&call.caller, Filter::default())?.ok_or(Refusal::NotFound)?;
    let mut connection = desk.pool.acquire().await?;
    let extent = search::extent(&mut connection).await?;
    let mut all = gather::chains(&mut connection, &extent, &[txn.to_owned()], TOLD_IN_FULL).await?;
    let gathered = all.remove(txn).unwrap_or_default();
    // A chain is about one subject from its root to its ends.
    if gathered.found.is_empty() || !gathered.found.iter().all(|found| filter.matches(&found.event)) {
        return Err(Refusal::NotFound.into());
    }
    let facts = facts(desk.rows, &mut connection, [&gathered].into_iter(), call).await?;
    let told = Chain::tell(txn, &gathered.found, gathered.total, &facts).ok_or(Refusal::NotFound)?;
    let Value::Object(mut members) = Done::with(told)?.body else {
        return Err(Fault::new("a chain that is not an object").into());
    };
    let events: Vec<Value> = gathered.found.into_iter().map(|found| found.event).collect();
    members.insert("items".to_owned(), events.into());
    Ok(Done::with(members)?)
}

async fn facts<'a>(
    rows: &RowMac,
    connection: &mut PgConnection,
    gathered: impl Iterator<Item = &'a Gathered>,
    call: &Call,
) -> Result<Facts, Fault> {
    let (delegations, clients) = chain::named(gathered.flat_map(|one| one.found.iter()));
    let delegations: Vec<String> = delegations.into_iter().collect();
    let mut facts = Facts::default();
    for path in delegation::store::all_paths(rows, connection, &delegations).await? {
        facts.states.extend(path.leaf().map(|leaf| (leaf.id.clone(), path.state(call.now).0)));
    }
    let clients: Vec<String> = clients.into_iter().collect();
    for client in client::store::find_all(rows, connection, &clients).await? {
        // Without a list of its own, a client may come with any key.
        if client.dpop_restricted {
            let keys = client.dpop_keys.union(&client.removed_keys).cloned().collect();
            facts.keys.insert(client.client_id, keys);
        }
    }
    Ok(facts)
}
