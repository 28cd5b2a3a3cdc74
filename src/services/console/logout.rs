//! Back-channel logout: an issuer says that a session there has ended (OpenID Connect Back-Channel Logout 1.0 §2.5–2.8).

use time::OffsetDateTime;

use super::sign_in::find_issuer;
use crate::app::App;
use crate::domain::audit::detail::SessionEnd;
use crate::domain::audit::{Actor, Event, EventKind, RequestOrigin};
use crate::domain::console::{sign_ins, store};
use crate::domain::jwks_cache::KeyLookupError;
use crate::platform::fault::Fault;
use crate::services::issuer_tokens;
use crate::services::transaction::{AuditedTransaction, Authorized};
use actchain_protocol::jose::Jws;
use actchain_protocol::logout_token::{self, LogoutToken};

/// What became of a logout token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogoutOutcome {
    /// The sessions have ended.
    LoggedOut,
    /// The token is no logout token of this issuer for this server, or was used before.
    Invalid,
}

/// Ends the sessions that a logout token names.
///
/// # Errors
/// A fault: the keys of the issuer, or the database, are unavailable.
pub async fn log_out(
    app: &App,
    name: &str,
    token: &str,
    origin: RequestOrigin,
    now: OffsetDateTime,
) -> Result<LogoutOutcome, Fault> {
    let Some(logout) = verify(app, name, token, now).await? else { return Ok(LogoutOutcome::Invalid) };
    let mut connection = app.pool.acquire().await?;
    // Before the sessions are ended: a sign-in that commits later sees the logout, and one that commits earlier has a
    // session that ends below.
    if !sign_ins::put_logout(&mut connection, &logout, now).await? {
        return Ok(LogoutOutcome::Invalid);
    }
    drop(connection);
    if let Err(fault) = end_sessions(app, &logout, origin, now).await {
        let mut connection = app.pool.acquire().await?;
        sign_ins::remove_logout(&mut connection, &logout).await?;
        return Err(fault);
    }
    Ok(LogoutOutcome::LoggedOut)
}

async fn verify(
    app: &App,
    name: &str,
    token: &str,
    now: OffsetDateTime,
) -> Result<Option<LogoutToken>, Fault> {
    let Some(at) = find_issuer(app, name).await? else { return Ok(None) };
    let (issuer, sign_in) = at.parts()?;
    let Some(jws) = Jws::parse(token) else { return Ok(None) };
    let read = logout_token::read(&jws, &sign_in.settings.client_id, now);
    let Some(logout) = read else { return Ok(None) };
    let Some(trusted) = issuer.identified_by(&logout.iss) else { return Ok(None) };
    match issuer_tokens::check_signature(app, trusted, &jws, now).await {
        Ok(()) => Ok(Some(logout)),
        Err(KeyLookupError::Token(_)) => Ok(None),
        Err(KeyLookupError::KeysUnavailable) => Err(Fault::new("the keys of an issuer are unavailable")),
    }
}

/// Under the exclusive authority lock: no sign-in is between its check of logouts and its commit.
async fn end_sessions(
    app: &App,
    logout: &LogoutToken,
    origin: RequestOrigin,
    now: OffsetDateTime,
) -> Result<(), Fault> {
    let mut work = AuditedTransaction::begin_exclusive(&app.pool, Authorized::without_request()).await?;
    let ended = store::mark_logged_out(&app.rows, work.connection(), logout, now).await?;
    let events: Vec<Event> = ended
        .into_iter()
        .map(|session| Event {
            origin: origin.clone(),
            subject: session.who,
            target: Some(logout.iss.clone()),
            ..Event::new(
                now,
                EventKind::ConsoleSessionEnded { ended: session.id, cause: SessionEnd::Issuer },
                Actor::Server,
            )
        })
        .collect();
    match events.is_empty() {
        true => work.abandon().await,
        false => work.commit(&events).await,
    }
}
