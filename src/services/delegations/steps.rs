//! Reported steps: each is an event, and a use of the delegation and all its ancestors. All of a report or none are counted,
//! exactly, on any number of servers: the rows are locked in the ledger's order.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::{leaf, visible};
use crate::domain::audit::filter::Filter;
use crate::domain::audit::search::{self, EventSearch, Order};
use crate::domain::audit::{Action, Event, EventKind, Operation, PersonalText};
use crate::domain::delegation::{Delegation, DelegationPath, DelegationState};
use crate::domain::refusal::{ClientProblem, Error, Refusal};
use crate::domain::session::{self, SessionOwner};
use crate::domain::step::store::StepRecord;
use crate::domain::step::{self, ReportedStep, StepDetail, StepReport, StepTexts};
use crate::domain::{authority_lock, client, delegation, person};
use crate::platform::fault::Fault;
use crate::services::audit::log_names::with_log_names;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply};
use actchain_protocol::random;

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
}

/// Records steps of the delegate, and counts them.
pub async fn report_steps(
    ctx: &RequestContext<'_>,
    id: &str,
    report: &StepReport,
) -> Result<Reply<StepsReported>, Error> {
    ctx.attempt(Attempt::on_delegation(Operation::ReportSteps, id), try_to_report(ctx, id, report)).await
}

async fn try_to_report(
    ctx: &RequestContext<'_>,
    id: &str,
    report: &StepReport,
) -> Result<Reply<StepsReported>, Error> {
    let steps = report.checked()?;
    let check = async |connection: &mut PgConnection| {
        let path = visible(ctx, connection, id).await?;
        match &ctx.caller {
            Caller::Agent(holder) if holder.client.client_id == leaf(&path)?.delegate => Ok(path),
            _ => Err(Refusal::InsufficientScope.into()),
        }
    };
    let change = async |connection: &mut PgConnection, mut path: DelegationPath| {
        lock_uses(connection, &mut path).await?;
        path.check(ctx.now).map_err(Refusal::from)?;
        check_agents(connection, &path).await?;
        let session_id = session_of(ctx, connection, leaf(&path)?, report.session_id.as_deref()).await?;
        let new = new_steps(ctx, connection, leaf(&path)?, &steps).await?;
        let count = i64::try_from(new.iter().filter(|(_, record)| *record == StepRecord::New).count())
            .map_err(|_| Fault::new("too many steps"))?;
        let left = path.0.iter().filter_map(|one| one.facts.uses_left()).min();
        if left.is_some_and(|left| count > left) {
            return Err(Refusal::TooFewUses.into());
        }
        let mut events: Vec<Event> =
            new.iter().map(|(step, _)| event_of(ctx, &path, &session_id, step)).collect();
        if count > 0 {
            let exhausted =
                delegation::transitions::mark_used(connection, &path.ids(), count, ctx.now).await?;
            if !exhausted.is_empty() {
                delegation::transitions::mark_expiry_logged(connection, &exhausted).await?;
                // Tokens under an exhausted delegation end with it.
                authority_lock::raise_epoch(connection).await?;
                events.extend(expiries(ctx, &path, &exhausted));
            }
        }
        let path = visible(ctx, connection, id).await?;
        let value = StepsReported {
            id: id.to_owned(),
            state: path.state(ctx.now).0,
            uses: leaf(&path)?.facts.uses,
            uses_left: left.map(|left| left - count),
            session_id,
            recorded: new.len(),
        };
        Ok(if new.is_empty() { Effect::Unneeded(value) } else { Effect::Made { value, events } })
    };
    ctx.transition(ChangeLock::Shared, check, change).await
}

type CheckedStep<'a> = (&'a ReportedStep, StepTexts);

/// The steps that were not reported before, with what each changes.
async fn new_steps<'a, 'b>(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    leaf: &Delegation,
    steps: &'b [CheckedStep<'a>],
) -> Result<Vec<(&'b CheckedStep<'a>, StepRecord)>, Fault> {
    let reported: Vec<&ReportedStep> = steps.iter().map(|(step, _)| *step).collect();
    let records =
        step::store::record(connection, &leaf.id, &reported, ctx.now, leaf.facts.expires_at).await?;
    let record = |step: &ReportedStep| match &step.tool_use_id {
        None => Some(StepRecord::New),
        Some(id) => records.get(id).copied(),
    };
    Ok(steps.iter().filter_map(|one| Some((one, record(one.0)?))).collect())
}

/// The session of a report. A client names one in which it works by its events, or has a name of its own for it. Without a
/// name, it is the session of its newest exchange under the delegation, else the one that goes on.
async fn session_of(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    leaf: &Delegation,
    named: Option<&str>,
) -> Result<String, Error> {
    let owner = SessionOwner { client_id: leaf.delegate.clone(), subject: leaf.root.clone() };
    let of_client = Filter { client: Some(owner.client_id.clone()), ..Filter::default() };
    let Some(name) = named.filter(|name| session::is_name(name)) else {
        let exchanges = Filter {
            delegation: Some(leaf.id.clone()),
            action: Some(Action::TokenExchanged.name().to_owned()),
            from: Some(ctx.now - session::MAX_IDLE),
            ..of_client
        };
        if let Some(id) = session_of_newest(connection, &exchanges).await? {
            return Ok(id);
        }
        let wanted = BTreeMap::from([(&owner, (random::id(ctx.now)?, ctx.now))]);
        let found = session::store::continue_or_begin(connection, &wanted).await.map_err(Fault::from)?;
        let id = found.get(&owner).ok_or_else(|| Fault::new("a session was not stored"))?;
        return Ok(id.to_string());
    };
    let in_session = Filter {
        session: Some(name.to_owned()),
        subject_iss: Some(owner.subject.iss.clone()),
        subject_sub: Some(owner.subject.sub.clone()),
        ..of_client
    };
    if let Some(id) = session_of_newest(connection, &in_session).await? {
        return Ok(id);
    }
    let names = person::store::put_persons(connection, &BTreeSet::from([owner.subject.clone()])).await?;
    Ok(session::named(ctx.rows, &names, &owner, name)?.to_string())
}

/// The session of the newest event.
async fn session_of_newest(connection: &mut PgConnection, filter: &Filter) -> Result<Option<String>, Fault> {
    let filter = with_log_names(connection, filter).await?;
    let range = search::search_range(connection).await?;
    let search = EventSearch { filter: &filter, besides: &[], without: &[], order: Order::Newest };
    let newest = search::page(connection, search, &range, None, 1).await?.found.pop();
    Ok(newest.and_then(|one| one.event.get("session_id")?.as_str().map(str::to_owned)))
}

fn event_of(
    ctx: &RequestContext<'_>,
    path: &DelegationPath,
    session_id: &str,
    (step, texts): &CheckedStep<'_>,
) -> Event {
    let kind = EventKind::DelegationStep(StepDetail {
        tool: step.tool.clone(),
        outcome: step.outcome,
        took_ms: step.took_ms,
        plan_step: step.plan_step,
        plan_total: step.plan_total,
        tool_use_id: step.tool_use_id.clone(),
    });
    let mut event = Event { session_id: Some(session_id.to_owned()), ..ctx.event_about(kind, path) };
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

/// Locks the counts of uses of the whole path, and reads them.
async fn lock_uses(connection: &mut PgConnection, path: &mut DelegationPath) -> Result<(), Fault> {
    let counts = delegation::transitions::lock_usage(connection, &path.ids()).await?;
    for one in &mut path.0 {
        let uses = counts.get(&one.id).copied();
        one.facts.uses =
            uses.ok_or_else(|| Fault::new(format!("delegation {} has no count of uses", one.id)))?;
    }
    Ok(())
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
