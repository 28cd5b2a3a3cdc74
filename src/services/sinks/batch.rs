//! One request to a sink: the next events that match its filter, in its format and within its limits.

use serde_json::Value;

use crate::domain::audit::Action;
use crate::domain::sink::Sink;
use crate::platform::fault::Fault;

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
    pub(super) fn next(sink: &Sink, rows: &[(u64, String)], most: usize) -> Result<Option<Self>, Fault> {
        let filter = sink.filter()?;
        let (events, bytes) = sink.batch.map_or((1, u32::MAX), |batch| (batch.max_events, batch.max_bytes));
        let most = most.min(usize::try_from(events).unwrap_or(usize::MAX));
        let mut room = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut batch: Option<Self> = None;
        for (seq, document) in rows {
            let event: Value = serde_json::from_str(document).unwrap_or_default();
            if !filter.matches(&event) {
                continue;
            }
            let text = sink.format.event(document, &event);
            let (left, this) = (room.checked_sub(text.len()), BatchEvent::of(*seq, &event));
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
    pub(super) fn of(sink: &Sink, seq: u64, document: &str) -> Self {
        let event: Value = serde_json::from_str(document).unwrap_or_default();
        let only = BatchEvent::of(seq, &event);
        Self { first: only.clone(), last: only, texts: vec![sink.format.event(document, &event)] }
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
