//! How an operation of the management API changes something: re-checks the caller, answers repeated requests from
//! their stored results, takes the lock, writes the change with its events, and records refusals.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::PgConnection;

use super::request_context::RequestContext;
use super::transaction::{AuditedTransaction, Authorized};
use crate::domain::audit::{Event, Operation, PersonalText};
use crate::domain::idempotency::{self, Claim};
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::{delegation, name, person, standing_grant};
use crate::platform::fault::{Context as _, Fault};

/// The result of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<T> {
    pub value: T,
    /// Whether the value is the stored result of an earlier request with the same idempotency key.
    pub replayed: bool,
}

impl<T> From<T> for Reply<T> {
    fn from(value: T) -> Self {
        Self { value, replayed: false }
    }
}

/// An operation with its target, for the record of a refusal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub(super) operation: Operation,
    pub(super) target: Target<'a>,
}

impl<'a> Attempt<'a> {
    /// An operation on a delegation, by its id as the caller sent it.
    pub(super) fn on_delegation(operation: Operation, id: &'a str) -> Self {
        Self { operation, target: Target::Delegation(id) }
    }

    /// An operation on a standing grant, by its id as the caller sent it.
    pub(super) fn on_standing_grant(operation: Operation, id: &'a str) -> Self {
        Self { operation, target: Target::StandingGrant(id) }
    }

    /// An operation on anything else that an id names.
    pub(super) fn on(operation: Operation, id: &'a str) -> Self {
        Self { operation, target: Target::Other(id) }
    }
}

/// The target of an operation, as named by the caller. Names of nothing are not recorded.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    /// No target was named.
    Unnamed,
    /// A delegation, or the parent of a delegation to be created.
    Delegation(&'a str),
    /// Recorded by the name in the log, if it has one.
    Principal(&'a Principal),
    /// The name of a task, which agents choose; kept beside the document.
    Task(&'a str),
    /// A standing grant, by its id as the caller sent it.
    StandingGrant(&'a str),
    Other(&'a str),
}

/// The authority lock that a change needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChangeLock {
    /// The change ends no authority.
    Shared,
    /// The change ends authority: meanwhile no server records anything.
    Exclusive,
}

/// The outcome of the work in a transition.
#[derive(Debug)]
pub(super) enum Effect<T> {
    /// Something was written; with at least one event that describes it.
    Made { value: T, events: Vec<Event> },
    /// Nothing had to be written: the transaction is rolled back, and no result is stored.
    Unneeded(T),
}

impl<T> Effect<T> {
    pub(super) fn made(value: T, event: Event) -> Self {
        Self::Made { value, events: vec![event] }
    }
}

impl RequestContext<'_> {
    /// Runs an operation and records its refusal. Refusals that only concern the polling rate are not recorded.
    pub(super) async fn attempt<T>(
        &self,
        attempt: Attempt<'_>,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let result = work.await;
        if let Err(Error::Refused(refusal)) = &result
            && !matches!(refusal, Refusal::RateLimited | Refusal::SlowDown)
        {
            self.record_refusal(attempt, *refusal).await?;
        }
        result
    }

    /// Changes something in one transaction. `check` decides whether the caller is allowed and finds what is to be
    /// changed; `change` writes. For [`ChangeLock::Exclusive`], `check` runs before the lock is taken, and again under the
    /// lock, where its result counts: a request that the first check refuses has not taken the lock.
    ///
    /// # Errors
    /// The errors of `check` and `change`; then nothing is changed.
    pub(super) async fn transition<C, T: Serialize + DeserializeOwned>(
        &self,
        lock: ChangeLock,
        check: impl AsyncFn(&mut PgConnection) -> Result<C, Error>,
        change: impl AsyncFnOnce(&mut PgConnection, C) -> Result<Effect<T>, Error>,
    ) -> Result<Reply<T>, Error> {
        let mut transaction = match lock {
            ChangeLock::Shared => AuditedTransaction::begin(self.pool).await?,
            ChangeLock::Exclusive => {
                let mut unlocked = AuditedTransaction::begin_unlocked(self.pool).await?;
                if let Some(replay) = self.authorize_and_claim(unlocked.connection()).await? {
                    return Ok(replay);
                }
                let (authorized, _) = Authorized::by(check(unlocked.connection())).await?;
                unlocked.abandon().await?;
                AuditedTransaction::begin_exclusive(self.pool, authorized).await?
            }
        };
        if let Some(replay) = self.authorize_and_claim(transaction.connection()).await? {
            return Ok(replay);
        }
        let found = check(transaction.connection()).await?;
        match change(transaction.connection(), found).await? {
            Effect::Unneeded(value) => Ok(value.into()),
            Effect::Made { value, events } => {
                self.store_result(transaction.connection(), &value).await?;
                transaction.commit(&events).await?;
                Ok(value.into())
            }
        }
    }

    /// Re-checks, inside the transaction, that the caller is still active, then claims the idempotency key until
    /// commit or rollback. For a repeated request, returns the stored result.
    pub(super) async fn authorize_and_claim<T: DeserializeOwned>(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Option<Reply<T>>, Error> {
        self.require_active(connection).await?;
        let Some(key) = &self.idempotency_key else { return Ok(None) };
        let caller = self.caller.key(self.issuer);
        match idempotency::store::claim(connection, &caller, key, self.now).await? {
            Claim::New => Ok(None),
            Claim::Reused => Err(Refusal::IdempotencyReused.into()),
            Claim::Repeated(stored) => {
                let value = serde_json::from_str(&stored).context("reading a stored result")?;
                Ok(Some(Reply { value, replayed: true }))
            }
        }
    }

    /// Re-checks, inside the transaction, that the caller is still active.
    pub(super) async fn require_active(&self, connection: &mut PgConnection) -> Result<(), Error> {
        match self.caller.is_active(self.rows, connection, self.now).await? {
            true => Ok(()),
            false => Err(Refusal::AccessTokenInvalid.into()),
        }
    }

    /// Stores the result in the transaction of the change, for repeated requests. It is read for a day: a later version of
    /// the type has to read it, too.
    pub(super) async fn store_result(
        &self,
        connection: &mut PgConnection,
        value: &impl Serialize,
    ) -> Result<(), Fault> {
        let Some(key) = &self.idempotency_key else { return Ok(()) };
        let text = serde_json::to_string(value).context("writing a result")?;
        idempotency::store::put_result(connection, &self.caller.key(self.issuer), key, &text).await
    }

    /// Stores the result again, with what became known only after the commit. The change is effective, so a failure
    /// is only logged.
    pub(super) async fn update_stored_result(&self, value: &impl Serialize) {
        let updating = async {
            let mut connection = self.pool.acquire().await?;
            self.store_result(&mut connection, value).await
        };
        if let Err(fault) = updating.await {
            tracing::warn!(error = %fault, "a stored result was not completed");
        }
    }

    async fn record_refusal(&self, attempt: Attempt<'_>, refusal: Refusal) -> Result<(), Fault> {
        let mut transaction = AuditedTransaction::begin(self.pool).await?;
        let path = match attempt.target {
            Target::Delegation(id) => {
                delegation::store::path(self.rows, transaction.connection(), id).await?
            }
            Target::Unnamed
            | Target::Principal(_)
            | Target::Task(_)
            | Target::StandingGrant(_)
            | Target::Other(_) => None,
        };
        let kind = attempt.operation.refused(refusal);
        let event = match &path {
            Some(path) => self.event_about(kind, path),
            None => Event { subject: self.caller.principal(self.issuer), ..self.event(kind) },
        };
        // A mistyped name may be a person's, or a secret.
        let target = match attempt.target {
            Target::Principal(who) if who.iss != self.issuer => {
                let found = person::store::find_by_sub(transaction.connection(), Some(&who.iss), &who.sub);
                found.await?.pop().map(|person| person.pseudonym)
            }
            Target::Delegation(id) => path.is_some().then(|| id.to_owned()),
            Target::Principal(Principal { sub: text, .. }) => {
                if_exists(transaction.connection(), text).await?
            }
            Target::Other(text) => if_exists(transaction.connection(), text).await?,
            Target::Unnamed | Target::Task(_) | Target::StandingGrant(_) => None,
        };
        let mut event = event;
        if let Target::StandingGrant(id) = attempt.target
            && let Some(grant) = standing_grant::store::find(self.rows, transaction.connection(), id).await?
        {
            event.subject = Some(grant.grantor);
            event.standing_grant_id = Some(grant.id);
        }
        if let Target::Task(task_id) = attempt.target {
            event.add_text(PersonalText::TaskId, Some(task_id));
        }
        transaction.commit(&[Event { reason: Some(refusal.reason()), target, ..event }]).await
    }
}

async fn if_exists(connection: &mut PgConnection, text: &str) -> Result<Option<String>, Fault> {
    Ok(name::exists(connection, text).await?.then(|| text.to_owned()))
}
