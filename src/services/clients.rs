//! Registered clients: lists, and new secrets.

use std::collections::BTreeSet;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::page::{Page, PageRequest, cut};
use super::principals::find_client;
use super::request_context::RequestContext;
use super::transition::{Attempt, ChangeLock, Effect, Reply};
use crate::domain::audit::{Event, EventKind, Operation};
use crate::domain::client::store::ClientFilter;
use crate::domain::client::{
    self, AssertionAudience, AuthMethod, Client, ClientKind, DpopPolicy, GrantType, StoredSecret,
    TokenBinding,
};
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry;
use crate::platform::clock::rfc3339;
use crate::platform::fault::{Context, Fault};
use crate::platform::password;
use actchain_protocol::random;

/// Longest time for which the old secret stays valid beside a new one.
const MAX_OVERLAP: Duration = Duration::days(30);

/// A client as shown, without its secrets.
#[derive(Debug, Clone, Serialize)]
pub struct ClientView {
    pub client_id: String,
    pub kind: ClientKind,
    pub name: String,
    pub auth: AuthMethod,
    /// Number of secrets, expired ones included.
    pub secrets: usize,
    /// Thumbprints of the registered keys.
    pub keys: Vec<String>,
    pub jwks_uri: Option<String>,
    pub scopes: BTreeSet<String>,
    pub audiences: BTreeSet<String>,
    pub authorization_details_types: BTreeSet<String>,
    pub grant_types: BTreeSet<GrantType>,
    pub dpop: DpopPolicy,
    pub token_type: TokenBinding,
    pub assertion_audience: AssertionAudience,
    pub dpop_keys: BTreeSet<String>,
    pub removed_keys: BTreeSet<String>,
    pub actor_subjects: Vec<Principal>,
    pub max_token_ttl: Option<u32>,
    pub disabled_at: Option<String>,
    /// The task of an ephemeral agent.
    pub task_id: Option<String>,
    /// When an ephemeral agent was deactivated.
    pub deactivated_at: Option<String>,
}

impl From<Client> for ClientView {
    fn from(client: Client) -> Self {
        let agent = client.ephemeral;
        Self {
            secrets: client.secrets.len(),
            keys: client.keys.iter().map(|key| key.thumbprint().to_owned()).collect(),
            client_id: client.client_id,
            kind: client.kind,
            name: client.name,
            auth: client.auth,
            jwks_uri: client.jwks_uri,
            scopes: client.scopes,
            audiences: client.audiences,
            authorization_details_types: client.detail_types,
            grant_types: client.grant_types,
            dpop: client.dpop,
            token_type: client.token_type,
            assertion_audience: client.assertion_audience,
            dpop_keys: client.dpop_keys,
            removed_keys: client.removed_keys,
            actor_subjects: client.actor_subjects,
            max_token_ttl: client.max_token_ttl,
            disabled_at: client.disabled_at.map(rfc3339),
            deactivated_at: agent.as_ref().and_then(|agent| agent.deactivated_at).map(rfc3339),
            task_id: agent.map(|agent| agent.task_id),
        }
    }
}

/// A new secret. The stored result has none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RotatedSecret {
    pub client_id: String,
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<String>,
    /// Until when the old secret is valid; `None` if it is no longer valid.
    pub old_expires_at: Option<String>,
}

/// A page of clients, by id.
pub async fn list(
    ctx: &RequestContext<'_>,
    filter: &ClientFilter,
    page: &PageRequest,
) -> Result<Page<ClientView>, Error> {
    ctx.caller.require_administrator()?;
    let limit = page.limit()?;
    let after = page.cursor.as_deref().unwrap_or_default();
    let mut connection = ctx.pool.acquire().await?;
    let mut found = client::store::page(ctx.rows, &mut connection, filter, after, limit + 1).await?;
    let next = cut(&mut found, limit).map(|last| last.client_id.clone());
    Ok(Page { items: found.into_iter().map(ClientView::from).collect(), next })
}

pub async fn show(ctx: &RequestContext<'_>, client_id: &str) -> Result<ClientView, Error> {
    ctx.caller.require_administrator()?;
    Ok(find_client(ctx, &mut *ctx.pool.acquire().await?, client_id).await?.into())
}

/// Gives a client a new secret, which the result has once. The old secret is valid for `overlap` longer, or not at all.
/// Secrets of administrators and auditors are changed by operators only, so that a stolen token does not become a secret.
pub async fn rotate_secret(
    ctx: &RequestContext<'_>,
    client_id: &str,
    overlap: Duration,
) -> Result<Reply<RotatedSecret>, Error> {
    let rotating = try_to_rotate(ctx, client_id, overlap);
    ctx.attempt(Attempt::on(Operation::RotateClientSecret, client_id), rotating).await
}

async fn try_to_rotate(
    ctx: &RequestContext<'_>,
    client_id: &str,
    overlap: Duration,
) -> Result<Reply<RotatedSecret>, Error> {
    ctx.caller.require_administrator()?;
    if overlap > MAX_OVERLAP {
        return Err(Refusal::Malformed("overlap is at most 2592000 seconds, which are 30 days").into());
    }
    let secret = SecretString::from(random::token()?);
    let hash = hash_blocking(secret.clone()).await?;
    let check = async |connection: &mut PgConnection| {
        let client = find_client(ctx, connection, client_id).await?;
        ctx.caller.require_may_change(client.kind)?;
        if !client.auth.uses_secret() {
            return Err(Refusal::Malformed("The client does not authenticate by a secret").into());
        }
        Ok(client)
    };
    let change = async |connection: &mut PgConnection, client: Client| {
        let newest = StoredSecret { hash, expires_at: None };
        let kept = (overlap > Duration::ZERO).then(|| last_secret(&client, ctx.now + overlap)).flatten();
        let old_expires_at = kept.as_ref().and_then(|kept| kept.expires_at);
        let changed = Client { secrets: std::iter::once(newest).chain(kept).collect(), ..client };
        client::changes::put(ctx.rows, connection, &changed, ctx.now).await?;
        // A manifest that was exported with the old secret must not be applied by `If-Match`.
        registry::store::raise_version(connection).await?;
        let kind = EventKind::ClientSecretRotated;
        let event = Event { target: Some(client_id.to_owned()), ..ctx.event(kind) };
        let value = RotatedSecret {
            client_id: client_id.to_owned(),
            client_secret: None,
            old_expires_at: old_expires_at.map(rfc3339),
        };
        Ok(Effect::made(value, event))
    };
    let mut reply = ctx.transition(ChangeLock::Exclusive, check, change).await?;
    if !reply.replayed {
        reply.value.client_secret = Some(secret.expose_secret().to_owned());
    }
    Ok(reply)
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
