//! Sinks at the management API. Administrators declare, change and remove sinks and replay dead letters; auditors can
//! read.

mod declare;
pub mod deliver;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

pub use self::declare::{InvalidSink, SinkDeclaration, SinkUpsert, prepare, put};
use crate::domain::audit::Action;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::sink::{SigningSecrets, Sink, store};
use crate::domain::vault::credential_cache::CredentialCache;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Context as _;
use crate::protocol::standard_webhooks::Secret;
use crate::services::apply::Change;
use crate::services::keys;
use crate::services::request_context::{
    ApiResponse, AuditTarget, Call, Caller, Desk, record_delegation_refusal,
};
use crate::services::transaction::AuditedTransaction;

/// Maximum number of dead letters of a page.
const PAGE: i64 = 100;

/// The refusal of an invalid declaration.
const UNUSABLE: Refusal = Refusal::Malformed("The declaration cannot be used");

fn may_look(call: &Call) -> Result<(), Refusal> {
    match call.caller {
        Caller::Auditor(_) => Ok(()),
        _ => may_change(call),
    }
}

fn may_change(call: &Call) -> Result<(), Refusal> {
    if call.caller.administers() { Ok(()) } else { Err(Refusal::InsufficientScope) }
}

/// Declares a sink. The response contains a generated secret, once. An invalid declaration returns the problem in
/// words.
pub async fn declare(
    (desk, vault): (&Desk<'_>, &CredentialCache),
    call: &Call,
    declared: &SinkDeclaration,
) -> Result<ApiResponse, (Error, Option<String>)> {
    let (result, why) = match try_to_declare((desk, vault), call, declared).await {
        Ok(done) => (Ok(done), None),
        Err(InvalidSink::Declaration(why)) => (Err(UNUSABLE.into()), Some(why)),
        Err(InvalidSink::Failed(stop)) => (Err(stop), None),
    };
    let result =
        record_delegation_refusal(desk, call, ("declare a sink", AuditTarget::Other(&declared.id)), result)
            .await;
    result.map_err(|stop| (stop, why))
}

async fn try_to_declare(
    (desk, vault): (&Desk<'_>, &CredentialCache),
    call: &Call,
    declared: &SinkDeclaration,
) -> Result<ApiResponse, InvalidSink> {
    may_change(call)?;
    keys::ensure_data_key(desk.pool, vault.keys.master(), call.now).await?;
    let mut work = AuditedTransaction::begin(desk.pool).await?;
    if let Some(done) = call.authorize_and_claim(desk, &mut work).await? {
        return Ok(done);
    }
    let put = put(work.connection(), vault, declared, call.now).await?;
    let dead = store::count_dead_letters(work.connection(), &put.sink.id).await?;
    let mut done = ApiResponse::with(put.sink.view(dead))?;
    let change = put.change();
    done.status = if change == Change::Create { 201 } else { 200 };
    if change != Change::Unchanged {
        // What is kept for whoever repeats the call has no secret in it.
        call.store_response(desk, &mut work, &done).await?;
        let mut event = call.event(Action::SinkChanged);
        event.target = Some(put.sink.id.clone());
        // Only the host: the path of the URL may contain a secret.
        event.detail = Some(json!({"change": change, "host": put.sink.host(), "format": put.sink.format}));
        work.commit(&[event]).await?;
    }
    if let (Value::Object(members), Some(secret)) = (&mut done.body, &put.made) {
        members.insert("secret".into(), secret.expose_secret().into());
    }
    Ok(done)
}

pub async fn list(desk: &Desk<'_>, call: &Call) -> Result<ApiResponse, Error> {
    may_look(call)?;
    let mut connection = desk.pool.acquire().await?;
    let sinks = store::list(&mut connection).await?;
    let items: Vec<Value> = sinks.iter().map(|(sink, dead)| view(call, sink, *dead)).collect();
    Ok(ApiResponse::with(json!({"items": items}))?)
}

pub async fn show(desk: &Desk<'_>, call: &Call, id: &str) -> Result<ApiResponse, Error> {
    may_look(call)?;
    let mut connection = desk.pool.acquire().await?;
    let sink = store::find(&mut connection, id).await?.ok_or(Refusal::NotFound)?;
    let dead = store::count_dead_letters(&mut connection, id).await?;
    Ok(ApiResponse::with(view(call, &sink, dead))?)
}

/// A sink as the caller may see it. Auditors see only the URL's origin, because the path may contain a secret.
fn view(call: &Call, sink: &Sink, dead: i64) -> Value {
    let mut view = sink.view(dead);
    if let (Caller::Auditor(_), Value::Object(members)) = (&call.caller, &mut view) {
        members.insert("url".into(), sink.origin().into());
    }
    view
}

/// The dead letters of a sink, in order.
pub async fn dead_letters(
    desk: &Desk<'_>,
    call: &Call,
    (id, after): (&str, Option<u64>),
) -> Result<ApiResponse, Error> {
    may_look(call)?;
    let mut connection = desk.pool.acquire().await?;
    store::find(&mut connection, id).await?.ok_or(Refusal::NotFound)?;
    let mut letters = store::dead_letters(&mut connection, id, (after, PAGE + 1)).await?;
    let most = usize::try_from(PAGE).unwrap_or(usize::MAX);
    let more = letters.len() > most;
    letters.truncate(most);
    let next = letters.last().filter(|_| more).map(|last| last.seq);
    let items: Vec<Value> = letters
        .iter()
        .map(|one| {
            json!({"seq": one.seq, "attempts": one.attempts, "error": one.error, "at": rfc3339(one.at),
                   "replay": one.replay})
        })
        .collect();
    Ok(ApiResponse::with(json!({"items": items, "next": next}))?)
}

/// Marks all dead letters of a sink to be resent, once each.
pub async fn replay(desk: &Desk<'_>, call: &Call, id: &str) -> Result<ApiResponse, Error> {
    changed(desk, call, (id, Action::SinkReplayed), async |work, _| {
        let count = store::mark_replay(work.connection(), id).await?;
        Ok((json!({"dead_letters": count}), json!({"id": id, "dead_letters": count})))
    })
    .await
}

/// Removes a sink with its dead letters.
pub async fn remove(desk: &Desk<'_>, call: &Call, id: &str) -> Result<ApiResponse, Error> {
    changed(desk, call, (id, Action::SinkRemoved), async |work, sink| {
        let dead = store::count_dead_letters(work.connection(), id).await?;
        store::mark_removed(work.connection(), id).await?;
        let said = json!({"cursor": sink.cursor, "dead_letters": dead});
        Ok((said, json!({"id": id, "cursor": sink.cursor, "dead_letters": dead})))
    })
    .await
}

/// Enables or disables a sink; its cursor stays.
pub async fn set_enabled(
    desk: &Desk<'_>,
    call: &Call,
    (id, to): (&str, EnabledState),
) -> Result<ApiResponse, Error> {
    changed(desk, call, (id, Action::SinkChanged), async |work, mut sink| {
        sink.disabled = match to {
            EnabledState::Enabled => None,
            EnabledState::Disabled => Some((call.now, "disabled by an administrator".to_owned())),
        };
        store::put(work.connection(), &sink, call.now).await?;
        let change = if to == EnabledState::Enabled { "enabled" } else { "disabled" };
        let dead = store::count_dead_letters(work.connection(), id).await?;
        Ok((json!({"change": change}), sink.view(dead)))
    })
    .await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnabledState {
    Enabled,
    Disabled,
}

/// Gives it a new secret, which is shown this once; the old one signs beside it for a day.
pub async fn rotate(
    (desk, vault): (&Desk<'_>, &CredentialCache),
    call: &Call,
    id: &str,
) -> Result<ApiResponse, Error> {
    keys::ensure_data_key(desk.pool, vault.keys.master(), call.now).await?;
    changed(desk, call, (id, Action::SinkChanged), async |work, mut sink| {
        let next = Secret::generate()?;
        let shown = next.text();
        let old = SigningSecrets::open(&vault.keys, work.connection(), &sink).await?;
        sink.sealed = old.followed_by(next, call.now).seal(&vault.keys, work.connection(), id).await?;
        store::put(work.connection(), &sink, call.now).await?;
        Ok((json!({"change": "secret_rotated"}), json!({"id": id, "secret": shown.expose_secret()})))
    })
    .await
}

/// Changes an existing sink and records the event. The closure returns the event detail and the response.
async fn changed<F>(
    desk: &Desk<'_>,
    call: &Call,
    (id, action): (&str, Action),
    work: F,
) -> Result<ApiResponse, Error>
where
    F: AsyncFnOnce(&mut AuditedTransaction, Sink) -> Result<(Value, Value), Error>,
{
    let result = try_to_change(desk, call, (id, action), work).await;
    record_delegation_refusal(desk, call, ("change a sink", AuditTarget::Other(id)), result).await
}

async fn try_to_change<F>(
    desk: &Desk<'_>,
    call: &Call,
    (id, action): (&str, Action),
    work: F,
) -> Result<ApiResponse, Error>
where
    F: AsyncFnOnce(&mut AuditedTransaction, Sink) -> Result<(Value, Value), Error>,
{
    may_change(call)?;
    let mut begun = AuditedTransaction::begin(desk.pool).await?;
    if let Some(done) = call.authorize_and_claim(desk, &mut begun).await? {
        return Ok(done);
    }
    let sink = store::find(begun.connection(), id).await?.ok_or(Refusal::NotFound)?;
    let (detail, answer) = work(&mut begun, sink).await?;
    let done = ApiResponse::with(answer).context("changing a sink")?;
    let mut event = call.event(action);
    event.target = Some(id.to_owned());
    event.detail = Some(detail);
    call.store_response(desk, &mut begun, &done).await?;
    begun.commit(&[event]).await?;
    Ok(done)
}
