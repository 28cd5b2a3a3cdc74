//! What is unusual in a batch: one statement for targets and one for depths that this server does not know yet.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::entry::Entry;
use super::guard::{Evaluation, Verdict};
use super::writing::Writing;
use crate::domain::audit::examined_event::EventFact;
use crate::domain::audit::{Actor, Event, EventKind};
use crate::domain::baseline::UsedTarget;
use crate::domain::baseline::store::{self, DepthAt};
use crate::domain::principal::Principal;

/// What is unusual about each entry, and what the batch has taught.
#[derive(Debug, Default)]
pub(super) struct Unusual {
    facts: Vec<Vec<EventFact>>,
    targets: BTreeMap<UsedTarget, OffsetDateTime>,
    depths: BTreeMap<Principal, DepthAt>,
}

impl Unusual {
    /// What is unusual about the entry at this place.
    pub(super) fn of(&self, place: usize) -> &[EventFact] {
        self.facts.get(place).map_or(&[], Vec::as_slice)
    }

    /// Keeps what was stored, after the commit.
    pub(super) fn keep(self, writing: Writing<'_>) {
        self.targets.into_keys().for_each(|used| writing.baselines.keep_target(used));
        for (who, (depth, _)) in self.depths {
            writing.baselines.keep_depth(who, writing.names, depth);
        }
    }
}

/// Compares the uses that a batch accepts with what was usual before, and stores them.
pub(super) async fn learn(
    writing: Writing<'_>,
    connection: &mut PgConnection,
    entries: &[Entry],
    evaluation: &Evaluation<'_>,
) -> Result<Unusual, sqlx::Error> {
    let accepted = entries.iter().zip(&evaluation.verdicts);
    // Nothing is usual for an ephemeral agent.
    let counts = |entry: &Entry, verdict| {
        verdict == Verdict::Accept && entry.is_use() && entry.guards.ephemeral_delegation.is_empty()
    };
    let uses: Vec<_> =
        accepted.map(|(entry, verdict)| entry.event.as_ref().filter(|_| counts(entry, *verdict))).collect();
    let mut unusual = Unusual { facts: vec![Vec::new(); entries.len()], ..Unusual::default() };
    for event in uses.iter().flatten() {
        for used in targets(event).filter(|used| !writing.baselines.has_target(used)) {
            unusual.targets.entry(used).or_insert(event.at);
        }
        let depth = depth(event);
        if let Some(who) = &event.subject
            && !writing.baselines.has_depth(who, writing.names, depth)
        {
            let (deepest, _) = unusual.depths.entry(who.clone()).or_insert((depth, event.at));
            *deepest = depth.max(*deepest);
        }
    }
    let mut first = BTreeSet::new();
    if !unusual.targets.is_empty() {
        first = store::learn_targets(connection, &unusual.targets).await?;
    }
    let mut deeper = BTreeMap::new();
    if !unusual.depths.is_empty() {
        deeper = store::learn_depths(connection, &unusual.depths).await?;
    }
    if first.is_empty() && deeper.is_empty() {
        return Ok(unusual);
    }
    for (event, facts) in uses.iter().zip(&mut unusual.facts) {
        let Some(event) = event else { continue };
        if targets(event).filter(|used| first.remove(used)).count() > 0 {
            facts.push(EventFact::FirstUseOfTarget);
        }
        let known = event.subject.as_ref().and_then(|who| deeper.get_mut(who));
        if let Some(known) = known.filter(|known| **known < depth(event)) {
            *known = depth(event);
            facts.push(EventFact::DeepestOfUser);
        }
    }
    Ok(unusual)
}

/// The targets that a client uses.
fn targets(event: &Event) -> impl Iterator<Item = UsedTarget> {
    let client = match &event.actor {
        Actor::Client { client_id, .. } => Some(client_id),
        _ => None,
    };
    let targets = match &event.kind {
        EventKind::TokenExchanged { .. } | EventKind::TokenRefreshed(_) => event.audience.as_slice(),
        EventKind::VaultTokenRetrieved { provider, .. } | EventKind::VaultProxyCalled { provider, .. } => {
            std::slice::from_ref(provider)
        }
        _ => &[],
    };
    let used = move |target: &String| Some(UsedTarget { client_id: client?.clone(), target: target.clone() });
    targets.iter().filter_map(used)
}

fn depth(event: &Event) -> i32 {
    i32::try_from(event.act_chain.len()).unwrap_or(i32::MAX)
}
