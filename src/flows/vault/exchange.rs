//! Taking a credential out of the vault by token exchange (RFC 8693): the subject token is the agent's own token of a
//! chain, and what is issued is a token of somebody else, which has a type of its own (standards TE-47).

use std::sync::Arc;

use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::retrieve;
use super::visit::{Purpose, Visit};
use crate::app::App;
use crate::domain::audit::store::Place;
use crate::domain::audit::{Action, Actor, Event};
use crate::domain::client::Grant;
use crate::domain::delegation::candidates::Memory;
use crate::domain::ledger::{Effect, Entry, Guards, Spend};
use crate::domain::refusal::{Refusal, Stop};
use crate::flows::client_request::{ClientRequest, prove};
use crate::flows::possess::{self, Endpoint};
use crate::flows::prove::Authenticated;
use crate::flows::verify_token;
use crate::platform::fault::Fault;
use crate::protocol::authorization_details::Details;
use crate::protocol::token_exchange::PresentedToken;

/// A request for a token of the vault, as far as its form goes.
#[derive(Debug)]
pub struct ExchangeRequest {
    /// Who asks, under which key, from where.
    pub from: ClientRequest,
    /// Under which token, for what: one object that names a connection.
    pub asked: Result<(PresentedToken, Details), Refusal>,
}

/// Answers the JSON document of a token response (RFC 8693 §2.2.1), cleared after use, and where the log has it.
///
/// # Errors
/// A refusal, which has been recorded if the client is known.
pub async fn exchange(
    app: &Arc<App>,
    request: &ExchangeRequest,
    now: OffsetDateTime,
) -> Result<(Zeroizing<Vec<u8>>, Option<Place>), Stop> {
    let Authenticated { client, asserted } = prove(app, &request.from, now, Memory::Usable).await??;
    if app.requests.count(&client.client_id).is_err() {
        return Err(Refusal::Throttled.into());
    }
    let mut spends: Vec<Spend> = asserted.into_iter().map(|asserted| asserted.spend).collect();
    let actor = Actor::client(&client.client_id, None);
    let mut event = Event::new(now, Action::VaultTokenRetrieved, actor);
    event.origin = request.from.origin.clone();
    let found = async {
        if !client.grant_types.contains(&Grant::TokenExchange) {
            return Err(Stop::Refused(Refusal::UnauthorizedClient));
        }
        let proof = request.from.proof.as_ref().map_err(|refusal| *refusal)?;
        let at = Endpoint::post("/oauth/token");
        let possessed = possess::possess(app, (&client, at), proof.as_deref(), now)?;
        let possessed = possessed.ok_or(Refusal::ProofMissing)?;
        spends.push(possessed.spend);
        event.actor.jkt = Some(possessed.jkt.clone());
        let (presented, details) = request.asked.as_ref().map_err(|refusal| *refusal)?;
        let [detail] = details.0.as_slice() else { return Err(Refusal::DetailsMalformed.into()) };
        let connection = detail.identifier.clone().ok_or(Refusal::DetailsMalformed)?;
        let registry = app.current_registry().await?;
        let token = verify_token::subject(app, presented, (&client, &registry), now).await?;
        event.subject = Some(token.subject.clone());
        if !token.is_held_by(&client.client_id, &app.issuer) {
            return Err(Refusal::NoDelegation.into());
        }
        if token.jkt.as_ref() != Some(&possessed.jkt) {
            return Err(Refusal::SubjectKeyMismatch.into());
        }
        if !token.audiences.allows(&app.issuer) {
            return Err(Refusal::TargetRefused.into());
        }
        let visit = Visit::of(app, (token, possessed.key), (client, event.origin.clone()), now).await?;
        Ok((visit, connection))
    }
    .await;
    let (mut visit, connection) = match found {
        Ok(found) => found,
        Err(Stop::Refused(refusal)) => {
            record(app, (event.refused(refusal), spends), now).await?;
            return Err(refusal.into());
        }
        Err(failed) => return Err(failed),
    };
    visit.also_spends(spends);
    let taken = visit.take(app, (&connection, Purpose::Retrieve(None))).await.map_err(|stop| match stop {
        Stop::Refused(Refusal::NotFound) => Stop::Refused(Refusal::TargetRefused),
        other => other,
    })?;
    Ok((retrieve::exchanged(&taken, visit.now)?, visit.place))
}

/// What was refused before anything was known of the connection.
async fn record(app: &App, (event, spends): (Event, Vec<Spend>), now: OffsetDateTime) -> Result<(), Fault> {
    let entry = Entry { now, spends, guards: Guards::default(), effect: Effect::Nothing, event: Some(event) };
    let recorded = app.ledger.record(entry).await;
    recorded.map(drop).map_err(|problem| Fault::new(format!("the ledger is not available: {problem:?}")))
}
