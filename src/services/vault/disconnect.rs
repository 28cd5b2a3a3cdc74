//! Disconnects connections: effective at once; then the provider revokes the tokens, if it supports revocation.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use time::{Duration, OffsetDateTime};

use super::by_provider;
use super::connections::{ConnectionView, about, lock_connected};
use super::provider_client::{self, Revoked};
use crate::domain::audit::{Actor, Event, EventKind, Operation, PersonalText};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::vault::credential_cache::CredentialCache;
use crate::domain::vault::{self, Connection, ConnectionState, Credential};
use crate::platform::fault::Fault;
use crate::services::delegations::check_reason;
use crate::services::request_context::RequestContext;
use crate::services::transaction::AuditedTransaction;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply};

/// How long the credential of a disconnected connection is kept for the revocation at the provider.
const RETENTION: Duration = Duration::hours(24);
/// How long a connection that was obtained by exchange is listed after its end. The log has all that happened to it.
const LISTED: Duration = Duration::days(30);

/// A disconnected connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disconnection {
    #[serde(flatten)]
    pub connection: ConnectionView,
    /// Whether the provider revoked the tokens; `None` if the provider supports no revocation.
    pub provider_revoked: Option<bool>,
}

/// Disconnects a connection: from then on its credential cannot be retrieved. Then the tokens are revoked at the
/// provider, where supported.
pub async fn disconnect(
    ctx: &RequestContext<'_>,
    vault: &CredentialCache,
    id: &str,
    reason: Option<&str>,
) -> Result<Reply<Disconnection>, Error> {
    let attempt = Attempt::on(Operation::DisconnectConnection, id);
    ctx.attempt(attempt, try_to_disconnect(ctx, vault, id, reason)).await
}

async fn try_to_disconnect(
    ctx: &RequestContext<'_>,
    vault: &CredentialCache,
    id: &str,
    reason: Option<&str>,
) -> Result<Reply<Disconnection>, Error> {
    check_reason(reason)?;
    let check = async |connection: &mut PgConnection| lock_connected(ctx, connection, id).await;
    let mut disconnected = None;
    let change = async |connection: &mut PgConnection, one: Connection| {
        if !vault::store::mark_disconnected(connection, id, ctx.now).await? {
            return Err(Refusal::ConnectionUnusable(ConnectionState::Disconnected).into());
        }
        let kind = EventKind::ConnectionDisconnected { provider: one.provider.clone() };
        let mut events = vec![about(ctx, kind, &one)];
        // What the delegation has under other scopes ends, too.
        for sibling in vault::exchanged::disconnect_siblings(connection, &one, ctx.now).await? {
            let kind = EventKind::ConnectionDisconnected { provider: one.provider.clone() };
            events.push(about(ctx, kind, &sibling));
        }
        events.iter_mut().for_each(|event| event.add_text(PersonalText::Reason, reason));
        let one = Connection { disconnected_at: Some(ctx.now), updated_at: ctx.now, ..one };
        // The result of a repeated request until the provider has answered.
        let value = Disconnection { connection: ConnectionView::of(&one), provider_revoked: Some(false) };
        disconnected = Some(one);
        Ok(Effect::Made { value, events })
    };
    let mut reply = ctx.transition(ChangeLock::Exclusive, check, change).await?;
    if let Some(one) = disconnected {
        vault.opened.invalidate(id);
        // The connection is disconnected, whether or not the provider revokes its tokens.
        let revoked = revoke_at_provider(ctx.pool, vault, &one, ctx.now).await.unwrap_or_else(|fault| {
            tracing::warn!(connection = id, error = %fault, "the tokens of a disconnected connection were not revoked");
            Some(false)
        });
        reply.value.provider_revoked = revoked;
        ctx.update_stored_result(&reply.value).await;
    }
    Ok(reply)
}

/// Revokes the tokens at the provider. Purges the credential after success, if no revocation is supported, or after
/// the retention time.
async fn revoke_at_provider(
    pool: &PgPool,
    vault: &CredentialCache,
    ended: &Connection,
    now: OffsetDateTime,
) -> Result<Option<bool>, Fault> {
    let mut connection = pool.acquire().await?;
    let opened = vault.open_found(&mut connection, ended.clone()).await;
    drop(connection);
    let long_enough = ended.disconnected_at.is_none_or(|at| now - at >= RETENTION);
    let revoked = match opened {
        Ok(None) => return Ok(None),
        Ok(Some(opened)) => match &opened.credential {
            Credential::Oauth2(tokens) => {
                provider_client::revoke(&vault.outbound, &opened.provider, tokens).await
            }
            Credential::ApiKey { .. } | Credential::Basic { .. } => Revoked::Nowhere,
        },
        // A credential that cannot be opened cannot be revoked, and is not kept forever.
        Err(fault) if long_enough => {
            tracing::error!(connection = ended.id, error = %fault, "the tokens of a disconnected connection cannot be revoked");
            Revoked::Not(None)
        }
        Err(fault) => return Err(fault),
    };
    let shown = revoked.shown();
    if let Revoked::Not(Some(seconds)) = revoked {
        let rest = Duration::seconds(i64::try_from(seconds).unwrap_or(i64::from(u32::MAX)));
        let mut connection = pool.acquire().await?;
        // Reads the row again, because the disconnect has raised its version.
        if let Some(found) = vault::store::find(&mut connection, &ended.id).await? {
            vault::store::mark_resting(&mut connection, &found.id, found.version, now + rest).await?;
        }
    }
    if shown != Some(false) || long_enough {
        let mut work = AuditedTransaction::begin(pool).await?;
        if vault::store::mark_purged(work.connection(), &ended.id).await? {
            let kind = EventKind::ConnectionCredentialDeleted {
                provider: ended.provider.clone(),
                provider_revoked: shown,
            };
            let event = Event {
                subject: Some(ended.owner.clone()),
                target: Some(ended.id.clone()),
                ..Event::new(now, kind, Actor::Server)
            };
            work.commit(&[event]).await?;
        }
    }
    Ok(shown)
}

/// Disconnects connections that were obtained by exchange and whose delegation has ended, and revokes their tokens.
/// Returns how many.
pub async fn end_exchanged(
    pool: &PgPool,
    vault: &CredentialCache,
    now: OffsetDateTime,
) -> Result<usize, Fault> {
    const MAX_AT_ONCE: i64 = 100;
    let mut connection = pool.acquire().await?;
    let ended = vault::exchanged::ended(&mut connection, MAX_AT_ONCE, now).await?;
    drop(connection);
    let mut disconnected = Vec::new();
    for one in ended {
        let mut work = AuditedTransaction::begin(pool).await?;
        // Another server may have ended it.
        if !vault::store::mark_disconnected(work.connection(), &one.id, now).await? {
            continue;
        }
        let kind = EventKind::ConnectionDisconnected { provider: one.provider.clone() };
        let event = Event {
            subject: Some(one.owner.clone()),
            target: Some(one.id.clone()),
            delegation_id: one.delegation_id.clone(),
            ..Event::new(now, kind, Actor::Server)
        };
        work.commit(&[event]).await?;
        vault.opened.invalidate(&one.id);
        disconnected.push(Connection { disconnected_at: Some(now), ..one });
    }
    let count = disconnected.len();
    revoke_all(pool, vault, disconnected, now).await;
    Ok(count)
}

/// Revokes the tokens of disconnected connections. A failed revocation does not stop the others.
async fn revoke_all(pool: &PgPool, vault: &CredentialCache, ended: Vec<Connection>, now: OffsetDateTime) {
    let all = ended.into_iter().map(|one| {
        let provider = one.provider.clone();
        let work = async move {
            if let Err(fault) = revoke_at_provider(pool, vault, &one, now).await {
                tracing::warn!(connection = one.id, error = %fault, "the tokens of a disconnected connection were not revoked");
            }
        };
        (provider, work)
    });
    by_provider::run(all).await;
}

/// Revokes again at providers where that failed; returns how many credentials of disconnected connections are left.
pub async fn purge(pool: &PgPool, vault: &CredentialCache, now: OffsetDateTime) -> Result<usize, Fault> {
    const MAX_AT_ONCE: i64 = 20;
    /// Skips recent disconnects, whose own request revokes the tokens.
    const SETTLE: Duration = Duration::seconds(60);
    let mut connection = pool.acquire().await?;
    let left = vault::store::pending_purge(&mut connection, MAX_AT_ONCE, now).await?;
    drop(connection);
    let count = left.len();
    let is_due = |one: &Connection| one.disconnected_at.is_some_and(|at| now - at >= SETTLE);
    revoke_all(pool, vault, left.into_iter().filter(is_due).collect(), now).await;
    Ok(count)
}

/// Deletes connections that were obtained by exchange, some time after their end.
pub async fn forget_ended(pool: &PgPool, now: OffsetDateTime) -> Result<u64, Fault> {
    const MAX_AT_ONCE: i64 = 1_000;
    let mut connection = pool.acquire().await?;
    vault::exchanged::delete_ended(&mut connection, MAX_AT_ONCE, now - LISTED).await
}
