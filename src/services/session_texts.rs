//! The texts of steps end: on request of their user or an administrator, or with `sessions.text_retention`. The log stays as it is.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::caller::Caller;
use super::request_context::RequestContext;
use super::transaction::AuditedTransaction;
use super::transition::{Attempt, ChangeLock, Effect, Reply};
use crate::app::App;
use crate::domain::audit::detail::ErasureCause;
use crate::domain::audit::step_texts::{self, EndedTexts};
use crate::domain::audit::{Actor, Event, EventKind, Operation};
use crate::domain::person;
use crate::domain::person::Person;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;

/// What was erased of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextsErased {
    pub session_id: String,
    /// Number of steps that had texts.
    pub steps: i64,
}

/// The texts that a caller may erase.
enum ErasableTexts {
    All,
    /// Those about the user with this name in the log.
    OfUser(String),
    /// The log does not name the user.
    None,
}

/// Erases the texts of a session. A user erases its own: a session of another user has none for it.
pub async fn erase(ctx: &RequestContext<'_>, session_id: &str) -> Result<Reply<TextsErased>, Error> {
    let attempt = Attempt::on(Operation::EraseSessionTexts, session_id);
    ctx.attempt(attempt, try_to_erase(ctx, session_id)).await
}

async fn try_to_erase(ctx: &RequestContext<'_>, session_id: &str) -> Result<Reply<TextsErased>, Error> {
    let check = async |connection: &mut PgConnection| match &ctx.caller {
        Caller::Admin(_) | Caller::Operator => Ok(ErasableTexts::All),
        Caller::User(user) => {
            let found = person::store::find_by_sub(connection, Some(&user.who.iss), &user.who.sub).await?;
            let name = found.into_iter().find(Person::is_proven).map(|one| one.pseudonym);
            Ok(name.map_or(ErasableTexts::None, ErasableTexts::OfUser))
        }
        Caller::Agent(_) | Caller::Auditor(_) => Err(Refusal::InsufficientScope.into()),
    };
    let change = async |connection: &mut PgConnection, texts: ErasableTexts| {
        let steps = match &texts {
            ErasableTexts::All => step_texts::erase_of_session(connection, session_id, None).await?,
            ErasableTexts::OfUser(name) => {
                step_texts::erase_of_session(connection, session_id, Some(name)).await?
            }
            ErasableTexts::None => 0,
        };
        let value = TextsErased { session_id: session_id.to_owned(), steps };
        if steps == 0 {
            return Ok(Effect::Unneeded(value));
        }
        let kind = EventKind::SessionTextsErased { steps, cause: ErasureCause::Requested };
        let subject = match &ctx.caller {
            Caller::User(user) => Some(user.who.clone()),
            _ => None,
        };
        let event = Event { session_id: Some(session_id.to_owned()), subject, ..ctx.event(kind) };
        Ok(Effect::made(value, event))
    };
    ctx.transition(ChangeLock::Shared, check, change).await
}

/// Erases the texts that are older than `sessions.text_retention`; returns the number of steps that had them.
pub async fn erase_old(app: &App, now: OffsetDateTime) -> Result<u64, Fault> {
    let before = now - Duration::seconds(app.config.sessions.text_retention.into());
    let mut erased = 0;
    loop {
        let mut work = AuditedTransaction::begin(&app.pool).await?;
        let EndedTexts { rows, steps } = step_texts::erase_before(work.connection(), before).await?;
        if rows == 0 {
            return Ok(erased);
        }
        let kind = EventKind::SessionTextsErased { steps, cause: ErasureCause::Retention };
        work.commit(&[Event::new(now, kind, Actor::Server)]).await?;
        erased += steps.unsigned_abs();
    }
}
