//! A rare write: one transaction whose only exit besides rollback is [`Work::commit`] with its events.

use sqlx::postgres::{PgPool, Postgres};
use sqlx::{PgConnection, Transaction};

use crate::domain::audit::{self, Event};
use crate::platform::fault::{During, Fault};

/// A transaction of one of the rarer flows. Dropped, it leaves no trace.
#[derive(Debug)]
pub struct Work(Transaction<'static, Postgres>);

impl Work {
    /// Begins.
    pub async fn begin(pool: &PgPool) -> Result<Self, Fault> {
        pool.begin().await.map(Self).during("beginning a transaction")
    }

    /// Waits until no other administrative change is under way, so that what is read now is what will be changed.
    pub async fn alone(pool: &PgPool) -> Result<Self, Fault> {
        let mut work = Self::begin(pool).await?;
        sqlx::query("SELECT pg_advisory_xact_lock(7223458)").execute(work.connection()).await?;
        Ok(work)
    }

    /// What stores talk to. Nothing but PostgreSQL is talked to while this is held.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.0
    }

    /// Commits together with the events that say what was done, at least one.
    pub async fn commit(mut self, events: &[Event]) -> Result<(), Fault> {
        if events.is_empty() {
            return Err(Fault::new("a change without an event"));
        }
        let drafts = events.iter().map(Event::draft).collect::<Result<Vec<_>, _>>()?;
        audit::store::append(&mut self.0, &drafts).await?;
        self.0.commit().await.during("committing")
    }
}
