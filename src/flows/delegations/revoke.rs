//! A delegation is taken back: one guarded row, and all below it is dead when the answer leaves. What that reached is
//! counted afterwards, when nothing can be added any more, and while nobody waits.

use serde_json::json;
use sqlx::PgConnection;

use super::request::check_reason;
use super::{leaf, visible, wrong_state};
use crate::domain::audit::Action;
use crate::domain::delegation::reach::{Ending, Reach, reach};
use crate::domain::delegation::{self, State};
use crate::domain::refusal::{Refusal, Stop};
use crate::flows::desk::{About, Call, Desk, Done, Entered, record_refusal};

/// Takes a delegation back. Its delegator, its delegate, anybody above and administrators may.
pub async fn revoke(desk: &Desk<'_>, call: &Call, id: &str, reason: Option<&str>) -> Result<Done, Stop> {
    let result = try_to(desk, call, id, reason).await;
    record_refusal(desk, call, ("revoke", About::Delegation(id)), result).await
}

async fn try_to(desk: &Desk<'_>, call: &Call, id: &str, reason: Option<&str>) -> Result<Done, Stop> {
    check_reason(reason)?;
    let check = async |connection: &mut PgConnection| {
        let path = visible(connection, desk, call, id).await?;
        let facts = &leaf(&path)?.facts;
        // What is used up may still have tokens; what was revoked, cut off or has expired stays so.
        if facts.revoked_at.is_some() || facts.cut_off_at.is_some() || facts.expires_at <= call.now {
            return Err(Refusal::WrongState(path.state(call.now).0).into());
        }
        Ok(path)
    };
    let (mut work, path) = match call.ending(desk, check).await? {
        Entered::Before(done) => return Ok(done),
        Entered::Now(work, path) => (work, path),
    };
    let said = reason.unwrap_or("revoked");
    if !delegation::moves::mark_revoked(work.connection(), id, said, call.now).await? {
        return Err(wrong_state(desk.rows, work.connection(), id, call.now).await?);
    }
    let mut event = call.event_about(desk, Action::DelegationRevoked, &path);
    event.detail = Some(json!({"reason": said}));
    let mut done = Done::with(json!({"id": id, "state": State::Revoked, "reached": null}))?;
    call.keep(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    // What had ended before, for what is above it, is not reached again.
    let reached = match path.is_over(call.now) {
        false => counted(desk, &Ending::Delegation(id), call).await,
        true => Some(json!({"delegations": 0, "tokens": 0, "at_least": false})),
    };
    done.body = json!({"id": id, "state": State::Revoked, "reached": reached});
    if let Err(fault) = call.keep_counted(desk, &done).await {
        tracing::warn!(error = %fault, "a count was not kept");
    }
    Ok(done)
}

/// What an end has reached. It is in force; that it could not be counted must not look as if it were not.
pub(in crate::flows) async fn counted(
    desk: &Desk<'_>,
    ending: &Ending<'_>,
    call: &Call,
) -> Option<serde_json::Value> {
    let counting = async {
        let mut connection = desk.pool.acquire().await?;
        reach(&mut connection, ending, call.now).await
    };
    match counting.await {
        Ok(Reach { delegations, tokens, at_least, .. }) => {
            Some(json!({"delegations": delegations, "tokens": tokens, "at_least": at_least}))
        }
        Err(fault) => {
            tracing::warn!(error = %fault, "what an end reached could not be counted");
            None
        }
    }
}
