//! Collects the events of evidence: those that match filters, and what is recorded of the delegations that they name.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::PgConnection;

use crate::domain::audit::evidence::{LIFECYCLE, delegation_ids, is_lifecycle};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::{self, EventRow, EventSearch, Order, SearchRange};
use crate::platform::fault::Fault;

/// Number of events per read.
const PAGE: usize = 512;

/// Events found, by `seq`.
pub(super) struct EventCollector<'a> {
    pub(super) connection: &'a mut PgConnection,
    pub(super) search_range: &'a SearchRange,
    /// Restricts the events to those that the caller can see.
    pub(super) visible: Filter,
    /// After more events than this, nothing more is read.
    pub(super) max: usize,
    pub(super) found: BTreeMap<u64, EventRow>,
}

impl EventCollector<'_> {
    /// Collects all events of the delegations that the events found so far name, and of their ancestors.
    pub(super) async fn add_delegations(&mut self) -> Result<(), Fault> {
        for id in delegation_ids(self.found.values()) {
            for action in LIFECYCLE {
                let action = Some(action.name().to_owned());
                let filter = Filter { delegation: Some(id.clone()), action, ..self.visible.clone() };
                self.add(&filter, |event| is_lifecycle(event, &id)).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn add(
        &mut self,
        filter: &Filter,
        is_wanted: impl Fn(&Value) -> bool,
    ) -> Result<(), Fault> {
        let search = EventSearch { filter, besides: &[], without: &[], order: Order::Oldest };
        let mut after = None;
        while !self.is_full() {
            let page = search::page(self.connection, search, self.search_range, after, PAGE).await?;
            let matching = page.found.into_iter().filter(|one| is_wanted(&one.event));
            self.found.extend(matching.map(|one| (one.seq, one)));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Whether more events were found than evidence may have.
    pub(super) fn is_full(&self) -> bool {
        self.found.len() > self.max
    }

    /// The events in the order of the log.
    pub(super) fn into_events(self) -> Vec<EventRow> {
        self.found.into_values().collect()
    }
}
