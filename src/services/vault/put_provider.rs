//! Stores declared providers. When tokens would be sent elsewhere, credentials of the provider end.

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use super::connections::about;
use super::providers::{ProviderDeclaration, ResolvedProvider, prepare};
use crate::domain::audit::{Event, EventKind};
use crate::domain::data_key::{DataKeys, Sealed};
use crate::domain::provider::{self, OpenedProvider, Provider};
use crate::domain::registry::Registry;
use crate::domain::vault::credential_cache::CredentialCache;
use crate::domain::vault::{self, Connection, ConnectionState};
use crate::platform::fault::Fault;
use crate::services::apply::{ApplyError, MemberChange, SecretChange, differences, provider_members};
use crate::services::keys::ensure_data_key;
use crate::services::request_context::RequestContext;

/// The recorded reason why an owner has to connect again: the declared provider has other addresses.
const PROVIDER_MOVED: &str = "provider_moved";

/// Why tokens must not be sent under a name of this server.
pub(in crate::services) const OWN_AUDIENCE: &str = "the audience of the tokens that are sent to the provider must not be this server or one of its resources, where the \
     provider could use them";

impl ResolvedProvider {
    /// Whether tokens that are sent to the provider could be used at this server or at one of its resources.
    pub(in crate::services) fn gets_own_tokens(&self, registry: &Registry, own_issuer: &str) -> bool {
        let audience = self.settings.subject_token_audience();
        audience.is_some_and(|audience| registry.is_own_audience(audience, own_issuer))
    }
}

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

/// A stored provider. The caller records the events.
pub(in crate::services) struct ProviderUpsert {
    /// Members that changed; `None` for a new provider.
    pub members: Option<Vec<MemberChange>>,
    /// Whether credentials of users would be sent to an address that was not declared before: only operators may declare it.
    pub sends_elsewhere: bool,
    /// Connections whose credentials were deleted, as they were before.
    ended: Vec<Connection>,
}

impl ProviderUpsert {
    /// Information for the author of the declaration.
    pub(in crate::services) fn note(&self) -> Option<String> {
        let owners = self.ended.iter().filter(|one| one.state() == ConnectionState::Active).count();
        (owners > 0).then(|| {
            format!("{owners} connections need_reconnect: their tokens are not sent to the new address, and were deleted")
        })
    }

    /// The events of the connections whose credentials were deleted.
    pub(in crate::services) fn events_of_connections(&self, ctx: &RequestContext<'_>) -> Vec<Event> {
        let event = |one: &Connection| {
            let provider = one.provider.clone();
            let kind = match one.state() {
                ConnectionState::Active => {
                    EventKind::ConnectionNeedsReconnect { provider, error: PROVIDER_MOVED.to_owned() }
                }
                _ => EventKind::ConnectionCredentialDeleted { provider, provider_revoked: Some(false) },
            };
            about(ctx, kind, one)
        };
        self.ended.iter().map(event).collect()
    }
}

/// Whether a change makes the server send credentials, or their owners, to another address.
fn is_address(change: &MemberChange) -> bool {
    match change {
        MemberChange::List { member, added, .. } => member == "hosts" && !added.is_empty(),
        MemberChange::Value { member, .. } => {
            ["issuer", "authorization_endpoint", "token_endpoint", "revocation_endpoint", "exchange"]
                .contains(&member.as_str())
        }
        MemberChange::Secret { .. } => false,
    }
}

/// Whether a change decides what agents get by exchange, about which no owner is asked.
fn is_reach(change: &MemberChange) -> bool {
    match change {
        MemberChange::List { member, added, .. } => member == "scopes" && !added.is_empty(),
        MemberChange::Value { member, .. } => ["client_id", "scopes"].contains(&member.as_str()),
        MemberChange::Secret { .. } => false,
    }
}

/// Stores a provider. If tokens of its connections would be sent to another origin than before, the tokens are deleted:
/// they are secrets of the origin that issued them.
pub(in crate::services) async fn put(
    connection: &mut PgConnection,
    keys: &DataKeys,
    ready: &ResolvedProvider,
    now: OffsetDateTime,
) -> Result<ProviderUpsert, Fault> {
    let (mut members, mut ended) = (None, Vec::new());
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
            return Ok(ProviderUpsert { members: Some(changes), sends_elsewhere: false, ended });
        }
        if !ready.settings.token_origins().is_subset(&old.provider.settings.token_origins()) {
            ended = vault::store::delete_credentials(connection, &ready.id, now).await?;
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
    // A new provider gets no credential that a user has connected elsewhere, but it can get tokens of chains.
    let sends_elsewhere = members.as_ref().map_or_else(
        || one.exchanges(),
        |changes| changes.iter().any(|change| is_address(change) || (one.exchanges() && is_reach(change))),
    );
    Ok(ProviderUpsert { members, sends_elsewhere, ended })
}
