//! A write transaction whose only exit besides rollback is [`AuditedTransaction::commit`] with its events.

use std::borrow::Cow;

use sqlx::postgres::{PgPool, Postgres};
use sqlx::{PgConnection, Transaction};
use time::OffsetDateTime;

use crate::domain::audit::append::append_events;
use crate::domain::audit::detail::GrantSuspension;
use crate::domain::audit::{Actor, Event, EventKind, RequestOrigin};
use crate::domain::authority_lock;
use crate::domain::console::SessionReference;
use crate::domain::refusal::Error;
use crate::domain::standing_grant::suspension::{self, UnloggedSuspension};
use crate::platform::db;
use crate::platform::fault::{Context, Fault};
use crate::platform::locks::Lock;

/// A transaction of an administrative operation. Rolled back when dropped.
#[derive(Debug)]
pub struct AuditedTransaction {
    transaction: Transaction<'static, Postgres>,
    lock: AuthorityLock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AuthorityLock {
    /// No lock: the transaction changes nothing.
    None,
    Shared,
    Exclusive,
}

/// Proof that a request was authorized before the exclusive authority lock is taken: under that lock no server
/// records anything. A refused request must not have taken the lock.
#[derive(Debug)]
pub struct Authorized(());

impl Authorized {
    /// Runs the check of the caller and the target, without the authority lock.
    ///
    /// # Errors
    /// The error of the check.
    pub async fn by<T>(check: impl Future<Output = Result<T, Error>>) -> Result<(Self, T), Error> {
        Ok((Self(()), check.await?))
    }

    /// For jobs of the server and commands of an operator: there is no request to authorize.
    pub fn without_request() -> Self {
        Self(())
    }
}

impl AuditedTransaction {
    /// Begins a transaction that ends no authority, with the shared authority lock.
    pub async fn begin(pool: &PgPool) -> Result<Self, Fault> {
        let transaction = db::begin(pool, authority_lock::BEGIN_SHARED).await?;
        Ok(Self { transaction, lock: AuthorityLock::Shared })
    }

    /// Begins a transaction without the authority lock, for a check that must not wait. It cannot be committed.
    pub(super) async fn begin_unlocked(pool: &PgPool) -> Result<Self, Fault> {
        let transaction = db::begin(pool, "BEGIN").await?;
        Ok(Self { transaction, lock: AuthorityLock::None })
    }

    /// Begins a transaction that ends authority, with the exclusive authority lock: no server records anything
    /// meanwhile. The state can have changed before the lock, so callers repeat the check;
    /// `RequestContext::transition` does that for requests.
    pub async fn begin_exclusive(pool: &PgPool, _: Authorized) -> Result<Self, Fault> {
        let transaction = db::begin(pool, authority_lock::BEGIN_EXCLUSIVE).await?;
        Ok(Self { transaction, lock: AuthorityLock::Exclusive })
    }

    /// Waits for other administrative changes to end, so that the state read now is the state changed. The authority
    /// lock is taken later, by [`AuditedTransaction::upgrade`].
    pub async fn begin_serialized(pool: &PgPool) -> Result<Self, Fault> {
        let mut transaction = db::begin(pool, "BEGIN").await?;
        let lock = Lock::Administration.number();
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(lock).execute(&mut *transaction).await?;
        Ok(Self { transaction, lock: AuthorityLock::Shared })
    }

    /// Takes the exclusive authority lock after [`AuditedTransaction::begin_serialized`], once all slow work is done.
    pub async fn upgrade(&mut self, _: Authorized) -> Result<(), Fault> {
        authority_lock::upgrade(&mut self.transaction).await?;
        self.lock = AuthorityLock::Exclusive;
        Ok(())
    }

    /// The connection for stores. No request to another server may run while the transaction is open.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Rolls back at once: the locks are released when this returns.
    pub async fn abandon(self) -> Result<(), Fault> {
        self.transaction.rollback().await.context("rolling back")
    }

    /// Commits together with at least one event that describes the change.
    pub async fn commit(mut self, events: &[Event]) -> Result<(), Fault> {
        if events.is_empty() {
            return Err(Fault::new("a change without an event"));
        }
        if self.lock == AuthorityLock::None {
            return Err(Fault::new("a change without the authority lock"));
        }
        if self.lock == AuthorityLock::Exclusive {
            authority_lock::raise_epoch(&mut self.transaction).await?;
        }
        let mut all = Cow::Borrowed(events);
        if self.lock == AuthorityLock::Exclusive {
            // A change of a client can have suspended standing grants.
            let suspended = suspension::mark_logged(&mut self.transaction).await?;
            if let Some(first) = events.first()
                && !suspended.is_empty()
            {
                let occasion = Occasion {
                    at: first.at,
                    actor: &first.actor,
                    origin: &first.origin,
                    console: first.console,
                };
                all.to_mut().extend(suspended.into_iter().map(|one| suspended_event(occasion, one)));
            }
        }
        append_events(&mut self.transaction, &all).await?;
        self.transaction.commit().await.context("committing")
    }
}

/// What led to a suspension.
#[derive(Debug, Clone, Copy)]
pub(super) struct Occasion<'a> {
    pub(super) at: OffsetDateTime,
    pub(super) actor: &'a Actor,
    pub(super) origin: &'a RequestOrigin,
    pub(super) console: Option<SessionReference>,
}

pub(super) fn suspended_event(occasion: Occasion<'_>, one: UnloggedSuspension) -> Event {
    let UnloggedSuspension { id, grantor, client_id, keys, cause, seen_key } = one;
    let kind = EventKind::StandingGrantSuspended(GrantSuspension { cause, keys, seen_key });
    Event {
        subject: Some(grantor),
        target: Some(client_id),
        standing_grant_id: Some(id),
        origin: occasion.origin.clone(),
        console: occasion.console,
        ..Event::new(occasion.at, kind, occasion.actor.clone())
    }
}
