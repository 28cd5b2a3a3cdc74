//! Reported steps: each is an event, and a use of the delegation and all its ancestors. All of a report or none are counted,
//! exactly, on any number of servers.

use super::step_entry::{self, Found};
use super::step_report::{ExaminedReport, ReportKind, StepsReported, reporter};
use super::step_session::reported_name;
use super::{leaf, step_transaction};
use crate::app::App;
use crate::domain::audit::Operation;
use crate::domain::delegation;
use crate::domain::delegation::candidates::{DelegationSearch, Memory};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::step::StepReport;
use crate::platform::fault::Context as _;
use crate::services::access_token_auth::RequestProof;
use crate::services::known_path;
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, Reply};

/// Rules examine texts of this length in a moment, in bytes.
const SHORT: usize = 4 * 1024;

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
        if matches!(refusal, Refusal::DpopProofReplayed | Refusal::ProofTooOld | Refusal::AccessTokenInvalid)
        {
            return result;
        }
        proof.settle(app, &ctx.caller, ctx.now).await?;
    }
    ctx.attempt(Attempt::on_delegation(Operation::ReportSteps, id), async { result }).await
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
    let length = report.length();
    let steps = match length <= SHORT {
        true => report.examined(&rules)?,
        // Other requests do not wait for long texts.
        false => {
            let examined = tokio::task::spawn_blocking(move || report.examined(&rules)).await;
            examined.context("examining steps")??
        }
    };
    let search = DelegationSearch::Exactly(id.to_owned());
    let known = known_path::find(app, &search, Memory::Usable, ctx.now).await?;
    // What a name means does not change with the state of the delegation.
    let session = match known.found.first() {
        Some(path) if reporter(ctx, path).is_ok() => reported_name(app, leaf(path)?, name).await?,
        _ => None,
    };
    let report = ExaminedReport { id, kind, session, steps, length };
    // The result of a request that can be repeated is stored in the transaction of the change.
    match report.is_entry() && ctx.idempotency_key.is_none() {
        true => Ok(step_entry::record(app, ctx, proof, Found { report, path: known }).await?.into()),
        false => {
            proof.settle(app, &ctx.caller, ctx.now).await?;
            step_transaction::record(app, ctx, report).await
        }
    }
}
