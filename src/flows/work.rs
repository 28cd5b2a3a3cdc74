//! A rare write: one transaction whose only exit besides rollback is [`Work::commit`] with its events.

use sqlx::postgres::{PgPool, Postgres};
use sqlx::{PgConnection, Transaction};

use crate::domain::audit::{self, Event};
use crate::domain::gate;
use crate::platform::fault::{During, Fault};

/// A transaction of one of the rarer flows. Dropped, it leaves no trace.
#[derive(Debug)]
pub struct Work {
    transaction: Transaction<'static, Postgres>,
    gate: Gate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    Closed,
}

impl Work {
    /// Begins one that ends nobody's authority, and shares the gate.
    pub async fn begin(pool: &PgPool) -> Result<Self, Fault> {
        let transaction = pool.begin_with(gate::BEGIN_SHARED).await.during("beginning a transaction")?;
        Ok(Self { transaction, gate: Gate::Open })
    }

    /// Begins one that ends authority: nothing is recorded meanwhile, by no server. What is read here is what holds.
    pub async fn ending(pool: &PgPool) -> Result<Self, Fault> {
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
    pub async fn close_gate(&mut self) -> Result<(), Fault> {
        gate::close(&mut self.transaction).await?;
        self.gate = Gate::Closed;
        Ok(())
    }

    /// What stores talk to. Nothing but PostgreSQL is talked to while this is held.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Commits together with the events that say what was done, at least one.
    pub async fn commit(mut self, events: &[Event]) -> Result<(), Fault> {
        if events.is_empty() {
            return Err(Fault::new("a change without an event"));
        }
        let drafts = events.iter().map(Event::draft).collect::<Result<Vec<_>, _>>()?;
        if self.gate == Gate::Closed {
            gate::raise_epoch(&mut self.transaction).await?;
        }
        audit::store::append(&mut self.transaction, &drafts).await?;
        self.transaction.commit().await.during("committing")
    }
}
