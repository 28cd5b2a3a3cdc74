//! Providers at the desk: administrators declare them, everybody may know which there are.

use serde_json::{Value, json};

use super::providers::{Ready, put, view};
use crate::domain::audit::Action;
use crate::domain::provider;
use crate::domain::refusal::{Refusal, Stop};
use crate::domain::vault::held::Vault;
use crate::flows::apply::Change;
use crate::flows::desk::{Call, Desk, Done};
use crate::flows::work::Work;
use crate::platform::fault::Fault;

/// Stores a provider as declared. Who has been given a credential by its old settings is given none by them any more when
/// the answer leaves.
pub async fn declare((desk, vault): (&Desk<'_>, &Vault), call: &Call, ready: &Ready) -> Result<Done, Stop> {
    if !call.caller.administers() {
        return Err(Refusal::InsufficientScope.into());
    }
    let mut work = Work::ending(desk.pool).await?;
    if let Some(done) = call.enter(desk, &mut work).await? {
        return Ok(done);
    }
    if provider::store::find(work.connection(), &ready.id).await?.is_some_and(|old| !ready.is_like(&old)) {
        return Err(Refusal::Malformed("A provider keeps its kind: declare another one").into());
    }
    let change = put(work.connection(), &vault.keys, ready, call.now).await?;
    let mut done = Done::with(ready.view()?)?;
    done.status = if change == Change::Create { 201 } else { 200 };
    if change == Change::Keep {
        return Ok(done);
    }
    let mut event = call.event(Action::ProviderChanged);
    event.target = Some(ready.id.clone());
    event.detail = Some(json!({"change": change}));
    call.keep(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    Ok(done)
}

/// All providers: what administrators declared, without secrets; for others, what they need to connect.
pub async fn providers(desk: &Desk<'_>, call: &Call) -> Result<Done, Stop> {
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
    Ok(Done::with(json!({"items": items}))?)
}
