//! Who presents an access token at our own interface: a user of a trusted issuer in person, or a client of ours under its
//! key (RFC 6750, RFC 9449 §7).

use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use super::client_request::spend;
use super::desk::Caller;
use super::possess::{self, Endpoint, Possessed};
use super::verify_token;
use crate::app::App;
use crate::domain::client::{self, Client, Kind};
use crate::domain::limit::Limit;
use crate::domain::refusal::{Refusal, Stop};
use crate::domain::registry::{ADMIN_SCOPE, DELEGATE_SCOPE};
use crate::domain::subject::{Source, VerifiedSubject};
use crate::domain::{delegation, principal, token};
use crate::protocol::jwt_time::SKEW;

/// An access token as it came.
#[derive(Debug)]
pub struct PresentedAccess {
    /// By which scheme.
    pub scheme: Scheme,
    /// The token.
    pub token: String,
    /// The proof, where there is one.
    pub proof: Option<String>,
}

/// How an access token is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// RFC 6750.
    Bearer,
    /// RFC 9449.
    Dpop,
}

/// Finds out who it is.
///
/// # Errors
/// A refusal to be answered with 401 or 403.
pub async fn identify(
    app: &App,
    presented: &PresentedAccess,
    (method, path): (&str, &str),
    now: OffsetDateTime,
) -> Result<Caller, Stop> {
    let possessed = match (presented.scheme, &presented.proof) {
        (Scheme::Bearer, _) => None,
        (Scheme::Dpop, None) => return Err(Refusal::ProofMissing.into()),
        (Scheme::Dpop, Some(proof)) => {
            let at = Endpoint { method, path, access_token: Some(&presented.token) };
            Some(possess::verify(app, proof, at, now)?)
        }
    };
    let verified =
        verify_token::presented_to_us(app, &presented.token, now).await.map_err(as_access_token)?;
    let caller = match &verified.source {
        Source::Own { jti, .. } => {
            let possessed = bound(&verified, possessed.as_ref())?.ok_or(Refusal::AccessTokenBound)?;
            client_of_ours(app, &verified, (jti, &possessed.jkt), now).await?
        }
        Source::Foreign { .. } => {
            bound(&verified, possessed.as_ref())?;
            user(app, &verified).await?
        }
    };
    let name = caller.principal(&app.issuer).map(|who| format!("{} {}", who.iss, who.sub));
    if name.is_some_and(|name| app.requests.count(&name).is_err()) {
        return Err(Refusal::Throttled.into());
    }
    spend(app, possessed.map(|possessed| possessed.spend).into_iter().collect(), now).await?;
    Ok(caller)
}

fn as_access_token(stop: Stop) -> Stop {
    match stop {
        Stop::Refused(Refusal::SubjectTokenInvalid) => Stop::Refused(Refusal::AccessTokenInvalid),
        other => other,
    }
}

/// A bound token comes with a proof by its key; a proof beside an unbound token proves nothing and is refused.
fn bound<'a>(
    verified: &VerifiedSubject,
    possessed: Option<&'a Possessed>,
) -> Result<Option<&'a Possessed>, Refusal> {
    match (&verified.jkt, possessed) {
        (None, None) => Ok(None),
        (Some(jkt), Some(possessed)) if *jkt == possessed.jkt => Ok(Some(possessed)),
        _ => Err(Refusal::AccessTokenBound),
    }
}

/// A user in person: nobody acts for it, and what it presents is younger than its last cut-off, also if
/// the clock of its issuer is ahead of ours.
async fn user(app: &App, verified: &VerifiedSubject) -> Result<Caller, Stop> {
    if verified.act.is_some() {
        return Err(Refusal::AccessTokenInvalid.into());
    }
    let who = &verified.subject;
    let cutoff = app.read(async |connection| principal::store::cutoff(connection, who).await).await?;
    let since = verified.validity.issued_at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    if cutoff.is_some_and(|at| at + SKEW >= since) {
        return Err(Refusal::AccessTokenInvalid.into());
    }
    Ok(Caller::User(who.clone()))
}

/// A client of ours: its own token, for us, standing, and with the scope that its kind needs.
async fn client_of_ours(
    app: &App,
    verified: &VerifiedSubject,
    (jti, jkt): (&str, &str),
    now: OffsetDateTime,
) -> Result<Caller, Stop> {
    let client_id = &verified.subject.sub;
    if verified.act.is_some() || verified.subject.iss != app.issuer {
        return Err(Refusal::AccessTokenInvalid.into());
    }
    let jti = Uuid::parse_str(jti).map_err(|_| Refusal::AccessTokenInvalid)?;
    let (standing, client) = app
        .read(async |connection| {
            let standing = token::store::standing(connection, jti).await?;
            Ok((standing, client::store::find(connection, client_id).await?))
        })
        .await?;
    let stands = standing.is_some_and(|standing| standing.check(now).is_ok());
    let client = client.filter(|client| stands && !client.is_out()).ok_or(Refusal::AccessTokenInvalid)?;
    if let Some(agent) = &client.ephemeral {
        let home =
            app.read(async |connection| delegation::store::path(connection, &agent.home).await).await?;
        if home.is_none_or(|path| path.check(now).is_err()) {
            return Err(Refusal::AccessTokenInvalid.into());
        }
    }
    kind_of_caller(Arc::new(client), &verified.scopes, jkt.to_owned()).map_err(Stop::Refused)
}

fn kind_of_caller(client: Arc<Client>, scopes: &Limit, jkt: String) -> Result<Caller, Refusal> {
    let has = |scope: &str| matches!(scopes, Limit::Only(scopes) if scopes.contains(scope));
    match client.kind {
        Kind::Admin if has(ADMIN_SCOPE) => Ok(Caller::Admin(client, jkt)),
        Kind::Agent if has(DELEGATE_SCOPE) => Ok(Caller::Agent(client, jkt)),
        _ => Err(Refusal::InsufficientScope),
    }
}
