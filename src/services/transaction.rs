//! A rare write: one transaction whose only exit besides rollback is [`AuditedTransaction::commit`] with its events.

use sqlx::postgres::{PgPool, Postgres};
use sqlx::{PgConnection, Transaction};

use crate::domain::audit::{self, Event};
use crate::domain::authority_lock;
use crate::domain::refusal::Error;
use crate::platform::fault::{Context, Fault};

/// A transaction of one of the rarer flows. Dropped, it leaves no trace.
#[derive(Debug)]
pub struct AuditedTransaction {
    transaction: Transaction<'static, Postgres>,
    lock: AuthorityLock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AuthorityLock {
    /// Neither shared nor closed: nothing is changed here.
    None,
    Shared,
    Exclusive,
}

/// Says that a request was authorized before the gate is closed for it: while the gate is closed, no server records
/// anything. A request that is refused in the end must not have closed it.
#[derive(Debug)]
pub struct Authorized(());

impl Authorized {
    /// Runs a check of the caller and of what it wants to end, outside the gate.
    ///
    /// # Errors
    /// What the check says.
    pub async fn by<T>(check: impl Future<Output = Result<T, Error>>) -> Result<(Self, T), Error> {
        Ok((Self(()), check.await?))
    }

    /// What the server does by itself, and what an operator does on the machine: there is no request.
    pub fn without_request() -> Self {
        Self(())
    }
}

impl AuditedTransaction {
    /// Begins one that ends nobody's authority, and shares the gate.
    pub async fn begin(pool: &PgPool) -> Result<Self, Fault> {
        let transaction =
            pool.begin_with(authority_lock::BEGIN_SHARED).await.context("beginning a transaction")?;
        Ok(Self { transaction, lock: AuthorityLock::Shared })
    }

    /// Begins one outside the gate, for a check that waits for nothing. It cannot be committed.
    pub(super) async fn begin_unlocked(pool: &PgPool) -> Result<Self, Fault> {
        let transaction = pool.begin().await.context("beginning a transaction")?;
        Ok(Self { transaction, lock: AuthorityLock::None })
    }

    /// Begins one that ends authority: nothing is recorded meanwhile, by no server. What is read here is what holds, so the
    /// check is made again. Calls at the management API do that by `Call::begin_exclusive`.
    pub async fn begin_exclusive(pool: &PgPool, _: Authorized) -> Result<Self, Fault> {
        let transaction =
            pool.begin_with(authority_lock::BEGIN_EXCLUSIVE).await.context("beginning a transaction")?;
        Ok(Self { transaction, lock: AuthorityLock::Exclusive })
    }

    /// Waits until no other administrative change is under way, so that what is read now is what will be changed. The
    /// gate stays as it is until [`AuditedTransaction::upgrade`].
    pub async fn begin_serialized(pool: &PgPool) -> Result<Self, Fault> {
        let mut transaction = pool.begin().await.context("beginning a transaction")?;
        sqlx::query("SELECT pg_advisory_xact_lock(7223458)").execute(&mut *transaction).await?;
        Ok(Self { transaction, lock: AuthorityLock::Shared })
    }

    /// Closes the gate behind [`AuditedTransaction::begin_serialized`], when all that is slow has been done.
    pub async fn upgrade(&mut self, _: Authorized) -> Result<(), Fault> {
        authority_lock::upgrade(&mut self.transaction).await?;
        self.lock = AuthorityLock::Exclusive;
        Ok(())
    }

    /// What stores talk to. Nothing but PostgreSQL is talked to while this is held.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Ends it without a trace, at once: its locks are free when this returns.
    pub async fn abandon(self) -> Result<(), Fault> {
        self.transaction.rollback().await.context("rolling back")
    }

    /// Commits together with the events that say what was done, at least one.
    pub async fn commit(mut self, events: &[Event]) -> Result<(), Fault> {
        if events.is_empty() {
            return Err(Fault::new("a change without an event"));
        }
        if self.lock == AuthorityLock::None {
            return Err(Fault::new("a change outside the gate"));
        }
        let drafts = events.iter().map(Event::unsequenced).collect::<Result<Vec<_>, _>>()?;
        if self.lock == AuthorityLock::Exclusive {
            authority_lock::raise_epoch(&mut self.transaction).await?;
        }
        audit::store::append(&mut self.transaction, &drafts).await?;
        self.transaction.commit().await.context("committing")
    }
}
