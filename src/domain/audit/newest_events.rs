//! The newest event of each of several clients, with two queries for all of them.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use sqlx::PgConnection;

use super::field::{Field, term};
use super::filter::Filter;
use super::index::{BLOCK, BlockBitmap};
use super::search::{self, EventRow, EventSearch, Order, SearchRange};
use super::store;
use crate::platform::fault::{Context, Fault};

/// Maximum number of events that are read because the index does not cover them yet: the newest.
const MAX_UNINDEXED: u64 = 20_000;

/// The newest event that each client made, by client id.
pub async fn newest_events(
    connection: &mut PgConnection,
    search_range: &SearchRange,
    client_ids: &[String],
) -> Result<HashMap<String, EventRow>, Fault> {
    let mut newest = unindexed(connection, search_range, client_ids).await?;
    let left: Vec<String> = client_ids.iter().filter(|id| !newest.contains_key(*id)).cloned().collect();
    let places = newest_places(connection, search_range, &left).await?;
    let seqs: Vec<u64> = places.values().copied().collect();
    let rows = store::events_of(connection, &seqs).await?;
    let rows: HashMap<u64, EventRow> = rows.into_iter().map(|row| (row.seq, EventRow::from(row))).collect();
    for (id, seq) in places {
        let filter = Filter { client: Some(id.clone()), ..Filter::default() };
        let is_own =
            |row: &&EventRow| row.seq >= search_range.first_available && filter.matches(&row.event, None);
        // The term may be that of another client, and the event may be archived.
        let found = match rows.get(&seq).filter(is_own) {
            Some(row) => Some(row.clone()),
            None => first(connection, &filter, search_range).await?,
        };
        newest.extend(found.map(|row| (id, row)));
    }
    Ok(newest)
}

/// Of the events that the index does not cover yet.
async fn unindexed(
    connection: &mut PgConnection,
    search_range: &SearchRange,
    client_ids: &[String],
) -> Result<HashMap<String, EventRow>, Fault> {
    #[derive(Deserialize)]
    struct Made {
        actor: ByClient,
    }
    #[derive(Deserialize)]
    struct ByClient {
        client_id: Option<String>,
    }
    let from = search_range.indexed.max(search_range.first_available);
    let from = from.max(search_range.size.saturating_sub(MAX_UNINDEXED));
    let read = match search_range.tail.is_empty() {
        true => store::documents_in(connection, from..search_range.size).await?,
        false => Vec::new(),
    };
    let documents = read.iter().chain(search_range.tail.iter());
    let mut newest = HashMap::new();
    for (seq, document) in documents.rev() {
        let made: Option<Made> = serde_json::from_str(document).ok();
        let Some(id) = made.and_then(|made| made.actor.client_id) else { continue };
        if *seq >= search_range.first_available && !newest.contains_key(&id) && client_ids.contains(&id) {
            let event = serde_json::from_str(document).unwrap_or_default();
            let row = EventRow { seq: *seq, document: document.clone(), event, personal: None };
            newest.insert(id, row);
        }
    }
    Ok(newest)
}

async fn first(
    connection: &mut PgConnection,
    filter: &Filter,
    search_range: &SearchRange,
) -> Result<Option<EventRow>, Fault> {
    let search = EventSearch { filter, besides: &[], without: &[], order: Order::Newest };
    let mut after = None;
    loop {
        let page = search::page(connection, search, search_range, after, 1).await?;
        after = page.next;
        match page.found.into_iter().next() {
            Some(found) => return Ok(Some(found)),
            None if after.is_none() => return Ok(None),
            None => {}
        }
    }
}

/// Where the index has the newest event of each client.
async fn newest_places(
    connection: &mut PgConnection,
    search_range: &SearchRange,
    client_ids: &[String],
) -> Result<BTreeMap<String, u64>, Fault> {
    let number = |block: u64| i32::try_from(block).context("numbering a block");
    let terms: Vec<i64> = client_ids.iter().map(|id| term(Field::Client, id)).collect();
    let rows: Vec<(i64, i32, Vec<u8>)> = sqlx::query_as(
        "SELECT wanted.term, newest.block, newest.bitmap FROM unnest($1::bigint[]) AS wanted (term)
         CROSS JOIN LATERAL (
             SELECT block, bitmap FROM audit_posting
             WHERE term = wanted.term AND block >= $2 AND block < $3 ORDER BY block DESC LIMIT 1
         ) newest",
    )
    .bind(&terms)
    .bind(number(search_range.first_available / BLOCK)?)
    .bind(number(search_range.indexed / BLOCK)?)
    .fetch_all(connection)
    .await?;
    let mut by_term = HashMap::new();
    for (term, block, bitmap) in rows {
        let place = BlockBitmap::of_bytes(&bitmap).places().next_back();
        by_term.extend(place.map(|place| (term, u64::try_from(block).unwrap_or_default() * BLOCK + place)));
    }
    let of = |(id, term): (&String, &i64)| Some((id.clone(), *by_term.get(term)?));
    Ok(client_ids.iter().zip(&terms).filter_map(of).collect())
}
