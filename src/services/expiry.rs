//! Records which delegations have expired. Only bookkeeping: a delegation is inactive from its expiry on.

use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use super::standing_grants;
use super::transaction::AuditedTransaction;
use crate::domain::audit::{Actor, Event, EventKind};
use crate::domain::delegation;
use crate::domain::refusal::Refusal;
use crate::domain::row_mac::RowMac;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;

const PIECE: i64 = 500;

/// Records expiries that are not in the log yet; returns their number.
pub async fn record(
    pool: &PgPool,
    rows: &RowMac,
    own_issuer: &str,
    now: OffsetDateTime,
) -> Result<usize, Fault> {
    // Bookkeeping without an event: the log already has the revocation of the ancestor.
    let mut connection = pool.acquire().await?;
    while delegation::transitions::mark_revoked_by_ancestor(&mut connection, now, PIECE).await?
        == PIECE.unsigned_abs()
    {}
    drop(connection);
    let mut recorded = 0;
    loop {
        let mut work = AuditedTransaction::begin(pool).await?;
        let ids = delegation::transitions::mark_expiries_logged(work.connection(), now, PIECE).await?;
        if ids.is_empty() {
            break;
        }
        let mut events = Vec::with_capacity(ids.len());
        for path in delegation::store::all_paths(rows, work.connection(), &ids).await? {
            let Some(one) = path.leaf() else { continue };
            let kind = EventKind::DelegationExpired {
                expires_at: Some(rfc3339(one.facts.expires_at)),
                lapsed: Some(one.facts.activated_at.is_none()),
                jti: None,
            };
            events.push(Event {
                reason: Some(Refusal::DelegationExpired.reason()),
                ..Event::of_delegation(now, kind, Actor::Server, &path, own_issuer)
            });
        }
        recorded += events.len();
        work.commit(&events).await?;
    }
    // The transaction has ended: another one that waits for its locks would wait for ever.
    Ok(recorded + standing_grants::record_expiries(pool, rows, now).await?)
}
