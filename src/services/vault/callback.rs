//! Handles the redirect back from a provider (RFC 6749 §4.1.2, RFC 9207). In the browser that began the
//! authorization, the connection is created. Another browser shows a code, which the owner enters at the management
//! API. So an attacker cannot connect a victim's account to the attacker's connection.

use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::code_exchange::{By, ConnectedAccount, ReceivedCode, exchange_code, refused};
use super::connect::{about, is_connectable};
use super::connections::is_id;
use crate::app::App;
use crate::domain::audit::detail::{AuthorizationRefusal, RedirectBrowser};
use crate::domain::audit::{Actor, Event, EventKind, Operation, RequestOrigin};
use crate::domain::pending_authorization::{
    self, AuthorizationStage, MAX_ATTEMPTS, PendingAuthorization, PendingCode, finish_code,
};
use crate::domain::provider::{self, OpenedProvider};
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::{Context, Fault};
use crate::services::request_context::{OwnedRequest, RequestContext};
use crate::services::transaction::AuditedTransaction;
use crate::services::transition::{Attempt, Reply};
use actchain_protocol::digest::sha256;
use actchain_protocol::oauth_client;

/// Parameters of the redirect from a provider.
#[derive(Debug)]
pub struct CallbackParams {
    pub state: SecretString,
    pub said: AuthorizationResponse,
    /// The provider whose redirect URI was called.
    pub provider: String,
    /// The `iss` parameter (RFC 9207).
    pub iss: Option<String>,
    /// Values of this server's browser-binding cookies.
    pub browser: Vec<String>,
    /// The console session that is open in the browser.
    pub console_session: Option<Uuid>,
}

#[derive(Debug)]
pub enum AuthorizationResponse {
    Code(SecretString),
    /// An error (RFC 6749 §4.1.2.1).
    Error(String),
}

/// The page shown in the browser.
#[derive(Debug)]
pub enum CallbackPage {
    Connected,
    /// Connected, as begun in the console; with the id of the connection.
    ConnectedInConsole(String),
    /// Another browser began the authorization; with the code for the owner.
    Waits(Zeroizing<String>),
    /// The authorization does not exist or has ended.
    NotFound,
    /// The provider or its user denied the authorization.
    Declined,
    /// The response came from another provider than the request went to.
    MixedUp,
    /// The provider rejected the code.
    Refused,
    /// The provider does not respond, or the response cannot be parsed.
    Unavailable,
}

/// Takes what a browser brings. In a task of its own: a code is good once, and must not be lost because a browser hangs up.
pub async fn handle_callback(
    app: &Arc<App>,
    params: CallbackParams,
    origin: RequestOrigin,
    now: OffsetDateTime,
) -> Result<CallbackPage, Fault> {
    let task = app.detached.spawn({
        let app = Arc::clone(app);
        async move { process_callback(&app, params, origin, now).await }
    });
    task.await.context("taking what a browser brought")?
}

async fn process_callback(
    app: &App,
    params: CallbackParams,
    origin: RequestOrigin,
    now: OffsetDateTime,
) -> Result<CallbackPage, Fault> {
    let event = |kind| Event { origin: origin.clone(), ..Event::new(now, kind, Actor::Server) };
    let state = sha256(&[params.state.expose_secret().as_bytes()]);
    let mut work = AuditedTransaction::begin(&app.pool).await?;
    let found = pending_authorization::store::find_for_update(work.connection(), state, now).await?;
    // An unknown state is not recorded, so that unauthenticated requests cannot fill the log.
    let Some(one) = found else { return Ok(CallbackPage::NotFound) };
    let (provider, verifier) = open(app, work.connection(), &one, AuthorizationStage::Requested).await?;
    let refusal = if !is_connectable(&app.rows, work.connection(), &app.issuer, &one).await? {
        Some((Refusal::PrincipalRevoked, CallbackPage::NotFound, None))
    } else if one.provider != params.provider || !is_from(&provider, params.iss.as_deref()) {
        Some((Refusal::ProviderRefused, CallbackPage::MixedUp, Some("another issuer".to_owned())))
    } else if let AuthorizationResponse::Error(error) = &params.said {
        let error = oauth_client::is_error_code(error).then(|| error.clone());
        Some((Refusal::ProviderRefused, CallbackPage::Declined, error))
    } else {
        None
    };
    if let Some((refusal, shown, error)) = refusal {
        pending_authorization::store::mark_used(work.connection(), state).await?;
        let event = event(refused(&one, error));
        work.commit(&[Event { reason: Some(refusal.reason()), ..about(event, &one) }]).await?;
        return Ok(shown);
    }
    let AuthorizationResponse::Code(code) = params.said else { return Ok(CallbackPage::Declined) };
    let verifier = text(&verifier)?;
    let returned = |browser| {
        let provider = one.provider.clone();
        about(event(EventKind::ConnectionAuthorized { provider, browser, finished: false }), &one)
    };
    if !one.began_in(&params.browser, params.console_session) {
        let code = Zeroizing::new(code.expose_secret().to_owned());
        let waiting = PendingCode { verifier, code, finish: finish_code()? };
        let row = one.aad(AuthorizationStage::CodeReceived)?;
        let sealed = app.vault.keys.seal(work.connection(), &row, &waiting.to_bytes()).await?;
        let until = now + Duration::seconds(app.config.vault.connect_ttl.into());
        pending_authorization::store::mark_code_received(work.connection(), state, &sealed, now, until)
            .await?;
        work.commit(&[returned(RedirectBrowser::Another)]).await?;
        return Ok(CallbackPage::Waits(waiting.finish));
    }
    pending_authorization::store::mark_used(work.connection(), state).await?;
    work.commit(&[returned(RedirectBrowser::Same)]).await?;
    let by = By::Browser(&origin, now);
    let code = ReceivedCode { verifier: &verifier, code: code.expose_secret() };
    match exchange_code(app, &one, &provider, code, by).await {
        Ok(_) if one.console_session.is_some() => Ok(CallbackPage::ConnectedInConsole(one.connection)),
        Ok(_) => Ok(CallbackPage::Connected),
        Err(Error::Failed(fault)) => Err(fault),
        Err(Error::Refused(Refusal::ProviderRefused)) => Ok(CallbackPage::Refused),
        Err(Error::Refused(Refusal::ProviderUnavailable(_))) => Ok(CallbackPage::Unavailable),
        Err(Error::Refused(_)) => Ok(CallbackPage::NotFound),
    }
}

/// RFC 9207 §2.4: `iss` has to be the provider's issuer, and is required if the provider supports it.
fn is_from(provider: &OpenedProvider, iss: Option<&str>) -> bool {
    let Some(oauth) = &provider.provider.settings.oauth else { return false };
    match (iss, &oauth.issuer) {
        (Some(iss), Some(issuer)) => iss == issuer,
        (Some(_), None) => true,
        (None, _) => !oauth.authorization_response_iss_parameter_supported,
    }
}

/// The provider and the secrets sealed with this authorization; both are checked for tampering.
async fn open(
    app: &App,
    connection: &mut PgConnection,
    one: &PendingAuthorization,
    stage: AuthorizationStage,
) -> Result<(OpenedProvider, Zeroizing<Vec<u8>>), Fault> {
    let keys = &app.vault.keys;
    let sealed = keys.open(connection, &one.aad(stage)?, &one.sealed).await?;
    let found = provider::store::find(connection, &one.provider).await?;
    let found = found.ok_or_else(|| Fault::new("an authorization without its provider"))?;
    Ok((found.open(keys, connection).await?, sealed))
}

fn text(bytes: &[u8]) -> Result<Zeroizing<String>, Fault> {
    let text = std::str::from_utf8(bytes).context("reading a verifier")?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Completes an authorization whose code arrived in another browser. The owner enters the code shown there.
pub async fn finish(
    app: &Arc<App>,
    ctx: &RequestContext<'_>,
    id: &str,
    typed: SecretString,
) -> Result<Reply<ConnectedAccount>, Error> {
    // Detached from the request: a code works once.
    let task = app.detached.spawn({
        let app = Arc::clone(app);
        let request = OwnedRequest::of(ctx);
        let id = id.to_owned();
        async move { try_to_finish(&request.context(&app), &app, &id, &typed).await }
    });
    match task.await.context("finishing a connection")? {
        Ok(Finished::Recorded(result)) => result,
        Ok(Finished::Before(reply)) => Ok(reply),
        Err(error) => {
            ctx.attempt(Attempt::on(Operation::FinishAuthorization, id), async { Err(error) }).await
        }
    }
}

enum Finished {
    /// A result whose refusal needs no further event.
    Recorded(Result<Reply<ConnectedAccount>, Error>),
    /// The same request completed the authorization before.
    Before(Reply<ConnectedAccount>),
}

async fn try_to_finish(
    ctx: &RequestContext<'_>,
    app: &App,
    id: &str,
    typed: &SecretString,
) -> Result<Finished, Error> {
    let mut work = AuditedTransaction::begin(ctx.pool).await?;
    if let Some(reply) = ctx.authorize_and_claim(work.connection()).await? {
        return Ok(Finished::Before(reply));
    }
    // Administrators have no connections of their own, except in person.
    let owner = ctx.caller.account_owner(ctx.issuer, ctx.now);
    let (owner, _) = owner.ok_or(Refusal::InsufficientScope)?;
    // The idempotency key is claimed again in the transaction that stores the connection; until then the request can
    // be repeated.
    drop(work);
    let mut work = AuditedTransaction::begin(ctx.pool).await?;
    ctx.require_active(work.connection()).await?;
    let id = if is_id(id) { id } else { "" };
    let found =
        pending_authorization::store::find_pending_code_for_update(work.connection(), id, &owner, ctx.now)
            .await?;
    let one = found.ok_or(Refusal::NotFound)?;
    let (provider, sealed) = open(app, work.connection(), &one, AuthorizationStage::CodeReceived).await?;
    let pending = PendingCode::from_bytes(&sealed)?;
    if !pending.is_finished_by(typed.expose_secret()) {
        if one.attempts + 1 >= MAX_ATTEMPTS {
            pending_authorization::store::mark_used(work.connection(), one.state).await?;
        } else {
            pending_authorization::store::mark_attempted(work.connection(), one.state).await?;
        }
        let kind = EventKind::ConnectionAuthorizationRefused(AuthorizationRefusal {
            provider: Some(one.provider.clone()),
            tries: Some(one.attempts + 1),
            ..AuthorizationRefusal::default()
        });
        let event = about(ctx.event(kind), &one);
        work.commit(&[Event { reason: Some(Refusal::NotFound.reason()), ..event }]).await?;
        return Ok(Finished::Recorded(Err(Refusal::NotFound.into())));
    }
    pending_authorization::store::mark_used(work.connection(), one.state).await?;
    let kind = EventKind::ConnectionAuthorized {
        provider: one.provider.clone(),
        browser: RedirectBrowser::Another,
        finished: true,
    };
    work.commit(&[about(ctx.event(kind), &one)]).await?;
    let code = ReceivedCode { verifier: &pending.verifier, code: &pending.code };
    Ok(Finished::Recorded(exchange_code(app, &one, &provider, code, By::Owner(ctx)).await))
}
