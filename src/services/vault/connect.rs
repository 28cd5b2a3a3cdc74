//! Sends an owner to a provider to authorize this server (RFC 6749 §4.1.1, RFC 7636 §4.3, RFC 9700 §2.1).

use std::collections::BTreeSet;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::connections::{NewConnection, check_name, find_provider, lock, require_connected};
use crate::domain::audit::{Event, EventKind, Operation};
use crate::domain::client;
use crate::domain::data_key::Sealed;
use crate::domain::pending_authorization::{self, AuthorizationStage, PendingAuthorization};
use crate::domain::principal::Principal;
use crate::domain::provider::OauthSettings;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::row_mac::RowMac;
use crate::domain::vault::credential_cache::CredentialCache;
use crate::platform::fault::Fault;
use crate::services::access_token_auth::require_active_user;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;
use crate::services::transaction::AuditedTransaction;
use crate::services::transition::{Attempt, Reply, Target};
use actchain_protocol::digest::sha256;
use actchain_protocol::random;
use actchain_protocol::{metadata, oauth_client};

/// A started authorization: where its owner goes.
#[derive(Debug, Clone)]
pub struct AuthorizationRequest {
    pub connection: String,
    pub authorization_url: String,
    /// Lifetime of the authorization, in seconds.
    pub expires_in: i64,
    /// The value of the browser-binding cookie: an authorization begun in another browser cannot complete in this
    /// browser.
    pub browser: SecretString,
}

/// The stored result: the connection, and none of the secrets.
#[derive(Debug, Serialize, Deserialize)]
struct StoredRequest {
    connection: String,
}

struct Secrets {
    state: SecretString,
    verifier: SecretString,
    /// The value of the browser-binding cookie.
    browser: SecretString,
}

impl Secrets {
    fn generate() -> Result<Self, Fault> {
        let token = || Ok::<_, Fault>(SecretString::from(random::token()?));
        Ok(Self { state: token()?, verifier: token()?, browser: token()? })
    }
}

const CREDENTIAL_MISSING: Refusal = Refusal::Malformed("credential is missing");

/// The redirect URI of a provider. Each provider has its own, against mix-up attacks (RFC 9700 §4.4.2).
pub(super) fn redirect_uri(issuer: &str, provider: &str) -> String {
    metadata::endpoint(issuer, &format!("/vault/callback/{provider}"))
}

/// Begins to connect or reconnect; returns the authorization URL for the owner.
pub async fn begin(
    ctx: &RequestContext<'_>,
    vault: &CredentialCache,
    request: &NewConnection,
) -> Result<Reply<AuthorizationRequest>, Error> {
    let target = request.connection.as_deref().map_or(Target::Unnamed, Target::Other);
    let attempt = Attempt { operation: Operation::RequestConnection, target };
    ctx.attempt(attempt, try_to_begin(ctx, vault, request)).await
}

/// Not a [`RequestContext::transition`]: a repeated request begins a new authorization for the same connection,
/// because the secrets of the first are not stored.
async fn try_to_begin(
    ctx: &RequestContext<'_>,
    vault: &CredentialCache,
    request: &NewConnection,
) -> Result<Reply<AuthorizationRequest>, Error> {
    check_name(request.name.as_deref())?;
    let (owner, owner_authenticated_at) = owner(ctx, request)?;
    let mut transaction = AuditedTransaction::begin(ctx.pool).await?;
    let connection = transaction.connection();
    let before: Option<Reply<StoredRequest>> = ctx.authorize_and_claim(connection).await?;
    let replayed = before.is_some();
    let provider = find_provider(connection, &request.provider).await?;
    let provider = provider.open(&vault.keys, connection).await?.provider;
    let oauth = provider.settings.oauth.as_ref().ok_or(CREDENTIAL_MISSING)?;
    let endpoint = oauth.authorization_endpoint.as_deref().ok_or(CREDENTIAL_MISSING)?;
    let scopes = requested_scopes(oauth, request.scopes.as_ref())?;
    let id = match (before, &request.connection) {
        (Some(before), _) => before.value.connection,
        (None, Some(id)) => {
            check_reconnectable(ctx, connection, id, &provider.id).await?;
            id.clone()
        }
        (None, None) => random::id(ctx.now)?.to_string(),
    };
    let secrets = Secrets::generate()?;
    let life = Duration::seconds(ctx.config.vault.connect_ttl.into());
    let one = PendingAuthorization {
        state: sha256(&[secrets.state.expose_secret().as_bytes()]),
        connection: id,
        provider: provider.id.clone(),
        owner,
        name: request.name.clone(),
        scopes,
        browser_binding_hash: sha256(&[secrets.browser.expose_secret().as_bytes()]),
        owner_authenticated_at,
        console_session: ctx.caller.session().map(|reference| reference.session),
        sealed: Sealed { key: String::new(), text: String::new() },
        created_at: ctx.now,
        expires_at: ctx.now + life,
        attempts: 0,
    };
    let verifier = secrets.verifier.expose_secret().as_bytes();
    let sealed = vault.keys.seal(connection, &one.aad(AuthorizationStage::Requested)?, verifier).await?;
    let one = PendingAuthorization { sealed, ..one };
    pending_authorization::store::put(connection, &one).await?;
    let back = redirect_uri(ctx.issuer, &one.provider);
    let authorization_url = url(&back, oauth, endpoint, &one.scopes, &secrets)
        .ok_or_else(|| Fault::new("an authorization endpoint is no URL"))?;
    if !replayed {
        ctx.store_result(connection, &StoredRequest { connection: one.connection.clone() }).await?;
    }
    let kind = EventKind::ConnectionRequested {
        provider: one.provider.clone(),
        scopes: one.scopes.clone(),
        reconnects: request.connection.is_some(),
    };
    let event = about(ctx.event(kind), &one);
    transaction.commit(&[event]).await?;
    let value = AuthorizationRequest {
        connection: one.connection,
        authorization_url,
        expires_in: life.whole_seconds(),
        browser: secrets.browser,
    };
    Ok(Reply { value, replayed })
}

/// The owner, and when the owner was authenticated.
fn owner(ctx: &RequestContext<'_>, request: &NewConnection) -> Result<(Principal, OffsetDateTime), Refusal> {
    let (owner, since) = match (ctx.caller.account_owner(ctx.issuer, ctx.now), &ctx.caller) {
        (Some(found), _) => found,
        (None, Caller::Auditor(_)) => return Err(Refusal::InsufficientScope),
        // A provider would ask the owner, not an administrator.
        (None, _) => return Err(CREDENTIAL_MISSING),
    };
    match &request.owner {
        Some(named) if *named != owner => Err(Refusal::InsufficientScope),
        _ => Ok((owner, since)),
    }
}

/// The scopes to request: those named, or all declared ones, and those that are always requested.
fn requested_scopes(
    oauth: &OauthSettings,
    named: Option<&BTreeSet<String>>,
) -> Result<BTreeSet<String>, Refusal> {
    let chosen = match named {
        None => &oauth.scopes,
        Some(named) if !named.is_subset(&oauth.scopes) => return Err(Refusal::ScopeExceedsGrant),
        Some(named) => named,
    };
    let asked: BTreeSet<String> = chosen.union(&oauth.always_scopes).cloned().collect();
    // Without a `scope` parameter the provider chooses (RFC 6749 §3.3), which differs from an explicit empty list.
    if named.is_some() && asked.is_empty() { Err(Refusal::ScopeEmpty) } else { Ok(asked) }
}

/// Checks that a connection can be reconnected at the same provider.
async fn check_reconnectable(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    id: &str,
    provider: &str,
) -> Result<(), Error> {
    let one = lock(ctx, connection, id).await?;
    // An administrator sees the connections of others, but connects its own account only.
    if ctx.caller.principal(ctx.issuer).as_ref() != Some(&one.owner) {
        return Err(Refusal::InsufficientScope.into());
    }
    if one.provider != provider {
        return Err(Refusal::Malformed("The connection belongs to another provider").into());
    }
    Ok(require_connected(&one)?)
}

fn url(
    redirect_uri: &str,
    oauth: &OauthSettings,
    endpoint: &str,
    scopes: &BTreeSet<String>,
    secrets: &Secrets,
) -> Option<String> {
    let challenge = oauth_client::challenge(secrets.verifier.expose_secret());
    let scope = oauth.separator.join(scopes);
    let mut params = vec![
        ("response_type", "code"),
        ("client_id", oauth.client_id.as_str()),
        ("redirect_uri", redirect_uri),
        ("state", secrets.state.expose_secret()),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    if !scope.is_empty() {
        params.push(("scope", scope.as_str()));
    }
    params.extend(oauth.authorization_params.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    oauth_client::authorization_url(endpoint, &params)
}

/// An event about what is to be connected.
pub(super) fn about(event: Event, one: &PendingAuthorization) -> Event {
    Event { subject: Some(one.owner.clone()), target: Some(one.connection.clone()), ..event }
}

/// Whether the owner is still active and has not been revoked since the authorization began.
pub(super) async fn is_connectable(
    rows: &RowMac,
    connection: &mut PgConnection,
    issuer: &str,
    one: &PendingAuthorization,
) -> Result<bool, Fault> {
    let owner = &one.owner;
    if !require_active_user(connection, owner, one.owner_authenticated_at).await? {
        return Ok(false);
    }
    if owner.iss != issuer {
        return Ok(true);
    }
    let client = client::store::find(rows, connection, &owner.sub).await?;
    Ok(client.is_some_and(|client| !client.is_inactive()))
}
