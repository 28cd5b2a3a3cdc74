//! Records which standing grants have expired. Only bookkeeping: a grant covers nothing from its expiry on.

use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use crate::domain::audit::{Actor, Event, EventKind};
use crate::domain::row_mac::RowMac;
use crate::domain::standing_grant::{StandingGrantState, store, transitions};
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use crate::services::transaction::AuditedTransaction;

const PIECE: i64 = 500;

/// Records expiries that are not in the log yet; returns their number.
pub(in crate::services) async fn record_expiries(
    pool: &PgPool,
    rows: &RowMac,
    now: OffsetDateTime,
) -> Result<usize, Fault> {
    // Bookkeeping without an event: the log already has the revoke-all.
    let mut connection = pool.acquire().await?;
    while transitions::mark_revoked_with_principal(&mut connection, now, PIECE).await? == PIECE.unsigned_abs()
    {
    }
    drop(connection);
    let mut recorded = 0;
    loop {
        let mut work = AuditedTransaction::begin(pool).await?;
        let ids = transitions::mark_expiries_logged(work.connection(), now, PIECE).await?;
        let found = store::find_all(rows, work.connection(), &ids).await?;
        // A revoke-all that ended a grant before has its event.
        let expired = found.into_iter().filter(|one| one.state(now) == StandingGrantState::Expired);
        let events: Vec<Event> = expired
            .map(|one| Event {
                subject: Some(one.grantor),
                target: Some(one.client_id),
                standing_grant_id: Some(one.id),
                ..Event::new(
                    now,
                    EventKind::StandingGrantExpired { expires_at: rfc3339(one.facts.expires_at) },
                    Actor::Server,
                )
            })
            .collect();
        if events.is_empty() {
            return Ok(recorded);
        }
        recorded += events.len();
        work.commit(&events).await?;
    }
}
