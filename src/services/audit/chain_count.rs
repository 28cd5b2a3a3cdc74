//! How many chains have a matching event.

use std::collections::BTreeSet;

use super::log_names::with_log_names;
use super::query::{AuditQuery, visible};
use crate::domain::audit::field::{Field, term};
use crate::domain::audit::search::{self, EventSearch};
use crate::domain::delegation::waiting::BoundedCount;
use crate::domain::refusal::Error;
use crate::services::request_context::RequestContext;

/// The count is exact up to this number.
const COUNTED: usize = 1_000;
/// Events that are read at once.
const STRIDE: usize = 1_000;
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
    let search = EventSearch { filter: &filter, besides: &chained, without: &[], order: audit_query.order };
    let mut chains = BTreeSet::new();
    let (mut after, mut read) = (None, 0);
    loop {
        let page = search::page(&mut connection, search, &range, after, STRIDE).await?;
        read += page.found.len() + page.scanned;
        let txns = page.found.iter().filter_map(|one| one.event.get("txn")?.as_str().map(str::to_owned));
        chains.extend(txns);
        after = page.next;
        let at_least = chains.len() > COUNTED || read >= MAX_READ && after.is_some();
        if after.is_none() || at_least {
            let number = i64::try_from(chains.len().min(COUNTED)).unwrap_or(i64::MAX);
            return Ok(BoundedCount { number, at_least });
        }
    }
}
