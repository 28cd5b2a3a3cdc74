//! Sinks at the management API. Administrators declare, change and remove sinks and replay dead letters; auditors can
//! read.

mod batch;
mod declare;
pub mod deliver;
mod message;
mod notifications;
mod secrets;
mod turn;
mod waiting;

use secrecy::ExposeSecret as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

pub use self::declare::{InvalidSink, SinkDeclaration, SinkUpsert, prepare, put};
use super::apply::{Change, DeclarationResult};
use super::caller::Caller;
use super::keys;
use super::page::{Page, cut};
use super::request_context::RequestContext;
use super::transition::{Attempt, ChangeLock, Effect, Reply};
use crate::domain::audit::{self, Event, EventKind, Operation};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::sink::{NotificationSettings, SigningSecrets, Sink, SinkView, store};
use crate::domain::vault::credential_cache::CredentialCache;
use crate::platform::clock::rfc3339;
use actchain_protocol::standard_webhooks::Secret;

/// Maximum number of dead letters of a page.
const PAGE: i64 = 100;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeclaredSink {
    pub change: Change,
    pub sink: SinkView,
    /// A generated secret. The stored result has none.
    #[serde(skip)]
    pub secret: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct SinkList {
    pub items: Vec<SinkView>,
}

/// An event that could not be delivered.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetterView {
    pub seq: i64,
    pub attempts: i32,
    pub error: String,
    pub at: String,
    /// Whether the event is to be sent again.
    pub replay: bool,
}

/// Dead letters that are to be sent again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SinkReplay {
    pub id: String,
    pub dead_letters: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SinkRemoval {
    pub id: String,
    /// `seq` of the first event that was not sent.
    pub cursor: u64,
    pub dead_letters: i64,
}

/// A new signing secret. The stored result has none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SinkSecret {
    pub id: String,
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnabledState {
    Enabled,
    Disabled,
}

/// Refuses callers other than auditors, administrators and operators.
fn require_reader(ctx: &RequestContext<'_>) -> Result<(), Refusal> {
    match ctx.caller {
        Caller::Auditor(_) => Ok(()),
        _ => ctx.caller.require_administrator(),
    }
}

/// Declares a sink. The result contains a generated secret, once.
pub async fn declare(
    ctx: &RequestContext<'_>,
    vault: &CredentialCache,
    declared: &SinkDeclaration,
) -> Result<DeclarationResult<DeclaredSink>, Error> {
    let mut problem = None;
    let declaring = try_to_declare(ctx, vault, declared, &mut problem);
    let result = ctx.attempt(Attempt::on(Operation::DeclareSink, &declared.id), declaring).await;
    DeclarationResult::new(result, problem)
}

async fn try_to_declare(
    ctx: &RequestContext<'_>,
    vault: &CredentialCache,
    declared: &SinkDeclaration,
    problem: &mut Option<String>,
) -> Result<Reply<DeclaredSink>, Error> {
    ctx.caller.require_administrator()?;
    keys::ensure_data_key(ctx.pool, vault.keys.master(), ctx.now).await?;
    let mut secret = None;
    let check = async |_: &mut PgConnection| Ok(());
    let change = async |connection: &mut PgConnection, ()| {
        let put = match put(connection, vault, declared, ctx.now).await {
            Ok(put) => put,
            Err(InvalidSink::Failed(error)) => return Err(error),
            Err(InvalidSink::Declaration(why)) => {
                *problem = Some(why);
                return Err(DeclarationResult::<DeclaredSink>::REFUSAL.into());
            }
        };
        if put.shows_people_elsewhere {
            ctx.caller.require_operator()?;
        }
        let dead_letters = store::count_dead_letters(connection, &put.sink.id).await?;
        let change = put.change();
        secret = put.made.as_ref().map(|secret| secret.expose_secret().to_owned());
        let value = DeclaredSink { change, sink: put.sink.view(dead_letters), secret: None };
        let Some(change) = change.recorded() else { return Ok(Effect::Unneeded(value)) };
        let target = Some(put.sink.id.clone());
        Ok(Effect::made(value, Event { target, ..ctx.event(put.event(change)) }))
    };
    let mut reply = ctx.transition(ChangeLock::Shared, check, change).await?;
    reply.value.secret = secret;
    Ok(reply)
}

pub async fn list(ctx: &RequestContext<'_>) -> Result<SinkList, Error> {
    require_reader(ctx)?;
    let mut connection = ctx.pool.acquire().await?;
    let sinks = store::list(&mut connection).await?;
    Ok(SinkList { items: sinks.iter().map(|(sink, dead_letters)| view(ctx, sink, *dead_letters)).collect() })
}

/// Number of events in the log, of which a sink has sent those before its cursor.
pub async fn log_size(ctx: &RequestContext<'_>) -> Result<u64, Error> {
    require_reader(ctx)?;
    Ok(audit::store::head(&mut *ctx.pool.acquire().await?).await?.size())
}

pub async fn show(ctx: &RequestContext<'_>, id: &str) -> Result<SinkView, Error> {
    require_reader(ctx)?;
    let mut connection = ctx.pool.acquire().await?;
    let sink = store::find(&mut connection, id).await?.ok_or(Refusal::NotFound)?;
    let dead_letters = store::count_dead_letters(&mut connection, id).await?;
    Ok(view(ctx, &sink, dead_letters))
}

/// A sink as the caller may see it. Auditors see only the URL's origin, because the path may contain a secret, and no mail
/// addresses.
fn view(ctx: &RequestContext<'_>, sink: &Sink, dead_letters: i64) -> SinkView {
    let view = sink.view(dead_letters);
    match ctx.caller {
        Caller::Auditor(_) => {
            let notification = view.notification.map(NotificationSettings::without_addresses);
            SinkView { url: sink.origin(), notification, ..view }
        }
        _ => view,
    }
}

/// The dead letters of a sink, in order, after a `seq`.
pub async fn dead_letters(
    ctx: &RequestContext<'_>,
    id: &str,
    after: Option<u64>,
) -> Result<Page<DeadLetterView, i64>, Error> {
    require_reader(ctx)?;
    let mut connection = ctx.pool.acquire().await?;
    store::find(&mut connection, id).await?.ok_or(Refusal::NotFound)?;
    let mut letters = store::dead_letters(&mut connection, id, after, PAGE + 1).await?;
    let next = cut(&mut letters, PAGE).map(|last| last.seq);
    let items = letters.into_iter().map(|one| DeadLetterView {
        seq: one.seq,
        attempts: one.attempts,
        error: one.error,
        at: rfc3339(one.at),
        replay: one.replay,
    });
    Ok(Page { items: items.collect(), next })
}

/// Marks all dead letters of a sink to be resent, once each.
pub async fn replay(ctx: &RequestContext<'_>, id: &str) -> Result<Reply<SinkReplay>, Error> {
    change_sink(ctx, Operation::ReplaySink, id, async |connection, _| {
        let dead_letters = store::mark_replay(connection, id).await?;
        Ok(SinkChange {
            kind: EventKind::SinkReplayed { dead_letters },
            value: SinkReplay { id: id.to_owned(), dead_letters },
        })
    })
    .await
}

/// Removes a sink with its dead letters.
pub async fn remove(ctx: &RequestContext<'_>, id: &str) -> Result<Reply<SinkRemoval>, Error> {
    change_sink(ctx, Operation::RemoveSink, id, async |connection, sink| {
        let dead_letters = store::count_dead_letters(connection, id).await?;
        store::mark_removed(connection, id).await?;
        Ok(SinkChange {
            kind: EventKind::SinkRemoved { cursor: sink.cursor, dead_letters },
            value: SinkRemoval { id: id.to_owned(), cursor: sink.cursor, dead_letters },
        })
    })
    .await
}

/// Enables or disables a sink; its cursor stays.
pub async fn set_enabled(
    ctx: &RequestContext<'_>,
    id: &str,
    state: EnabledState,
) -> Result<Reply<SinkView>, Error> {
    let operation = match state {
        EnabledState::Enabled => Operation::EnableSink,
        EnabledState::Disabled => Operation::DisableSink,
    };
    change_sink(ctx, operation, id, async |connection, mut sink| {
        let (disabled, kind) = match state {
            EnabledState::Enabled => (None, EventKind::SinkEnabled),
            EnabledState::Disabled => (
                Some((ctx.now, "disabled by an administrator".to_owned())),
                EventKind::SinkDisabled { status: None },
            ),
        };
        sink.disabled = disabled;
        store::put(connection, &sink, ctx.now).await?;
        let value = sink.view(store::count_dead_letters(connection, id).await?);
        Ok(SinkChange { kind, value })
    })
    .await
}

/// Generates a new signing secret, which is shown once. The old secret signs beside it for a day.
pub async fn rotate(
    ctx: &RequestContext<'_>,
    vault: &CredentialCache,
    id: &str,
) -> Result<Reply<SinkSecret>, Error> {
    keys::ensure_data_key(ctx.pool, vault.keys.master(), ctx.now).await?;
    let mut shown = None;
    let mut reply =
        change_sink(ctx, Operation::RotateSinkSecret, id, async |connection: &mut PgConnection, mut sink| {
            if sink.mail().is_some() {
                return Err(Refusal::Malformed("The password of a mail server is declared").into());
            }
            let next = Secret::generate()?;
            shown = Some(next.text().expose_secret().to_owned());
            let old = SigningSecrets::open(&vault.keys, connection, &sink).await?;
            sink.sealed = old.followed_by(next, ctx.now).seal(&vault.keys, connection, id).await?;
            store::put(connection, &sink, ctx.now).await?;
            Ok(SinkChange {
                kind: EventKind::SinkSecretRotated,
                value: SinkSecret { id: id.to_owned(), secret: None },
            })
        })
        .await?;
    reply.value.secret = shown;
    Ok(reply)
}

/// A change of an existing sink.
struct SinkChange<T> {
    kind: EventKind,
    value: T,
}

/// Changes an existing sink and records the event.
async fn change_sink<T: Serialize + DeserializeOwned>(
    ctx: &RequestContext<'_>,
    operation: Operation,
    id: &str,
    work: impl AsyncFnOnce(&mut PgConnection, Sink) -> Result<SinkChange<T>, Error>,
) -> Result<Reply<T>, Error> {
    let check = async |connection: &mut PgConnection| {
        Ok(store::find(connection, id).await?.ok_or(Refusal::NotFound)?)
    };
    let change = async |connection: &mut PgConnection, sink: Sink| {
        let SinkChange { kind, value } = work(connection, sink).await?;
        Ok(Effect::made(value, Event { target: Some(id.to_owned()), ..ctx.event(kind) }))
    };
    let changing = async {
        ctx.caller.require_administrator()?;
        ctx.transition(ChangeLock::Shared, check, change).await
    };
    ctx.attempt(Attempt::on(operation, id), changing).await
}
