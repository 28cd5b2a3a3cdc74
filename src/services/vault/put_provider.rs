//! Stores declared providers, and returns the changed members.

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use super::providers::{ProviderDeclaration, ResolvedProvider, prepare};
use crate::domain::data_key::{DataKeys, Sealed};
use crate::domain::provider::{self, OpenedProvider, Provider};
use crate::domain::vault::credential_cache::CredentialCache;
use crate::platform::fault::Fault;
use crate::services::apply::{ApplyError, MemberChange, SecretChange, differences, provider_members};
use crate::services::keys::ensure_data_key;

/// Completes declarations of providers. May send requests to them, so never call it inside a transaction.
pub(in crate::services) async fn prepare_all(
    pool: &PgPool,
    vault: Option<&CredentialCache>,
    declared: Vec<ProviderDeclaration>,
    now: OffsetDateTime,
) -> Result<Vec<ResolvedProvider>, ApplyError> {
    if declared.is_empty() {
        return Ok(Vec::new());
    }
    let vault = vault.ok_or_else(|| Fault::new("providers need the master key"))?;
    ensure_data_key(pool, vault.keys.master(), now).await?;
    let mut providers = Vec::with_capacity(declared.len());
    for one in declared {
        let place = one.place.clone();
        let stored = stored(pool, vault, &one).await?;
        let prepared = prepare_like(vault, one, stored.as_ref()).await.map_err(|fault| place.whole(fault))?;
        if stored.is_some_and(|old| !prepared.is_like(&old.provider)) {
            return Err(place.whole("the kind of a provider does not change: declare another id").into());
        }
        providers.push(prepared);
    }
    Ok(providers)
}

async fn stored(
    pool: &PgPool,
    vault: &CredentialCache,
    declared: &ProviderDeclaration,
) -> Result<Option<OpenedProvider>, Fault> {
    let mut connection = pool.acquire().await?;
    match provider::store::find(&mut connection, &declared.id).await? {
        Some(found) => found.open(&vault.keys, &mut connection).await.map(Some),
        None => Ok(None),
    }
}

/// Completes a declaration. Without a client secret it keeps the stored one, as long as no setting changes: a secret must
/// not go to an address that was declared without it.
async fn prepare_like(
    vault: &CredentialCache,
    declared: ProviderDeclaration,
    stored: Option<&OpenedProvider>,
) -> Result<ResolvedProvider, Fault> {
    if let Some(OpenedProvider { provider, secret: Some(secret) }) = stored
        && let Some(same) = declared.with_secret(secret)
    {
        let kept = prepare(&vault.outbound, same).await?;
        if kept.settings == provider.settings {
            return Ok(kept);
        }
    }
    prepare(&vault.outbound, declared).await
}

/// Stores a provider. Returns the changed members, or `None` for a new provider; the caller records the event.
pub(in crate::services) async fn put(
    connection: &mut PgConnection,
    keys: &DataKeys,
    ready: &ResolvedProvider,
    now: OffsetDateTime,
) -> Result<Option<Vec<MemberChange>>, Fault> {
    let mut members = None;
    if let Some(found) = provider::store::find(connection, &ready.id).await? {
        if found.settings.kind != ready.settings.kind {
            return Err(Fault::new(format!(
                "provider {}: its kind does not change once it is declared",
                ready.id
            )));
        }
        let old = found.open(keys, connection).await?;
        let text = |secret: &Option<SecretString>| secret.as_ref().map(|one| one.expose_secret().to_owned());
        let (before, after) = (provider_members(&old.provider.settings)?, provider_members(&ready.settings)?);
        let mut changes = differences(&before, &after);
        let secret = match (text(&old.secret), text(&ready.secret)) {
            (old, new) if old == new => None,
            (None, _) => Some(SecretChange::Set),
            (_, None) => Some(SecretChange::Removed),
            _ => Some(SecretChange::Replaced),
        };
        changes.extend(secret.map(|change| MemberChange::secret("client_secret", change)));
        if old.provider.settings == ready.settings && secret.is_none() {
            return Ok(Some(Vec::new()));
        }
        members = Some(changes);
    }
    let secret = ready.secret.as_ref().map(|secret| secret.expose_secret()).unwrap_or_default();
    let row = provider::aad(&ready.id, &ready.settings)?;
    let sealed: Sealed = keys.seal(connection, &row, secret.as_bytes()).await?;
    let one = Provider {
        id: ready.id.clone(),
        version: 0,
        settings: ready.settings.clone(),
        sealed,
        updated_at: now,
    };
    provider::store::put(connection, &one).await?;
    Ok(members)
}
