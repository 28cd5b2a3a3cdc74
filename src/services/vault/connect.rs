//! Sends an owner to a provider to authorize this server (RFC 6749 §4.1.1, RFC 7636 §4.3, RFC 9700 §2.1).

use std::collections::BTreeSet;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::connections::{NewConnection, check_name, find_provider, lock, refused};
use crate::domain::audit::{Action, Event};
use crate::domain::client;
use crate::domain::data_key::Sealed;
use crate::domain::pending_authorization::{self, PendingAuthorization, Stage};
use crate::domain::principal::Principal;
use crate::domain::provider::{OauthSettings, Separator};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::row_mac::RowMac;
use crate::domain::vault::State;
use crate::domain::vault::credential_cache::CredentialCache;
use crate::platform::digest::sha256;
use crate::platform::fault::Fault;
use crate::platform::random;
use crate::protocol::{metadata, oauth_client};
use crate::services::access_token_auth::require_active_user;
use crate::services::request_context::{ApiResponse, AuditTarget, Call, Caller, Desk};
use crate::services::transaction::AuditedTransaction;

/// A started authorization.
#[derive(Debug)]
pub struct AuthorizationRequest {
    /// The answer: where its owner goes.
    pub done: ApiResponse,
    /// The value of the browser-binding cookie: an authorization begun in another browser cannot complete in this
    /// browser.
    pub browser: SecretString,
}

/// The secrets of one authorization.
struct Secrets<'a> {
    state: SecretString,
    verifier: SecretString,
    browser: &'a SecretString,
}

/// The redirect URI of a provider. Each provider has its own, against mix-up attacks (RFC 9700 §4.4.2).
pub(super) fn redirect_uri(issuer: &str, provider: &str) -> String {
    metadata::endpoint(issuer, &format!("/vault/callback/{provider}"))
}

/// Begins to connect or reconnect; returns the authorization URL for the owner.
pub async fn begin(
    (desk, vault): (&Desk<'_>, &CredentialCache),
    call: &Call,
    wanted: &NewConnection,
) -> Result<AuthorizationRequest, Error> {
    let browser = SecretString::from(random::token()?);
    let result = try_to_begin((desk, vault), call, wanted, &browser).await;
    let about = wanted.connection.as_deref().map_or(AuditTarget::Nothing, AuditTarget::Other);
    let done = refused(desk, call, ("connect", about), result).await?;
    Ok(AuthorizationRequest { done, browser })
}

async fn try_to_begin(
    (desk, vault): (&Desk<'_>, &CredentialCache),
    call: &Call,
    wanted: &NewConnection,
    browser: &SecretString,
) -> Result<ApiResponse, Error> {
    check_name(wanted.name.as_deref())?;
    // A provider would ask the owner, not an administrator.
    let needs_credential = Refusal::Malformed("credential is missing");
    let (owner, since) = match &call.caller {
        Caller::User(user) => (user.who.clone(), user.since),
        Caller::Agent(_) => (call.caller.principal(desk.issuer).ok_or(Refusal::InsufficientScope)?, call.now),
        Caller::Admin(_) | Caller::Operator => return Err(needs_credential.into()),
        Caller::Auditor(_) => return Err(Refusal::InsufficientScope.into()),
    };
    if wanted.owner.as_ref().is_some_and(|named| *named != owner) {
        return Err(Refusal::InsufficientScope.into());
    }
    let mut work = AuditedTransaction::begin(desk.pool).await?;
    let before = call.authorize_and_claim(desk, &mut work).await?;
    let provider = find_provider(work.connection(), &wanted.provider).await?;
    let provider = provider.open(&vault.keys, work.connection()).await?.provider;
    let oauth = provider.settings.oauth.as_ref().ok_or(needs_credential)?;
    let endpoint = oauth.authorization_endpoint.as_deref().ok_or(needs_credential)?;
    let asked = asked(oauth, wanted.scopes.as_ref())?;
    // A repeated request begins a new authorization for the same connection, because the secrets of the first are not
    // stored in the response.
    let again = before.as_ref().and_then(|done| done.body.get("connection")).and_then(|id| id.as_str());
    let connection = match (again, &wanted.connection) {
        (Some(id), _) => id.to_owned(),
        (None, Some(id)) => {
            again_at(work.connection(), desk, call, (id, &provider.id)).await?;
            id.clone()
        }
        (None, None) => random::id(call.now)?.to_string(),
    };
    let secrets = Secrets { state: random::token()?.into(), verifier: random::token()?.into(), browser };
    let life = Duration::seconds(desk.config.vault.connect_ttl.into());
    let one = PendingAuthorization {
        state: sha256(&[secrets.state.expose_secret().as_bytes()]),
        connection,
        provider: provider.id.clone(),
        owner,
        name: wanted.name.clone(),
        scopes: asked,
        browser_binding_hash: sha256(&[secrets.browser.expose_secret().as_bytes()]),
        owner_authenticated_at: since,
        sealed: Sealed { key: String::new(), text: String::new() },
        created_at: call.now,
        expires_at: call.now + life,
        attempts: 0,
    };
    let verifier = secrets.verifier.expose_secret().as_bytes();
    let sealed = vault.keys.seal(work.connection(), &one.aad(Stage::Requested)?, verifier).await?;
    let one = PendingAuthorization { sealed, ..one };
    pending_authorization::store::put(work.connection(), &one).await?;
    let back = redirect_uri(desk.issuer, &one.provider);
    let url = url(&back, (oauth, endpoint), &one.scopes, &secrets)
        .ok_or_else(|| Fault::new("an authorization endpoint is no URL"))?;
    let kept = ApiResponse { status: 202, ..ApiResponse::with(json!({"connection": one.connection}))? };
    if before.is_none() {
        call.store_response(desk, &mut work, &kept).await?;
    }
    let mut event = about(call.event(Action::ConnectionRequested), &one);
    event.detail = Some(json!({"provider": one.provider, "scopes": one.scopes,
                               "reconnects": wanted.connection.is_some()}));
    work.commit(&[event]).await?;
    let body =
        json!({"connection": one.connection, "authorization_url": url, "expires_in": life.whole_seconds()});
    Ok(ApiResponse { body, replayed: before.is_some(), ..kept })
}

/// What will be asked for: what was named, or all that may be, and what is always asked for.
fn asked(oauth: &OauthSettings, named: Option<&BTreeSet<String>>) -> Result<BTreeSet<String>, Refusal> {
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
async fn again_at(
    connection: &mut PgConnection,
    desk: &Desk<'_>,
    call: &Call,
    (id, provider): (&str, &str),
) -> Result<(), Error> {
    let one = lock(connection, desk, call, id).await?;
    if one.provider != provider {
        return Err(Refusal::Malformed("The connection is one at another provider").into());
    }
    match one.state() {
        State::Active | State::NeedsReconnect => Ok(()),
        State::Disconnected => Err(Refusal::ConnectionUnusable(State::Disconnected).into()),
    }
}

fn url(
    redirect_uri: &str,
    (oauth, endpoint): (&OauthSettings, &str),
    scopes: &BTreeSet<String>,
    secrets: &Secrets<'_>,
) -> Option<String> {
    let challenge = oauth_client::challenge(secrets.verifier.expose_secret());
    let separator = match oauth.separator {
        Separator::Space => " ",
        Separator::Comma => ",",
    };
    let scope = scopes.iter().map(String::as_str).collect::<Vec<_>>().join(separator);
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
    (owner, since): (&Principal, OffsetDateTime),
) -> Result<bool, Fault> {
    if !require_active_user(connection, owner, since).await? {
        return Ok(false);
    }
    if owner.iss != issuer {
        return Ok(true);
    }
    let client = client::store::find(rows, connection, &owner.sub).await?;
    Ok(client.is_some_and(|client| !client.is_inactive()))
}
