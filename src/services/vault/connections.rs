//! Connections at the management API: import, list, show, rotate. Credentials are stored here and never returned.

use std::collections::BTreeSet;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use crate::domain::audit::detail::ConnectedBy;
use crate::domain::audit::{Event, EventKind, Operation};
use crate::domain::principal::Principal;
use crate::domain::provider::{self, Provider, ProviderKind};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry;
use crate::domain::vault::credential_cache::CredentialCache;
use crate::domain::vault::list::{self, ConnectionFilter};
use crate::domain::vault::{self, Connection, ConnectionState, Credential, MOST_CREDENTIAL, ProviderTokens};
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use crate::services::page::{Page, PageRequest, cut};
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply, Target};
use actchain_protocol::{json, random};
use actchain_protocol::{oauth_client, scope, trusted_issuer_jwt};

const MOST_NAME: usize = 100;

/// A requested connection.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewConnection {
    pub provider: String,
    pub name: Option<String>,
    /// The owner, set only by administrators; other callers own their connections.
    #[serde(default, deserialize_with = "json::object")]
    pub owner: Option<Principal>,
    /// The credential; without a credential, the owner is sent to the provider.
    #[serde(default, deserialize_with = "json::object")]
    pub credential: Option<Import>,
    /// Scopes to request from the provider.
    pub scopes: Option<BTreeSet<String>>,
    /// The connection that receives a new credential.
    pub connection: Option<String>,
}

/// An imported credential: the members that the provider's kind needs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Import {
    access_token: Option<SecretString>,
    token_type: Option<String>,
    expires_in: Option<u32>,
    refresh_token: Option<SecretString>,
    scope: Option<String>,
    key: Option<SecretString>,
    username: Option<String>,
    password: Option<SecretString>,
}

/// Filter of a list of connections.
#[derive(Debug, Clone, Default)]
pub struct ConnectionQuery {
    pub owner: Option<Principal>,
    pub provider: Option<String>,
    pub state: Option<ConnectionState>,
    pub page: PageRequest,
}

/// A connection as shown, without its credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionView {
    pub id: String,
    pub provider: String,
    pub owner: Principal,
    /// The delegation that the provider's token belongs to; `None` for a credential of the owner.
    pub delegation_id: Option<String>,
    pub name: Option<String>,
    pub state: ConnectionState,
    pub scopes: Option<BTreeSet<String>>,
    pub expires_at: Option<String>,
    pub has_refresh_token: bool,
    pub created_at: String,
    pub updated_at: String,
    pub refreshed_at: Option<String>,
    pub disconnected_at: Option<String>,
}

impl ConnectionView {
    pub(super) fn of(one: &Connection) -> Self {
        Self {
            id: one.id.clone(),
            provider: one.provider.clone(),
            owner: one.owner.clone(),
            delegation_id: one.delegation_id.clone(),
            name: one.name.clone(),
            state: one.state(),
            scopes: one.scopes.clone(),
            expires_at: one.expires_at.map(rfc3339),
            has_refresh_token: one.has_refresh_token,
            created_at: rfc3339(one.created_at),
            updated_at: rfc3339(one.updated_at),
            refreshed_at: one.refreshed_at.map(rfc3339),
            disconnected_at: one.disconnected_at.map(rfc3339),
        }
    }
}

/// A credential and its properties.
pub(super) struct Wanted {
    pub(super) credential: Credential,
    pub(super) expires_at: Option<OffsetDateTime>,
    /// `None` where the scopes are unknown; never empty.
    pub(super) scopes: Option<BTreeSet<String>>,
    pub(super) obtained_at: OffsetDateTime,
}

impl Import {
    pub fn api_key(key: SecretString) -> Self {
        Self { key: Some(key), ..Self::default() }
    }

    pub fn login(username: String, password: SecretString) -> Self {
        Self { username: Some(username), password: Some(password), ..Self::default() }
    }

    /// The credential, if it matches the provider's kind.
    pub(super) fn read(&self, kind: ProviderKind, now: OffsetDateTime) -> Result<Wanted, Refusal> {
        let secrets = [&self.access_token, &self.refresh_token, &self.key, &self.password];
        let fits = |secret: &SecretString| {
            let secret = secret.expose_secret();
            !secret.is_empty() && secret.len() <= MOST_CREDENTIAL / 3 && !secret.chars().any(char::is_control)
        };
        if !secrets.into_iter().flatten().all(fits) {
            return Err(Refusal::Malformed("A secret is empty, too long, or has control characters"));
        }
        let oauth = self.access_token.is_some() || self.refresh_token.is_some();
        let with_tokens =
            oauth || self.token_type.is_some() || self.expires_in.is_some() || self.scope.is_some();
        let with_name = self.username.is_some() || self.password.is_some();
        match (kind, &self.key, &self.username, &self.password) {
            (ProviderKind::Oauth2, None, None, None) if oauth => self.tokens(now),
            (ProviderKind::ApiKey, Some(key), None, None) if !with_tokens && !with_name => Ok(Wanted {
                credential: Credential::ApiKey { key: key.clone() },
                expires_at: None,
                scopes: None,
                obtained_at: now,
            }),
            (ProviderKind::Basic, None, Some(username), Some(password)) if !with_tokens => {
                // RFC 7617 §2: the user name must not contain a colon.
                if !trusted_issuer_jwt::is_name(username) || username.contains(':') {
                    return Err(Refusal::Malformed("username is a name without a colon"));
                }
                let credential = Credential::Basic { username: username.clone(), password: password.clone() };
                Ok(Wanted { credential, expires_at: None, scopes: None, obtained_at: now })
            }
            _ => Err(Refusal::Malformed(
                "The credential is not of the kind of its provider: access_token or refresh_token for oauth2, key for api_key, username and password for basic; nothing is imported for token_exchange",
            )),
        }
    }

    fn tokens(&self, now: OffsetDateTime) -> Result<Wanted, Refusal> {
        let token_type = self.token_type.clone().unwrap_or_else(|| "Bearer".into());
        if !oauth_client::is_token(&token_type) {
            return Err(Refusal::Malformed("token_type is a name such as Bearer"));
        }
        // An empty `scope` says nothing about the credential's scopes.
        let scopes = self.scope.as_deref().map(oauth_client::scopes).filter(|scopes| !scopes.is_empty());
        if scopes.iter().flatten().any(|name| !scope::is_token(name)) {
            return Err(Refusal::ScopeMalformed);
        }
        // Without an access token, the first retrieval fetches one.
        let expires_at = match &self.access_token {
            Some(_) => {
                self.expires_in.map(|seconds| now + Duration::seconds(seconds.min(i32::MAX as u32).into()))
            }
            None => Some(now),
        };
        let credential = Credential::Oauth2(ProviderTokens {
            access_token: self.access_token.clone().unwrap_or_default(),
            token_type,
            refresh_token: self.refresh_token.clone(),
        });
        Ok(Wanted { credential, expires_at, scopes, obtained_at: now })
    }
}

/// Creates a connection from an imported credential.
pub async fn create(
    ctx: &RequestContext<'_>,
    vault: &CredentialCache,
    request: &NewConnection,
) -> Result<Reply<ConnectionView>, Error> {
    let attempt = Attempt { operation: Operation::CreateConnection, target: Target::Unnamed };
    ctx.attempt(attempt, try_to_create(ctx, vault, request)).await
}

async fn try_to_create(
    ctx: &RequestContext<'_>,
    vault: &CredentialCache,
    request: &NewConnection,
) -> Result<Reply<ConnectionView>, Error> {
    check_name(request.name.as_deref())?;
    let import = request.credential.as_ref().ok_or(Refusal::Malformed("credential is missing"))?;
    if request.scopes.is_some() || request.connection.is_some() {
        return Err(Refusal::Malformed("scopes and connection exclude credential").into());
    }
    let check = async |connection: &mut PgConnection| {
        let owner = owner(ctx, connection, request.owner.as_ref()).await?;
        Ok((owner, find_provider(connection, &request.provider).await?))
    };
    let change = async |connection: &mut PgConnection, (owner, provider): (Principal, Provider)| {
        let brought = import.read(provider.settings.kind, ctx.now)?;
        let blank = blank(&random::id(ctx.now)?.to_string(), &provider.id, owner, ctx.now);
        let blank = Connection { name: request.name.clone(), ..blank };
        let one = sealed(connection, vault, blank, &brought).await?;
        vault::store::put(connection, &one).await?;
        let (provider, scopes) = (one.provider.clone(), one.scopes.clone());
        let kind = EventKind::ConnectionCreated { provider, scopes, how: ConnectedBy::Import };
        let event = about(ctx, kind, &one);
        Ok(Effect::made(ConnectionView::of(&one), event))
    };
    ctx.transition(ChangeLock::Shared, check, change).await
}

/// A connection without a credential.
pub(super) fn blank(id: &str, provider: &str, owner: Principal, now: OffsetDateTime) -> Connection {
    Connection {
        id: id.to_owned(),
        provider: provider.to_owned(),
        owner,
        delegation_id: None,
        name: None,
        version: 0,
        sealed: None,
        scopes: None,
        expires_at: None,
        has_refresh_token: false,
        created_at: now,
        updated_at: now,
        obtained_at: now,
        retry_at: None,
        rejected_at: None,
        refreshed_at: None,
        needs_reconnect_at: None,
        disconnected_at: None,
    }
}

/// The connection with the sealed credential.
pub(super) async fn sealed(
    connection: &mut PgConnection,
    vault: &CredentialCache,
    one: Connection,
    brought: &Wanted,
) -> Result<Connection, Fault> {
    let sealed = vault.keys.seal(connection, &one.aad(), &brought.credential.to_bytes()?).await?;
    let has_refresh_token =
        matches!(&brought.credential, Credential::Oauth2(tokens) if tokens.refresh_token.is_some());
    let (expires_at, scopes) = (brought.expires_at, brought.scopes.clone());
    let obtained_at = brought.obtained_at;
    let fresh = Connection { obtained_at, retry_at: None, rejected_at: None, refreshed_at: None, ..one };
    Ok(Connection { sealed: Some(sealed), has_refresh_token, expires_at, scopes, ..fresh })
}

pub(super) fn check_name(name: Option<&str>) -> Result<(), Refusal> {
    let fits = name.is_none_or(|name| {
        (1..=MOST_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control)
    });
    if fits { Ok(()) } else { Err(Refusal::Malformed("name is a text of 1 to 100 characters")) }
}

pub(super) async fn find_provider(connection: &mut PgConnection, id: &str) -> Result<Provider, Error> {
    let found = if provider::is_id(id) { provider::store::find(connection, id).await? } else { None };
    found.ok_or(Error::Refused(Refusal::ProviderUnknown))
}

/// The owner: the caller, or the principal that an administrator names.
async fn owner(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    named: Option<&Principal>,
) -> Result<Principal, Error> {
    if !ctx.caller.administers() {
        let own = ctx.caller.principal(ctx.issuer).ok_or(Refusal::InsufficientScope)?;
        return match named {
            Some(named) if *named != own => Err(Refusal::InsufficientScope.into()),
            _ => Ok(own),
        };
    }
    let named = named.ok_or(Refusal::Malformed("owner is missing"))?;
    let known = named.iss == ctx.issuer
        || registry::store::load(ctx.rows, connection, ctx.issuer).await?.issuer(&named.iss).is_some();
    if known && trusted_issuer_jwt::is_name(&named.sub) {
        Ok(named.clone())
    } else {
        Err(Refusal::DelegatorUnknown.into())
    }
}

/// A page of the connections that the caller can see, oldest first.
pub async fn list(ctx: &RequestContext<'_>, query: &ConnectionQuery) -> Result<Page<ConnectionView>, Error> {
    let limit = query.page.limit()?;
    let own = if ctx.caller.administers() { None } else { ctx.caller.principal(ctx.issuer) };
    let owner = match (own, &query.owner) {
        (Some(own), Some(named)) if own != *named => return Ok(Page::empty()),
        (Some(own), _) => Some(own),
        (None, named) => named.clone(),
    };
    let filter = ConnectionFilter { owner, provider: query.provider.clone(), state: query.state };
    let after = query.page.cursor.as_deref().unwrap_or_default();
    let mut connection = ctx.pool.acquire().await?;
    let mut found = list::page(&mut connection, &filter, after, limit + 1).await?;
    let next = cut(&mut found, limit).map(|one| one.id.clone());
    Ok(Page { items: found.iter().map(ConnectionView::of).collect(), next })
}

pub async fn show(ctx: &RequestContext<'_>, id: &str) -> Result<ConnectionView, Error> {
    let mut connection = ctx.pool.acquire().await?;
    let found = if is_id(id) { vault::store::find(&mut connection, id).await? } else { None };
    Ok(ConnectionView::of(&visible(ctx, found)?))
}

/// Replaces the credential of a connection; the connection's id stays.
pub async fn rotate(
    ctx: &RequestContext<'_>,
    vault: &CredentialCache,
    id: &str,
    import: &Import,
) -> Result<Reply<ConnectionView>, Error> {
    let check = async |connection: &mut PgConnection| lock_connected(ctx, connection, id).await;
    let change = async |connection: &mut PgConnection, one: Connection| {
        let provider = find_provider(connection, &one.provider).await?;
        let brought = import.read(provider.settings.kind, ctx.now)?;
        let one = Connection { updated_at: ctx.now, needs_reconnect_at: None, ..one };
        let one = sealed(connection, vault, one, &brought).await?;
        vault::store::put(connection, &one).await?;
        let (provider, scopes) = (one.provider.clone(), one.scopes.clone());
        let kind = EventKind::ConnectionRotated { provider, scopes, how: ConnectedBy::Import };
        let event = about(ctx, kind, &one);
        Ok(Effect::made(ConnectionView::of(&one), event))
    };
    let attempt = Attempt::on(Operation::RotateConnection, id);
    // Under the exclusive authority lock: after the response, no request receives the old credential.
    let rotating = ctx.transition(ChangeLock::Exclusive, check, change);
    let reply = ctx.attempt(attempt, rotating).await?;
    vault.opened.invalidate(id);
    Ok(reply)
}

/// Locks a connection that the caller can see and that is not disconnected.
pub(super) async fn lock_connected(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    id: &str,
) -> Result<Connection, Error> {
    let one = lock(ctx, connection, id).await?;
    require_connected(&one)?;
    Ok(one)
}

/// Locks a connection that the caller can see.
pub(super) async fn lock(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    id: &str,
) -> Result<Connection, Error> {
    let found = if is_id(id) { vault::store::find_for_update(connection, id).await? } else { None };
    visible(ctx, found)
}

pub(super) fn require_connected(one: &Connection) -> Result<(), Refusal> {
    match one.state() {
        ConnectionState::Disconnected => Err(Refusal::ConnectionUnusable(ConnectionState::Disconnected)),
        ConnectionState::Active | ConnectionState::NeedsReconnect => Ok(()),
    }
}

pub(super) fn is_id(id: &str) -> bool {
    id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A connection of another owner is reported as not found.
fn visible(ctx: &RequestContext<'_>, found: Option<Connection>) -> Result<Connection, Error> {
    let may = |one: &Connection| ctx.caller.administers() || ctx.caller.is(&one.owner, ctx.issuer);
    found.filter(may).ok_or(Error::Refused(Refusal::NotFound))
}

pub(super) fn about(ctx: &RequestContext<'_>, kind: EventKind, one: &Connection) -> Event {
    Event { subject: Some(one.owner.clone()), target: Some(one.id.clone()), ..ctx.event(kind) }
}
