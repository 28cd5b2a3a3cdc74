//! Disconnects connections: effective at once; then the provider revokes the tokens, if it supports revocation.

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::connections::{about, lock, refused, view};
use super::provider_client::{self, Revoked};
use crate::domain::audit::{Action, Actor, Event};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::vault::credential_cache::CredentialCache;
use crate::domain::vault::{self, Connection, Credential, State};
use crate::platform::fault::Fault;
use crate::services::delegations::check_reason;
use crate::services::request_context::{ApiResponse, AuditTarget, Call, Desk, Entry};
use crate::services::transaction::AuditedTransaction;
use sqlx::PgConnection;

/// How long the credential of a disconnected connection is kept for the revocation at the provider.
const TELL: Duration = Duration::hours(24);

/// Disconnects a connection: from then on its credential cannot be retrieved. Then the tokens are revoked at the
/// provider, where supported.
pub async fn disconnect(
    (desk, vault): (&Desk<'_>, &CredentialCache),
    call: &Call,
    (id, reason): (&str, Option<&str>),
) -> Result<ApiResponse, Error> {
    let result = try_to_disconnect((desk, vault), call, (id, reason)).await;
    refused(desk, call, ("disconnect", AuditTarget::Other(id)), result).await
}

async fn try_to_disconnect(
    (desk, vault): (&Desk<'_>, &CredentialCache),
    call: &Call,
    (id, reason): (&str, Option<&str>),
) -> Result<ApiResponse, Error> {
    check_reason(reason)?;
    let check = async |connection: &mut PgConnection| {
        let one = lock(connection, desk, call, id).await?;
        match one.state() {
            State::Disconnected => Err(Refusal::ConnectionUnusable(State::Disconnected).into()),
            _ => Ok(one),
        }
    };
    let (mut work, one) = match call.begin_exclusive(desk, check).await? {
        Entry::Before(done) => return Ok(done),
        Entry::Now(work, one) => (work, one),
    };
    if !vault::store::mark_disconnected(work.connection(), id, call.now).await? {
        return Err(Refusal::ConnectionUnusable(State::Disconnected).into());
    }
    let mut event = about(call, Action::ConnectionDisconnected, &one);
    event.detail = Some(json!({"provider": one.provider, "reason": reason}));
    let ended = Connection { disconnected_at: Some(call.now), updated_at: call.now, ..one.clone() };
    let mut done = ApiResponse::with(view(&ended))?;
    call.store_response(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    vault.opened.invalidate(id);
    // In force; what the provider makes of it is another matter.
    let told = tell((desk, vault), &ended, call.now).await.unwrap_or_else(|fault| {
        tracing::warn!(connection = id, error = %fault, "a provider was not told of an end");
        Some(false)
    });
    if let Value::Object(members) = &mut done.body {
        members.insert("provider_revoked".into(), told.into());
    }
    call.update_stored_response(desk, &done).await?;
    Ok(done)
}

/// Revokes the tokens at the provider. Purges the credential after success, if no revocation is supported, or after
/// the retention time.
async fn tell(
    (desk, vault): (&Desk<'_>, &CredentialCache),
    ended: &Connection,
    now: OffsetDateTime,
) -> Result<Option<bool>, Fault> {
    let mut connection = desk.pool.acquire().await?;
    let opened = vault.open_found(&mut connection, ended.clone()).await;
    drop(connection);
    let long_enough = ended.disconnected_at.is_none_or(|at| now - at >= TELL);
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
            tracing::error!(connection = ended.id, error = %fault, "a provider is never told of an end");
            Revoked::Not(None)
        }
        Err(fault) => return Err(fault),
    };
    let told = revoked.shown();
    if let Revoked::Not(Some(seconds)) = revoked {
        let rest = Duration::seconds(i64::try_from(seconds).unwrap_or(i64::from(u32::MAX)));
        let mut connection = desk.pool.acquire().await?;
        // Reads the row again, because the disconnect has raised its version.
        if let Some(found) = vault::store::find(&mut connection, &ended.id).await? {
            vault::store::mark_resting(&mut connection, (&found.id, found.version), now + rest).await?;
        }
    }
    if told != Some(false) || long_enough {
        let mut work = AuditedTransaction::begin(desk.pool).await?;
        if vault::store::mark_purged(work.connection(), &ended.id).await? {
            let event = Event {
                subject: Some(ended.owner.clone()),
                target: Some(ended.id.clone()),
                detail: Some(
                    json!({"provider": ended.provider, "provider_revoked": told, "credential": "forgotten"}),
                ),
                ..Event::new(now, Action::ConnectionDisconnected, Actor::server())
            };
            work.commit(&[event]).await?;
        }
    }
    Ok(told)
}

/// Tells providers again of ends that they were not told of; gives how many credentials are still kept.
pub async fn purge(
    (desk, vault): (&Desk<'_>, &CredentialCache),
    now: OffsetDateTime,
) -> Result<usize, Fault> {
    const MOST: i64 = 20;
    /// Skips recent disconnects, whose own request revokes the tokens.
    const SETTLE: Duration = Duration::seconds(60);
    let mut connection = desk.pool.acquire().await?;
    let left = vault::store::pending_purge(&mut connection, MOST, now).await?;
    drop(connection);
    let due = left.iter().filter(|one| one.disconnected_at.is_some_and(|at| now - at >= SETTLE));
    for one in due {
        // A failed revocation does not stop the others.
        if let Err(fault) = tell((desk, vault), one, now).await {
            tracing::warn!(connection = one.id, error = %fault, "a provider was not told of an end");
        }
    }
    Ok(left.len())
}
