//! Keys in a trace: what came before a page of it, and which other key a person has confirmed. Reads only.

use sqlx::PgConnection;

use crate::domain::audit::Action;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::last_keys::ConfirmedKeys;
use crate::domain::audit::search::{self, EventRow, EventSearch, Order, SearchRange};
use crate::domain::audit::trace::{TraceBuilder, TraceItem};
use crate::platform::fault::Fault;

/// Maximum number of exchanges, and of refreshes, before a page with which its keys are compared.
const REMEMBERED: usize = 500;
/// Number of events that are read at once for a confirmation, and how often: the filter also finds events of descendants.
const CONFIRMATIONS: usize = 50;
const ATTEMPTS: usize = 20;

/// Takes the exchanges up to an event.
pub(super) async fn note_before(
    connection: &mut PgConnection,
    search_range: &SearchRange,
    filter: &Filter,
    seq: u64,
    builder: &mut TraceBuilder,
) -> Result<(), Fault> {
    let mut exchanges: Vec<EventRow> = Vec::new();
    // Before this one, exchanges of one kind are missing.
    let mut first = 0;
    for action in Action::ALL.iter().filter(|action| action.is_exchange()) {
        let filter = Filter { action: Some(action.name().to_owned()), ..filter.clone() };
        let search = EventSearch { filter: &filter, besides: &[], without: &[], order: Order::Newest };
        let after = Some(seq.saturating_add(1));
        let page = search::bounded_page(connection, search, search_range, after, REMEMBERED).await?;
        first = page.next.map_or(first, |next| first.max(next));
        exchanges.extend(page.found);
    }
    exchanges.retain(|row| row.seq >= first);
    exchanges.sort_unstable_by_key(|row| row.seq);
    for row in &exchanges {
        builder.note(&row.event);
    }
    Ok(())
}

/// Removes the earlier keys after which a person has confirmed the present one. Confirmations may be outside the session, or
/// invisible to the caller.
pub(super) async fn remove_confirmed(
    connection: &mut PgConnection,
    search_range: &SearchRange,
    rows: &[EventRow],
    items: &mut [TraceItem],
) -> Result<(), Fault> {
    for (row, item) in rows.iter().zip(items) {
        let Some(earlier) = &item.earlier_key else { continue };
        let first_available = earlier.seq.max(search_range.first_available);
        let between = SearchRange { first_available, size: row.seq, ..search_range.clone() };
        if is_confirmed(connection, &between, row).await? {
            item.earlier_key = None;
        }
    }
    Ok(())
}

/// Whether one of these events confirms the key of an exchange.
async fn is_confirmed(
    connection: &mut PgConnection,
    between: &SearchRange,
    exchange: &EventRow,
) -> Result<bool, Fault> {
    let member = |name: &str| exchange.event.get(name)?.as_str().map(str::to_owned);
    let filters = [
        member("delegation_id")
            .map(|id| (Action::DelegationActivated, Filter { delegation: Some(id), ..Filter::default() })),
        member("standing_grant_id").map(|id| {
            (Action::StandingGrantRevalidated, Filter { standing_grant: Some(id), ..Filter::default() })
        }),
    ];
    for (action, filter) in filters.into_iter().flatten() {
        let filter = Filter { action: Some(action.name().to_owned()), ..filter };
        let search = EventSearch { filter: &filter, besides: &[], without: &[], order: Order::Newest };
        let mut after = None;
        for _ in 0..ATTEMPTS {
            let page = search::page(connection, search, between, after, CONFIRMATIONS).await?;
            let confirmed = page.found.iter().filter_map(|row| ConfirmedKeys::of(&row.event));
            if confirmed.into_iter().any(|keys| keys.cover(&exchange.event)) {
                return Ok(true);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(false)
}
