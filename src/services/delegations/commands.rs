//! Reported commands: uses counted in addition to exchanges, on a delegation and all its ancestors. All or none are
//! counted, exactly, on any number of servers: the rows are locked in the ledger's order.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::{leaf, visible};
use crate::domain::audit::{Event, EventKind, Operation};
use crate::domain::delegation::{DelegationPath, DelegationState};
use crate::domain::refusal::{ClientProblem, Error, Refusal};
use crate::domain::{authority_lock, client, delegation};
use crate::platform::fault::Fault;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply};

/// Maximum number of commands in one report.
const MAX_COUNT: u32 = 1_000_000;

/// A delegation after uses were counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsesReport {
    pub id: String,
    pub state: DelegationState,
    pub uses: i64,
    /// Uses left on the path; `None` without a limit.
    pub uses_left: Option<i64>,
}

/// Counts commands reported by the delegate, before or after their execution; returns the remaining uses.
pub async fn commands(ctx: &RequestContext<'_>, id: &str, count: u32) -> Result<Reply<UsesReport>, Error> {
    ctx.attempt(Attempt::on_delegation(Operation::ReportUses, id), try_to_count(ctx, id, count)).await
}

async fn try_to_count(ctx: &RequestContext<'_>, id: &str, count: u32) -> Result<Reply<UsesReport>, Error> {
    if !(1..=MAX_COUNT).contains(&count) {
        return Err(Refusal::Malformed("count is 1 to 1000000").into());
    }
    let check = async |connection: &mut PgConnection| {
        let path = visible(ctx, connection, id).await?;
        match &ctx.caller {
            Caller::Agent(holder) if holder.client.client_id == leaf(&path)?.delegate => Ok(path),
            _ => Err(Refusal::InsufficientScope.into()),
        }
    };
    let reported = count;
    let count = i64::from(count);
    let change = async |connection: &mut PgConnection, mut path: DelegationPath| {
        lock_uses(connection, &mut path).await?;
        path.check(ctx.now).map_err(Refusal::from)?;
        check_agents(connection, &path).await?;
        let left = path.0.iter().filter_map(|one| one.facts.uses_left()).min();
        if left.is_some_and(|left| count > left) {
            return Err(Refusal::TooFewUses.into());
        }
        let exhausted = delegation::transitions::mark_used(connection, &path.ids(), count, ctx.now).await?;
        let mut events = vec![ctx.event_about(EventKind::DelegationUsed { count: reported }, &path)];
        if !exhausted.is_empty() {
            delegation::transitions::mark_expiry_logged(connection, &exhausted).await?;
            // Tokens under an exhausted delegation end with it.
            authority_lock::raise_epoch(connection).await?;
            events.extend(expiries(ctx, &path, &exhausted));
        }
        let path = visible(ctx, connection, id).await?;
        let value = UsesReport {
            id: id.to_owned(),
            state: path.state(ctx.now).0,
            uses: leaf(&path)?.facts.uses,
            uses_left: left.map(|left| left - count),
        };
        Ok(Effect::Made { value, events })
    };
    ctx.transition(ChangeLock::Shared, check, change).await
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
