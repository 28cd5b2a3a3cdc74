//! Judging entries one after the other, as if each were alone: what one uses up is gone for the next. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Effect, Entry, Knowledge};
use crate::domain::ceremony::{Open, Stage};
use crate::domain::delegation::candidates::Between;
use crate::domain::delegation::{Delegation, Facts};
use crate::domain::principal::Principal;
use crate::domain::refusal::{ClientProblem, Refusal};
use crate::domain::token::Problem;
use crate::protocol::jwt_time::SKEW;
use crate::protocol::token_problem::TokenProblem;

/// What the database said behind the gate.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Version and end or disablement of clients, by id.
    pub(super) clients: HashMap<String, (i64, bool)>,
    /// Facts of delegations, by id.
    pub(super) delegations: HashMap<String, Facts>,
    /// Delegations that are active with all that is above them, of those that agents were made for.
    pub(super) homes: HashSet<String>,
    /// Tokens that are remembered, with what is wrong with them or with one that they were made from.
    pub(super) tokens: HashMap<Uuid, Option<Problem>>,
    /// The number of changes among the candidates of a choice.
    pub(super) choices: HashMap<Between, i64>,
    /// Principals of which everything up to an instant was ended.
    pub(super) cutoffs: HashMap<Principal, OffsetDateTime>,
    /// The registry's version.
    pub(super) registry: i64,
    /// Up to where spent ids were forgotten.
    pub(super) forgotten: Option<OffsetDateTime>,
    /// Versions of connections that can be made use of, and of their providers, by id.
    pub(super) connections: HashMap<String, (i64, i64)>,
    /// Confirmations that nobody had used before this batch.
    pub(super) ceremonies: HashSet<Uuid>,
    /// Open confirmations at the delegations at which this batch asks for one.
    pub(super) open: Vec<Open>,
    /// Ids that nobody had spent before this batch.
    pub(super) fresh: HashSet<[u8; 16]>,
}

/// What becomes of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Holds,
    Fails(Refusal),
    Stale,
}

/// What becomes of all of them.
#[derive(Debug, Default)]
pub(super) struct Judged<'a> {
    pub(super) verdicts: Vec<Verdict>,
    /// New counts of uses, by delegation, ordered.
    pub(super) uses: BTreeMap<String, i64>,
    /// Delegations that have to be recorded, by id.
    pub(super) create: BTreeMap<&'a str, &'a Delegation>,
    /// Delegations whose last use it was, each behind the entry, by its place, that took it.
    pub(super) exhausted: Vec<(usize, &'a str)>,
}

/// Judges entries in their order.
pub(super) fn judge(entries: &[Entry], mut seen: Seen) -> Judged<'_> {
    let mut judged = Judged::default();
    for (place, entry) in entries.iter().enumerate() {
        let verdict = match check(entry, &mut seen) {
            Ok(()) => Verdict::Holds,
            Err(verdict) => verdict,
        };
        if let (Verdict::Holds, Some(delegation)) =
            (verdict, entry.issue().and_then(|issue| issue.create.as_ref()))
            && !seen.delegations.contains_key(&delegation.id)
        {
            seen.delegations.insert(delegation.id.clone(), delegation.facts.clone());
            judged.create.insert(&delegation.id, delegation);
        }
        if verdict == Verdict::Holds && entry.is_use() {
            let last = count(entry, &mut seen, &mut judged.uses);
            judged.exhausted.extend(last.into_iter().map(|id| (place, id)));
        }
        judged.verdicts.push(verdict);
    }
    judged
}

fn check(entry: &Entry, seen: &mut Seen) -> Result<(), Verdict> {
    // All ids are spent, also those behind the first that was spent before.
    let mut spent_before = None;
    for spend in &entry.spends {
        if !seen.fresh.remove(&spend.id) {
            spent_before.get_or_insert(spend.if_spent);
        }
        if seen.forgotten.is_some_and(|horizon| spend.forget_at <= horizon) {
            spent_before.get_or_insert(spend.if_forgotten);
        }
    }
    if let Some(refusal) = spent_before {
        return Err(Verdict::Fails(refusal));
    }
    if let Some((client_id, version)) = &entry.guards.client {
        match seen.clients.get(client_id) {
            Some((_, true)) => return Err(Verdict::Fails(Refusal::InvalidClient(ClientProblem::Disabled))),
            Some((now, false)) if now == version => {}
            _ => return Err(Verdict::Stale),
        }
    }
    if entry.guards.registry.is_some_and(|version| version != seen.registry) {
        return Err(Verdict::Stale);
    }
    if let Some((id, versions)) = &entry.guards.connection
        && seen.connections.get(id) != Some(versions)
    {
        return Err(Verdict::Stale);
    }
    let enabled = |client_id: &String| matches!(seen.clients.get(client_id), Some((_, false)));
    if !entry.guards.chain.iter().all(enabled) {
        return Err(Verdict::Fails(Refusal::ActorDisabled));
    }
    for (who, issued_at) in &entry.guards.subjects {
        if seen.cutoffs.get(who).is_some_and(|at| *at + SKEW >= *issued_at) {
            return Err(Verdict::Fails(Refusal::PrincipalCutOff));
        }
    }
    for jti in &entry.guards.tokens {
        match seen.tokens.get(jti) {
            Some(None) => {}
            Some(Some(problem)) => return Err(Verdict::Fails(problem.refusal())),
            // One that we signed, and do not remember: it ended, or the database is not the one that knew it.
            None => return Err(Verdict::Fails(Refusal::SubjectTokenInvalid(TokenProblem::NotRecorded))),
        }
    }
    if !entry.guards.home.iter().all(|id| seen.homes.contains(id)) {
        return Err(Verdict::Fails(Refusal::AgentEnded));
    }
    for id in &entry.guards.path {
        let refused = match seen.delegations.get(id) {
            Some(facts) => facts.check(entry.now),
            // One that this very entry records.
            None if creates(entry, id) => Ok(()),
            None => Err(Refusal::NoDelegation),
        };
        refused.map_err(|refusal| match entry.guards.knowledge {
            Knowledge::Fresh => Verdict::Fails(refusal),
            Knowledge::Remembered(_) => Verdict::Stale,
        })?;
    }
    if let Knowledge::Remembered(ends_at) = entry.guards.knowledge {
        let path = entry.guards.path.iter().filter_map(|id| seen.delegations.get(id));
        if path.map(|facts| facts.expires_at).min() != Some(ends_at) {
            return Err(Verdict::Stale);
        }
    }
    if let Some(choice) = &entry.guards.choice
        && seen.choices.get(&choice.between).copied() != choice.version
    {
        return Err(Verdict::Stale);
    }
    ask_for_confirmation(entry, seen)?;
    use_confirmations(entry, seen)
}

/// One matter is asked about once: another request may have done so meanwhile. And nobody is asked without end.
fn ask_for_confirmation(entry: &Entry, seen: &mut Seen) -> Result<(), Verdict> {
    let Effect::Ceremony(asking) = &entry.effect else { return Ok(()) };
    let one = asking.ceremony.open(entry.now);
    let here = || seen.open.iter().filter(|open| open.delegation_id == one.delegation_id);
    if here().any(|open| open.client_id == one.client_id && open.fingerprint == one.fingerprint) {
        return Err(Verdict::Stale);
    }
    let pending = || here().filter(|open| open.stage == Stage::Pending);
    let of_client = pending().filter(|open| open.client_id == one.client_id).count();
    if pending().count() >= asking.most || of_client >= asking.most_of_client {
        return Err(Verdict::Fails(Refusal::Throttled));
    }
    seen.open.push(one);
    Ok(())
}

/// The last thing that is looked at: what is refused uses none up.
fn use_confirmations(entry: &Entry, seen: &mut Seen) -> Result<(), Verdict> {
    let Some(issue) = entry.issue() else { return Ok(()) };
    if !issue.ceremonies.iter().all(|id| seen.ceremonies.contains(id)) {
        return Err(Verdict::Fails(Refusal::CeremonyUsed));
    }
    for id in &issue.ceremonies {
        seen.ceremonies.remove(id);
    }
    Ok(())
}

fn creates(entry: &Entry, id: &str) -> bool {
    let created = entry.issue().and_then(|issue| issue.create.as_ref());
    created.is_some_and(|delegation| delegation.id == id)
}

/// One use on the delegation and on every ancestor. Gives those whose last one it was.
fn count<'a>(entry: &'a Entry, seen: &mut Seen, uses: &mut BTreeMap<String, i64>) -> Vec<&'a str> {
    let mut last = Vec::new();
    for id in &entry.guards.path {
        let Some(facts) = seen.delegations.get_mut(id) else { continue };
        facts.uses += 1;
        uses.insert(id.clone(), facts.uses);
        last.extend(facts.used_up().then_some(id.as_str()));
    }
    last
}

#[cfg(test)]
mod tests {
    use super::super::{Choice, Guards, Issue, Spend};
    use super::*;
    use crate::domain::audit::{Action, Actor, Event};
    use crate::domain::delegation::candidates::Giver;
    use crate::domain::principal::Principal;
    use crate::domain::token::IssuedToken;
    use crate::platform::clock::from_seconds;
    use uuid::Uuid;

    fn entry(spend: u8, path: &[&str]) -> Entry {
        let now = from_seconds(1_000).unwrap();
        let actor = Actor::client("c", None);
        let token = IssuedToken {
            jti: Uuid::nil(),
            parent: None,
            actor: None,
            txn: Uuid::nil(),
            client_id: "c".into(),
            subject: Principal::new("i", "s"),
            delegation_id: None,
            jkt: None,
            auth_key: None,
            status_place: 0,
            kid: "k".into(),
            scope: String::new(),
            audience: Vec::new(),
            issued_at: now,
            expires_at: now,
        };
        Entry {
            now,
            spends: vec![Spend {
                id: [spend; 16],
                forget_at: from_seconds(1_060).unwrap(),
                if_spent: Refusal::ProofReplayed,
                if_forgotten: Refusal::ClockWentBack,
            }],
            guards: Guards {
                client: Some(("c".into(), 1)),
                chain: vec!["a".into()],
                path: path.iter().map(|id| (*id).to_owned()).collect(),
                home: vec!["h".into()],
                tokens: vec![Uuid::nil()],
                subjects: vec![(Principal::new("i", "s"), from_seconds(910).unwrap())],
                connection: None,
                registry: Some(7),
                knowledge: Knowledge::Fresh,
                choice: None,
            },
            effect: Effect::Token(Box::new(Issue { token, create: None, ceremonies: Vec::new() })),
            event: Some(Event::new(now, Action::TokenExchanged, actor)),
        }
    }

    fn seen(fresh: &[u8]) -> Seen {
        let facts = Facts {
            activated_at: Some(from_seconds(0).unwrap()),
            expires_at: from_seconds(2_000).unwrap(),
            revoked_at: None,
            cut_off_at: None,
            rebinding: false,
            max_uses: Some(2),
            uses: 0,
            used_up_at: None,
        };
        Seen {
            clients: HashMap::from([("c".into(), (1, false)), ("a".into(), (4, false))]),
            delegations: HashMap::from([("d".into(), facts)]),
            homes: HashSet::from(["h".into()]),
            connections: HashMap::new(),
            choices: HashMap::new(),
            tokens: HashMap::from([(Uuid::nil(), None)]),
            cutoffs: HashMap::from([(Principal::new("i", "s"), from_seconds(899).unwrap())]),
            registry: 7,
            forgotten: None,
            ceremonies: HashSet::new(),
            open: Vec::new(),
            fresh: fresh.iter().map(|id| [*id; 16]).collect(),
        }
    }

    #[test]
    fn the_same_proof_twice_in_one_batch_wins_once() {
        let twice = [entry(1, &[]), entry(1, &[])];
        let judged = judge(&twice, seen(&[1]));
        assert_eq!(judged.verdicts, [Verdict::Holds, Verdict::Fails(Refusal::ProofReplayed)]);
    }

    #[test]
    fn uses_within_one_batch_are_exact() {
        let entries: Vec<Entry> = (0..5).map(|n| entry(n, &["d"])).collect();
        let judged = judge(&entries, seen(&[0, 1, 2, 3, 4]));
        let holding = judged.verdicts.iter().filter(|verdict| **verdict == Verdict::Holds).count();
        assert_eq!((holding, judged.uses.get("d")), (2, Some(&2)));
        assert!(judged.create.is_empty());
        assert_eq!(judged.exhausted, [(1, "d")], "the second entry took the last use");
        assert_eq!(judged.verdicts[4], Verdict::Fails(Refusal::CommandLimit));
    }

    #[test]
    fn a_confirmation_is_used_once_and_by_nothing_that_is_refused() {
        let confirmed = |spend: u8, ceremonies: &[u128]| {
            let mut entry = entry(spend, &[]);
            if let Effect::Token(issue) = &mut entry.effect {
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
        let mut seen = seen(&[2, 3, 4, 5]);
        seen.ceremonies = [7, 8].map(Uuid::from_u128).into();
        let used = Verdict::Fails(Refusal::CeremonyUsed);
        let expected = [Verdict::Fails(Refusal::ProofReplayed), Verdict::Holds, used, used, used];
        assert_eq!(judge(&entries, seen).verdicts, expected);
    }

    #[test]
    fn every_guard_is_looked_at() {
        let verdict = |change: fn(&mut Seen)| {
            let mut seen = seen(&[1]);
            change(&mut seen);
            judge(&[entry(1, &["d"])], seen).verdicts[0]
        };
        assert_eq!(verdict(|_| {}), Verdict::Holds);
        assert_eq!(verdict(|seen| seen.clients.get_mut("c").unwrap().0 = 2), Verdict::Stale);
        assert_eq!(verdict(|seen| assert!(seen.clients.remove("c").is_some())), Verdict::Stale);
        assert_eq!(verdict(|seen| seen.registry = 8), Verdict::Stale);
        let disabled = Refusal::InvalidClient(ClientProblem::Disabled);
        assert_eq!(verdict(|seen| seen.clients.get_mut("c").unwrap().1 = true), Verdict::Fails(disabled));
        assert_eq!(
            verdict(|seen| seen.clients.get_mut("a").unwrap().1 = true),
            Verdict::Fails(Refusal::ActorDisabled)
        );
        assert_eq!(
            verdict(|seen| assert!(seen.clients.remove("a").is_some())),
            Verdict::Fails(Refusal::ActorDisabled)
        );
        assert_eq!(
            verdict(|seen| assert!(seen.delegations.remove("d").is_some())),
            Verdict::Fails(Refusal::NoDelegation)
        );
        let revoked = verdict(|seen| seen.delegations.get_mut("d").unwrap().revoked_at = from_seconds(1));
        assert_eq!(revoked, Verdict::Fails(Refusal::DelegationRevoked));
        let home = verdict(|seen| seen.homes.clear());
        assert_eq!(home, Verdict::Fails(Refusal::AgentEnded));
        let token = verdict(|seen| {
            seen.tokens.insert(Uuid::nil(), Some(Problem::TokenRevoked));
        });
        assert_eq!(token, Verdict::Fails(Refusal::TokenRevoked));
        assert_eq!(
            verdict(|seen| seen.tokens.clear()),
            Verdict::Fails(Refusal::SubjectTokenInvalid(TokenProblem::NotRecorded))
        );
        let cut_off = verdict(|seen| {
            seen.cutoffs.insert(Principal::new("i", "s"), from_seconds(905).unwrap());
        });
        assert_eq!(cut_off, Verdict::Fails(Refusal::PrincipalCutOff));
        let mut remembered = entry(1, &["gone"]);
        remembered.guards.knowledge = Knowledge::Remembered(from_seconds(2_000).unwrap());
        assert_eq!(judge(&[remembered], seen(&[1])).verdicts, [Verdict::Stale], "there may be another way");
        let renewed = |ends_at| {
            let mut remembered = entry(1, &["d"]);
            remembered.guards.knowledge = Knowledge::Remembered(from_seconds(ends_at).unwrap());
            judge(&[remembered], seen(&[1])).verdicts[0]
        };
        assert_eq!(
            (renewed(2_000), renewed(1_500)),
            (Verdict::Holds, Verdict::Stale),
            "it ends later by now"
        );
        let chosen = |version| {
            let between = Between { giver: Giver::Parent("p".into()), delegate: "c".into() };
            let mut seen = seen(&[1]);
            seen.choices.insert(between.clone(), 3);
            let mut entry = entry(1, &["d"]);
            entry.guards.choice = Some(Choice { between, version });
            judge(&[entry], seen).verdicts[0]
        };
        assert_eq!(
            (chosen(Some(3)), chosen(Some(2)), chosen(None)),
            (Verdict::Holds, Verdict::Stale, Verdict::Stale),
            "there is another candidate by now"
        );
        assert_eq!(
            verdict(|seen| seen.forgotten = from_seconds(1_060)),
            Verdict::Fails(Refusal::ClockWentBack)
        );
    }
}
