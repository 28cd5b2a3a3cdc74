//! Connections at the management API: import, list, show, rotate. Credentials are stored here and never returned.

use std::collections::BTreeSet;

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use crate::domain::audit::{Action, Event};
use crate::domain::principal::Principal;
use crate::domain::provider::{self, Kind, Provider};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry;
use crate::domain::vault::credential_cache::CredentialCache;
use crate::domain::vault::list::{self, Filter};
use crate::domain::vault::{self, Connection, Credential, MOST_CREDENTIAL, State, Tokens};
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use crate::platform::{json, random};
use crate::protocol::metadata::endpoint;
use crate::protocol::{oauth_client, scope, trusted_issuer_jwt};
use crate::services::delegations::Page;
use crate::services::request_context::{ApiResponse, AuditTarget, Call, Desk, Entry, record_refusal};
use crate::services::transaction::AuditedTransaction;

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

/// Query parameters of the list.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListQuery {
    /// Issuer of the owner; together with `owner_sub`.
    pub owner_iss: Option<String>,
    pub owner_sub: Option<String>,
    pub provider: Option<String>,
    pub state: Option<State>,
    pub limit: Option<u32>,
    /// Cursor from the previous page.
    pub cursor: Option<String>,
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
    /// The credential, if it matches the provider's kind.
    pub(super) fn read(&self, kind: Kind, now: OffsetDateTime) -> Result<Wanted, Refusal> {
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
            (Kind::Oauth2, None, None, None) if oauth => self.tokens(now),
            (Kind::ApiKey, Some(key), None, None) if !with_tokens && !with_name => Ok(Wanted {
                credential: Credential::ApiKey { key: key.clone() },
                expires_at: None,
                scopes: None,
                obtained_at: now,
            }),
            (Kind::Basic, None, Some(username), Some(password)) if !with_tokens => {
                // RFC 7617 §2: the user name must not contain a colon.
                if !trusted_issuer_jwt::is_name(username) || username.contains(':') {
                    return Err(Refusal::Malformed("username is a name without a colon"));
                }
                let credential = Credential::Basic { username: username.clone(), password: password.clone() };
                Ok(Wanted { credential, expires_at: None, scopes: None, obtained_at: now })
            }
            _ => Err(Refusal::Malformed(
                "The credential is not of the kind of its provider: access_token or refresh_token for oauth2, key for api_key, username and password for basic",
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
        let credential = Credential::Oauth2(Tokens {
            access_token: self.access_token.clone().unwrap_or_default(),
            token_type,
            refresh_token: self.refresh_token.clone(),
        });
        Ok(Wanted { credential, expires_at, scopes, obtained_at: now })
    }
}

/// Creates a connection from an imported credential.
pub async fn create(
    (desk, vault): (&Desk<'_>, &CredentialCache),
    call: &Call,
    wanted: &NewConnection,
) -> Result<ApiResponse, Error> {
    let result = try_to_create((desk, vault), call, wanted).await;
    refused(desk, call, ("create", AuditTarget::Nothing), result).await
}

async fn try_to_create(
    (desk, vault): (&Desk<'_>, &CredentialCache),
    call: &Call,
    wanted: &NewConnection,
) -> Result<ApiResponse, Error> {
    check_name(wanted.name.as_deref())?;
    let import = wanted.credential.as_ref().ok_or(Refusal::Malformed("credential is missing"))?;
    if wanted.scopes.is_some() || wanted.connection.is_some() {
        return Err(Refusal::Malformed("scopes and connection exclude credential").into());
    }
    let mut work = AuditedTransaction::begin(desk.pool).await?;
    if let Some(done) = call.authorize_and_claim(desk, &mut work).await? {
        return Ok(done);
    }
    let owner = owner(work.connection(), desk, call, wanted.owner.as_ref()).await?;
    let provider = find_provider(work.connection(), &wanted.provider).await?;
    let brought = import.read(provider.settings.kind, call.now)?;
    let blank = blank(&random::id(call.now)?.to_string(), &provider.id, owner, call.now);
    let blank = Connection { name: wanted.name.clone(), ..blank };
    let one = sealed(work.connection(), vault, blank, &brought).await?;
    vault::store::put(work.connection(), &one).await?;
    let mut event = about(call, Action::ConnectionCreated, &one);
    event.detail = Some(json!({"provider": one.provider, "scopes": one.scopes, "how": "import"}));
    let mut done = ApiResponse::with(view(&Connection { version: 1, ..one.clone() }))?;
    let location = endpoint(desk.issuer, &format!("/api/v1/connections/{}", one.id));
    (done.status, done.location) = (201, Some(location));
    call.store_response(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    Ok(done)
}

/// A connection without a credential.
pub(super) fn blank(id: &str, provider: &str, owner: Principal, now: OffsetDateTime) -> Connection {
    Connection {
        id: id.to_owned(),
        provider: provider.to_owned(),
        owner,
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
    connection: &mut PgConnection,
    desk: &Desk<'_>,
    call: &Call,
    named: Option<&Principal>,
) -> Result<Principal, Error> {
    if !call.caller.administers() {
        let own = call.caller.principal(desk.issuer).ok_or(Refusal::InsufficientScope)?;
        return if named.is_none_or(|named| *named == own) {
            Ok(own)
        } else {
            Err(Refusal::InsufficientScope.into())
        };
    }
    let named = named.ok_or(Refusal::Malformed("owner is missing"))?;
    let known = named.iss == desk.issuer
        || registry::store::load(desk.rows, connection, desk.issuer).await?.issuers.contains_key(&named.iss);
    if known && trusted_issuer_jwt::is_name(&named.sub) {
        Ok(named.clone())
    } else {
        Err(Refusal::DelegatorUnknown.into())
    }
}

/// The connections that the caller can see, oldest first.
pub async fn list(desk: &Desk<'_>, call: &Call, query: &ListQuery) -> Result<ApiResponse, Error> {
    let limit = Page { cursor: None, limit: query.limit }.limit()?;
    let named = match (&query.owner_iss, &query.owner_sub) {
        (Some(iss), Some(sub)) => Some(Principal::new(iss, sub)),
        (None, None) => None,
        _ => return Err(Refusal::Malformed("owner_iss and owner_sub belong together").into()),
    };
    let own = if call.caller.administers() { None } else { call.caller.principal(desk.issuer) };
    let owner = match (own, named) {
        (Some(own), Some(named)) if own != named => {
            return Ok(ApiResponse::with(json!({"items": [], "next": null}))?);
        }
        (own, named) => own.or(named),
    };
    let filter = Filter { owner, provider: query.provider.clone(), state: query.state };
    let after = query.cursor.as_deref().unwrap_or_default();
    let mut connection = desk.pool.acquire().await?;
    let mut found = list::page(&mut connection, &filter, (after, limit + 1)).await?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = found.len() > most;
    found.truncate(most);
    let next = if more { found.last().map(|one| one.id.clone()) } else { None };
    let items: Vec<Value> = found.iter().map(view).collect();
    Ok(ApiResponse::with(json!({"items": items, "next": next}))?)
}

pub async fn show(desk: &Desk<'_>, call: &Call, id: &str) -> Result<ApiResponse, Error> {
    let mut connection = desk.pool.acquire().await?;
    let found = if is_id(id) { vault::store::find(&mut connection, id).await? } else { None };
    Ok(ApiResponse::with(view(&visible(desk, call, found)?))?)
}

/// Replaces the credential of a connection; the connection's id stays.
pub async fn rotate(
    (desk, vault): (&Desk<'_>, &CredentialCache),
    call: &Call,
    (id, import): (&str, &Import),
) -> Result<ApiResponse, Error> {
    let result = try_to_rotate((desk, vault), call, (id, import)).await;
    refused(desk, call, ("rotate", AuditTarget::Other(id)), result).await
}

async fn try_to_rotate(
    (desk, vault): (&Desk<'_>, &CredentialCache),
    call: &Call,
    (id, import): (&str, &Import),
) -> Result<ApiResponse, Error> {
    // Under the exclusive authority lock: after the response, no request receives the old credential.
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
    let provider = find_provider(work.connection(), &one.provider).await?;
    let brought = import.read(provider.settings.kind, call.now)?;
    let one = Connection { updated_at: call.now, needs_reconnect_at: None, ..one };
    let one = sealed(work.connection(), vault, one, &brought).await?;
    vault::store::put(work.connection(), &one).await?;
    let mut event = about(call, Action::ConnectionRotated, &one);
    event.detail = Some(json!({"provider": one.provider, "scopes": one.scopes, "how": "import"}));
    let done = ApiResponse::with(view(&one))?;
    call.store_response(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    vault.opened.invalidate(id);
    Ok(done)
}

pub(super) async fn lock(
    connection: &mut PgConnection,
    desk: &Desk<'_>,
    call: &Call,
    id: &str,
) -> Result<Connection, Error> {
    let found = if is_id(id) { vault::store::find_for_update(connection, id).await? } else { None };
    visible(desk, call, found)
}

pub(super) fn is_id(id: &str) -> bool {
    id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A connection of another owner is reported as not found.
fn visible(desk: &Desk<'_>, call: &Call, found: Option<Connection>) -> Result<Connection, Error> {
    let may = |one: &Connection| call.caller.administers() || call.caller.is(&one.owner, desk.issuer);
    found.filter(may).ok_or(Error::Refused(Refusal::NotFound))
}

pub(super) fn about(call: &Call, action: Action, one: &Connection) -> Event {
    Event { subject: Some(one.owner.clone()), target: Some(one.id.clone()), ..call.event(action) }
}

pub(super) async fn refused(
    desk: &Desk<'_>,
    call: &Call,
    made: (&'static str, AuditTarget<'_>),
    result: Result<ApiResponse, Error>,
) -> Result<ApiResponse, Error> {
    record_refusal(desk, call, (Action::ConnectionRefused, made), result).await
}

/// A connection as shown, without its credential.
pub(super) fn view(one: &Connection) -> Value {
    let at = |instant: Option<OffsetDateTime>| instant.map(rfc3339);
    json!({
        "id": one.id, "provider": one.provider, "owner": one.owner, "name": one.name, "state": one.state(),
        "scopes": one.scopes, "expires_at": at(one.expires_at), "has_refresh_token": one.has_refresh_token,
        "created_at": rfc3339(one.created_at), "updated_at": rfc3339(one.updated_at),
        "refreshed_at": at(one.refreshed_at), "disconnected_at": at(one.disconnected_at),
    })
}
