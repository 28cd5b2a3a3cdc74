//! Sessions in the console. A session is the caller of what is done in it, as a token is elsewhere.

use secrecy::SecretString;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::app::App;
use crate::domain::audit::detail::SessionEnd;
use crate::domain::audit::{Event, EventKind};
use crate::domain::console::store::EndedSession;
use crate::domain::console::{ConsoleRole, ConsoleSession, store};
use crate::domain::limit::Limit;
use crate::domain::refusal::{Error, Refusal};
use crate::platform::fault::Fault;
use crate::services::access_token_auth::user_not_revoked;
use crate::services::caller::{AuthenticatedUser, Caller, PrivilegedCaller};
use crate::services::request_context::RequestContext;
use crate::services::transaction::AuditedTransaction;
use actchain_protocol::base64url;
use actchain_protocol::digest::sha256;

/// How exactly the last use of a session is known: not every request is a write.
const SEEN_EVERY: Duration = Duration::minutes(1);

/// What a session is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionUse {
    /// A request of the person.
    Request,
    /// An open page that connects to its stream, without the person. It does not prolong the session.
    LivePage,
}

/// A session that has just begun, with the secret of its cookie.
#[derive(Debug)]
pub struct NewSession {
    pub session: ConsoleSession,
    pub secret: SecretString,
}

/// The digest of a secret as a browser sends it; `None` for a text that is no secret of ours.
pub(super) fn secret_sha256(secret: &str) -> Option<[u8; 32]> {
    let bytes = base64url::decode(secret).filter(|bytes| bytes.len() == 32)?;
    Some(sha256(&[&bytes]))
}

/// The first open session with one of the secrets that cookies have, and its caller.
///
/// # Errors
/// A fault; sessions that have ended are `None`.
pub async fn open(
    app: &App,
    secrets: &[String],
    reason: SessionUse,
    now: OffsetDateTime,
) -> Result<Option<(Caller, ConsoleSession)>, Fault> {
    let digests: Vec<[u8; 32]> = secrets.iter().filter_map(|secret| secret_sha256(secret)).collect();
    if digests.is_empty() {
        return Ok(None);
    }
    let idle = Duration::seconds(app.config.console.idle.into());
    let found = app
        .read(async |connection| {
            for session in store::find_sessions(&app.rows, connection, &digests).await? {
                if session.is_open(now, idle) && may_go_on(connection, &session).await? {
                    return Ok(Some(session));
                }
            }
            Ok(None)
        })
        .await?;
    let Some(session) = found else { return Ok(None) };
    if reason == SessionUse::Request && now >= session.last_seen_at + SEEN_EVERY {
        let mut connection = app.pool.acquire().await?;
        store::mark_seen(&mut connection, session.id, now).await?;
    }
    Ok(Some((caller(&session), session)))
}

/// Whether a session that is followed can still be used. This is no use of it: an open page keeps no session alive.
pub(super) async fn is_still_open(app: &App, id: Uuid, now: OffsetDateTime) -> Result<bool, Fault> {
    let idle = Duration::seconds(app.config.console.idle.into());
    app.read(async |connection| match store::find_session_by_id(&app.rows, connection, id).await? {
        Some(session) if session.is_open(now, idle) => may_go_on(connection, &session).await,
        _ => Ok(false),
    })
    .await
}

/// Whether the person may still act: its issuer is trusted, and there was no revoke-all since the authentication.
async fn may_go_on(connection: &mut PgConnection, session: &ConsoleSession) -> Result<bool, Fault> {
    match &session.who {
        None => Ok(true),
        Some(who) => user_not_revoked(connection, who, session.authenticated_at).await,
    }
}

fn caller(session: &ConsoleSession) -> Caller {
    let reference = session.reference();
    let Some(who) = session.who.clone() else {
        return Caller::Admin(PrivilegedCaller::Operator(reference));
    };
    let user = AuthenticatedUser {
        who,
        since: session.authenticated_at,
        until: session.expires_at,
        scopes: Limit::Any,
        session: Some(reference),
    };
    match session.role {
        ConsoleRole::User => Caller::User(user),
        ConsoleRole::Auditor => Caller::Auditor(PrivilegedCaller::Person(user)),
        ConsoleRole::Admin | ConsoleRole::Operator => Caller::Admin(PrivilegedCaller::Person(user)),
    }
}

/// Ends the session of the caller. What is over already stays over.
pub async fn sign_out(ctx: &RequestContext<'_>) -> Result<(), Error> {
    let Some(own) = ctx.caller.session() else { return Err(Refusal::InsufficientScope.into()) };
    let mut work = AuditedTransaction::begin(ctx.pool).await?;
    if store::mark_session_ended(work.connection(), own.session, ctx.now).await? {
        work.commit(&[ctx.event(EventKind::ConsoleSignedOut)]).await?;
    }
    Ok(())
}

/// Ends another session of the same person.
pub async fn end(ctx: &RequestContext<'_>, id: Uuid) -> Result<(), Error> {
    let who = ctx.caller.principal(ctx.issuer);
    let mut work = AuditedTransaction::begin(ctx.pool).await?;
    let found = store::find_session_by_id(ctx.rows, work.connection(), id).await?;
    if found.is_none_or(|session| session.who.is_none() || session.who != who) {
        return Err(Refusal::NotFound.into());
    }
    if store::mark_session_ended(work.connection(), id, ctx.now).await? {
        let kind = EventKind::ConsoleSessionEnded { ended: id, cause: SessionEnd::Person };
        work.commit(&[ctx.event(kind)]).await?;
    }
    Ok(())
}

/// Ends all sessions of the person who calls, its own among them.
pub async fn end_everywhere(ctx: &RequestContext<'_>) -> Result<(), Error> {
    let Some(who) = ctx.caller.principal(ctx.issuer) else { return sign_out(ctx).await };
    let own = ctx.caller.session().map(|own| own.session);
    let mut work = AuditedTransaction::begin(ctx.pool).await?;
    let ended = store::mark_all_ended(work.connection(), &who, ctx.now).await?;
    let event = |one: EndedSession| match own == Some(one.id) {
        true => ctx.event(EventKind::ConsoleSignedOut),
        false => ctx.event(EventKind::ConsoleSessionEnded { ended: one.id, cause: SessionEnd::Person }),
    };
    let events: Vec<Event> = ended.into_iter().map(event).collect();
    match events.is_empty() {
        true => work.abandon().await?,
        false => work.commit(&events).await?,
    }
    Ok(())
}

/// The sessions of the person who calls, newest first.
pub async fn list(ctx: &RequestContext<'_>) -> Result<Vec<ConsoleSession>, Error> {
    let Some(who) = ctx.caller.principal(ctx.issuer) else { return Ok(Vec::new()) };
    let mut connection = ctx.pool.acquire().await.map_err(Fault::from)?;
    Ok(store::sessions_of(ctx.rows, &mut connection, &who).await?)
}
