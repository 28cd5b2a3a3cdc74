//! One batch is one transaction under the shared authority lock: read the guards, decide each entry, write all
//! effects, append all events. The number of statements does not depend on the number of entries.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::baselines::{self, Unusual};
use super::batch_error::BatchError;
use super::entry::{CommitOutcome, Committed, Entry, OfflineUse, Write};
use super::findings::BatchFindings;
use super::guard::{Evaluation, Verdict, evaluate};
use super::sessions;
use super::snapshot;
use super::steps::EvaluatedSteps;
use super::store::{self, Changes, Exhaustion};
use super::writing::Writing;
use crate::domain::audit::{self, Event, EventKind, UnsequencedEvent};
use crate::domain::finding::Finding;
use crate::domain::person::LogNames;
use crate::domain::principal::Principal;
use crate::domain::refresh_token::store::IssuedRefreshTokens;
use crate::domain::refusal::Refusal;
use crate::domain::{authority_lock, delegation, refresh_token};
use crate::platform::fault::Fault;

/// The principals that events of these entries can name.
pub(super) fn principals(entries: &[Entry]) -> Result<BTreeSet<Principal>, Fault> {
    let mut principals = BTreeSet::new();
    for entry in entries {
        let steps = entry.steps().into_iter().flat_map(|report| &report.steps);
        for event in entry.event.iter().chain(steps.map(|step| &step.event)) {
            event.collect_principals(&mut principals)?;
        }
        if let Some(one) = entry.issue().and_then(|issue| issue.create.as_ref()) {
            principals.extend([one.root.clone(), one.delegator.clone()]);
        }
    }
    Ok(principals)
}

/// Records entries in their order.
///
/// # Errors
/// [`BatchError::Erased`] if a person was erased after the names were read: nothing is recorded.
pub(super) async fn record(
    writing: Writing<'_>,
    connection: &mut PgConnection,
    entries: &mut [Entry],
) -> Result<Vec<CommitOutcome>, BatchError> {
    let Writing { rows, rules, names, .. } = writing;
    let mut transaction = connection.begin_with(authority_lock::BEGIN_SHARED).await?;
    let snapshot = snapshot::load(&mut transaction, entries).await?;
    let sessions = sessions::assign(writing, &mut transaction, &snapshot, entries).await?;
    entries.iter_mut().for_each(Entry::keep_session_offline);
    let entries = &*entries;
    let evaluation = evaluate(entries, snapshot);
    for delegation in evaluation.create.values() {
        if !delegation::transitions::insert(rows, &mut transaction, delegation).await? {
            // Another server has recorded the delegation since the snapshot; it may even be revoked. Entries of a
            // batch that fails like this are evaluated again one by one.
            return Err(Fault::new(format!("delegation {} appeared meanwhile", delegation.id)).into());
        }
    }
    let changes = changes(entries, &evaluation);
    let now = entries.first().map_or(OffsetDateTime::UNIX_EPOCH, |first| first.now);
    let issued = store::write(rows, &mut transaction, &changes, now).await?;
    let refresh_tokens = issued_with(entries, &issued);
    let unusual = baselines::learn(writing, &mut transaction, entries, &evaluation).await?;
    let mut findings = rules.of_batch();
    let examination =
        Examination { findings: &mut findings, unusual: &unusual, refresh_tokens: &refresh_tokens };
    let drafts = drafts(entries, &evaluation, names, examination)?;
    let mut places = Vec::new();
    let mut head = store::issue_and_count(&mut transaction, &changes, now).await?;
    // New rows, for which nothing else waits.
    refresh_token::store::put_anchors(&mut transaction, &changes.refresh_tokens, &issued).await?;
    // Also without an event, no session is stored for a person who was erased meanwhile.
    if head.is_none() && (!drafts.all.is_empty() || sessions.has_stored()) {
        head = Some(audit::store::lock_head(&mut transaction).await?);
    }
    if let Some(head) = head {
        if !names.are_right_after(head.erasures) {
            return Err(BatchError::Erased(head.erasures));
        }
        if !drafts.all.is_empty() {
            places = audit::store::append_at(&mut transaction, head, &drafts.all).await?;
        }
        let place = |index: &usize| {
            places
                .get(*index)
                .copied()
                .ok_or_else(|| Fault::new("the event of a step has no place in the log"))
        };
        let steps = drafts.steps.iter().map(|(index, event)| Ok((*event, place(index)?)));
        let steps: Vec<_> = steps.collect::<Result<_, Fault>>()?;
        audit::step_texts::put(&mut transaction, steps.into_iter()).await?;
    }
    transaction.commit().await?;
    sessions.keep(writing);
    unusual.keep(writing);
    findings.keep();
    let place = |own: Option<usize>| own.and_then(|own| places.get(own)).copied();
    let steps = |entry| evaluation.steps.get(&entry).and_then(EvaluatedSteps::committed);
    let committed = drafts.own.into_iter().zip(sessions.ids).enumerate();
    let committed = committed.map(|(entry, (own, session))| Committed {
        place: place(own),
        session,
        refresh_token: refresh_tokens.get(&entry).copied(),
        steps: steps(entry),
    });
    Ok(evaluation.verdicts.iter().zip(committed).map(|(verdict, one)| outcome(verdict, one)).collect())
}

fn changes<'a>(entries: &'a [Entry], evaluation: &'a Evaluation<'_>) -> Changes<'a> {
    let mut changes = Changes {
        uses: &evaluation.uses,
        exhausted: evaluation
            .exhausted
            .iter()
            .filter_map(|(place, id)| Some((*id, Exhaustion::by(entries.get(*place)?))))
            .collect(),
        steps: &evaluation.known_steps,
        sessions: BTreeMap::new(),
        tokens: Vec::new(),
        refresh_tokens: BTreeMap::new(),
        used_refresh_tokens: Vec::new(),
        ceremonies: Vec::new(),
        used_ceremonies: Vec::new(),
    };
    let holding =
        entries.iter().zip(&evaluation.verdicts).filter(|(_, verdict)| **verdict == Verdict::Accept);
    for (entry, _) in holding {
        let exchange = entry.event.as_ref().filter(|event| event.kind.action().is_exchange());
        let session = exchange.and_then(|event| event.session_id.as_deref());
        changes.sessions.extend(entry.guards.path.last().map(String::as_str).zip(session));
        match &entry.write {
            Write::Nothing | Write::Retrieval | Write::Steps(_) => {}
            Write::Token(issue) => {
                changes.tokens.push(&issue.token);
                changes.used_ceremonies.extend(&issue.ceremonies);
                match &issue.offline {
                    OfflineUse::None => {}
                    OfflineUse::Use(id) => changes.used_refresh_tokens.push(*id),
                    OfflineUse::Issue(insert) => {
                        changes.refresh_tokens.entry(insert.key()).or_insert(insert);
                    }
                }
            }
            Write::Ceremony(asking) => changes.ceremonies.push(&asking.ceremony),
        }
    }
    changes
}

/// The refresh tokens of entries, by the indexes of the entries.
fn issued_with(entries: &[Entry], issued: &IssuedRefreshTokens) -> BTreeMap<usize, Uuid> {
    let of = |(place, entry): (usize, &Entry)| match &entry.issue()?.offline {
        OfflineUse::Issue(insert) => Some((place, issued.of(insert)?)),
        OfflineUse::None | OfflineUse::Use(_) => None,
    };
    entries.iter().enumerate().filter_map(of).collect()
}

/// The events of a batch.
struct Drafts<'a> {
    all: Vec<UnsequencedEvent>,
    /// For each entry, the index of its own event.
    own: Vec<Option<usize>>,
    /// The events of steps, each with its index.
    steps: Vec<(usize, &'a Event)>,
}

/// Events of delegations that the batch inserts. They come before the exchanges that need them.
fn created(
    entries: &[Entry],
    evaluation: &Evaluation<'_>,
    names: &LogNames,
) -> Result<Vec<UnsequencedEvent>, Fault> {
    let mut drafts = Vec::with_capacity(evaluation.create.len() + entries.len());
    for delegation in evaluation.create.values() {
        let creates = |entry: &&Entry| {
            entry.issue().and_then(|issue| issue.create.as_ref()).is_some_and(|one| one.id == delegation.id)
        };
        let cause = entries.iter().find(creates);
        let Some((cause, event)) = cause.and_then(|entry| Some((entry, entry.event.as_ref()?))) else {
            continue;
        };
        let terms = delegation.recorded_terms();
        let kind = EventKind::DelegationCreated { terms, expires_in: None };
        let event = Event {
            subject: Some(delegation.root.clone()),
            delegation_id: Some(delegation.id.clone()),
            delegation_path: delegation.path.clone(),
            act_chain: event.act_chain.clone(),
            txn: event.txn.clone(),
            parent_jti: event.parent_jti.clone(),
            origin: event.origin.clone(),
            ..Event::new(cause.now, kind, event.actor.clone())
        };
        drafts.push(event.unsequenced(names)?);
    }
    Ok(drafts)
}

/// What the rules say about a batch, and what its events say besides.
struct Examination<'a, 'b> {
    refresh_tokens: &'a BTreeMap<usize, Uuid>,
    findings: &'a mut BatchFindings<'b>,
    unusual: &'a Unusual,
}

/// All events: those of inserted delegations, and those of the entries, except those to retry. The expiry of a delegation
/// without a use left follows the event of its last use.
fn drafts<'a>(
    entries: &'a [Entry],
    evaluation: &Evaluation<'_>,
    names: &LogNames,
    Examination { findings, unusual, refresh_tokens }: Examination<'_, '_>,
) -> Result<Drafts<'a>, Fault> {
    let mut all = created(entries, evaluation, names)?;
    let (mut own, mut steps) = (Vec::with_capacity(entries.len()), Vec::new());
    let mut exhausted = evaluation.exhausted.iter().peekable();
    for (place, (entry, verdict)) in entries.iter().zip(&evaluation.verdicts).enumerate() {
        let has_own = entry.event.is_some() && *verdict != Verdict::Retry;
        own.push(has_own.then_some(all.len()));
        let mut last = entry.event.as_ref();
        if let Some(reported) = evaluation.steps.get(&place) {
            for (event, facts) in reported.events(entry) {
                steps.push((all.len(), event));
                all.push(examined(event, findings.of(event, facts)).unsequenced(names)?);
                last = Some(event);
            }
        }
        match (&entry.event, verdict) {
            (None, _) | (Some(_), Verdict::Retry) => {}
            (Some(event), Verdict::Accept) => {
                let examined = examined(event, findings.of(event, unusual.of(place)));
                all.push(match refresh_tokens.get(&place) {
                    None => examined.unsequenced(names)?,
                    Some(id) => examined.into_owned().with_refresh_token(*id).unsequenced(names)?,
                });
            }
            (Some(event), Verdict::Reject(refusal)) => {
                let refused = event.clone().refused(*refusal)?;
                let findings = findings.of(&refused, &[]);
                all.push(refused.with_findings(findings).unsequenced(names)?);
            }
        }
        while let Some((_, id)) = exhausted.next_if(|(by, _)| *by == place) {
            let cause = last.ok_or_else(|| Fault::new("a use has no event"))?;
            all.push(exhaustion(entry, cause, id).unsequenced(names)?);
        }
    }
    Ok(Drafts { all, own, steps })
}

/// The event with what rules found in it.
fn examined(event: &Event, findings: Vec<Finding>) -> Cow<'_, Event> {
    match findings.is_empty() {
        true => Cow::Borrowed(event),
        false => Cow::Owned(event.clone().with_findings(findings)),
    }
}

fn exhaustion(entry: &Entry, cause: &Event, id: &str) -> Event {
    let path = entry.guards.path.iter();
    let upto = path.clone().position(|one| one == id).map_or(0, |place| place + 1);
    let kind = EventKind::DelegationExpired { expires_at: None, lapsed: None, jti: cause.jti.clone() };
    Event {
        reason: Some(Refusal::CommandLimit.reason()),
        subject: cause.subject.clone(),
        act_chain: cause.act_chain.clone(),
        txn: cause.txn.clone(),
        delegation_id: Some(id.to_owned()),
        delegation_path: path.take(upto).cloned().collect(),
        standing_grant_id: cause.standing_grant_id.clone(),
        origin: cause.origin.clone(),
        ..Event::new(entry.now, kind, cause.actor.clone())
    }
}

fn outcome(verdict: &Verdict, committed: Committed) -> CommitOutcome {
    match verdict {
        Verdict::Retry => CommitOutcome::Retry,
        Verdict::Accept => CommitOutcome::Committed(committed),
        Verdict::Reject(refusal) => CommitOutcome::Rejected(*refusal),
    }
}
