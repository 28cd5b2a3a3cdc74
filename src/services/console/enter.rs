//! Operators enter the console by a link that a command prints: it is good once, and for minutes.

use secrecy::SecretString;
use time::{Duration, OffsetDateTime};

use super::is_on::is_on;
use super::session::{NewSession, secret_sha256};
use crate::app::App;
use crate::domain::audit::{Actor, Event, EventKind, RequestOrigin};
use crate::domain::console::{
    AuthTime, ConsoleLink, ConsoleRole, ConsoleSession, LINK_LIFE, OPERATOR_LIFE, store,
};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use crate::services::caller::Caller;
use crate::services::request_context::RequestContext;
use crate::services::transaction::AuditedTransaction;
use actchain_protocol::metadata::endpoint;
use actchain_protocol::random;

/// A link to the console.
#[derive(Debug)]
pub struct EntryLink {
    /// The URL with its secret.
    pub url: SecretString,
    pub expires_at: OffsetDateTime,
}

/// Makes a link for an operator.
///
/// # Errors
/// [`Refusal::InsufficientScope`] for other callers. A fault if this server has no console.
pub async fn make_link(ctx: &RequestContext<'_>) -> Result<EntryLink, Error> {
    if !matches!(ctx.caller, Caller::Operator) {
        return Err(Refusal::InsufficientScope.into());
    }
    let mut connection = ctx.pool.acquire().await.map_err(Fault::from)?;
    let registry = registry::store::load(ctx.rows, &mut connection, ctx.issuer).await?;
    drop(connection);
    if !is_on(ctx.config, ctx.issuer, &registry) {
        let why =
            "this server has no console: set `enabled = true` in [console], or declare sign_in for an issuer";
        return Err(Fault::new(why).into());
    }
    let secret = random::token().map_err(Fault::from)?;
    let digest = secret_sha256(&secret).ok_or_else(|| Fault::new("a random secret of another length"))?;
    let id = random::id(ctx.now).map_err(Fault::from)?;
    let link = ConsoleLink { id, secret_sha256: digest, expires_at: ctx.now + LINK_LIFE };
    let mut work = AuditedTransaction::begin(ctx.pool).await?;
    store::insert_link(ctx.rows, work.connection(), &link).await?;
    let kind = EventKind::ConsoleLinkMade { expires_at: rfc3339(link.expires_at) };
    work.commit(&[ctx.event(kind)]).await?;
    let url = endpoint(ctx.issuer, &format!("/console/enter/{secret}"));
    Ok(EntryLink { url: SecretString::from(url), expires_at: link.expires_at })
}

/// Uses up a link, and begins the session of an operator. `None` for a link that was used, has expired, or never was.
pub async fn enter(
    app: &App,
    secret: &str,
    origin: RequestOrigin,
    now: OffsetDateTime,
) -> Result<Option<NewSession>, Fault> {
    let Some(digest) = secret_sha256(secret) else { return Ok(None) };
    let mut work = AuditedTransaction::begin(&app.pool).await?;
    if store::take_link(&app.rows, work.connection(), &digest, now).await?.is_none() {
        return Ok(None);
    }
    let life = Duration::seconds(app.config.console.session.into()).min(OPERATOR_LIFE);
    let secret = random::token()?;
    let session = ConsoleSession {
        id: random::id(now)?,
        secret_sha256: secret_sha256(&secret)
            .ok_or_else(|| Fault::new("a random secret of another length"))?,
        role: ConsoleRole::Operator,
        role_by: None,
        who: None,
        issuer_subject: None,
        issuer_session: None,
        label: None,
        signed_in_at: now,
        authenticated_at: now,
        auth_time: AuthTime::Known,
        expires_at: now + life,
        last_seen_at: now,
        ended_at: None,
        ip: origin.ip.map(|ip| ip.to_string()),
        user_agent: origin.user_agent.clone(),
    };
    store::insert_session(&app.rows, work.connection(), &session).await?;
    let kind = EventKind::ConsoleOperatorEntered { expires_at: rfc3339(session.expires_at) };
    let console = Some(session.reference());
    let event = Event { origin, console, ..Event::new(now, kind, Actor::Operator) };
    work.commit(&[event]).await?;
    Ok(Some(NewSession { session, secret: SecretString::from(secret) }))
}
