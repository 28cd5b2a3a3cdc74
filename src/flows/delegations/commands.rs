//! Reported commands: uses that are counted beside exchanges, on the delegation and on everything above it. All of them
//! or none: exact on any number of servers, for the counts are locked in the order in which the ledger locks them.

use serde_json::json;

use super::{leaf, visible};
use crate::domain::audit::{Action, Event};
use crate::domain::delegation::Path;
use crate::domain::refusal::{ClientProblem, Refusal, Stop};
use crate::domain::{client, delegation, gate};
use crate::flows::desk::{About, Call, Caller, Desk, Done, record_refusal};
use crate::flows::work::Work;
use crate::platform::fault::Fault;

/// The most that are counted at once.
const MOST: u32 = 1_000_000;

/// Counts commands of the delegate, before it carries them out or after; says what is left.
pub async fn commands(desk: &Desk<'_>, call: &Call, id: &str, count: u32) -> Result<Done, Stop> {
    let result = try_to(desk, call, id, count).await;
    record_refusal(desk, call, ("commands", About::Delegation(id)), result).await
}

async fn try_to(desk: &Desk<'_>, call: &Call, id: &str, count: u32) -> Result<Done, Stop> {
    if !(1..=MOST).contains(&count) {
        return Err(Refusal::Malformed("count is 1 to 1000000").into());
    }
    let mut work = Work::begin(desk.pool).await?;
    if let Some(done) = call.enter(desk, &mut work).await? {
        return Ok(done);
    }
    let mut path = visible(work.connection(), desk, call, id).await?;
    match &call.caller {
        Caller::Agent(holder) if holder.client.client_id == leaf(&path)?.delegate => {}
        _ => return Err(Refusal::InsufficientScope.into()),
    }
    let counts = delegation::moves::lock_usage(work.connection(), &path.ids()).await?;
    for one in &mut path.0 {
        let uses = counts.get(&one.id).copied();
        one.facts.uses =
            uses.ok_or_else(|| Fault::new(format!("delegation {} has no count of uses", one.id)))?;
    }
    path.check(call.now)?;
    let agents: Vec<String> = path.0.iter().map(|one| one.delegate.clone()).collect();
    let out = client::store::out(work.connection(), &agents).await?;
    if out.contains(&leaf(&path)?.delegate) {
        return Err(Refusal::InvalidClient(ClientProblem::Disabled).into());
    }
    if !out.is_empty() {
        return Err(Refusal::ActorDisabled.into());
    }
    let left = path.0.iter().filter_map(|one| one.facts.uses_left()).min();
    let count = i64::from(count);
    if left.is_some_and(|left| count > left) {
        return Err(Refusal::TooFewUses.into());
    }
    let exhausted = delegation::moves::mark_used(work.connection(), &path.ids(), count, call.now).await?;
    let mut event = call.event_about(desk, Action::DelegationUsed, &path);
    event.detail = Some(json!({"count": count}));
    let mut events = vec![event];
    if !exhausted.is_empty() {
        delegation::moves::mark_end_recorded(work.connection(), &exhausted).await?;
        // Tokens under it end with it.
        gate::raise_epoch(work.connection()).await?;
        let ends = path.0.iter().enumerate().filter(|(_, one)| exhausted.contains(&one.id));
        events.extend(ends.map(|(depth, _)| {
            let ended = Path(path.0.iter().take(depth + 1).cloned().collect());
            Event {
                reason: Some(Refusal::CommandLimit.reason()),
                ..call.event_about(desk, Action::DelegationExpired, &ended)
            }
        }));
    }
    let path = visible(work.connection(), desk, call, id).await?;
    let done = Done::with(json!({
        "id": id,
        "state": path.state(call.now).0,
        "uses": leaf(&path)?.facts.uses,
        "uses_left": left.map(|left| left - count),
    }))?;
    call.keep(desk, &mut work, &done).await?;
    work.commit(&events).await?;
    Ok(done)
}
