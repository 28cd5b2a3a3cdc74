//! Providers at the management API: administrators declare providers; every caller can list them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::providers::{ProviderDeclaration, ResolvedProvider, prepare};
use super::put_provider::{OWN_AUDIENCE, put};
use crate::domain::audit::{Event, EventKind, Operation};
use crate::domain::provider::{self, ProviderKind, ProviderSettings};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry;
use crate::domain::vault::credential_cache::CredentialCache;
use crate::services::apply::{Change, DeclarationResult, EntryKind, Line};
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply};

/// A declared provider, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeclaredProvider {
    pub change: Change,
    pub id: String,
    pub settings: ProviderSettings,
}

/// A provider as shown, without its secret.
#[derive(Debug, Clone, Serialize)]
pub struct ProviderView {
    pub id: String,
    #[serde(flatten)]
    pub settings: ProviderSettings,
}

/// The members of a provider that an owner needs to connect.
#[derive(Debug, Clone, Serialize)]
pub struct ProviderSummary {
    pub id: String,
    pub name: String,
    pub kind: ProviderKind,
    pub scopes: Option<BTreeSet<String>>,
}

/// All providers, as the caller may see them.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum ProviderList {
    Whole { items: Vec<ProviderView> },
    Summaries { items: Vec<ProviderSummary> },
}

/// Completes a declaration from the provider's metadata, and stores it. After the response, no request uses the old
/// settings. Only operators give a stored provider another address.
pub async fn declare(
    ctx: &RequestContext<'_>,
    vault: &CredentialCache,
    declared: ProviderDeclaration,
) -> Result<DeclarationResult<DeclaredProvider>, Error> {
    let id = declared.id.clone();
    let attempt = Attempt::on(Operation::DeclareProvider, &id);
    let mut problem = None;
    let result = ctx.attempt(attempt, try_to_declare(ctx, vault, declared, &mut problem)).await;
    DeclarationResult::new(result, problem)
}

async fn try_to_declare(
    ctx: &RequestContext<'_>,
    vault: &CredentialCache,
    declared: ProviderDeclaration,
    problem: &mut Option<String>,
) -> Result<Reply<DeclaredProvider>, Error> {
    ctx.caller.require_administrator()?;
    let resolved: ResolvedProvider = match prepare(&vault.outbound, declared).await {
        Ok(resolved) => resolved,
        Err(fault) => {
            *problem = Some(fault.to_string());
            return Err(DeclarationResult::<DeclaredProvider>::REFUSAL.into());
        }
    };
    let resolved = &resolved;
    let check = async |connection: &mut PgConnection| {
        let old = provider::store::find(connection, &resolved.id).await?;
        if old.is_some_and(|old| !resolved.is_like(&old)) {
            return Err(
                Refusal::Malformed("The kind of a provider cannot change: declare another provider").into()
            );
        }
        let registry = registry::store::load(ctx.rows, connection, ctx.issuer).await?;
        if resolved.gets_own_tokens(&registry, ctx.issuer) {
            return Err(Refusal::Malformed(OWN_AUDIENCE).into());
        }
        Ok(())
    };
    let change = async |connection: &mut PgConnection, ()| {
        let put = put(connection, &vault.keys, resolved, ctx.now).await?;
        if put.sends_elsewhere {
            ctx.caller.require_operator()?;
        }
        let connections = put.events_of_connections(ctx);
        let change = Line::of(EntryKind::Provider, &resolved.id, put.members).change;
        let value = DeclaredProvider { change, id: resolved.id.clone(), settings: resolved.settings.clone() };
        let Some(change) = change.recorded() else { return Ok(Effect::Unneeded(value)) };
        let target = Some(resolved.id.clone());
        let event = Event { target, ..ctx.event(EventKind::ProviderChanged { change }) };
        Ok(Effect::Made { value, events: std::iter::once(event).chain(connections).collect() })
    };
    ctx.transition(ChangeLock::Exclusive, check, change).await
}

/// All providers: full settings for administrators; for other callers, the members needed to connect.
pub async fn providers(ctx: &RequestContext<'_>) -> Result<ProviderList, Error> {
    let mut connection = ctx.pool.acquire().await?;
    let found = provider::store::list(&mut connection).await?.into_iter();
    if ctx.caller.administers() {
        let items = found.map(|one| ProviderView { id: one.id, settings: one.settings });
        return Ok(ProviderList::Whole { items: items.collect() });
    }
    let summary = |one: provider::Provider| ProviderSummary {
        id: one.id,
        name: one.settings.name,
        kind: one.settings.kind,
        scopes: one.settings.oauth.map(|oauth| oauth.scopes),
    };
    Ok(ProviderList::Summaries { items: found.map(summary).collect() })
}
