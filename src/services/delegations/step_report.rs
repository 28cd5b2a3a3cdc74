//! A report of steps that was examined: who may send it, what its events and its answers are.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::leaf;
use super::step_answers::StepAnswer;
use crate::domain::audit::{Event, EventKind, PersonalText};
use crate::domain::delegation::{DelegationPath, DelegationState};
use crate::domain::finding::{Finding, FindingAction};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::session::report::ReportedName;
use crate::domain::step::{CheckedStep, StepDecision, StepDetail};
use crate::services::caller::{AuthenticatedClient, Caller};
use crate::services::request_context::RequestContext;

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

/// The largest report that the ledger records together with others: its steps, and the bytes of their texts.
const MOST_STEPS: usize = 10;
const MOST_BYTES: usize = 64 * 1024;

/// Whether an agent asks before it does the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReportKind {
    Asks,
    Tells,
}

/// A report whose steps were examined.
pub(super) struct ExaminedReport<'a> {
    pub(super) id: &'a str,
    pub(super) kind: ReportKind,
    /// The name that the agent gives the session.
    pub(super) session: Option<ReportedName>,
    pub(super) steps: Vec<CheckedStep>,
    /// How long all texts can be, in bytes.
    pub(super) length: usize,
}

impl ExaminedReport<'_> {
    pub(super) fn suspends(&self) -> bool {
        self.has(FindingAction::Suspend)
    }

    /// Whether the report changes nothing but counts and the log, so that the ledger records it together with others.
    pub(super) fn is_entry(&self) -> bool {
        // Exchanges wait for the entries of their batch.
        let is_small = self.steps.len() <= MOST_STEPS && self.length <= MOST_BYTES;
        let confirms = self.kind == ReportKind::Asks && self.has(FindingAction::Confirm);
        is_small && !confirms && !self.suspends()
    }

    fn has(&self, action: FindingAction) -> bool {
        self.steps.iter().flat_map(|one| &one.findings).any(|finding| finding.action == action)
    }
}

/// Refuses a caller that cannot see the delegation or is not its delegate, and a delegation that is not active. The ledger, or
/// the transaction, checks it again: an agent that may not act stops no server.
pub(super) fn check(ctx: &RequestContext<'_>, path: &DelegationPath) -> Result<(), Error> {
    if !ctx.caller.may_see(path, ctx.issuer) {
        return Err(Refusal::NotFound.into());
    }
    reporter(ctx, path)?;
    Ok(path.check(ctx.now).map_err(Refusal::from)?)
}

/// The agent that reports about its own delegation.
pub(super) fn reporter<'a>(
    ctx: &'a RequestContext<'_>,
    path: &DelegationPath,
) -> Result<&'a AuthenticatedClient, Error> {
    match &ctx.caller {
        Caller::Agent(holder) if holder.client.client_id == leaf(path)?.delegate => Ok(holder),
        _ => Err(Refusal::InsufficientScope.into()),
    }
}

/// The answers as an agent sees them.
pub(super) fn shown(
    path: &DelegationPath,
    steps: &[CheckedStep],
    answered: &[Option<StepAnswer>],
) -> Vec<AnsweredStep> {
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

/// The event of a step, before its session is decided.
pub(super) fn event_of(
    ctx: &RequestContext<'_>,
    path: &DelegationPath,
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
    let mut event = Event { findings: findings.clone(), ..ctx.event_about(kind, path) };
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
