//! A report that changes nothing but counts and the log: an entry of the ledger, which records it together with others.

use super::step_answers::{CeremonyChange, StepAnswer};
use super::step_report::{
    AnsweredStep, ExaminedReport, ReportKind, StepsReported, check, event_of, reporter, shown,
};
use super::step_session::session_request;
use super::{leaf, visible};
use crate::app::App;
use crate::domain::client;
use crate::domain::delegation::candidates::{DelegationSearch, Memory};
use crate::domain::delegation::{DelegationPath, DelegationState};
use crate::domain::ledger::{
    CommitOutcome, Committed, Entry, Freshness, Guards, StepInsert, StepsInsert, Write,
};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::step::known::{IdentifiedStep, StepDelegation};
use crate::domain::step::{CheckedStep, StepDecision};
use crate::platform::fault::Fault;
use crate::services::access_token_auth::RequestProof;
use crate::services::known_path::{self, KnownPath};
use crate::services::request_context::RequestContext;
use crate::services::standing_grants;

/// How often a report is decided again after what it rests on has changed.
const ATTEMPTS: u32 = 4;

/// A report, and the path of its delegation as it was found.
pub(super) struct Found<'a> {
    pub(super) report: ExaminedReport<'a>,
    pub(super) path: KnownPath,
}

pub(super) async fn record(
    app: &App,
    ctx: &RequestContext<'_>,
    proof: &RequestProof,
    Found { report, path: mut known }: Found<'_>,
) -> Result<StepsReported, Error> {
    let search = DelegationSearch::Exactly(report.id.to_owned());
    let answers: Vec<Option<StepAnswer>> =
        report.steps.iter().map(|one| (report.kind == ReportKind::Asks).then(|| answer(one))).collect();
    let mut changed_client = None;
    for _ in 0..ATTEMPTS {
        let path = known.found.first().ok_or(Refusal::NotFound)?;
        match check(ctx, path) {
            Ok(()) => {}
            // What is in memory may be outdated: the delegation may be active by now.
            Err(Error::Refused(_)) if known.freshness != Freshness::Fresh => {
                known = known_path::find(app, &search, Memory::Outdated, ctx.now).await?;
                continue;
            }
            Err(stop) => return Err(stop),
        }
        let guards = Guards { freshness: known.freshness, ..guards(ctx, path, changed_client)? };
        let entry = Entry {
            guards,
            single_use_ids: proof.take().into_iter().flatten().collect(),
            ..entry(ctx, path, &report, &answers)?
        };
        let recorded = app.ledger.record(entry).await;
        match recorded.map_err(|problem| Fault::new(format!("the ledger is not available: {problem:?}")))? {
            CommitOutcome::Committed(committed) => {
                let steps = shown(path, &report.steps, &answers);
                return result(ctx, report.id, committed, steps).await;
            }
            // A repeated request.
            CommitOutcome::Rejected(refusal @ (Refusal::DpopProofReplayed | Refusal::ProofTooOld)) => {
                return Err(refusal.into());
            }
            outcome => {
                ctx.require_active(&mut *ctx.pool.acquire().await?).await?;
                if let CommitOutcome::Rejected(refusal) = outcome {
                    return Err(refusal.into());
                }
                standing_grants::suspend_unpinned(ctx.pool, &ctx.origin, &ctx.caller.proven_keys(), ctx.now)
                    .await?;
                app.caches.clients.invalidate(&leaf(path)?.delegate);
                let mut connection = ctx.pool.acquire().await?;
                changed_client = client::store::version(&mut connection, &leaf(path)?.delegate).await?;
            }
        }
        known = known_path::find(app, &search, Memory::Outdated, ctx.now).await?;
    }
    Err(Fault::new("what a report rests on changed faster than it could be recorded").into())
}

/// The answer by the findings alone.
fn answer(step: &CheckedStep) -> StepAnswer {
    let decision = StepDecision::by(&step.findings);
    StepAnswer { decision, ceremony: None, change: CeremonyChange::Nothing }
}

fn entry(
    ctx: &RequestContext<'_>,
    path: &DelegationPath,
    report: &ExaminedReport<'_>,
    answers: &[Option<StepAnswer>],
) -> Result<Entry, Fault> {
    let leaf = leaf(path)?;
    let delegation = StepDelegation { id: &leaf.id, expires_at: leaf.facts.expires_at };
    let insert = |(one, answer): (&CheckedStep, &Option<StepAnswer>)| StepInsert {
        identified: IdentifiedStep::of(one, ctx.rows, delegation, ctx.now),
        event: event_of(ctx, path, one, *answer),
    };
    let steps = report.steps.iter().zip(answers).map(insert).collect();
    Ok(Entry {
        write: Write::Steps(Box::new(StepsInsert { steps, session: report.session.clone() })),
        session: Some(session_request(ctx, leaf)?),
        ..Entry::at(ctx.now)
    })
}

/// The caller and its token, all other agents of the path, and the path.
fn guards(
    ctx: &RequestContext<'_>,
    path: &DelegationPath,
    changed_client: Option<i64>,
) -> Result<Guards, Error> {
    let reporter = reporter(ctx, path)?;
    let client = &reporter.client;
    let others = path.0.iter().map(|one| &one.delegate).filter(|delegate| **delegate != client.client_id);
    Ok(Guards {
        client: Some((client.client_id.clone(), changed_client.unwrap_or(client.version))),
        earlier_actors: others.cloned().collect(),
        path: path.ids(),
        ephemeral_delegation: client.ephemeral.iter().map(|agent| agent.delegation_id.clone()).collect(),
        tokens: vec![reporter.jti],
        proved_keys: ctx.caller.proven_keys(),
        ..Guards::default()
    })
}

async fn result(
    ctx: &RequestContext<'_>,
    id: &str,
    committed: Committed,
    steps: Vec<AnsweredStep>,
) -> Result<StepsReported, Error> {
    let Committed { session: Some(session_id), steps: Some(after), .. } = committed else {
        return Err(Fault::new("a report was recorded without its steps").into());
    };
    let state = match after.uses_left {
        Some(0) => visible(ctx, &mut *ctx.pool.acquire().await?, id).await?.state(ctx.now).0,
        _ => DelegationState::Active,
    };
    Ok(StepsReported {
        id: id.to_owned(),
        state,
        uses: after.uses,
        uses_left: after.uses_left,
        session_id,
        recorded: after.recorded,
        decision: steps.iter().map(|step| step.decision).max(),
        steps,
    })
}
