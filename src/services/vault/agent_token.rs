//! Authentication of an agent at the vault by its token of a chain, under the key of a DPoP proof (RFC 9449 §7).

use time::OffsetDateTime;

use super::retrieval::{AuthenticatedAgent, RetrievalContext};
use crate::app::App;
use crate::domain::delegation::candidates::Memory;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::subject::TokenSource;
use crate::services::access_token_auth::{PresentedAccessToken, Scheme};
use crate::services::dpop::{self, VerifiedDpopKey};
use crate::services::{client_authentication, verify_token};

/// Authenticates the agent of a presented token, and finds its delegation.
pub(super) async fn authenticate(
    app: &App,
    presented: &PresentedAccessToken,
    now: OffsetDateTime,
) -> Result<RetrievalContext, Error> {
    let proof = match (presented.scheme, &presented.proof) {
        (Scheme::Bearer, _) => None,
        (Scheme::Dpop, None) => return Err(Refusal::DpopProofMissing.into()),
        (Scheme::Dpop, Some(proof)) => Some(proof),
    };
    let possessed = proof.map(|proof| dpop::verify(app, proof, presented.dpop_target(), now)).transpose()?;
    let token =
        verify_token::presented_to_us(app, &presented.token, now).await.map_err(|stop| match stop {
            Error::Refused(Refusal::SubjectTokenInvalid(_)) => Error::Refused(Refusal::AccessTokenInvalid),
            other => other,
        })?;
    let TokenSource::Local { .. } = &token.source else { return Err(Refusal::InsufficientScope.into()) };
    let possessed = match possessed {
        Some(possessed) if token.jkt.as_ref() == Some(&possessed.jkt) => possessed,
        _ => return Err(Refusal::AccessTokenBound.into()),
    };
    // A token without an actor cannot retrieve credentials.
    let act = token.act.as_ref().ok_or(Refusal::InsufficientScope)?;
    let client = client_authentication::find(app, &act.sub).await?.ok_or(Refusal::AccessTokenInvalid)?;
    if app.limits.requests.count(&client.client_id).is_err() {
        return Err(Refusal::RateLimited.into());
    }
    let VerifiedDpopKey { key, single_use_id, .. } = possessed;
    let agent = AuthenticatedAgent { token, key, client, origin: presented.origin.clone() };
    let mut context = RetrievalContext::of(app, agent, Memory::Usable, now).await?;
    context.add_single_use_ids(vec![single_use_id]);
    Ok(context)
}
