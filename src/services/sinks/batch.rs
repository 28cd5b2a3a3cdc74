//! One request to a sink: the next events that match its filter, in its format and within its limits.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::domain::audit::Action;
use crate::domain::audit::filter::Filter;
use crate::domain::audit::personal::{People, PersonalView, collect_pseudonyms, resolved};
use crate::domain::audit::store::StoredEvent;
use crate::domain::sink::{Sink, SinkFormat};
use crate::platform::fault::Fault;
use actchain_protocol::ocsf::LogSource;

/// An event of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BatchEvent {
    pub(super) seq: u64,
    id: String,
    /// Whether it records a dead letter.
    pub(super) is_dead_letter: bool,
}

impl BatchEvent {
    fn of(seq: u64, event: &Value) -> Self {
        let text = |name| event.get(name).and_then(Value::as_str);
        Self {
            seq,
            id: text("id").unwrap_or_default().to_owned(),
            is_dead_letter: Action::of(event) == Some(Action::SinkDeadLetter),
        }
    }
}

/// Which events a sink gets, and who the persons in them are.
#[derive(Debug)]
pub(super) struct SinkChoice {
    /// With the names that its persons have in the log at present.
    pub(super) filter: Filter,
    /// Empty for a sink that gets the documents only.
    pub(super) people: People,
    /// This server's issuer identifier.
    pub(super) issuer: String,
}

/// The text of one event, with the names of users and their personal data if the sink is declared so.
fn text(sink: &Sink, row: &StoredEvent, event: &Value, choice: &SinkChoice) -> Result<String, Fault> {
    let source = LogSource { issuer: &choice.issuer, document: &row.document };
    if !sink.people {
        return sink.format.event(event, source);
    }
    let people = &choice.people;
    let personal = row.personal.as_deref();
    match sink.format {
        SinkFormat::Json | SinkFormat::Ndjson => {
            let mut names = BTreeSet::new();
            collect_pseudonyms(event, &mut names);
            let own: People = people
                .iter()
                .filter(|(name, _)| names.contains(*name))
                .map(|(name, view)| (name.clone(), view.clone()))
                .collect();
            let (own, view) = (json!(own), json!(PersonalView::of(event, personal)));
            // The document is the text whose hash is in the tree.
            let whole = format!("{{\"event\":{},\"people\":{own},\"personal\":{view}}}", row.document);
            sink.format.event(event, LogSource { document: &whole, ..source })
        }
        SinkFormat::Ocsf | SinkFormat::Cef => sink.format.event(&resolved(event, personal, people), source),
    }
}

/// Events in the order of the log, and the body with all of them.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) first: BatchEvent,
    pub(super) last: BatchEvent,
    /// The texts of the events.
    texts: Vec<String>,
}

impl Batch {
    /// The batch that begins with the first of these rows that matches the filter, with at most `most` events. `None`
    /// if no row matches.
    pub(super) fn next(
        sink: &Sink,
        choice: &SinkChoice,
        rows: &[StoredEvent],
        most: usize,
    ) -> Result<Option<Self>, Fault> {
        let (events, bytes) = sink.batch.map_or((1, u32::MAX), |batch| (batch.max_events, batch.max_bytes));
        let most = most.min(usize::try_from(events).unwrap_or(usize::MAX));
        let mut room = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut batch: Option<Self> = None;
        for row in rows {
            let event: Value = serde_json::from_str(&row.document).unwrap_or_default();
            if !choice.filter.matches(&event, row.personal.as_deref()) {
                continue;
            }
            let text = text(sink, row, &event, choice)?;
            let (left, this) = (room.checked_sub(text.len()), BatchEvent::of(row.seq, &event));
            match (&mut batch, left) {
                // The first event is sent whatever its size.
                (None, _) => batch = Some(Self { first: this.clone(), last: this, texts: vec![text] }),
                (Some(batch), Some(_)) if batch.len() < most => {
                    batch.last = this;
                    batch.texts.push(text);
                }
                _ => break,
            }
            room = left.unwrap_or(0);
        }
        Ok(batch)
    }

    /// A batch of one event, whatever the filter.
    pub(super) fn of(sink: &Sink, choice: &SinkChoice, row: &StoredEvent) -> Result<Self, Fault> {
        let event: Value = serde_json::from_str(&row.document).unwrap_or_default();
        let only = BatchEvent::of(row.seq, &event);
        Ok(Self { first: only.clone(), last: only, texts: vec![text(sink, row, &event, choice)?] })
    }

    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// The id of the message: the id of the only event, or those of the first and the last. Another batch has another.
    pub(super) fn id(&self) -> String {
        match self.len() {
            1 => self.first.id.clone(),
            _ => format!("{}_{}", self.first.id, self.last.id),
        }
    }

    pub(super) fn body(&self, sink: &Sink) -> String {
        match sink.batch {
            None => self.texts.concat(),
            Some(_) => sink.format.batch(&self.texts),
        }
    }
}
