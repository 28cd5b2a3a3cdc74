//! Loads what the log has of sessions: numbers from the index, and the first and the last events of each session. An event
//! is of a session if its document says so; the numbers trust the index.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;
use serde::de::IgnoredAny;
use sqlx::PgConnection;

use super::event_counts::{CountedMembers, EventCounts, counted};
use super::field::{Field, term};
use super::index::{BLOCK, BlockBitmap};
use super::search::SearchRange;
use super::store;
use crate::domain::principal::Principal;
use crate::platform::fault::Fault;

/// Number of last events read of a session with more than `max` events, beside the first events.
const TAIL: usize = 8;

/// The sessions to load.
#[derive(Debug, Clone, Copy)]
pub struct SessionSelection<'a> {
    pub ids: &'a [String],
    /// Only events about the person with one of these pseudonyms; `None` selects all events.
    pub pseudonyms: Option<&'a [String]>,
}

/// The members of a document that tell about a session.
#[derive(Debug, Clone, Deserialize)]
pub struct SessionEvent {
    pub seq: u64,
    pub at: String,
    action: String,
    outcome: String,
    actor: ActorMember,
    pub subject: Option<Principal>,
    session_id: Option<String>,
    pub delegation_id: Option<String>,
    #[serde(default)]
    findings: Vec<IgnoredAny>,
}

#[derive(Debug, Clone, Deserialize)]
struct ActorMember {
    client_id: Option<String>,
}

impl SessionEvent {
    /// `None` if the document is damaged, which verification reports.
    fn of(document: &str) -> Option<Self> {
        serde_json::from_str(document).ok()
    }

    /// The client that made the request.
    pub fn client_id(&self) -> Option<&str> {
        self.actor.client_id.as_deref()
    }

    fn is_about(&self, pseudonyms: Option<&[String]>) -> bool {
        pseudonyms
            .is_none_or(|names| self.subject.as_ref().is_some_and(|subject| names.contains(&subject.sub)))
    }

    fn count(&self, counts: &mut EventCounts) {
        counts.count(CountedMembers {
            action: &self.action,
            outcome: &self.outcome,
            findings: self.findings.len(),
        });
    }
}

/// What the log has of one session.
#[derive(Debug, Default, Clone)]
pub struct SessionEvents {
    /// In order; of a long session only the first and the last events.
    pub found: Vec<SessionEvent>,
    pub counts: EventCounts,
}

/// The loaded sessions by id; one without an event is absent.
#[derive(Debug, Default)]
pub struct LoadedSessions {
    pub by_id: HashMap<String, SessionEvents>,
    /// Number of postings of the sessions that were read.
    pub blocks: usize,
}

/// Loads sessions, at most `max` events each.
pub async fn load(
    connection: &mut PgConnection,
    search_range: &SearchRange,
    selection: SessionSelection<'_>,
    max: usize,
) -> Result<LoadedSessions, Fault> {
    let mut by_id: HashMap<String, SessionEvents> = HashMap::new();
    let mut late: HashMap<String, Vec<SessionEvent>> = HashMap::new();
    for (_, document) in store::documents_in(connection, search_range.unindexed("sessions")?).await? {
        let Some(event) = SessionEvent::of(&document).filter(|event| event.is_about(selection.pseudonyms))
        else {
            continue;
        };
        let Some(id) = event.session_id.clone().filter(|id| selection.ids.contains(id)) else { continue };
        event.count(&mut by_id.entry(id.clone()).or_default().counts);
        late.entry(id).or_default().push(event);
    }
    let indexed = indexed(connection, search_range, selection).await?;
    let blocks = indexed.blocks;
    let mut wanted = Vec::new();
    for (id, places) in indexed.by_id {
        by_id.entry(id).or_default().counts.add(places.counts);
        wanted.extend(places.ends(max));
    }
    for (_, document) in store::documents_of(connection, &wanted).await? {
        let Some(event) = SessionEvent::of(&document).filter(|event| event.is_about(selection.pseudonyms))
        else {
            continue;
        };
        if let Some(one) = event.session_id.as_ref().and_then(|id| by_id.get_mut(id)) {
            one.found.push(event);
        }
    }
    for (id, one) in &mut by_id {
        one.found.sort_unstable_by_key(|event| event.seq);
        // Unindexed events are newer than all others.
        one.found.append(&mut late.remove(id).unwrap_or_default());
        if one.found.len() > max {
            let tail = one.found.len() - TAIL.min(max);
            one.found.drain(max.saturating_sub(TAIL)..tail);
        }
    }
    by_id.retain(|_, one| !one.found.is_empty());
    Ok(LoadedSessions { by_id, blocks })
}

/// The indexed events of a session, by block.
#[derive(Debug, Default)]
struct SessionPlaces {
    events: BTreeMap<u64, BlockBitmap>,
    counts: EventCounts,
}

impl SessionPlaces {
    /// The first and the last events, at most `max`.
    fn ends(&self, max: usize) -> BTreeSet<u64> {
        let seqs =
            || self.events.iter().flat_map(|(block, all)| all.places().map(move |at| block * BLOCK + at));
        if self.counts.events <= u64::try_from(max).unwrap_or(u64::MAX) {
            return seqs().collect();
        }
        let tail = TAIL.min(max);
        seqs().take(max - tail).chain(seqs().rev().take(tail)).collect()
    }
}

#[derive(Debug, Default)]
struct IndexedSessions {
    by_id: HashMap<String, SessionPlaces>,
    blocks: usize,
}

async fn indexed(
    connection: &mut PgConnection,
    search_range: &SearchRange,
    selection: SessionSelection<'_>,
) -> Result<IndexedSessions, Fault> {
    let by_term: HashMap<i64, &String> =
        selection.ids.iter().map(|id| (term(Field::Session, id), id)).collect();
    let postings = Postings::read(connection, by_term.keys().copied().collect(), None).await?;
    let blocks: BTreeSet<i32> = postings.0.keys().map(|(_, block)| *block).collect();
    let names = selection.pseudonyms.unwrap_or_default();
    let subjects: Vec<i64> = names.iter().map(|name| term(Field::Subject, name)).collect();
    let counted = counted().map(|(field, value, counter)| (term(field, value), counter));
    let others = subjects.iter().copied().chain(counted.iter().map(|(term, _)| *term)).collect();
    let others = Postings::read(connection, others, Some(blocks.into_iter().collect())).await?;
    let mut found = IndexedSessions { blocks: postings.0.len(), ..IndexedSessions::default() };
    for ((term, block), of_session) in &postings.0 {
        let number = u64::try_from(*block).unwrap_or_default();
        let (first, end) = (number * BLOCK, (number + 1) * BLOCK);
        // A block that was indexed after the extent was read is read with the unindexed events.
        if end > search_range.indexed || end <= search_range.first_available {
            continue;
        }
        let Some(id) = by_term.get(term) else { continue };
        let mut events = of_session.members_from(search_range.first_available.saturating_sub(first));
        if selection.pseudonyms.is_some() {
            let about = subjects.iter().map(|subject| others.of(*subject, *block));
            events = events.intersect(about.fold(BlockBitmap::default(), BlockBitmap::unite));
        }
        let places = found.by_id.entry((*id).clone()).or_default();
        places.counts.events += events.count();
        for (term, counter) in counted {
            *counter(&mut places.counts) += events.intersect(others.of(term, *block)).count();
        }
        places.events.insert(number, events);
    }
    Ok(found)
}

/// Bitmaps by term and block.
struct Postings(HashMap<(i64, i32), BlockBitmap>);

impl Postings {
    /// All postings of the terms, or those in some blocks.
    async fn read(
        connection: &mut PgConnection,
        terms: Vec<i64>,
        blocks: Option<Vec<i32>>,
    ) -> Result<Self, Fault> {
        let rows: Vec<(i64, i32, Vec<u8>)> = match blocks {
            None => {
                sqlx::query_as("SELECT term, block, bitmap FROM audit_posting WHERE term = ANY ($1)")
                    .bind(terms)
                    .fetch_all(connection)
                    .await?
            }
            Some(blocks) => sqlx::query_as(
                "SELECT term, block, bitmap FROM audit_posting WHERE term = ANY ($1) AND block = ANY ($2)",
            )
            .bind(terms)
            .bind(blocks)
            .fetch_all(connection)
            .await?,
        };
        let entry =
            |(term, block, bytes): (i64, i32, Vec<u8>)| ((term, block), BlockBitmap::of_bytes(&bytes));
        Ok(Self(rows.into_iter().map(entry).collect()))
    }

    fn of(&self, term: i64, block: i32) -> BlockBitmap {
        self.0.get(&(term, block)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(document: &str) -> SessionEvent {
        SessionEvent::of(document).unwrap()
    }

    #[test]
    fn events_are_counted_by_action_and_outcome() {
        let mut counts = EventCounts::default();
        for (action, outcome) in [
            ("oauth.token.exchanged", "success"),
            ("oauth.token.refused", "refused"),
            ("vault.token.retrieved", "success"),
            ("vault.proxy.called", "success"),
            ("delegation.step", "success"),
            ("of another version", "success"),
        ] {
            let document = format!(
                r#"{{"seq":1,"at":"t","action":"{action}","outcome":"{outcome}","actor":{{"type":"server"}},"more":[],"findings":[{{"rule":"CE-001"}},{{}}]}}"#
            );
            event(&document).count(&mut counts);
        }
        assert_eq!(
            counts,
            EventCounts { events: 6, exchanges: 1, retrievals: 2, refusals: 1, steps: 1, findings: 6 }
        );
    }

    #[test]
    fn an_event_without_a_subject_is_about_no_person() {
        let plain = event(r#"{"seq":1,"at":"t","action":"a","outcome":"success","actor":{}}"#);
        assert!(plain.is_about(None) && !plain.is_about(Some(&["p".to_owned()])));
        let about = event(
            r#"{"seq":1,"at":"t","action":"a","outcome":"success","actor":{},"subject":{"iss":"i","sub":"p"}}"#,
        );
        assert!(about.is_about(Some(&["p".to_owned()])) && !about.is_about(Some(&[])));
    }

    #[test]
    fn of_a_long_session_the_first_and_the_last_events_are_read() {
        let mut places = SessionPlaces::default();
        places.events.insert(2, BlockBitmap::ALL);
        places.events.insert(5, BlockBitmap::ALL);
        places.counts.events = 2 * BLOCK;
        let ends: Vec<u64> = places.ends(20).into_iter().collect();
        assert_eq!(ends, (2_048..2_060).chain(6_136..6_144).collect::<Vec<u64>>());
        assert_eq!(places.ends(3_000).len(), 2_048);
    }
}
