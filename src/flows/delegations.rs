//! Taking delegations back.

use serde_json::json;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use super::work::Work;
use crate::domain::audit::{Action, Event};
use crate::domain::delegation::{self, Delegation};
use crate::platform::fault::Fault;

/// Takes a delegation back, and with it everything below; gives it as it is now. `None` if there is none.
pub async fn revoke(
    pool: &PgPool,
    id: &str,
    reason: &str,
    now: OffsetDateTime,
) -> Result<Option<Delegation>, Fault> {
    let mut work = Work::begin(pool).await?;
    let revoked = delegation::store::mark_revoked(work.connection(), id, reason, now).await?;
    let Some(delegation) = delegation::store::find(work.connection(), id).await? else { return Ok(None) };
    if revoked {
        let mut event = Event::of_operator(now, Action::DelegationRevoked, id);
        event.subject = Some(delegation.root.clone());
        event.delegation_id = Some(id.to_owned());
        event.delegation_path.clone_from(&delegation.path);
        event.detail = Some(json!({"reason": reason}));
        work.commit(&[event]).await?;
    }
    Ok(Some(delegation))
}
