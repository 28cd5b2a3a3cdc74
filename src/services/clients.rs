//! New secrets of clients.

use secrecy::SecretString;
use sqlx::postgres::PgPool;
use time::{Duration, OffsetDateTime};

use super::transaction::{AuditedTransaction, Authorized};
use crate::domain::audit::{Actor, Event, EventKind};
use crate::domain::client::{self, Client, StoredSecret};
use crate::domain::row_mac::RowMac;
use crate::platform::fault::{Context, Fault};
use crate::platform::password;
use actchain_protocol::random;

/// Gives a client a new secret and returns it once. The old secret expires at once, or after `keep_old`.
///
/// # Errors
/// A fault if the client does not exist or does not authenticate by a secret.
pub async fn rotate_secret(
    pool: &PgPool,
    rows: &RowMac,
    client_id: &str,
    keep_old: Option<Duration>,
    now: OffsetDateTime,
) -> Result<SecretString, Fault> {
    let secret = SecretString::from(random::token()?);
    let hash = hash_blocking(secret.clone()).await?;
    let mut work = AuditedTransaction::begin_serialized(pool).await?;
    work.upgrade(Authorized::without_request()).await?;
    let found = client::store::find_for_change(rows, work.connection(), client_id).await?;
    let client = found.ok_or_else(|| Fault::new(format!("there is no client {client_id}")))?;
    if !client.auth.uses_secret() {
        return Err(Fault::new(format!("client {client_id} does not authenticate by a secret")));
    }
    let newest = StoredSecret { hash, expires_at: None };
    let kept = keep_old.and_then(|keep| last_secret(&client, now + keep));
    let changed = Client { secrets: std::iter::once(newest).chain(kept).collect(), ..client };
    client::changes::put(rows, work.connection(), &changed, now).await?;
    let event = Event {
        target: Some(client_id.to_owned()),
        ..Event::new(now, EventKind::ClientSecretRotated, Actor::Operator)
    };
    work.commit(&[event]).await?;
    Ok(secret)
}

/// The present secret, with an expiry no later than before.
fn last_secret(client: &Client, ends: OffsetDateTime) -> Option<StoredSecret> {
    let last = client.secrets.first()?.clone();
    let expires_at = Some(last.expires_at.map_or(ends, |end| end.min(ends)));
    Some(StoredSecret { expires_at, ..last })
}

/// Hashes a secret on a blocking thread.
pub async fn hash_blocking(secret: SecretString) -> Result<String, Fault> {
    tokio::task::spawn_blocking(move || password::hash(&secret)).await.context("hashing a secret")?
}
