//! Providers at the management API: administrators declare providers; every caller can list them.

use serde_json::{Value, json};

use super::connections::refused;
use super::providers::{ProviderDeclaration, prepare, view};
use super::put_provider::put;
use crate::domain::audit::Action;
use crate::domain::provider;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::vault::credential_cache::CredentialCache;
use crate::platform::fault::Fault;
use crate::services::apply::{Change, Line};
use crate::services::request_context::{ApiResponse, AuditTarget, Call, Desk, Entry};
use sqlx::PgConnection;

/// Result of a declaration.
#[derive(Debug)]
pub enum Declared {
    Done(ApiResponse),
    /// The declaration is invalid; with the reason in words.
    Unusable(String),
}

/// The refusal of an invalid declaration.
pub const UNUSABLE: Refusal = Refusal::Malformed("The declaration cannot be used");

/// Completes a declaration from the provider's metadata, and stores it. After the response, no request uses the old
/// settings.
pub async fn declare(
    (desk, vault): (&Desk<'_>, &CredentialCache),
    call: &Call,
    declared: ProviderDeclaration,
) -> Result<Declared, Error> {
    let id = declared.id.clone();
    let mut why = None;
    let result = try_to_declare((desk, vault), call, declared, &mut why).await;
    let result = refused(desk, call, ("declare a provider", AuditTarget::Other(&id)), result).await;
    match (result, why) {
        (Err(Error::Refused(_)), Some(why)) => Ok(Declared::Unusable(why)),
        (result, _) => result.map(Declared::Done),
    }
}

async fn try_to_declare(
    (desk, vault): (&Desk<'_>, &CredentialCache),
    call: &Call,
    declared: ProviderDeclaration,
    why: &mut Option<String>,
) -> Result<ApiResponse, Error> {
    if !call.caller.administers() {
        return Err(Refusal::InsufficientScope.into());
    }
    let ready = match prepare(&vault.outbound, declared).await {
        Ok(ready) => ready,
        Err(fault) => {
            *why = Some(fault.to_string());
            return Err(UNUSABLE.into());
        }
    };
    let ready = &ready;
    let check = async |connection: &mut PgConnection| {
        let old = provider::store::find(connection, &ready.id).await?;
        if old.is_some_and(|old| !ready.is_like(&old)) {
            return Err(Refusal::Malformed("A provider keeps its kind: declare another one").into());
        }
        Ok(())
    };
    let mut work = match call.begin_exclusive(desk, check).await? {
        Entry::Before(done) => return Ok(done),
        Entry::Now(work, ()) => work,
    };
    let members = put(work.connection(), &vault.keys, ready, call.now).await?;
    let change = Line::of("provider", &ready.id, members).change;
    let mut done = ApiResponse::with(ready.view()?)?;
    done.status = if change == Change::Create { 201 } else { 200 };
    if change == Change::Unchanged {
        return Ok(done);
    }
    let mut event = call.event(Action::ProviderChanged);
    event.target = Some(ready.id.clone());
    event.detail = Some(json!({"change": change}));
    call.store_response(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    Ok(done)
}

/// All providers: full settings without secrets for administrators; for other callers, the members needed to connect.
pub async fn providers(desk: &Desk<'_>, call: &Call) -> Result<ApiResponse, Error> {
    let mut connection = desk.pool.acquire().await?;
    let found = provider::store::list(&mut connection).await?;
    let items = found.iter().map(|one| {
        let whole = view(&one.id, &one.settings)?;
        let settings = &one.settings;
        let scopes = settings.oauth.as_ref().map(|oauth| &oauth.scopes);
        let part = json!({"id": one.id, "name": settings.name, "kind": settings.kind, "scopes": scopes});
        Ok(if call.caller.administers() { whole } else { part })
    });
    let items = items.collect::<Result<Vec<Value>, Fault>>()?;
    Ok(ApiResponse::with(json!({"items": items}))?)
}
