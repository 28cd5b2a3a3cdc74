//! Authentication of requests to this server's own API: a user of a trusted issuer, or a client with a DPoP-bound
//! token (RFC 6750, RFC 9449 §7).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::caller::{AuthenticatedClient, AuthenticatedUser, Caller, PrivilegedCaller};
use super::client_authentication;
use super::client_request::{ProvenRequest, consume};
use super::dpop::{self, DpopTarget, VerifiedDpopKey};
use super::verify_token;
use crate::app::App;
use crate::domain::audit::RequestOrigin;
use crate::domain::client::{self, Client, ClientKind};
use crate::domain::delegation::candidates::Memory;
use crate::domain::ledger::SingleUseId;
use crate::domain::limit::Limit;
use crate::domain::principal::{self, Principal};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry::{self, ADMIN_SCOPE, AUDIT_SCOPE, DELEGATE_SCOPE};
use crate::domain::row_mac::RowMac;
use crate::domain::subject::{TokenSource, VerifiedSubject};
use crate::domain::{console, delegation, token};
use crate::platform::fault::Fault;
use actchain_protocol::jwt_time::SKEW;

#[derive(Debug)]
pub struct PresentedAccessToken {
    pub scheme: Scheme,
    pub token: String,
    /// The DPoP proof, if present.
    pub proof: Option<String>,
    pub method: String,
    /// Path of the request below the issuer, without the query.
    pub path: String,
    pub origin: RequestOrigin,
}

impl PresentedAccessToken {
    /// The target that a DPoP proof of the request has to name.
    pub(super) fn dpop_target(&self) -> DpopTarget<'_> {
        DpopTarget { method: &self.method, path: &self.path, access_token: Some(&self.token) }
    }
}

/// The authentication scheme of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Bearer,
    Dpop,
}

/// Verifies the token, uses up the proof, and returns the caller.
///
/// # Errors
/// A refusal with status 401 or 403.
pub async fn identify(
    app: &App,
    presented: &PresentedAccessToken,
    now: OffsetDateTime,
) -> Result<Caller, Error> {
    let (caller, proof) = authenticate(app, presented, Memory::Outdated, now).await?;
    let proven =
        ProvenRequest { single_use_ids: proof, keys: caller.proven_keys(), origin: &presented.origin };
    consume(app, proven, now).await?;
    Ok(caller)
}

/// Verifies the token. An agent and its token are not compared with the database, and the proof is not used up: the ledger
/// does both with the entry of the request, or [`RequestProof::settle`].
///
/// # Errors
/// As [`identify`].
pub async fn identify_unsettled(
    app: &App,
    presented: &PresentedAccessToken,
    now: OffsetDateTime,
) -> Result<(Caller, RequestProof), Error> {
    let (caller, proof) = authenticate(app, presented, Memory::Usable, now).await?;
    Ok((caller, RequestProof { ids: RefCell::new(Some(proof)), origin: presented.origin.clone() }))
}

/// The ids that a request uses up, once: with its ledger entry, or alone.
#[derive(Debug)]
pub struct RequestProof {
    ids: RefCell<Option<Vec<SingleUseId>>>,
    origin: RequestOrigin,
}

impl RequestProof {
    /// The ids for an entry that uses them up, and checks the caller; `None` if they were used up before.
    pub(super) fn take(&self) -> Option<Vec<SingleUseId>> {
        self.ids.take()
    }

    /// Uses up the ids, and checks the caller, unless an entry has done it.
    ///
    /// # Errors
    /// A refusal with status 401 of a repeated request, or of a caller whose authority has ended.
    pub async fn settle(&self, app: &App, caller: &Caller, now: OffsetDateTime) -> Result<(), Error> {
        let Some(single_use_ids) = self.ids.take() else { return Ok(()) };
        let is_active =
            app.read(async |connection| caller.is_active(&app.rows, connection, now).await).await?;
        // The holder of a revoked token is not the agent.
        let keys = if is_active { caller.proven_keys() } else { BTreeSet::new() };
        consume(app, ProvenRequest { single_use_ids, keys, origin: &self.origin }, now).await?;
        if is_active { Ok(()) } else { Err(Refusal::AccessTokenInvalid.into()) }
    }
}

async fn authenticate(
    app: &App,
    presented: &PresentedAccessToken,
    memory: Memory,
    now: OffsetDateTime,
) -> Result<(Caller, Vec<SingleUseId>), Error> {
    let possessed = match (presented.scheme, &presented.proof) {
        (Scheme::Bearer, _) => None,
        (Scheme::Dpop, None) => return Err(Refusal::DpopProofMissing.into()),
        (Scheme::Dpop, Some(proof)) => Some(dpop::verify(app, proof, presented.dpop_target(), now)?),
    };
    let verified =
        verify_token::presented_to_us(app, &presented.token, now).await.map_err(as_access_token)?;
    let caller = match &verified.source {
        TokenSource::Local { jti, .. } => {
            let possessed = bound(&verified, possessed.as_ref())?.ok_or(Refusal::AccessTokenBound)?;
            client_of_ours(app, &verified, LocalToken { jti, jkt: &possessed.jkt, memory }, now).await?
        }
        TokenSource::TrustedIssuer { .. } => {
            bound(&verified, possessed.as_ref())?;
            user(app, &verified).await?
        }
    };
    let name = caller.principal(&app.issuer).map(|who| who.key());
    if name.is_some_and(|name| app.limits.requests.count(&name).is_err()) {
        return Err(Refusal::RateLimited.into());
    }
    Ok((caller, possessed.map(|possessed| possessed.single_use_id).into_iter().collect()))
}

impl Caller {
    /// Whether the caller's credentials are still valid and not revoked.
    pub(super) async fn is_active(
        &self,
        rows: &RowMac,
        connection: &mut PgConnection,
        now: OffsetDateTime,
    ) -> Result<bool, Fault> {
        if let Some(own) = self.session() {
            let found = console::store::find_session_by_id(rows, connection, own.session).await?;
            if !found.is_some_and(|session| session.role == own.role && session.is_lasting(now)) {
                return Ok(false);
            }
        }
        match self {
            Self::User(user)
            | Self::Admin(PrivilegedCaller::Person(user))
            | Self::Auditor(PrivilegedCaller::Person(user)) => {
                Ok(now < user.until + SKEW && user_not_revoked(connection, &user.who, user.since).await?)
            }
            Self::Agent(holder)
            | Self::Admin(PrivilegedCaller::Client(holder))
            | Self::Auditor(PrivilegedCaller::Client(holder)) => {
                let client_id = &holder.client.client_id;
                let found = require_active_client(rows, connection, client_id, holder.jti, now).await?;
                Ok(found.is_some_and(|client| client.kind == holder.client.kind))
            }
            Self::Operator
            | Self::Admin(PrivilegedCaller::Operator(_))
            | Self::Auditor(PrivilegedCaller::Operator(_)) => Ok(true),
        }
    }
}

fn as_access_token(stop: Error) -> Error {
    match stop {
        Error::Refused(Refusal::SubjectTokenInvalid(_)) => Error::Refused(Refusal::AccessTokenInvalid),
        other => other,
    }
}

/// A bound token needs a proof by its key; a proof with an unbound token is refused.
fn bound<'a>(
    verified: &VerifiedSubject,
    possessed: Option<&'a VerifiedDpopKey>,
) -> Result<Option<&'a VerifiedDpopKey>, Refusal> {
    match (&verified.jkt, possessed) {
        (None, None) => Ok(None),
        (Some(jkt), Some(possessed)) if *jkt == possessed.jkt => Ok(Some(possessed)),
        _ => Err(Refusal::AccessTokenBound),
    }
}

/// A user whose token has no actor.
async fn user(app: &App, verified: &VerifiedSubject) -> Result<Caller, Error> {
    if verified.act.is_some() {
        return Err(Refusal::AccessTokenInvalid.into());
    }
    let who = verified.subject.clone();
    // A token without `iat` counts as issued at the Unix epoch.
    let since = verified.validity.issued_at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    if !app.read(async |connection| user_not_revoked(connection, &who, since).await).await? {
        return Err(Refusal::AccessTokenInvalid.into());
    }
    // A token without such a claim may be for this server alone, and says nothing about the user's rights.
    let registry = app.registry();
    let says_scopes =
        registry.issuer(&who.iss).is_some_and(|issuer| issuer.declared.claims.scope_claims.is_some());
    let scopes = if says_scopes { verified.scopes.clone() } else { Limit::Any };
    let until = verified.validity.expires_at;
    Ok(Caller::User(AuthenticatedUser { who, since, until, scopes, session: None }))
}

/// Whether the user's issuer is still registered and the token was issued after the last revoke-all. The registry in
/// memory may be older than the issuer's removal.
pub(super) async fn user_not_revoked(
    connection: &mut PgConnection,
    who: &Principal,
    since: OffsetDateTime,
) -> Result<bool, Fault> {
    Ok(registry::store::has_issuer(connection, &who.iss).await?
        && require_active_user(connection, who, since).await?)
}

/// Whether the user's token was issued after the last revoke-all, also if the issuer's clock is ahead.
pub(super) async fn require_active_user(
    connection: &mut PgConnection,
    who: &Principal,
    since: OffsetDateTime,
) -> Result<bool, Fault> {
    let revoked_at = principal::store::revoked_before(connection, who).await?;
    Ok(revoked_at.is_none_or(|at| !principal::covers_foreign_token(at, since)))
}

/// A token of this server, under the key of a proof.
struct LocalToken<'a> {
    jti: &'a str,
    jkt: &'a str,
    /// Whether an agent in memory counts as active.
    memory: Memory,
}

/// A client of this server: its own active token for this server, with the scope that its kind needs.
async fn client_of_ours(
    app: &App,
    verified: &VerifiedSubject,
    LocalToken { jti, jkt, memory }: LocalToken<'_>,
    now: OffsetDateTime,
) -> Result<Caller, Error> {
    if verified.act.is_some() || verified.subject.iss != app.issuer {
        return Err(Refusal::AccessTokenInvalid.into());
    }
    let jti = Uuid::parse_str(jti).map_err(|_| Refusal::AccessTokenInvalid)?;
    let sub = &verified.subject.sub;
    let remembered = match memory {
        Memory::Usable => client_authentication::find(app, sub).await?,
        Memory::Outdated => None,
    };
    let client = match remembered.filter(|client| client.kind == ClientKind::Agent && !client.is_inactive()) {
        Some(agent) => agent,
        None => {
            let reading =
                async |connection: &mut _| require_active_client(&app.rows, connection, sub, jti, now).await;
            Arc::new(app.read(reading).await?.ok_or(Refusal::AccessTokenInvalid)?)
        }
    };
    let has = |scope: &str| matches!(&verified.scopes, Limit::Only(scopes) if scopes.contains(scope));
    let kind = client.kind;
    let holder = AuthenticatedClient { client, jkt: jkt.to_owned(), jti };
    match kind {
        ClientKind::Admin if has(ADMIN_SCOPE) => Ok(Caller::Admin(PrivilegedCaller::Client(holder))),
        ClientKind::Agent if has(DELEGATE_SCOPE) => Ok(Caller::Agent(holder)),
        ClientKind::Auditor if has(AUDIT_SCOPE) => Ok(Caller::Auditor(PrivilegedCaller::Client(holder))),
        _ => Err(Refusal::InsufficientScope.into()),
    }
}

/// The stored client, if the client and its token are active. An ephemeral agent also needs an active delegation with
/// uses left.
pub(super) async fn require_active_client(
    rows: &RowMac,
    connection: &mut PgConnection,
    client_id: &str,
    jti: Uuid,
    now: OffsetDateTime,
) -> Result<Option<Client>, Fault> {
    let standing = token::store::standing(rows, connection, jti).await?;
    if standing.is_none_or(|standing| standing.check(now).is_err()) {
        return Ok(None);
    }
    let client =
        client::store::find(rows, connection, client_id).await?.filter(|client| !client.is_inactive());
    let Some(home) =
        client.as_ref().and_then(|client| client.ephemeral.as_ref()).map(|agent| agent.delegation_id.clone())
    else {
        return Ok(client);
    };
    let home = delegation::store::path(rows, connection, &home).await?;
    Ok(client.filter(|_| home.is_some_and(|path| path.check(now).is_ok())))
}
