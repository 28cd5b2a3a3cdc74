//! How many chains have a matching event.

use std::collections::{BTreeMap, BTreeSet};

use super::log_names::with_log_names;
use super::query::{AuditQuery, visible};
use crate::domain::audit::field::{Field, term};
use crate::domain::audit::search::{self, EventSearch};
use crate::domain::delegation::waiting::BoundedCount;
use crate::domain::refusal::Error;
use crate::services::request_context::RequestContext;

/// The count is exact up to this number.
const COUNTED: usize = 1_000;
/// Events that are read at once, and where the chains before them were long.
const STRIDE: [usize; 2] = [1_000, 64];
/// A chain with so many events among those that are read at once is left out of the next ones.
const LONG: usize = 32;
/// The most events that one count reads.
const MAX_READ: usize = 20_000;

/// Counts the chains, whatever the state of their delegations and their keys.
pub async fn count(ctx: &RequestContext<'_>, audit_query: &AuditQuery) -> Result<BoundedCount, Error> {
    let Some(filter) = visible(&ctx.caller, audit_query.filter.clone())? else {
        return Ok(BoundedCount::default());
    };
    let mut connection = ctx.pool.acquire().await?;
    let filter = with_log_names(&mut connection, &filter).await?;
    let range = search::search_range(&mut connection).await?;
    let chained = [term(Field::Chained, "")];
    let (mut chains, mut long) = (BTreeSet::new(), Vec::new());
    let [many, few] = STRIDE;
    let (mut after, mut read, mut stride) = (None, 0, many);
    loop {
        let search =
            EventSearch { filter: &filter, besides: &chained, without: &long, order: audit_query.order };
        let page = search::bounded_page(&mut connection, search, &range, after, stride).await?;
        read += page.found.len() + page.scanned;
        let mut found: BTreeMap<String, usize> = BTreeMap::new();
        for txn in page.found.iter().filter_map(|one| one.event.get("txn")?.as_str()) {
            *found.entry(txn.to_owned()).or_default() += 1;
        }
        let of_page = found.iter().filter(|(_, events)| **events >= LONG);
        let before = long.len();
        long.extend(of_page.map(|(txn, _)| term(Field::Chain, txn)));
        stride = if long.len() > before { few } else { many };
        chains.extend(found.into_keys());
        after = page.next;
        let is_enough = chains.len() > COUNTED || page.is_cut || read >= MAX_READ;
        if after.is_none() || is_enough {
            let number = i64::try_from(chains.len().min(COUNTED)).unwrap_or(i64::MAX);
            let at_least = chains.len() > COUNTED || after.is_some();
            return Ok(BoundedCount { number, at_least });
        }
    }
}
