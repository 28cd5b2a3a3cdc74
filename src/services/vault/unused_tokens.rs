//! Revokes tokens of a provider that no connection has: they were not accepted, or newer ones have replaced them. A
//! revocation that fails is repeated for a day.

use std::sync::Arc;

use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use time::{Duration, OffsetDateTime};

use super::by_provider;
use super::provider_client::{self, Revoked};
use crate::app::App;
use crate::domain::provider::{self, OpenedProvider};
use crate::domain::vault::credential_cache::CredentialCache;
use crate::domain::vault::unused::{self, UnusedToken};
use crate::domain::vault::{Credential, ProviderTokens};
use crate::platform::db;
use crate::platform::fault::Fault;
use actchain_protocol::random;
use actchain_protocol::token_answer::TokenSet;

/// How long a revocation is repeated.
const RETENTION: Duration = Duration::hours(24);
/// Time until a job repeats a revocation. The first request is sent when the tokens are stored.
const PAUSE: Duration = Duration::seconds(60);

/// The tokens of an answer as they are stored.
pub(super) fn provider_tokens(tokens: &TokenSet) -> ProviderTokens {
    ProviderTokens {
        access_token: tokens.access_token.clone().unwrap_or_default(),
        token_type: tokens.token_type.clone(),
        refresh_token: tokens.refresh_token.clone(),
    }
}

/// Revokes tokens that were not stored.
pub(super) async fn revoke_unused(app: &App, provider: &OpenedProvider, tokens: &ProviderTokens) {
    let revoked = provider_client::revoke(&app.vault.outbound, provider, tokens).await;
    if matches!(revoked, Revoked::Not(_))
        && let Err(fault) = keep_for_job(app, provider, tokens).await
    {
        tracing::error!(provider = provider.provider.id, error = %fault, "tokens that no connection has are not revoked");
    }
}

async fn keep_for_job(app: &App, provider: &OpenedProvider, tokens: &ProviderTokens) -> Result<(), Fault> {
    let mut transaction = db::begin(&app.pool, "BEGIN").await?;
    keep(&mut transaction, &app.vault, provider, tokens, app.clock.now()).await?;
    Ok(transaction.commit().await?)
}

/// Stores tokens until they are revoked; `None` if the provider does not revoke tokens.
pub(super) async fn keep(
    connection: &mut PgConnection,
    vault: &CredentialCache,
    provider: &OpenedProvider,
    tokens: &ProviderTokens,
    now: OffsetDateTime,
) -> Result<Option<UnusedToken>, Fault> {
    let provider = &provider.provider;
    if provider.settings.oauth.as_ref().is_none_or(|oauth| oauth.revocation_endpoint.is_none()) {
        return Ok(None);
    }
    let id = random::id(now)?.to_string();
    let bytes = Credential::Oauth2(tokens.clone()).to_bytes()?;
    let sealed = vault.keys.seal(connection, &unused::aad(&id, &provider.id), &bytes).await?;
    let kept = UnusedToken { id, provider: provider.id.clone(), sealed, created_at: now };
    unused::insert(connection, &kept, now + PAUSE).await?;
    Ok(Some(kept))
}

/// Revokes stored tokens. The agent does not wait.
pub(super) fn revoke_detached(app: &Arc<App>, kept: Vec<UnusedToken>) {
    if kept.is_empty() {
        return;
    }
    let task = app.detached.spawn({
        let app = Arc::clone(app);
        async move { revoke_all(&app.pool, &app.vault, kept, app.clock.now()).await }
    });
    drop(task);
}

/// Repeats revocations that have failed.
pub async fn revoke_again(pool: &PgPool, vault: &CredentialCache, now: OffsetDateTime) -> Result<(), Fault> {
    const MAX_AT_ONCE: i64 = 20;
    let mut connection = pool.acquire().await?;
    let due = unused::due(&mut connection, MAX_AT_ONCE, now).await?;
    drop(connection);
    revoke_all(pool, vault, due, now).await;
    Ok(())
}

async fn revoke_all(pool: &PgPool, vault: &CredentialCache, kept: Vec<UnusedToken>, now: OffsetDateTime) {
    let all = kept.into_iter().map(|one| {
        let provider = one.provider.clone();
        let work = async move {
            if let Err(fault) = revoke(pool, vault, &one, now).await {
                tracing::warn!(provider = one.provider, error = %fault, "tokens that no connection has were not revoked");
            }
        };
        (provider, work)
    });
    by_provider::run(all).await;
}

/// Revokes tokens, and deletes them after success, if no revocation is supported, or after the retention time.
async fn revoke(
    pool: &PgPool,
    vault: &CredentialCache,
    one: &UnusedToken,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    let long_enough = now - one.created_at >= RETENTION;
    let mut connection = pool.acquire().await?;
    let opened = open(&mut connection, vault, one).await;
    drop(connection);
    let revoked = match opened {
        Ok(None) => Revoked::Nowhere,
        Ok(Some((provider, tokens))) => provider_client::revoke(&vault.outbound, &provider, &tokens).await,
        // Tokens that cannot be opened cannot be revoked, and are not kept forever.
        Err(fault) if long_enough => {
            tracing::error!(provider = one.provider, error = %fault, "tokens that no connection has cannot be revoked");
            Revoked::Nowhere
        }
        Err(fault) => return Err(fault),
    };
    let mut connection = pool.acquire().await?;
    match revoked {
        Revoked::Not(after) if !long_enough => {
            let after = after.map_or(PAUSE, |seconds| {
                Duration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX)).clamp(PAUSE, RETENTION)
            });
            unused::mark_unused_resting(&mut connection, &one.id, now + after).await
        }
        Revoked::Nowhere | Revoked::Done | Revoked::Not(_) => {
            unused::delete_unused(&mut connection, &one.id).await
        }
    }
}

async fn open(
    connection: &mut PgConnection,
    vault: &CredentialCache,
    one: &UnusedToken,
) -> Result<Option<(OpenedProvider, ProviderTokens)>, Fault> {
    let bytes = vault.keys.open(connection, &unused::aad(&one.id, &one.provider), &one.sealed).await?;
    let Credential::Oauth2(tokens) = Credential::from_bytes(&bytes)? else { return Ok(None) };
    match provider::store::find_of_unused_token(connection, &one.id).await? {
        Some(found) => Ok(Some((found.open(&vault.keys, connection).await?, tokens))),
        None => Ok(None),
    }
}
