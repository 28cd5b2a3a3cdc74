//! Ends of tasks: deactivates ephemeral agents and revokes their delegations.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use super::caller::Caller;
use super::delegations::{Affected, count_affected};
use super::request_context::RequestContext;
use super::transaction::{AuditedTransaction, Authorized};
use super::transition::{Attempt, ChangeLock, Effect, Reply, Target};
use crate::domain::audit::detail::RevocationCause;
use crate::domain::audit::{Actor, Event, EventKind, Operation, PersonalText};
use crate::domain::delegation::impact::{Impact, RevocationScope, impact};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::row_mac::RowMac;
use crate::domain::{client, delegation};
use crate::platform::fault::Fault;

/// Maximum number of agents that one run of the sweep deactivates.
const MAX_SWEPT: i64 = 500;

/// A task whose ephemeral agents were deactivated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEnd {
    pub task_id: String,
    pub ended: usize,
    /// Client ids of the agents.
    pub agents: Vec<String>,
    /// `None` if they could not be counted.
    pub affected: Option<Affected>,
}

/// Ends a task: deactivates its ephemeral agents and revokes their delegations. Users and agents end only the agents
/// that they created; administrators and operators end all agents of the task.
pub async fn end_task(ctx: &RequestContext<'_>, task_id: &str) -> Result<Reply<TaskEnd>, Error> {
    let attempt = Attempt { operation: Operation::EndTask, target: Target::Task(task_id) };
    ctx.attempt(attempt, try_to_end_task(ctx, task_id)).await
}

/// What the end of a task would affect, for administrators.
pub async fn show_impact(ctx: &RequestContext<'_>, task_id: &str) -> Result<Impact, Error> {
    ctx.caller.require_administrator()?;
    let mut connection = ctx.pool.acquire().await?;
    let agents = client::store::of_task(&mut connection, task_id, None).await?;
    let delegations: Vec<String> = agents.into_iter().map(|(_, delegation)| delegation).collect();
    Ok(impact(&mut connection, &RevocationScope::Delegations(&delegations), ctx.now).await?)
}

async fn try_to_end_task(ctx: &RequestContext<'_>, task_id: &str) -> Result<Reply<TaskEnd>, Error> {
    let owner = match &ctx.caller {
        Caller::Admin(..) | Caller::Operator => None,
        Caller::User(_) | Caller::Agent(..) => ctx.caller.principal(ctx.issuer),
        Caller::Auditor(..) => return Err(Refusal::InsufficientScope.into()),
    };
    let check = async |connection: &mut PgConnection| {
        let agents = client::store::of_task(connection, task_id, owner.as_ref()).await?;
        if agents.is_empty() { Err(Refusal::NotFound.into()) } else { Ok(agents) }
    };
    let mut revoked = Vec::new();
    let change = async |connection: &mut PgConnection, agents: Vec<(String, String)>| {
        let (ids, delegations): (Vec<String>, Vec<String>) = agents.into_iter().unzip();
        let agents = client::changes::mark_ended(ctx.rows, connection, &ids, ctx.now).await?;
        let reason = "its task ended";
        revoked =
            delegation::transitions::mark_all_revoked(connection, &delegations, reason, ctx.now).await?;
        let mut events = Vec::new();
        for path in delegation::store::all_paths(ctx.rows, connection, &revoked).await? {
            let kind = EventKind::DelegationRevoked { cause: RevocationCause::TaskEnded };
            events.push(ctx.event_about(kind, &path));
        }
        events.extend(agents.iter().map(|client_id| Event {
            target: Some(client_id.clone()),
            ..ctx.event(EventKind::AgentDeactivated)
        }));
        for event in &mut events {
            event.add_text(PersonalText::TaskId, Some(task_id));
        }
        let ended = agents.len();
        Ok(Effect::Made {
            value: TaskEnd { task_id: task_id.to_owned(), ended, agents, affected: None },
            events,
        })
    };
    let mut reply = ctx.transition(ChangeLock::Exclusive, check, change).await?;
    if !reply.replayed {
        reply.value.affected = count_affected(ctx, &RevocationScope::Delegations(&revoked)).await;
        ctx.update_stored_result(&reply.value).await;
    }
    Ok(reply)
}

/// Deactivates ephemeral agents whose delegation has ended, and returns their number. Cleanup only: such agents are
/// refused already.
pub async fn sweep_agents(pool: &PgPool, rows: &RowMac, now: OffsetDateTime) -> Result<usize, Fault> {
    let mut connection = pool.acquire().await?;
    let orphans = client::store::orphans(&mut connection, now, MAX_SWEPT).await?;
    drop(connection);
    if orphans.is_empty() {
        return Ok(0);
    }
    let mut transaction = AuditedTransaction::begin_exclusive(pool, Authorized::without_request()).await?;
    let ended = client::changes::mark_ended(rows, transaction.connection(), &orphans, now).await?;
    if ended.is_empty() {
        return Ok(0);
    }
    let event = |client_id: &String| Event {
        target: Some(client_id.clone()),
        ..Event::new(now, EventKind::AgentDeactivated, Actor::Server)
    };
    let events: Vec<Event> = ended.iter().map(event).collect();
    transaction.commit(&events).await?;
    Ok(ended.len())
}
