//! What an agent that asks before a step is answered: by the findings of rules, and by confirmations of the user.

use serde_json::{Map, json};
use sqlx::PgConnection;
use time::Duration;
use uuid::Uuid;

use super::leaf;
use crate::domain::ceremony::{self, Ceremony, CeremonyState, Open};
use crate::domain::delegation::DelegationPath;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::step::{CheckedStep, StepDecision};
use crate::platform::fault::Fault;
use crate::services::request_context::RequestContext;
use actchain_protocol::authorization_details::Details;
use actchain_protocol::random;

/// How much of an input the user reads who confirms it, in characters.
const SHOWN_INPUT: usize = 1_000;

/// What a step changes about its confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CeremonyChange {
    Nothing,
    Requested,
    Used,
}

/// The answer about a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StepAnswer {
    pub(super) decision: StepDecision,
    pub(super) ceremony: Option<Uuid>,
    /// What it changed about the confirmation.
    pub(super) change: CeremonyChange,
}

/// Waits for its turn to request confirmations under the path, if a step needs one; reads the open ones. The user confirms, and
/// no agent that passed the delegation on.
pub(super) async fn lock_confirmations(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    path: &DelegationPath,
    steps: &[CheckedStep],
) -> Result<Vec<Open>, Error> {
    if !steps.iter().any(|one| StepDecision::by(&one.findings) == StepDecision::Confirm) {
        return Ok(Vec::new());
    }
    let root = root_id(path)?;
    Ok(ceremony::store::lock_open(connection, &[root], ctx.now).await?)
}

/// The answers about steps in their order. A confirmation that was approved is used up.
///
/// # Errors
/// [`Refusal::RateLimited`] if too many confirmations are pending.
pub(super) async fn answers(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    path: &DelegationPath,
    steps: &[CheckedStep],
    mut open: Vec<Open>,
) -> Result<Vec<StepAnswer>, Error> {
    let root = root_id(path)?.to_owned();
    let client_id = leaf(path)?.delegate.clone();
    let mut answers = Vec::with_capacity(steps.len());
    for one in steps {
        let decision = StepDecision::by(&one.findings);
        if decision != StepDecision::Confirm {
            answers.push(StepAnswer { decision, ceremony: None, change: CeremonyChange::Nothing });
            continue;
        }
        let fingerprint = one.fingerprint(ctx.rows, &client_id)?;
        let known =
            open.iter().position(|known| known.client_id == client_id && known.fingerprint == fingerprint);
        let found = match known {
            Some(_) => ceremony::store::open(connection, &root, &client_id, &fingerprint, ctx.now).await?,
            None => None,
        };
        answers.push(match (found, known) {
            (Some(found), Some(place)) => {
                let answer = answer_of(&found, ctx);
                if answer.change == CeremonyChange::Used {
                    ceremony::store::mark_used(connection, &[found.id], ctx.now).await?;
                    // The same step again needs another confirmation.
                    open.remove(place);
                }
                answer
            }
            _ => {
                check_pending(ctx, &open, &client_id)?;
                let asked = asked(ctx, &root, &client_id, fingerprint, one)?;
                ceremony::store::insert(connection, &asked).await?;
                open.push(asked.open(ctx.now));
                StepAnswer { change: CeremonyChange::Requested, ..answer_of(&asked, ctx) }
            }
        });
    }
    Ok(answers)
}

fn root_id(path: &DelegationPath) -> Result<&str, Fault> {
    path.0.first().map(|root| root.id.as_str()).ok_or_else(|| Fault::new("a path is empty"))
}

fn answer_of(one: &Ceremony, ctx: &RequestContext<'_>) -> StepAnswer {
    let (decision, change) = match one.stage(ctx.now) {
        CeremonyState::Approved => (StepDecision::Allow, CeremonyChange::Used),
        CeremonyState::Denied => (StepDecision::Block, CeremonyChange::Nothing),
        CeremonyState::Pending | CeremonyState::Used | CeremonyState::Expired => {
            (StepDecision::Confirm, CeremonyChange::Nothing)
        }
    };
    StepAnswer { decision, ceremony: Some(one.id), change }
}

fn check_pending(ctx: &RequestContext<'_>, open: &[Open], client_id: &str) -> Result<(), Refusal> {
    let limits = &ctx.config.delegations;
    let pending = || open.iter().filter(|one| one.stage == CeremonyState::Pending);
    let of_client = pending().filter(|one| one.client_id == client_id).count();
    let most = usize::try_from(limits.max_pending_confirmations).unwrap_or(usize::MAX);
    let most_of_client = usize::try_from(limits.max_pending_confirmations_per_client).unwrap_or(usize::MAX);
    if pending().count() >= most || of_client >= most_of_client {
        return Err(Refusal::RateLimited);
    }
    Ok(())
}

/// What the user confirms: the tool, the rules that matched, and the beginning of the input.
fn asked(
    ctx: &RequestContext<'_>,
    root: &str,
    client_id: &str,
    fingerprint: [u8; 32],
    one: &CheckedStep,
) -> Result<Ceremony, Fault> {
    let rules: Vec<&str> = one.findings.iter().map(|finding| finding.rule.as_str()).collect();
    let mut step = Map::new();
    step.insert("type".into(), "actchain_step".into());
    step.insert("actions".into(), json!([one.step.tool]));
    step.insert("privileges".into(), json!(rules));
    let input = one.texts.input.as_deref().or(one.step.input_sha256.as_deref());
    if let Some(input) = input.filter(|input| !input.is_empty()) {
        let mut shown: String = input.chars().take(SHOWN_INPUT).collect();
        if shown.len() < input.len() {
            shown.push_str(&format!(" […] ({} bytes in all)", input.len()));
        }
        step.insert("identifier".into(), shown.into());
    }
    Ok(Ceremony {
        id: random::id(ctx.now)?,
        delegation_id: root.to_owned(),
        client_id: client_id.to_owned(),
        fingerprint,
        scopes: Default::default(),
        audiences: Default::default(),
        details: Some(
            Details::from_value(&json!([step])).ok_or_else(|| Fault::new("a step cannot be described"))?,
        ),
        capability: None,
        requested_at: ctx.now,
        expires_at: ctx.now + Duration::seconds(ctx.config.delegations.ceremony_ttl.into()),
        approved_at: None,
        denied_at: None,
        used_at: None,
    })
}
