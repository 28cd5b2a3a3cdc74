//! Reported steps: each is an event, and a use of the delegation and all its ancestors. All of a report or none are counted,
//! exactly, on any number of servers.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::step_answers::StepAnswer;
use super::step_entry::{self, Found};
use super::step_session::reported_name;
use super::{leaf, step_transaction};
use crate::app::App;
use crate::domain::audit::{Event, EventKind, Operation, PersonalText};
use crate::domain::delegation::candidates::{DelegationSearch, Memory};
use crate::domain::delegation::{self, DelegationPath, DelegationState};
use crate::domain::finding::{Finding, FindingAction};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::session::report::ReportedName;
use crate::domain::step::{CheckedStep, StepDecision, StepDetail, StepReport};
use crate::platform::fault::Context as _;
use crate::services::access_token_auth::RequestProof;
use crate::services::caller::{AuthenticatedClient, Caller};
use crate::services::known_path;
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, Reply};

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

/// A report about a delegation.
#[derive(Debug)]
pub struct Reported<'a> {
    pub id: &'a str,
    pub report: StepReport,
}

/// Records steps of the delegate, counts them, and answers an agent that asks. The proof of the request is used up with them.
pub async fn report_steps(
    app: &App,
    ctx: &RequestContext<'_>,
    proof: &RequestProof,
    Reported { id, report }: Reported<'_>,
) -> Result<Reply<StepsReported>, Error> {
    let result = try_to_report(app, ctx, proof, Reported { id, report }).await;
    if let Err(Error::Refused(refusal)) = &result {
        // A repeated request, or one of a caller whose authority has ended, is no attempt of the caller.
        if matches!(refusal, Refusal::DpopProofReplayed | Refusal::ProofTooOld) {
            return result;
        }
        proof.settle(app, &ctx.caller, ctx.now).await?;
    }
    ctx.attempt(Attempt::on_delegation(Operation::ReportSteps, id), async { result }).await
}

/// Whether an agent asks before it does the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReportKind {
    Asks,
    Tells,
}

/// A report whose steps were examined.
pub(super) struct ExaminedReport<'a> {
    /// The delegation.
    pub(super) id: &'a str,
    pub(super) kind: ReportKind,
    /// The name that the agent gives the session.
    pub(super) session: Option<ReportedName>,
    pub(super) steps: Vec<CheckedStep>,
}

impl ExaminedReport<'_> {
    pub(super) fn suspends(&self) -> bool {
        self.has(FindingAction::Suspend)
    }

    /// Whether the report changes nothing but counts and the log, so that the ledger records it together with others.
    fn is_entry(&self) -> bool {
        !self.suspends() && !(self.kind == ReportKind::Asks && self.has(FindingAction::Confirm))
    }

    fn has(&self, action: FindingAction) -> bool {
        self.steps.iter().flat_map(|one| &one.findings).any(|finding| finding.action == action)
    }
}

async fn try_to_report(
    app: &App,
    ctx: &RequestContext<'_>,
    proof: &RequestProof,
    Reported { id, mut report }: Reported<'_>,
) -> Result<Reply<StepsReported>, Error> {
    if !delegation::is_id(id) {
        return Err(Refusal::NotFound.into());
    }
    let kind = if report.ask { ReportKind::Asks } else { ReportKind::Tells };
    let name = report.session_id.take();
    let rules = app.rules();
    // Long texts and many rules take a while: other requests do not wait for it.
    let examined = tokio::task::spawn_blocking(move || report.examined(&rules)).await;
    let steps = examined.context("examining steps")??;
    let search = DelegationSearch::Exactly(id.to_owned());
    let known = known_path::find(app, &search, Memory::Usable, ctx.now).await?;
    // What a name means does not change with the state of the delegation.
    let session = match known.found.first() {
        Some(path) if reporter(ctx, path).is_ok() => reported_name(app, leaf(path)?, name).await?,
        _ => None,
    };
    let report = ExaminedReport { id, kind, session, steps };
    // The result of a request that can be repeated is stored in the transaction of the change.
    match report.is_entry() && ctx.idempotency_key.is_none() {
        true => Ok(step_entry::record(app, ctx, proof, Found { report, path: known }).await?.into()),
        false => {
            proof.settle(app, &ctx.caller, ctx.now).await?;
            step_transaction::record(app, ctx, report).await
        }
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
