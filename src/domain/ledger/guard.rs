//! Evaluates entries one after the other, as if each were alone: uses and confirmations that one entry takes are not
//! available to the next. Pure.

use std::collections::BTreeMap;

use super::entry::{Entry, Freshness, Write};
use super::snapshot::{ClientFacts, Snapshot};
use super::steps::{self, EvaluatedSteps};
use crate::domain::ceremony::CeremonyState;
use crate::domain::delegation::Delegation;
use crate::domain::principal::covers_foreign_token;
use crate::domain::refusal::{ClientProblem, Refusal};
use crate::domain::step::known::KnownSteps;
use actchain_protocol::token_problem::TokenProblem;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Reject(Refusal),
    Retry,
}

#[derive(Debug, Default)]
pub(super) struct Evaluation<'a> {
    pub(super) verdicts: Vec<Verdict>,
    /// New counts of uses, by delegation, ordered.
    pub(super) uses: BTreeMap<String, i64>,
    /// Delegations to insert, by id.
    pub(super) create: BTreeMap<&'a str, &'a Delegation>,
    /// Delegations without a use left, each with the index of the entry that took the last use.
    pub(super) exhausted: Vec<(usize, &'a str)>,
    /// What becomes of steps, by the index of their entry.
    pub(super) steps: BTreeMap<usize, EvaluatedSteps>,
    /// Steps that have an id, with those to store.
    pub(super) known_steps: KnownSteps,
}

pub(super) fn evaluate(entries: &[Entry], mut snapshot: Snapshot) -> Evaluation<'_> {
    let mut evaluation = Evaluation::default();
    for (place, entry) in entries.iter().enumerate() {
        let steps = |snapshot: &mut _| steps::evaluate(entry, snapshot).map_err(Verdict::Reject);
        let checked = check(entry, &mut snapshot).and_then(|()| steps(&mut snapshot));
        let (verdict, uses) = match checked {
            Ok(steps) => {
                let uses = if entry.is_use() { 1 } else { steps.uses };
                evaluation.steps.extend(entry.steps().map(|_| (place, steps)));
                (Verdict::Accept, uses)
            }
            Err(verdict) => (verdict, 0),
        };
        if let (Verdict::Accept, Some(delegation)) =
            (verdict, entry.issue().and_then(|issue| issue.create.as_ref()))
            && !snapshot.delegations.contains_key(&delegation.id)
        {
            snapshot.delegations.insert(delegation.id.clone(), delegation.facts.clone());
            evaluation.create.insert(&delegation.id, delegation);
        }
        if uses > 0 {
            let last = count(entry, uses, &mut snapshot, &mut evaluation.uses);
            evaluation.exhausted.extend(last.into_iter().map(|id| (place, id)));
        }
        evaluation.verdicts.push(verdict);
    }
    evaluation.known_steps = snapshot.steps;
    evaluation
}

fn check(entry: &Entry, snapshot: &mut Snapshot) -> Result<(), Verdict> {
    // All ids are used up, also those behind a replayed id.
    let mut replayed = None;
    for single_use_id in &entry.single_use_ids {
        if !snapshot.fresh.remove(&single_use_id.id) {
            replayed.get_or_insert(single_use_id.on_replay);
        }
        if single_use_id.expires_at <= snapshot.purged_before {
            replayed.get_or_insert(single_use_id.if_forgotten);
        }
    }
    if let Some(refusal) = replayed {
        return Err(Verdict::Reject(refusal));
    }
    if let Some((client_id, version)) = &entry.guards.client {
        match snapshot.clients.get(client_id) {
            Some(ClientFacts { inactive: true, .. }) => {
                return Err(Verdict::Reject(Refusal::InvalidClient(ClientProblem::Disabled)));
            }
            Some(facts) if facts.version == *version => {}
            Some(_) | None => return Err(Verdict::Retry),
        }
    }
    if entry.guards.proved_keys.iter().any(|one| snapshot.unpinned.contains(one)) {
        return Err(Verdict::Retry);
    }
    if entry.guards.registry.is_some_and(|version| version != snapshot.registry) {
        return Err(Verdict::Retry);
    }
    if let Some((id, versions)) = &entry.guards.connection
        && snapshot.connections.get(id) != Some(versions)
    {
        return Err(Verdict::Retry);
    }
    let enabled = |client_id: &String| snapshot.clients.get(client_id).is_some_and(|facts| !facts.inactive);
    if !entry.guards.earlier_actors.iter().all(enabled) {
        return Err(Verdict::Reject(Refusal::ActorDisabled));
    }
    for (who, issued_at) in &entry.guards.subjects {
        if snapshot.principal_revocations.get(who).is_some_and(|at| covers_foreign_token(*at, *issued_at)) {
            return Err(Verdict::Reject(Refusal::PrincipalRevoked));
        }
    }
    for jti in &entry.guards.tokens {
        match snapshot.tokens.get(jti) {
            Some(None) => {}
            Some(Some(inactive)) => return Err(Verdict::Reject(inactive.refusal())),
            // This server signed the token but has no row of it: the row was purged, or the database is another one.
            None => return Err(Verdict::Reject(Refusal::SubjectTokenInvalid(TokenProblem::NotRecorded))),
        }
    }
    if !entry.guards.ephemeral_delegation.iter().all(|id| snapshot.homes.contains(id)) {
        return Err(Verdict::Reject(Refusal::AgentDeactivated));
    }
    for id in &entry.guards.path {
        let refused = match snapshot.delegations.get(id) {
            Some(facts) => facts.check(entry.now).map_err(Refusal::from),
            // This entry inserts the delegation.
            None if creates(entry, id) => Ok(()),
            None => Err(Refusal::DelegationRequired),
        };
        refused.map_err(|refusal| match entry.guards.freshness {
            Freshness::Fresh => Verdict::Reject(refusal),
            Freshness::Cached(_) => Verdict::Retry,
        })?;
    }
    if let Freshness::Cached(ends_at) = entry.guards.freshness {
        let path = entry.guards.path.iter().filter_map(|id| snapshot.delegations.get(id));
        if path.map(|facts| facts.expires_at).min() != Some(ends_at) {
            return Err(Verdict::Retry);
        }
    }
    if let Some(choice) = &entry.guards.choice
        && snapshot.choices.get(&choice.between).copied() != choice.version
    {
        return Err(Verdict::Retry);
    }
    ask_for_confirmation(entry, snapshot)?;
    use_confirmations(entry, snapshot)
}

/// A matter has one open confirmation: another request may have requested it meanwhile. The number of pending
/// confirmations is limited.
fn ask_for_confirmation(entry: &Entry, snapshot: &mut Snapshot) -> Result<(), Verdict> {
    let Write::Ceremony(asking) = &entry.write else { return Ok(()) };
    let one = asking.ceremony.open(entry.now);
    let here = || snapshot.open.iter().filter(|open| open.delegation_id == one.delegation_id);
    if here().any(|open| open.client_id == one.client_id && open.fingerprint == one.fingerprint) {
        return Err(Verdict::Retry);
    }
    let pending = || here().filter(|open| open.stage == CeremonyState::Pending);
    let of_client = pending().filter(|open| open.client_id == one.client_id).count();
    if pending().count() >= asking.most || of_client >= asking.most_of_client {
        return Err(Verdict::Reject(Refusal::RateLimited));
    }
    snapshot.open.push(one);
    Ok(())
}

/// Runs last: an entry that is rejected uses no confirmation.
fn use_confirmations(entry: &Entry, snapshot: &mut Snapshot) -> Result<(), Verdict> {
    let Some(issue) = entry.issue() else { return Ok(()) };
    if !issue.ceremonies.iter().all(|id| snapshot.ceremonies.contains(id)) {
        return Err(Verdict::Reject(Refusal::CeremonyUsed));
    }
    for id in &issue.ceremonies {
        snapshot.ceremonies.remove(id);
    }
    Ok(())
}

fn creates(entry: &Entry, id: &str) -> bool {
    let created = entry.issue().and_then(|issue| issue.create.as_ref());
    created.is_some_and(|delegation| delegation.id == id)
}

/// Counts uses on the delegation and on every ancestor. Returns those without a use left.
fn count<'a>(
    entry: &'a Entry,
    uses: i64,
    snapshot: &mut Snapshot,
    counts: &mut BTreeMap<String, i64>,
) -> Vec<&'a str> {
    let mut last = Vec::new();
    for id in &entry.guards.path {
        let Some(facts) = snapshot.delegations.get_mut(id) else { continue };
        facts.uses += uses;
        counts.insert(id.clone(), facts.uses);
        last.extend(facts.used_up().then_some(id.as_str()));
    }
    last
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::super::entry::{Choice, Guards, OfflineUse, SingleUseId, TokenInsert};
    use super::*;
    use crate::domain::audit::{Actor, Event, EventKind};
    use crate::domain::delegation::DelegationRecord;
    use crate::domain::delegation::candidates::{Between, DelegatorSide};
    use crate::domain::principal::Principal;
    use crate::domain::standing_grant::suspension::ProvenClientKey;
    use crate::domain::token::{InactiveToken, TokenRecord};
    use crate::platform::clock::from_seconds;
    use uuid::Uuid;

    fn entry(single_use_id: u8, path: &[&str]) -> Entry {
        let now = from_seconds(1_000).unwrap();
        let actor = Actor::client("c", None);
        let token = TokenRecord {
            jti: Uuid::nil(),
            parent: None,
            actor: None,
            txn: Uuid::nil(),
            client_id: "c".into(),
            subject: Principal::new("i", "s"),
            delegation_id: None,
            jkt: None,
            auth_key: None,
            status_index: 0,
            kid: "k".into(),
            scope: String::new(),
            audience: Vec::new(),
            issued_at: now,
            expires_at: now,
        };
        Entry {
            now,
            session: None,
            single_use_ids: vec![SingleUseId {
                id: [single_use_id; 16],
                expires_at: from_seconds(1_060).unwrap(),
                on_replay: Refusal::DpopProofReplayed,
                if_forgotten: Refusal::ProofTooOld,
            }],
            guards: Guards {
                client: Some(("c".into(), 1)),
                earlier_actors: vec!["a".into()],
                path: path.iter().map(|id| (*id).to_owned()).collect(),
                ephemeral_delegation: vec!["h".into()],
                tokens: vec![Uuid::nil()],
                subjects: vec![(Principal::new("i", "s"), from_seconds(910).unwrap())],
                connection: None,
                registry: Some(7),
                freshness: Freshness::Fresh,
                choice: None,
                proved_keys: [ProvenClientKey { client_id: "c".into(), jkt: "k".into() }].into(),
            },
            write: Write::Token(Box::new(TokenInsert {
                token,
                create: None,
                ceremonies: Vec::new(),
                offline: OfflineUse::None,
            })),
            event: Some(Event::new(
                now,
                EventKind::TokenExchanged {
                    exp: 0,
                    kid: String::new(),
                    introspected: None,
                    refresh_token: None,
                    exceptions: Vec::new(),
                },
                actor,
            )),
        }
    }

    fn snapshot(fresh: &[u8]) -> Snapshot {
        let facts = DelegationRecord {
            activated_at: Some(from_seconds(0).unwrap()),
            expires_at: from_seconds(2_000).unwrap(),
            revoked_at: None,
            principal_revoked_at: None,
            key_rotating: false,
            suspended_at: None,
            standing_grant_suspended_at: None,
            max_uses: Some(2),
            uses: 0,
            used_up_at: None,
            exhausted_at: None,
        };
        let enabled = |version| ClientFacts { version, inactive: false };
        Snapshot {
            clients: HashMap::from([("c".into(), enabled(1)), ("a".into(), enabled(4))]),
            delegations: HashMap::from([("d".into(), facts)]),
            homes: HashSet::from(["h".into()]),
            connections: HashMap::new(),
            choices: HashMap::new(),
            tokens: HashMap::from([(Uuid::nil(), None)]),
            unpinned: HashSet::new(),
            principal_revocations: HashMap::from([(Principal::new("i", "s"), from_seconds(899).unwrap())]),
            registry: 7,
            purged_before: from_seconds(0).unwrap(),
            ceremonies: HashSet::new(),
            open: Vec::new(),
            fresh: fresh.iter().map(|id| [*id; 16]).collect(),
            exchanges: HashMap::new(),
            steps: KnownSteps::default(),
        }
    }

    #[test]
    fn the_same_proof_twice_in_one_batch_wins_once() {
        let twice = [entry(1, &[]), entry(1, &[])];
        let evaluation = evaluate(&twice, snapshot(&[1]));
        assert_eq!(evaluation.verdicts, [Verdict::Accept, Verdict::Reject(Refusal::DpopProofReplayed)]);
    }

    #[test]
    fn uses_within_one_batch_are_exact() {
        let entries: Vec<Entry> = (0..5).map(|n| entry(n, &["d"])).collect();
        let evaluation = evaluate(&entries, snapshot(&[0, 1, 2, 3, 4]));
        let holding = evaluation.verdicts.iter().filter(|verdict| **verdict == Verdict::Accept).count();
        assert_eq!((holding, evaluation.uses.get("d")), (2, Some(&2)));
        assert!(evaluation.create.is_empty());
        assert_eq!(evaluation.exhausted, [(1, "d")], "the second entry took the last use");
        assert_eq!(evaluation.verdicts[4], Verdict::Reject(Refusal::CommandLimit));
    }

    #[test]
    fn a_confirmation_is_used_once_and_by_nothing_that_is_refused() {
        let confirmed = |single_use_id: u8, ceremonies: &[u128]| {
            let mut entry = entry(single_use_id, &[]);
            if let Write::Token(issue) = &mut entry.write {
                issue.ceremonies = ceremonies.iter().map(|id| Uuid::from_u128(*id)).collect();
            }
            entry
        };
        let entries = [
            confirmed(1, &[7]),
            confirmed(2, &[7, 8]),
            confirmed(3, &[7]),
            confirmed(4, &[8]),
            confirmed(5, &[9]),
        ];
        // The first proof was used before.
        let mut snapshot = snapshot(&[2, 3, 4, 5]);
        snapshot.ceremonies = [7, 8].map(Uuid::from_u128).into();
        let used = Verdict::Reject(Refusal::CeremonyUsed);
        let expected = [Verdict::Reject(Refusal::DpopProofReplayed), Verdict::Accept, used, used, used];
        assert_eq!(evaluate(&entries, snapshot).verdicts, expected);
    }

    #[test]
    fn every_guard_is_evaluated() {
        let verdict = |change: fn(&mut Snapshot)| {
            let mut snapshot = snapshot(&[1]);
            change(&mut snapshot);
            evaluate(&[entry(1, &["d"])], snapshot).verdicts[0]
        };
        assert_eq!(verdict(|_| {}), Verdict::Accept);
        assert_eq!(verdict(|snapshot| snapshot.clients.get_mut("c").unwrap().version = 2), Verdict::Retry);
        assert_eq!(verdict(|snapshot| assert!(snapshot.clients.remove("c").is_some())), Verdict::Retry);
        assert_eq!(verdict(|snapshot| snapshot.registry = 8), Verdict::Retry);
        let disabled = Refusal::InvalidClient(ClientProblem::Disabled);
        assert_eq!(
            verdict(|snapshot| snapshot.clients.get_mut("c").unwrap().inactive = true),
            Verdict::Reject(disabled)
        );
        assert_eq!(
            verdict(|snapshot| snapshot.clients.get_mut("a").unwrap().inactive = true),
            Verdict::Reject(Refusal::ActorDisabled)
        );
        assert_eq!(
            verdict(|snapshot| assert!(snapshot.clients.remove("a").is_some())),
            Verdict::Reject(Refusal::ActorDisabled)
        );
        assert_eq!(
            verdict(|snapshot| assert!(snapshot.delegations.remove("d").is_some())),
            Verdict::Reject(Refusal::DelegationRequired)
        );
        let revoked =
            verdict(|snapshot| snapshot.delegations.get_mut("d").unwrap().revoked_at = from_seconds(1));
        assert_eq!(revoked, Verdict::Reject(Refusal::DelegationRevoked));
        let home = verdict(|snapshot| snapshot.homes.clear());
        assert_eq!(home, Verdict::Reject(Refusal::AgentDeactivated));
        let token = verdict(|snapshot| {
            snapshot.tokens.insert(Uuid::nil(), Some(InactiveToken::TokenRevoked));
        });
        assert_eq!(token, Verdict::Reject(Refusal::TokenRevoked));
        assert_eq!(
            verdict(|snapshot| snapshot.tokens.clear()),
            Verdict::Reject(Refusal::SubjectTokenInvalid(TokenProblem::NotRecorded))
        );
        let principal_revoked = verdict(|snapshot| {
            snapshot.principal_revocations.insert(Principal::new("i", "s"), from_seconds(905).unwrap());
        });
        assert_eq!(principal_revoked, Verdict::Reject(Refusal::PrincipalRevoked));
        let mut remembered = entry(1, &["revoked"]);
        remembered.guards.freshness = Freshness::Cached(from_seconds(2_000).unwrap());
        assert_eq!(
            evaluate(&[remembered], snapshot(&[1])).verdicts,
            [Verdict::Retry],
            "there may be another way"
        );
        let renewed = |ends_at| {
            let mut remembered = entry(1, &["d"]);
            remembered.guards.freshness = Freshness::Cached(from_seconds(ends_at).unwrap());
            evaluate(&[remembered], snapshot(&[1])).verdicts[0]
        };
        assert_eq!(
            (renewed(2_000), renewed(1_500)),
            (Verdict::Accept, Verdict::Retry),
            "it ends later by now"
        );
        let chosen = |version| {
            let between = Between { giver: DelegatorSide::Parent("p".into()), delegate: "c".into() };
            let mut snapshot = snapshot(&[1]);
            snapshot.choices.insert(between.clone(), 3);
            let mut entry = entry(1, &["d"]);
            entry.guards.choice = Some(Choice { between, version });
            evaluate(&[entry], snapshot).verdicts[0]
        };
        assert_eq!(
            (chosen(Some(3)), chosen(Some(2)), chosen(None)),
            (Verdict::Accept, Verdict::Retry, Verdict::Retry),
            "there is another candidate by now"
        );
        let unpinned = |client_id: &str, jkt: &str| {
            let mut snapshot = snapshot(&[1]);
            snapshot.unpinned.insert(ProvenClientKey { client_id: client_id.into(), jkt: jkt.into() });
            evaluate(&[entry(1, &["d"])], snapshot).verdicts[0]
        };
        assert_eq!(
            (unpinned("c", "k"), unpinned("c", "other"), unpinned("other", "k")),
            (Verdict::Retry, Verdict::Accept, Verdict::Accept),
            "a standing grant does not pin the key"
        );
        assert_eq!(
            verdict(|snapshot| snapshot.purged_before = from_seconds(1_060).unwrap()),
            Verdict::Reject(Refusal::ProofTooOld)
        );
    }
}
