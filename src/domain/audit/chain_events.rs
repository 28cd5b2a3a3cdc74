//! Loads the events of whole chains from the index and from the part of the log that is not indexed yet.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use sqlx::PgConnection;

use super::field::{Field, term};
use super::index::{BLOCK, BlockBitmap};
use super::search::{EventRow, SearchRange};
use super::store;
use crate::platform::fault::Fault;

/// Number of last events read of a chain with more than `max` events, beside the first events.
const TAIL: usize = 8;

#[derive(Debug, Default, Clone)]
pub struct ChainEvents {
    /// In order; of a long chain only the first and the last events.
    pub found: Vec<EventRow>,
    /// Number of events in the chain.
    pub total: u64,
}

impl ChainEvents {
    pub fn txn(&self) -> Option<String> {
        self.found.first()?.event.get("txn")?.as_str().map(str::to_owned)
    }
}

/// Loads chains by id, at most `max` events each.
pub async fn load(
    connection: &mut PgConnection,
    search_range: &SearchRange,
    txns: &[String],
    max: usize,
) -> Result<HashMap<String, ChainEvents>, Fault> {
    let mut places = indexed(connection, search_range, txns).await?;
    let mut recent = recent(connection, search_range, txns).await?;
    let mut chain_events = HashMap::new();
    let mut wanted = Vec::new();
    for txn in txns {
        let seqs = places.entry(txn.clone()).or_default();
        let late = recent.remove(txn).unwrap_or_default();
        let total = seqs.len() + late.len();
        thin(seqs, max, late.len());
        wanted.extend_from_slice(seqs);
        let total = u64::try_from(total).unwrap_or(u64::MAX);
        chain_events.insert(txn.clone(), ChainEvents { found: late, total });
    }
    for stored in store::events_of(connection, &wanted).await? {
        let row = EventRow::from(stored);
        let txn = row.event.get("txn").and_then(Value::as_str).map(str::to_owned);
        if let Some(one) = txn.and_then(|txn| chain_events.get_mut(&txn)) {
            one.found.push(row);
        }
    }
    for one in chain_events.values_mut() {
        one.found.sort_unstable_by_key(|found| found.seq);
        if one.found.len() > max {
            let late = one.found.len() - TAIL.min(max);
            one.found.drain(max.saturating_sub(TAIL)..late);
        }
    }
    Ok(chain_events)
}

/// Keeps the first and the last events if there are more than `max`.
fn thin(seqs: &mut Vec<u64>, max: usize, behind: usize) {
    if seqs.len() + behind > max && seqs.len() > max {
        let late = seqs.len() - TAIL.min(max);
        seqs.drain(max.saturating_sub(TAIL)..late);
    }
}

async fn indexed(
    connection: &mut PgConnection,
    search_range: &SearchRange,
    txns: &[String],
) -> Result<HashMap<String, Vec<u64>>, Fault> {
    let by_term: HashMap<i64, &String> = txns.iter().map(|txn| (term(Field::Chain, txn), txn)).collect();
    let terms: Vec<i64> = by_term.keys().copied().collect();
    let rows: Vec<(i64, i32, Vec<u8>)> = sqlx::query_as(
        "SELECT term, block, bitmap FROM audit_posting WHERE term = ANY ($1) ORDER BY term, block",
    )
    .bind(terms)
    .fetch_all(connection)
    .await?;
    let mut places: HashMap<String, Vec<u64>> = HashMap::new();
    for (term, block, bitmap) in rows {
        let Some(txn) = by_term.get(&term) else { continue };
        let first = u64::try_from(block).unwrap_or_default() * BLOCK;
        let seqs = BlockBitmap::of_bytes(&bitmap).places().map(|place| first + place);
        let there = seqs.filter(|seq| *seq >= search_range.first_available && *seq < search_range.indexed);
        places.entry((*txn).clone()).or_default().extend(there);
    }
    Ok(places)
}

/// Events of these chains that are not indexed yet. Parses only the documents of these chains.
async fn recent(
    connection: &mut PgConnection,
    search_range: &SearchRange,
    txns: &[String],
) -> Result<HashMap<String, Vec<EventRow>>, Fault> {
    let unindexed = search_range.unindexed("chains")?;
    let mut found: HashMap<String, Vec<EventRow>> = HashMap::new();
    for stored in store::events_in(connection, unindexed).await? {
        let named = named_chain(&stored.document).filter(|txn| txns.iter().any(|one| one == txn));
        let Some(txn) = named.map(Cow::into_owned) else { continue };
        found.entry(txn).or_default().push(EventRow::from(stored));
    }
    for one in found.values_mut() {
        one.sort_unstable_by_key(|found| found.seq);
    }
    Ok(found)
}

/// The chain of an event; its other members are skipped.
#[derive(Deserialize)]
struct ChainMember<'a> {
    #[serde(borrow)]
    txn: Option<Cow<'a, str>>,
}

fn named_chain(document: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str::<ChainMember<'_>>(document).ok()?.txn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_read_off_its_document() {
        let txn = |document| named_chain(document).map(Cow::into_owned);
        assert_eq!(txn(r#"{"subject":{},"txn":"t-1","user_agent":"x"}"#).as_deref(), Some("t-1"));
        assert_eq!(txn(r#"{"txn":"t-1","under":{"txn":"another"}}"#).as_deref(), Some("t-1"));
        assert_eq!(txn(r#"{"detail":{"txn":"t"},"seq":1}"#), None);
    }

    #[test]
    fn of_a_long_chain_the_first_and_the_last_stay() {
        let mut seqs: Vec<u64> = (0..100).collect();
        thin(&mut seqs, 20, 0);
        assert_eq!(seqs, (0..12).chain(92..100).collect::<Vec<u64>>());
    }
}
