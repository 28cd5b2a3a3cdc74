//! Retrieval of a stored credential by token exchange (RFC 8693 §2). The subject token is the agent's own delegated
//! token; the issued token belongs to the provider and has its own token type.

use std::sync::Arc;

use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::purpose::{RecordedPurpose, RetrievalPurpose};
use super::retrieval::{ATTEMPTS, AuthenticatedAgent, RetrievalContext, too_many_attempts};
use super::retrieve;
use crate::app::App;
use crate::domain::audit::store::LeafRef;
use crate::domain::audit::{Actor, Event};
use crate::domain::client::GrantType;
use crate::domain::delegation::candidates::Memory;
use crate::domain::ledger::{Entry, Guards, SingleUseId};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::standing_grant::suspension::ProvenClientKey;
use crate::services::client_authentication::VerifiedClient;
use crate::services::client_request::{ClientCredentialsInput, authenticate};
use crate::services::dpop::{self, DpopTarget};
use crate::services::standing_grants;
use crate::services::verify_token::TokenVerifier;
use actchain_protocol::authorization_details::Details;
use actchain_protocol::token_exchange::PresentedToken;

/// A parsed exchange request for a stored credential.
#[derive(Debug)]
pub struct VaultExchangeRequest {
    pub from: ClientCredentialsInput,
    /// The subject token and one authorization details object that names a connection.
    pub asked: Result<(PresentedToken, Details), Refusal>,
}

/// Effects of earlier attempts of the same request.
#[derive(Default)]
struct Earlier {
    /// Ids that earlier attempts have used up.
    consumed: Vec<SingleUseId>,
    memory: Memory,
}

/// A request whose client, proof and subject token are verified.
struct Prepared {
    context: RetrievalContext,
    connection: String,
    single_use_ids: Vec<SingleUseId>,
}

/// Returns the JSON of the token response (RFC 8693 §2.2.1), zeroed after use, and the event's position.
///
/// # Errors
/// A refusal, recorded if the client is known.
pub async fn exchange(
    app: &Arc<App>,
    request: &VaultExchangeRequest,
    now: OffsetDateTime,
) -> Result<(Zeroizing<Vec<u8>>, Option<LeafRef>), Error> {
    let mut earlier = Earlier::default();
    for _ in 0..ATTEMPTS {
        let Prepared { mut context, connection, single_use_ids } =
            prepare(app, request, &earlier, now).await?;
        context.add_single_use_ids(single_use_ids.clone());
        let taken =
            context.attempt(app, &connection, RetrievalPurpose::Retrieve(None)).await.map_err(|stop| {
                match stop {
                    Error::Refused(Refusal::NotFound) => Error::Refused(Refusal::ResourceRefused),
                    other => other,
                }
            })?;
        if let Some(taken) = taken {
            return Ok((retrieve::exchanged(&taken, context.now)?, context.place));
        }
        // The client may have changed: it authenticates again, against what is stored.
        earlier.consumed.extend(single_use_ids);
        earlier.memory = Memory::Outdated;
    }
    Err(too_many_attempts())
}

async fn prepare(
    app: &Arc<App>,
    request: &VaultExchangeRequest,
    earlier: &Earlier,
    now: OffsetDateTime,
) -> Result<Prepared, Error> {
    let VerifiedClient { client, asserted } = authenticate(app, &request.from, now, earlier.memory).await?;
    if earlier.memory == Memory::Usable && app.limits.requests.count(&client.client_id).is_err() {
        return Err(Refusal::RateLimited.into());
    }
    let signed_by = asserted.iter().map(|asserted| &asserted.key);
    let mut proved_keys = ProvenClientKey::all(&client.client_id, signed_by);
    let mut single_use_ids: Vec<SingleUseId> =
        asserted.into_iter().map(|asserted| asserted.single_use_id).collect();
    let actor = Actor::client(&client.client_id, None);
    let recorded = RecordedPurpose::Retrieval { sealed: false };
    let mut event = Event::new(now, recorded.clone().refused(Refusal::UnauthorizedClient), actor);
    event.origin = request.from.origin.clone();
    let found = async {
        if !client.grant_types.contains(&GrantType::TokenExchange) {
            return Err(Error::Refused(Refusal::UnauthorizedClient));
        }
        let proof = request.from.proof.as_ref().map_err(|refusal| *refusal)?;
        let target = DpopTarget::post("/oauth/token");
        let possessed = dpop::prove(app, &client, proof.as_deref(), target, now)?;
        let possessed = possessed.ok_or(Refusal::DpopProofMissing)?;
        single_use_ids.push(possessed.single_use_id);
        // A key that the client may not use suspends, too: its secret is in other hands.
        proved_keys.extend(ProvenClientKey::all(&client.client_id, std::iter::once(&possessed.jkt)));
        if !client.may_use_key(&possessed.jkt) {
            return Err(Refusal::DpopProofKeyUnknown.into());
        }
        event.actor = Actor::client(&client.client_id, Some(possessed.jkt.clone()));
        let (presented, details) = request.asked.as_ref().map_err(|refusal| *refusal)?;
        let [detail] = details.0.as_slice() else {
            return Err(Refusal::AuthorizationDetailsMalformed.into());
        };
        let connection = detail.identifier.clone().ok_or(Refusal::AuthorizationDetailsMalformed)?;
        let registry = app.current_registry().await?;
        let token = TokenVerifier { app, registry: &registry, now }.subject(presented, &client).await?;
        event.subject = Some(token.subject.clone());
        if !token.is_held_by(&client.client_id, &app.issuer) {
            return Err(Refusal::DelegationRequired.into());
        }
        if token.jkt.as_ref() != Some(&possessed.jkt) {
            return Err(Refusal::SubjectKeyMismatch.into());
        }
        if !token.audiences.allows(&app.issuer) {
            return Err(Refusal::ResourceRefused.into());
        }
        let agent = AuthenticatedAgent { token, key: possessed.key, client, origin: event.origin.clone() };
        let mut context = RetrievalContext::of(app, agent, earlier.memory, now).await?;
        context.authenticated_by(proved_keys.clone());
        Ok((context, connection))
    }
    .await;
    single_use_ids.retain(|one| !earlier.consumed.contains(one));
    match found {
        Ok((context, connection)) => Ok(Prepared { context, connection, single_use_ids }),
        Err(Error::Refused(refusal)) => {
            let event = Event { kind: recorded.refused(refusal), reason: Some(refusal.reason()), ..event };
            // It precedes the lookup of the connection.
            let guards = Guards { proved_keys, ..Guards::default() };
            let origin = event.origin.clone();
            let entry = Entry { single_use_ids, guards, event: Some(event), ..Entry::at(now) };
            // A request that is refused twice has one answer.
            if let Err(failed @ Error::Failed(_)) = standing_grants::record_proven(app, entry, &origin).await
            {
                return Err(failed);
            }
            Err(refusal.into())
        }
        Err(failed) => Err(failed),
    }
}
