//! Client authentication at the OAuth endpoints (RFC 6749 §2.3). A failure for an existing client is recorded, up to
//! a limit per minute, so that unauthenticated requests cannot fill the log.

use std::collections::BTreeSet;
use std::sync::Arc;

use time::OffsetDateTime;

use super::client_authentication::{self, AuthContext, AuthenticationError, Credentials, VerifiedClient};
use super::dpop::{self, DpopTarget};
use super::{published_keys, standing_grants};
use crate::app::App;
use crate::domain::audit::detail::{TokenRefusal, cause};
use crate::domain::audit::{Actor, Event, EventKind, RequestOrigin};
use crate::domain::client::{self, Client};
use crate::domain::delegation::candidates::Memory;
use crate::domain::ledger::{Entry, Guards, LedgerError, SingleUseId};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::standing_grant::suspension::ProvenClientKey;

/// An OAuth endpoint at which clients authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OauthEndpoint {
    Token,
    Revocation,
    Introspection,
}

impl OauthEndpoint {
    /// Path, relative to the issuer.
    pub fn path(self) -> &'static str {
        match self {
            Self::Token => "/oauth/token",
            Self::Revocation => "/oauth/revoke",
            Self::Introspection => "/oauth/introspect",
        }
    }

    /// The event of a refused request.
    fn refused(self, refusal: Refusal) -> EventKind {
        match self {
            Self::Token => EventKind::TokenRefused(TokenRefusal::of(refusal)),
            Self::Revocation => EventKind::TokenRevocationRefused { cause: cause(refusal) },
            Self::Introspection => EventKind::TokenIntrospectionRefused { cause: cause(refusal) },
        }
    }
}

/// The client's credentials, DPoP proof and origin.
#[derive(Debug)]
pub struct ClientCredentialsInput {
    pub endpoint: OauthEndpoint,
    pub credentials: Credentials,
    pub proof: Result<Option<String>, Refusal>,
    pub origin: RequestOrigin,
}

/// Authenticates the client, and records a failure.
pub async fn authenticate(
    app: &App,
    request: &ClientCredentialsInput,
    now: OffsetDateTime,
    memory: Memory,
) -> Result<VerifiedClient, Error> {
    // A client without a secret or assertion is identified only by its verified key.
    let jkt = match &request.credentials {
        Credentials::Key { .. } => {
            let proof = request.proof.as_ref().map_err(|refusal| *refusal)?.as_deref();
            let at = DpopTarget::post(request.endpoint.path());
            Some(dpop::verify(app, proof.ok_or(Refusal::DpopProofMissing)?, at, now)?.jkt)
        }
        _ => None,
    };
    let circumstances = AuthContext { jkt: jkt.as_deref(), peer: request.origin.ip, now, memory };
    let result = client_authentication::authenticate(app, &request.credentials, circumstances).await;
    // Only the client itself has its keys compared.
    if let Ok(authenticated) = &result {
        published_keys::compare(app, &authenticated.client).await?;
    }
    result.map_err(|failed| {
        record_failure(app, request, &failed, now);
        failed.stop
    })
}

/// Authenticates the client of a request that issues nothing, and uses up its assertion and proof. No ledger guard
/// compares the client's version, so the stored client is read here: a cached client may be disabled or changed.
pub async fn known(
    app: &App,
    request: &ClientCredentialsInput,
    now: OffsetDateTime,
) -> Result<Arc<Client>, Error> {
    let authenticated = authenticate(app, request, now, Memory::Usable).await?;
    let client_id = &authenticated.client.client_id;
    let stored = app.read(async |connection| client::store::version(connection, client_id).await).await?;
    proven(app, request, KnownClient { authenticated, stored }, now).await
}

/// A client that was authenticated by what this server remembers, and its stored version.
pub(super) struct KnownClient {
    pub(super) authenticated: VerifiedClient,
    pub(super) stored: Option<i64>,
}

impl KnownClient {
    /// Whether the client is stored otherwise than this server remembers.
    pub(super) fn has_changed(&self) -> bool {
        self.stored != Some(self.authenticated.client.version)
    }

    /// Whether it has an assertion, which is used up.
    pub(super) fn asserts(&self) -> bool {
        self.authenticated.asserted.is_some()
    }
}

/// Authenticates the client again if it has changed, and uses up its assertion and proof.
pub(super) async fn proven(
    app: &App,
    request: &ClientCredentialsInput,
    known: KnownClient,
    now: OffsetDateTime,
) -> Result<Arc<Client>, Error> {
    let has_changed = known.has_changed();
    let mut authenticated = known.authenticated;
    if has_changed {
        app.caches.clients.invalidate(&authenticated.client.client_id);
        authenticated = authenticate(app, request, now, Memory::Outdated).await?;
    }
    let VerifiedClient { client, asserted } = authenticated;
    if app.limits.requests.count(&client.client_id).is_err() {
        return Err(Refusal::RateLimited.into());
    }
    let target = DpopTarget::post(request.endpoint.path());
    let proof = request.proof.as_ref().map_err(|refusal| *refusal);
    let possessed = proof.and_then(|proof| match proof {
        Some(proof) => dpop::verify(app, proof, target, now).map(Some),
        None => Ok(None),
    });
    // What was proven counts, also where the request is refused.
    let (possessed, refused) = match possessed {
        Ok(Some(one)) if !client.may_use_key(&one.jkt) => (Some(one), Some(Refusal::DpopProofKeyUnknown)),
        Ok(possessed) => (possessed, None),
        // The same assertion may come again with the nonce (RFC 9449 §8).
        Err(refusal @ Refusal::NonceRequired) => return Err(refusal.into()),
        Err(refusal) => (None, Some(refusal)),
    };
    let keys = asserted.iter().map(|asserted| &asserted.key).chain(possessed.iter().map(|one| &one.jkt));
    let keys = ProvenClientKey::all(&client.client_id, keys);
    let single_use_ids: Vec<SingleUseId> = asserted
        .map(|asserted| asserted.single_use_id)
        .into_iter()
        .chain(possessed.map(|possessed| possessed.single_use_id))
        .collect();
    consume(app, ProvenRequest { single_use_ids, keys, origin: &request.origin }, now).await?;
    match refused {
        None => Ok(client),
        Some(refusal) => Err(refusal.into()),
    }
}

/// What a request of a client proves.
pub struct ProvenRequest<'a> {
    pub single_use_ids: Vec<SingleUseId>,
    pub keys: BTreeSet<ProvenClientKey>,
    pub origin: &'a RequestOrigin,
}

/// Uses up the ids of a request, and suspends standing grants that do not pin its keys.
pub async fn consume(app: &App, proven: ProvenRequest<'_>, now: OffsetDateTime) -> Result<(), Error> {
    let ProvenRequest { single_use_ids, keys, origin } = proven;
    if single_use_ids.is_empty() {
        return Ok(());
    }
    let guards = Guards { proved_keys: keys, ..Guards::default() };
    let entry = Entry { single_use_ids, guards, ..Entry::at(now) };
    standing_grants::record_proven(app, entry, origin).await
}

/// Records a failed authentication without the presented values. The response does not wait for the event, because
/// the delay would show which clients exist.
fn record_failure(
    app: &App,
    request: &ClientCredentialsInput,
    failed: &AuthenticationError,
    now: OffsetDateTime,
) {
    let (Some(client), Error::Refused(refusal)) = (&failed.client, &failed.stop) else { return };
    if app.limits.failures.count(&client.client_id) {
        let actor = Actor::client(&client.client_id, None);
        let event = Event::refusal(now, request.endpoint.refused(*refusal), actor, *refusal);
        let event = Event { origin: request.origin.clone(), ..event };
        let entry = Entry { event: Some(event), ..Entry::at(now) };
        match app.ledger.enqueue(entry) {
            Ok(recorded) => drop(app.detached.spawn(async move {
                if let Err(error) = recorded.await {
                    not_recorded(error);
                }
            })),
            Err(error) => not_recorded(error),
        }
    }
}

fn not_recorded(error: LedgerError) {
    tracing::error!(?error, "a failed authentication was not recorded");
    metrics::counter!("actchain_errors_total").increment(1);
}
