//! Suspends standing grants whose agent proves a key that the grantor has not confirmed.

use std::collections::BTreeSet;

use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use crate::app::App;
use crate::domain::audit::{Actor, Event, RequestOrigin};
use crate::domain::ledger::{CommitOutcome, Entry};
use crate::domain::refusal::Error;
use crate::domain::standing_grant::suspension::{ProvenClientKey, mark_logged, mark_unpinned, unpinned};
use crate::platform::fault::Fault;
use crate::services::transaction::{AuditedTransaction, Authorized, Occasion, suspended_event};

/// How often an entry is recorded again after standing grants were suspended.
const ATTEMPTS: u32 = 4;

/// Records an entry that rests on nothing but the keys that it proves. Where a standing grant does not pin one of them, it is
/// suspended first.
///
/// # Errors
/// The refusal of an entry that the ledger rejects.
pub(in crate::services) async fn record_proven(
    app: &App,
    entry: Entry,
    origin: &RequestOrigin,
) -> Result<(), Error> {
    let mut next = entry;
    for _ in 0..ATTEMPTS {
        // The ids of an entry that is returned are used up.
        let again = Entry { single_use_ids: Vec::new(), ..next.clone() };
        match app.ledger.record(next).await {
            Ok(CommitOutcome::Committed(_)) => return Ok(()),
            Ok(CommitOutcome::Rejected(refusal)) => return Err(refusal.into()),
            Ok(CommitOutcome::Retry) => {}
            Err(problem) => {
                return Err(Fault::new(format!("the ledger is not available: {problem:?}")).into());
            }
        }
        suspend_unpinned(&app.pool, origin, &again.guards.proved_keys, again.now).await?;
        next = again;
    }
    Err(Fault::new("standing grants changed faster than an entry could be recorded").into())
}

/// Suspends the active standing grants of a client that do not pin a key that the client has just proven. Reads first: the
/// exclusive lock is taken only where something has to be suspended.
pub(in crate::services) async fn suspend_unpinned(
    pool: &PgPool,
    origin: &RequestOrigin,
    proved: &BTreeSet<ProvenClientKey>,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    let mut connection = pool.acquire().await?;
    let unpinned = unpinned(&mut connection, proved, now).await?;
    drop(connection);
    for one in &unpinned {
        let mut work = AuditedTransaction::begin_exclusive(pool, Authorized::without_request()).await?;
        mark_unpinned(work.connection(), one, now).await?;
        let actor = Actor::client(&one.client_id, Some(one.jkt.clone()));
        let occasion = Occasion { at: now, actor: &actor, origin, console: None };
        let suspended = mark_logged(work.connection()).await?;
        let events: Vec<Event> =
            suspended.into_iter().map(|grant| suspended_event(occasion, grant)).collect();
        match events.is_empty() {
            // Another request has suspended them meanwhile.
            true => work.abandon().await?,
            false => work.commit(&events).await?,
        }
    }
    Ok(())
}
