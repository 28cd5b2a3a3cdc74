//! Reported steps: each is an event, and a use of the delegation and all its ancestors. All of a report or none are counted,
//! exactly, on any number of servers: the rows are locked in the ledger's order.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use super::step_answers::{CeremonyChange, StepAnswer, answers, lock_confirmations};
use super::step_session::{Naming, WantedSession, session_of, wanted};
use super::{leaf, visible};
use crate::domain::audit::detail::SuspensionCause;
use crate::domain::audit::examined_event::{EventFact, described};
use crate::domain::audit::{Event, EventKind, Operation, PersonalText};
use crate::domain::delegation::transitions::{LockedUsage, Suspended, mark_suspended};
use crate::domain::delegation::{Delegation, DelegationPath, DelegationState};
use crate::domain::finding::{Finding, FindingAction, FindingTarget, RuleSet};
use crate::domain::refusal::{ClientProblem, Error, Refusal};
use crate::domain::session::names::SessionNames;
use crate::domain::step::store::{StepRecord, StepsUnder};
use crate::domain::step::{self, CheckedStep, StepDecision, StepDetail, StepReport};
use crate::domain::{authority_lock, client, delegation};
use crate::platform::fault::{Context as _, Fault};
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply};

/// A delegation after steps were reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepsReported {
    pub id: String,
    pub state: DelegationState,
    pub uses: i64,
    /// Uses left on the path; `None` without a limit.
    pub uses_left: Option<i64>,
    /// The session of the steps.
    pub session_id: String,
    /// Number of steps that are recorded by this report: the others were repeated.
    pub recorded: usize,
    /// The strictest of the answers, for an agent that asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<StepDecision>,
    /// The answers, for an agent that asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<AnsweredStep>,
}

/// What an agent is answered about a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredStep {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_use_id: Option<String>,
    pub decision: StepDecision,
    /// The confirmation that the step needs or uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceremony: Option<Uuid>,
    /// The delegation whose delegator confirms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmed_at: Option<String>,
    pub findings: Vec<Finding>,
}

/// Whether an agent asks before it does the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReportKind {
    Asks,
    Tells,
}

/// Records steps of the delegate, counts them, and answers an agent that asks.
pub async fn report_steps(
    ctx: &RequestContext<'_>,
    known: StepKnowledge<'_>,
    id: &str,
    report: StepReport,
) -> Result<Reply<StepsReported>, Error> {
    let attempt = Attempt::on_delegation(Operation::ReportSteps, id);
    ctx.attempt(attempt, try_to_report(ctx, known, id, report)).await
}

/// What a server knows when steps are reported.
#[derive(Debug)]
pub struct StepKnowledge<'a> {
    pub rules: RuleSet,
    pub session_names: &'a SessionNames,
}

async fn try_to_report(
    ctx: &RequestContext<'_>,
    StepKnowledge { rules, session_names }: StepKnowledge<'_>,
    id: &str,
    mut report: StepReport,
) -> Result<Reply<StepsReported>, Error> {
    let kind = if report.ask { ReportKind::Asks } else { ReportKind::Tells };
    let session_id = report.session_id.take();
    let step_rules = rules.clone();
    // Long texts and many rules take a while: other requests do not wait for it.
    let examined = tokio::task::spawn_blocking(move || report.examined(&step_rules)).await;
    let steps = examined.context("examining steps")??;
    let suspends = |one: &CheckedStep| one.findings.iter().any(|it| it.action == FindingAction::Suspend);
    let lock = if steps.iter().any(suspends) { ChangeLock::Exclusive } else { ChangeLock::Shared };
    let check = async |connection: &mut PgConnection| {
        let path = visible(ctx, connection, id).await?;
        match &ctx.caller {
            Caller::Agent(holder) if holder.client.client_id == leaf(&path)?.delegate => {}
            _ => return Err(Refusal::InsufficientScope.into()),
        }
        // Also before the exclusive lock: an agent that may not act stops no server.
        path.check(ctx.now).map_err(Refusal::from)?;
        check_agents(connection, &path).await?;
        let wanted = wanted(
            ctx,
            session_names,
            connection,
            Naming { leaf: leaf(&path)?, name: session_id.as_deref() },
        )
        .await?;
        Ok((path, wanted))
    };
    let change = async |connection: &mut PgConnection,
                        (mut path, wanted): (DelegationPath, WantedSession)| {
        let open = match kind {
            ReportKind::Asks => lock_confirmations(ctx, connection, &path, &steps).await?,
            ReportKind::Tells => Vec::new(),
        };
        let usage = lock_uses(connection, &mut path).await?;
        // No agent was disabled since the check: that needs the authority lock.
        path.check(ctx.now).map_err(Refusal::from)?;
        let session_id = session_of(ctx, connection, leaf(&path)?, &usage, &wanted).await?;
        let answered: Vec<Option<StepAnswer>> = match kind {
            ReportKind::Asks => {
                let answers = answers(ctx, connection, &path, &steps, open).await?;
                answers.into_iter().map(Some).collect()
            }
            ReportKind::Tells => vec![None; steps.len()],
        };
        let records = records(ctx, connection, leaf(&path)?, &steps).await?;
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
                let event = event_of(ctx, &path, &session_id, one, *answer);
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
            path = visible(ctx, connection, id).await?;
        }
        let value = StepsReported {
            id: id.to_owned(),
            state: path.state(ctx.now).0,
            uses,
            uses_left: left.map(|left| left - count),
            session_id,
            recorded,
            decision: answered.iter().flatten().map(|answer| answer.decision).max(),
            steps: shown(&path, &steps, &answered),
        };
        Ok(if events.is_empty() { Effect::Unneeded(value) } else { Effect::Made { value, events } })
    };
    ctx.transition(lock, check, change).await
}

/// What the report of each step changes; `None` where it was reported before.
async fn records(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    leaf: &Delegation,
    steps: &[CheckedStep],
) -> Result<Vec<Option<StepRecord>>, Fault> {
    let under = StepsUnder { delegation_id: &leaf.id, expires_at: leaf.facts.expires_at, steps };
    let records = step::store::record(connection, ctx.rows, under, ctx.now).await?;
    let record = |one: &CheckedStep| match &one.step.tool_use_id {
        None => Some(StepRecord::New),
        Some(id) => records.get(id).copied(),
    };
    Ok(steps.iter().map(record).collect())
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

fn shown(path: &DelegationPath, steps: &[CheckedStep], answered: &[Option<StepAnswer>]) -> Vec<AnsweredStep> {
    let root = path.0.first().map(|root| root.id.clone());
    let shown = steps.iter().zip(answered).filter_map(|(one, answer)| {
        let StepAnswer { decision, ceremony, .. } = (*answer)?;
        Some(AnsweredStep {
            tool_use_id: one.step.tool_use_id.clone(),
            decision,
            ceremony,
            confirmed_at: ceremony.and(root.clone()),
            findings: one.findings.clone(),
        })
    });
    shown.collect()
}

fn event_of(
    ctx: &RequestContext<'_>,
    path: &DelegationPath,
    session_id: &str,
    CheckedStep { step, texts, findings }: &CheckedStep,
    answer: Option<StepAnswer>,
) -> Event {
    let kind = EventKind::DelegationStep(StepDetail {
        tool: step.tool.clone(),
        outcome: step.outcome,
        took_ms: step.took_ms,
        plan_step: step.plan_step,
        plan_total: step.plan_total,
        tool_use_id: step.tool_use_id.clone(),
        decision: answer.map(|answer| answer.decision),
        ceremony: answer.and_then(|answer| answer.ceremony),
    });
    let mut event = Event {
        session_id: Some(session_id.to_owned()),
        findings: findings.clone(),
        ..ctx.event_about(kind, path)
    };
    for (name, text) in [
        (PersonalText::Input, &texts.input),
        (PersonalText::Output, &texts.output),
        (PersonalText::Reasoning, &texts.reasoning),
        // A short text can be guessed from its digest.
        (PersonalText::InputSha256, &step.input_sha256),
        (PersonalText::OutputSha256, &step.output_sha256),
        (PersonalText::ReasoningSha256, &step.reasoning_sha256),
    ] {
        event.add_text(name, text.as_deref());
    }
    event
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
