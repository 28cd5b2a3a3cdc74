//! A rare write: one transaction whose only exit besides rollback is [`Work::commit`] with its events.

use sqlx::postgres::{PgPool, Postgres};
use sqlx::{PgConnection, Transaction};

use crate::domain::audit::{self, Event};
use crate::domain::gate;
use crate::domain::refusal::Stop;
use crate::platform::fault::{During, Fault};

/// A transaction of one of the rarer flows. Dropped, it leaves no trace.
#[derive(Debug)]
pub struct Work {
    transaction: Transaction<'static, Postgres>,
    gate: Gate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// Neither shared nor closed: nothing is changed here.
    Outside,
    Open,
    Closed,
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
    pub async fn by<T>(check: impl Future<Output = Result<T, Stop>>) -> Result<(Self, T), Stop> {
        Ok((Self(()), check.await?))
    }

    /// What the server does by itself, and what an operator does on the machine: there is no request.
    pub fn without_request() -> Self {
        Self(())
    }
}

impl Work {
    /// Begins one that ends nobody's authority, and shares the gate.
    pub async fn begin(pool: &PgPool) -> Result<Self, Fault> {
        let transaction = pool.begin_with(gate::BEGIN_SHARED).await.during("beginning a transaction")?;
        Ok(Self { transaction, gate: Gate::Open })
    }

    /// Begins one outside the gate, for a check that waits for nothing. It cannot be committed.
    pub(super) async fn outside(pool: &PgPool) -> Result<Self, Fault> {
        let transaction = pool.begin().await.during("beginning a transaction")?;
        Ok(Self { transaction, gate: Gate::Outside })
    }

    /// Begins one that ends authority: nothing is recorded meanwhile, by no server. What is read here is what holds, so the
    /// check is made again. Calls at the desk do that by `Call::ending`.
    pub async fn ending(pool: &PgPool, _: Authorized) -> Result<Self, Fault> {
        let transaction = pool.begin_with(gate::BEGIN_CLOSED).await.during("beginning a transaction")?;
        Ok(Self { transaction, gate: Gate::Closed })
    }

    /// Waits until no other administrative change is under way, so that what is read now is what will be changed. The
    /// gate stays as it is until [`Work::close_gate`].
    pub async fn alone(pool: &PgPool) -> Result<Self, Fault> {
        let mut transaction = pool.begin().await.during("beginning a transaction")?;
        sqlx::query("SELECT pg_advisory_xact_lock(7223458)").execute(&mut *transaction).await?;
        Ok(Self { transaction, gate: Gate::Open })
    }

    /// Closes the gate behind [`Work::alone`], when all that is slow has been done.
    pub async fn close_gate(&mut self, _: Authorized) -> Result<(), Fault> {
        gate::close(&mut self.transaction).await?;
        self.gate = Gate::Closed;
        Ok(())
    }

    /// What stores talk to. Nothing but PostgreSQL is talked to while this is held.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Ends it without a trace, at once: its locks are free when this returns.
    pub async fn abandon(self) -> Result<(), Fault> {
        self.transaction.rollback().await.during("rolling back")
    }

    /// Commits together with the events that say what was done, at least one.
    pub async fn commit(mut self, events: &[Event]) -> Result<(), Fault> {
        if events.is_empty() {
            return Err(Fault::new("a change without an event"));
        }
        if self.gate == Gate::Outside {
            return Err(Fault::new("a change outside the gate"));
        }
        let drafts = events.iter().map(Event::draft).collect::<Result<Vec<_>, _>>()?;
        if self.gate == Gate::Closed {
            gate::raise_epoch(&mut self.transaction).await?;
        }
        audit::store::append(&mut self.transaction, &drafts).await?;
        self.transaction.commit().await.during("committing")
    }
}
