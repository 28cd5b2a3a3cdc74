//! From an authorization code to a connection (RFC 6749 §4.1.3). The code is redeemed once, never inside a
//! transaction, and the tokens are stored before the response. Tokens that cannot be stored are revoked.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::connect::{about, is_connectable, redirect_uri};
use super::connections::{ConnectionView, Wanted, blank, sealed};
use super::provider_client::{self, Next, Revoked, TokenEndpointResult};
use crate::app::App;
use crate::domain::audit::detail::{AuthorizationRefusal, ConnectedBy};
use crate::domain::audit::{Actor, Event, EventKind, RequestOrigin};
use crate::domain::pending_authorization::PendingAuthorization;
use crate::domain::provider::OpenedProvider;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::vault::{self, Connection, ConnectionState, Credential, ProviderTokens};
use crate::platform::fault::Fault;
use crate::services::request_context::RequestContext;
use crate::services::transaction::{AuditedTransaction, Authorized};
use crate::services::transition::Reply;
use actchain_protocol::token_answer::{Scope, TokenSet};

/// Pause between attempts to store.
const PAUSE: Duration = Duration::from_millis(250);
const ATTEMPTS: u32 = 5;

/// An authorization code and its PKCE verifier.
#[derive(Clone, Copy)]
pub(super) struct ReceivedCode<'a> {
    pub(super) verifier: &'a str,
    pub(super) code: &'a str,
}

/// A connection with the credential of a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectedAccount {
    pub origin: ConnectionOrigin,
    pub connection: ConnectionView,
}

/// Whether an authorization created a connection or gave an existing one a new credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionOrigin {
    Created,
    Reconnected,
}

/// The party that completes the authorization.
#[derive(Clone)]
pub(super) enum By<'a> {
    /// The browser that began the authorization; with the start time.
    Browser(&'a RequestOrigin, OffsetDateTime),
    /// The owner, at the management API.
    Owner(&'a RequestContext<'a>),
}

impl By<'_> {
    fn event(&self, kind: EventKind) -> Event {
        match self {
            Self::Browser(origin, now) => {
                Event { origin: (*origin).clone(), ..Event::new(*now, kind, Actor::Server) }
            }
            Self::Owner(ctx) => ctx.event(kind),
        }
    }

    fn now(&self) -> OffsetDateTime {
        match self {
            Self::Browser(_, now) => *now,
            Self::Owner(ctx) => ctx.now,
        }
    }
}

/// Exchanges a code for tokens and stores them. Refusals have been recorded.
pub(super) async fn exchange_code(
    app: &App,
    one: &PendingAuthorization,
    provider: &OpenedProvider,
    code: ReceivedCode<'_>,
    by: By<'_>,
) -> Result<Reply<ConnectedAccount>, Error> {
    let redirect_uri = redirect_uri(&app.issuer, &one.provider);
    let params = [
        ("grant_type", "authorization_code"),
        ("code", code.code),
        ("redirect_uri", redirect_uri.as_str()),
        ("code_verifier", code.verifier),
    ];
    let tokens = match provider_client::ask(&app.vault.outbound, provider, &params).await {
        TokenEndpointResult::Tokens(tokens) => tokens,
        TokenEndpointResult::GrantRevoked(error) => {
            return refuse(app, one, &by, Refusal::ProviderRefused, Some(error)).await;
        }
        TokenEndpointResult::Rejected(problem) => {
            return refuse(app, one, &by, Refusal::ProviderRefused, Some(problem.why)).await;
        }
        TokenEndpointResult::NoTokens(problem) | TokenEndpointResult::Unavailable(problem) => {
            tracing::warn!(connection = one.connection, error = %problem, "a provider is unavailable");
            let rest = match problem.next {
                Next::After(seconds) => u32::try_from(seconds).unwrap_or(u32::MAX).max(1),
                Next::AtOnce | Next::Later => 1,
            };
            let error = Some(problem.why);
            return refuse(app, one, &by, Refusal::ProviderUnavailable(rest), error).await;
        }
    };
    let obtained = obtained(one, tokens, by.now());
    let mut last = Fault::new("a credential was not stored");
    for _ in 0..ATTEMPTS {
        match put(app, one, &obtained, &by).await {
            Ok(done) => return Ok(done),
            Err(Error::Failed(fault)) => last = fault,
            Err(Error::Refused(refusal)) => {
                revoke_unused_tokens(app, provider, &obtained).await;
                return refuse(app, one, &by, refusal, None).await;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    revoke_unused_tokens(app, provider, &obtained).await;
    Err(last.into())
}

/// The credential of a token response. Without `scope`, the scopes are those of the request (RFC 6749 §5.1). Without an
/// access token, the first one is requested when it is needed.
fn obtained(one: &PendingAuthorization, tokens: TokenSet, now: OffsetDateTime) -> Wanted {
    let scopes = match tokens.scope {
        Scope::Known(scopes) => Some(scopes),
        Scope::Unsaid => (!one.scopes.is_empty()).then(|| one.scopes.clone()),
        Scope::Unknown => None,
    };
    let expires_at = match &tokens.access_token {
        Some(_) => tokens.expires_in.map(|seconds| now + time::Duration::seconds(seconds.into())),
        None => Some(now),
    };
    let credential = Credential::Oauth2(ProviderTokens {
        access_token: tokens.access_token.unwrap_or_default(),
        token_type: tokens.token_type,
        refresh_token: tokens.refresh_token,
    });
    Wanted { credential, expires_at, scopes, obtained_at: now }
}

async fn put(
    app: &App,
    one: &PendingAuthorization,
    obtained: &Wanted,
    by: &By<'_>,
) -> Result<Reply<ConnectedAccount>, Error> {
    let now = by.now();
    let there = async {
        let there =
            app.read(async |connection| vault::store::find(connection, &one.connection).await).await?;
        match there {
            Some(there) if there.owner != one.owner || there.provider != one.provider => {
                Err(Refusal::NotFound.into())
            }
            there => Ok(there),
        }
    };
    let (authorized, there) = Authorized::by(there).await?;
    // An old credential is replaced under the exclusive authority lock: after the response, no request receives the
    // old one.
    let mut work = match there.is_some() {
        true => AuditedTransaction::begin_exclusive(&app.pool, authorized).await?,
        false => AuditedTransaction::begin(&app.pool).await?,
    };
    if let By::Owner(ctx) = by
        && let Some(replay) = ctx.authorize_and_claim(work.connection()).await?
    {
        return Ok(replay);
    }
    if !is_connectable(&app.rows, work.connection(), &app.issuer, one).await? {
        return Err(Refusal::PrincipalRevoked.into());
    }
    let old = vault::store::find_for_update(work.connection(), &one.connection).await?;
    if old.is_some() != there.is_some() {
        return Err(Fault::new("a connection came to be meanwhile").into());
    }
    let (next, origin) = match old {
        Some(old) if old.owner != one.owner || old.provider != one.provider => {
            return Err(Refusal::NotFound.into());
        }
        Some(old) if old.state() == ConnectionState::Disconnected => {
            return Err(Refusal::ConnectionUnusable(ConnectionState::Disconnected).into());
        }
        Some(old) => {
            let name = one.name.clone().or(old.name);
            (
                Connection { name, updated_at: now, needs_reconnect_at: None, ..old },
                ConnectionOrigin::Reconnected,
            )
        }
        None => {
            let next = blank(&one.connection, &one.provider, one.owner.clone(), now);
            (Connection { name: one.name.clone(), ..next }, ConnectionOrigin::Created)
        }
    };
    let next = sealed(work.connection(), &app.vault, next, obtained).await?;
    vault::store::put(work.connection(), &next).await?;
    let (provider, scopes, how) = (next.provider.clone(), next.scopes.clone(), ConnectedBy::Oauth);
    let kind = match origin {
        ConnectionOrigin::Created => EventKind::ConnectionCreated { provider, scopes, how },
        ConnectionOrigin::Reconnected => EventKind::ConnectionRotated { provider, scopes, how },
    };
    let event = about(by.event(kind), one);
    let value = ConnectedAccount { origin, connection: ConnectionView::of(&next) };
    if let By::Owner(ctx) = by {
        ctx.store_result(work.connection(), &value).await?;
    }
    work.commit(&[event]).await?;
    app.vault.opened.invalidate(&next.id);
    Ok(value.into())
}

/// Revokes tokens that could not be stored.
async fn revoke_unused_tokens(app: &App, provider: &OpenedProvider, obtained: &Wanted) {
    let Credential::Oauth2(tokens) = &obtained.credential else { return };
    if provider_client::revoke(&app.vault.outbound, provider, tokens).await != Revoked::Done {
        tracing::warn!(provider = provider.provider.id, "tokens that could not be stored were not revoked");
    }
}

async fn refuse(
    app: &App,
    one: &PendingAuthorization,
    by: &By<'_>,
    refusal: Refusal,
    error: Option<String>,
) -> Result<Reply<ConnectedAccount>, Error> {
    let work = AuditedTransaction::begin(&app.pool).await?;
    let event = about(by.event(refused(one, error)), one);
    work.commit(&[Event { reason: Some(refusal.reason()), ..event }]).await?;
    Err(refusal.into())
}

/// The event of a refused authorization.
pub(super) fn refused(one: &PendingAuthorization, error: Option<String>) -> EventKind {
    EventKind::ConnectionAuthorizationRefused(AuthorizationRefusal {
        provider: Some(one.provider.clone()),
        error,
        ..AuthorizationRefusal::default()
    })
}
