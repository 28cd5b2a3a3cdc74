//! A report that changes more than counts and the log: it requests or uses confirmations, suspends its delegation, or can be
//! repeated. It takes a transaction of its own, which locks the rows in the ledger's order.

use sqlx::PgConnection;

use super::step_answers::{CeremonyChange, StepAnswer, answers, lock_confirmations};
use super::step_report::{ExaminedReport, ReportKind, StepsReported, check, event_of, shown};
use super::step_session::session_of;
use super::{leaf, visible};
use crate::app::App;
use crate::domain::audit::detail::SuspensionCause;
use crate::domain::audit::examined_event::{EventFact, described};
use crate::domain::audit::{Event, EventKind};
use crate::domain::delegation::transitions::{LockedUsage, Suspended, mark_suspended};
use crate::domain::delegation::{Delegation, DelegationPath};
use crate::domain::finding::{Finding, FindingAction, FindingTarget};
use crate::domain::refusal::{ClientProblem, Error, Refusal};
use crate::domain::step::CheckedStep;
use crate::domain::step::known::{IdentifiedStep, StepDelegation, StepRecord};
use crate::domain::{authority_lock, client, delegation, step};
use crate::platform::fault::{Context as _, Fault};
use crate::services::request_context::RequestContext;
use crate::services::transition::{ChangeLock, Effect, Reply};

pub(super) async fn record(
    app: &App,
    ctx: &RequestContext<'_>,
    report: ExaminedReport<'_>,
) -> Result<Reply<StepsReported>, Error> {
    let suspends = |one: &CheckedStep| one.findings.iter().any(|it| it.action == FindingAction::Suspend);
    let lock = if report.suspends() { ChangeLock::Exclusive } else { ChangeLock::Shared };
    let checked = async |connection: &mut PgConnection| {
        let path = visible(ctx, connection, report.id).await?;
        check(ctx, &path)?;
        check_agents(connection, &path).await?;
        Ok(path)
    };
    let steps = &report.steps;
    let rules = app.rules();
    let change = async |connection: &mut PgConnection, mut path: DelegationPath| {
        let open = match report.kind {
            ReportKind::Asks => lock_confirmations(ctx, connection, &path, steps).await?,
            ReportKind::Tells => Vec::new(),
        };
        let usage = lock_uses(connection, &mut path).await?;
        // No agent was disabled since the check: that needs the authority lock.
        path.check(ctx.now).map_err(Refusal::from)?;
        let session_id =
            session_of(ctx, connection, leaf(&path)?, usage.newest.as_ref(), report.session.as_ref()).await?;
        let answered: Vec<Option<StepAnswer>> = match report.kind {
            ReportKind::Asks => {
                let answers = answers(ctx, connection, &path, steps, open).await?;
                answers.into_iter().map(Some).collect()
            }
            ReportKind::Tells => vec![None; steps.len()],
        };
        let records = records(ctx, connection, leaf(&path)?, steps).await?;
        let count = records.iter().filter(|record| **record == Some(StepRecord::New)).count();
        let count = i64::try_from(count).context("counting steps")?;
        let left = path.0.iter().filter_map(|one| one.facts.uses_left()).min();
        if left.is_some_and(|left| count > left) {
            return Err(Refusal::TooFewUses.into());
        }
        let first_use = (leaf(&path)?.facts.uses == 0).then_some(EventFact::FirstUseOfDelegation);
        let mut first_use = first_use.as_slice();
        // Rules see nothing in which the events of one report differ, but the first one.
        let mut of_others: Option<Vec<Finding>> = None;
        let mut events = Vec::new();
        let (mut suspended, mut is_over) = (false, false);
        for ((one, record), answer) in steps.iter().zip(&records).zip(&answered) {
            // A change of a confirmation is recorded even where the step was reported before.
            let changes = answer.is_some_and(|answer| answer.change != CeremonyChange::Nothing);
            if record.is_some() || changes {
                let event =
                    Event { session_id: Some(session_id.clone()), ..event_of(ctx, &path, one, *answer) };
                let examined = |facts| rules.examine_text(FindingTarget::Event, &described(&event, facts));
                let about = match std::mem::take(&mut first_use) {
                    [] => of_others.get_or_insert_with(|| examined(&[])).clone(),
                    facts => examined(facts),
                };
                events.push(event.with_findings(about));
                suspended |= suspends(one);
            }
        }
        let recorded = events.len();
        if count > 0 {
            let exhausted =
                delegation::transitions::mark_used(connection, &path.ids(), count, ctx.now).await?;
            if !exhausted.is_empty() {
                delegation::transitions::mark_expiry_logged(connection, &exhausted).await?;
                is_over = true;
                // Tokens under an exhausted delegation end with it.
                authority_lock::raise_epoch(connection).await?;
                events.extend(expiries(ctx, &path, &exhausted));
            }
        }
        if suspended {
            events.extend(suspension(ctx, connection, &path).await?);
        }
        let uses = leaf(&path)?.facts.uses + count;
        if suspended || is_over {
            path = visible(ctx, connection, report.id).await?;
        }
        let value = StepsReported {
            id: report.id.to_owned(),
            state: path.state(ctx.now).0,
            uses,
            uses_left: left.map(|left| left - count),
            session_id,
            recorded,
            decision: answered.iter().flatten().map(|answer| answer.decision).max(),
            steps: shown(&path, steps, &answered),
        };
        Ok(if events.is_empty() { Effect::Unneeded(value) } else { Effect::Made { value, events } })
    };
    ctx.transition(lock, checked, change).await
}

/// What the report of each step changes; `None` where it was reported before.
async fn records(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    leaf: &Delegation,
    steps: &[CheckedStep],
) -> Result<Vec<Option<StepRecord>>, Fault> {
    let delegation = StepDelegation { id: &leaf.id, expires_at: leaf.facts.expires_at };
    let identified: Vec<_> =
        steps.iter().map(|one| IdentifiedStep::of(one, ctx.rows, delegation, ctx.now)).collect();
    let keys = identified.iter().flatten().map(|one| &one.key).collect();
    let mut known = step::store::known(connection, &keys).await?;
    let mut records = Vec::with_capacity(steps.len());
    for one in &identified {
        let Some(one) = one else {
            records.push(Some(StepRecord::New));
            continue;
        };
        let record = known.change(one);
        record.iter().for_each(|_| known.record(one));
        records.push(record);
    }
    step::store::put(connection, &known).await?;
    Ok(records)
}

/// Suspends the delegation until its delegator evaluates it again.
async fn suspension(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    path: &DelegationPath,
) -> Result<Option<Event>, Error> {
    let ids = [leaf(path)?.id.clone()];
    let suspended = mark_suspended(connection, &Suspended::These(&ids), ctx.now).await?;
    let kind = EventKind::DelegationSuspended { cause: SuspensionCause::Rule };
    Ok((!suspended.is_empty()).then(|| ctx.event_about(kind, path)))
}

/// Locks the counts of uses of the whole path, and reads them. Returns those of the last delegation.
async fn lock_uses(connection: &mut PgConnection, path: &mut DelegationPath) -> Result<LockedUsage, Fault> {
    let mut counts = delegation::transitions::lock_usage(connection, &path.ids()).await?;
    let mut last = None;
    for one in &mut path.0 {
        let usage = counts.remove(&one.id);
        let usage = usage.ok_or_else(|| Fault::new(format!("delegation {} has no count of uses", one.id)))?;
        one.facts.uses = usage.uses;
        last = Some(usage);
    }
    last.ok_or_else(|| Fault::new("a path without a delegation"))
}

/// Refuses a path with an inactive agent.
async fn check_agents(connection: &mut PgConnection, path: &DelegationPath) -> Result<(), Error> {
    let agents: Vec<String> = path.0.iter().map(|one| one.delegate.clone()).collect();
    let inactive = client::store::out(connection, &agents).await?;
    if inactive.contains(&leaf(path)?.delegate) {
        return Err(Refusal::InvalidClient(ClientProblem::Disabled).into());
    }
    if inactive.is_empty() { Ok(()) } else { Err(Refusal::ActorDisabled.into()) }
}

fn expiries(ctx: &RequestContext<'_>, path: &DelegationPath, exhausted: &[String]) -> Vec<Event> {
    let kind = EventKind::DelegationExpired { expires_at: None, lapsed: None, jti: None };
    let ends = path.0.iter().enumerate().filter(|(_, one)| exhausted.contains(&one.id));
    ends.map(|(depth, _)| {
        let ended = DelegationPath(path.0.iter().take(depth + 1).cloned().collect());
        Event { reason: Some(Refusal::CommandLimit.reason()), ..ctx.event_about(kind.clone(), &ended) }
    })
    .collect()
}
