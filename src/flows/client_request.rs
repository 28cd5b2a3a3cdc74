//! A request that comes under a client's own credentials (RFC 6749 §2.3), at any of the OAuth endpoints. A failure that
//! names a client of ours is recorded, up to a number a minute: strangers must not be able to fill the log.

use std::sync::Arc;

use time::OffsetDateTime;

use super::possess::{self, Endpoint};
use super::prove::{self, Authenticated, Circumstances, Credentials, NotAuthenticated};
use crate::app::App;
use crate::domain::audit::{Action, Actor, Event, Origin};
use crate::domain::client::{self, Client};
use crate::domain::delegation::candidates::Memory;
use crate::domain::ledger::{Effect, Entry, Guards, Recorded, Spend, Unrecorded};
use crate::domain::refusal::{Refusal, Stop};
use crate::platform::fault::Fault;

/// Who asks, under which key, from where.
#[derive(Debug)]
pub struct ClientRequest {
    /// The endpoint's path below the issuer's.
    pub path: &'static str,
    /// Who.
    pub credentials: Credentials,
    /// Under which key.
    pub proof: Result<Option<String>, Refusal>,
    /// From where.
    pub origin: Origin,
}

/// Authenticates the client. The inner error is an answer that has been seen to.
pub async fn prove(
    app: &App,
    request: &ClientRequest,
    now: OffsetDateTime,
    memory: Memory,
) -> Result<Result<Authenticated, Refusal>, Stop> {
    // A client that has nothing but a key is nobody before the key is proved.
    let jkt = match &request.credentials {
        Credentials::Key { .. } => {
            let proof = request.proof.as_ref().map_err(|refusal| *refusal)?.as_deref();
            let at = Endpoint::post(request.path);
            Some(possess::verify(app, proof.ok_or(Refusal::ProofMissing)?, at, now)?.jkt)
        }
        _ => None,
    };
    let circumstances = Circumstances { jkt: jkt.as_deref(), peer: request.origin.ip, now, memory };
    match prove::authenticate(app, &request.credentials, circumstances).await {
        Ok(authenticated) => Ok(Ok(authenticated)),
        Err(failed) => turn_away(app, request, failed, now).map(Err),
    }
}

/// Authenticates the client of a request that issues nothing, and uses up its assertion and its proof. No guard of the
/// ledger will compare it with what is stored, so that is done here: whoever was disabled or changed is not remembered
/// as it was.
pub async fn known(app: &App, request: &ClientRequest, now: OffsetDateTime) -> Result<Arc<Client>, Stop> {
    let mut authenticated = prove(app, request, now, Memory::Usable).await??;
    let client_id = authenticated.client.client_id.clone();
    let stored = app.read(async |connection| client::store::version(connection, &client_id).await).await?;
    if stored != Some(authenticated.client.version) {
        app.clients.invalidate(&client_id);
        authenticated = prove(app, request, now, Memory::Outdated).await??;
    }
    let Authenticated { client, asserted } = authenticated;
    if app.requests.count(&client.client_id).is_err() {
        return Err(Refusal::Throttled.into());
    }
    let proof = request.proof.as_ref().map_err(|refusal| *refusal)?.as_deref();
    let possessed = match proof {
        Some(_) => possess::possess(app, (&client, Endpoint::post(request.path)), proof, now)?,
        None => None,
    };
    let spends: Vec<Spend> = asserted
        .map(|asserted| asserted.spend)
        .into_iter()
        .chain(possessed.map(|possessed| possessed.spend))
        .collect();
    spend(app, spends, now).await?;
    Ok(client)
}

/// Uses ids up.
pub async fn spend(app: &App, spends: Vec<Spend>, now: OffsetDateTime) -> Result<(), Stop> {
    if spends.is_empty() {
        return Ok(());
    }
    let entry = Entry { now, spends, guards: Guards::default(), effect: Effect::Nothing, event: None };
    match app.ledger.record(entry).await {
        Ok(Recorded::Done(_)) => Ok(()),
        Ok(Recorded::Refused(refusal)) => Err(refusal.into()),
        Ok(Recorded::Stale) => Err(Fault::new("an entry without grounds is never stale").into()),
        Err(unrecorded) => Err(Fault::new(format!("the ledger is not available: {unrecorded:?}")).into()),
    }
}

/// Nothing that is presented is stored. The answer does not wait until its event is recorded: the time that takes would
/// tell which clients there are, and nothing but the event comes of it.
fn turn_away(
    app: &App,
    request: &ClientRequest,
    failed: NotAuthenticated,
    now: OffsetDateTime,
) -> Result<Refusal, Stop> {
    let (Some(client), Stop::Refused(refusal)) = (failed.client, &failed.stop) else {
        return Err(failed.stop);
    };
    if app.failures.count(&client.client_id) {
        let actor = Actor::client(&client.client_id, None);
        let mut event = Event::new(now, Action::TokenRefused, actor).refused(*refusal);
        event.origin = request.origin.clone();
        let entry = Entry {
            now,
            spends: Vec::new(),
            guards: Guards::default(),
            effect: Effect::Nothing,
            event: Some(event),
        };
        match app.ledger.enqueue(entry) {
            Ok(recorded) => drop(app.to_its_end(async move {
                if let Err(unrecorded) = recorded.await {
                    not_recorded(unrecorded);
                }
            })),
            Err(unrecorded) => not_recorded(unrecorded),
        }
    }
    Ok(*refusal)
}

fn not_recorded(unrecorded: Unrecorded) {
    tracing::error!(?unrecorded, "a failed authentication was not recorded");
    metrics::counter!("actchain_faults_total").increment(1);
}
