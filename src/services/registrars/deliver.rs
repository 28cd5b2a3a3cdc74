//! Registers agents, and deletes them after their end: at least once, in the order in which the agents were made.
//! A registrar that does not answer delays no other. No request runs inside a transaction.

use std::time::Duration;

use secrecy::SecretString;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::requests::{self, RequestProblem};
use crate::app::App;
use crate::domain::audit::detail::{DeletedAgent, RegisteredAgent, RegistrarOperation};
use crate::domain::audit::{Actor, Event, EventKind};
use crate::domain::client;
use crate::domain::registrar::store::{self, FailedAttempt, FailedRequest, RegistrationLease};
use crate::domain::registrar::{
    self, AgentRegistration, REPORTED_ATTEMPT, Registrar, from_bytes, registration_aad, to_bytes,
};
use crate::platform::fault::Fault;
use crate::services::transaction::AuditedTransaction;
use actchain_protocol::client_registration::{ClientConfiguration, Registration};
use actchain_protocol::random;

/// Longer than the two requests of one registration may take.
const LEASE_SECONDS: f64 = 30.0;
/// How long one run sends requests to one registrar.
const TURN: Duration = Duration::from_secs(10);

/// A registrar with its opened secret.
struct OpenedRegistrar<'a> {
    registrar: &'a Registrar,
    secret: Option<SecretString>,
    /// The `Authorization` of this run, once it is known.
    authorization: Option<Option<Zeroizing<String>>>,
}

/// All registrars. Also measures what is left to do at each.
pub async fn due(app: &App) -> Result<Vec<Registrar>, Fault> {
    let mut connection = app.pool.acquire().await?;
    for backlog in store::backlogs(&mut connection).await? {
        let waiting = i32::try_from(backlog.waiting).unwrap_or(i32::MAX);
        metrics::gauge!("actchain_registrar_backlog", "registrar" => backlog.registrar).set(waiting);
    }
    store::list(&mut connection).await
}

/// Does what is due at one registrar, until it fails or the turn is over. Returns the number of agents that were registered or
/// deleted.
pub async fn run(app: &App, registrar: &Registrar) -> Result<usize, Fault> {
    let until = Instant::now() + TURN;
    let mut connection = app.pool.acquire().await?;
    let secret = registrar.secret(&app.vault.keys, &mut connection).await?;
    drop(connection);
    let mut opened = OpenedRegistrar { registrar, secret, authorization: None };
    let mut done = 0;
    while Instant::now() < until {
        let now = app.clock.now();
        let lease = RegistrationLease { id: random::id(now)?, seconds: LEASE_SECONDS, now };
        let mut connection = app.pool.acquire().await?;
        let found = store::mark_leased(&mut connection, &registrar.id, lease).await?;
        drop(connection);
        let Some(one) = found else { break };
        if !turn(app, &mut opened, one, lease).await? {
            break;
        }
        done += 1;
    }
    Ok(done)
}

/// Registers or deletes one agent; `false` if that failed.
async fn turn(
    app: &App,
    opened: &mut OpenedRegistrar<'_>,
    one: AgentRegistration,
    lease: RegistrationLease,
) -> Result<bool, Fault> {
    let registrar = opened.registrar;
    let operation = if one.has_ended { RegistrarOperation::Delete } else { RegistrarOperation::Register };
    let result = match operation {
        RegistrarOperation::Register => register(app, opened, &one, lease).await,
        RegistrarOperation::Delete => delete(app, registrar, &one, lease).await,
    };
    let problem = match result {
        Ok(()) => return Ok(true),
        Err(TurnError::Failed(fault)) => return Err(fault),
        Err(TurnError::Request(problem)) => problem,
    };
    let (request, error) = match problem {
        RequestProblem::Refused(why) => (FailedRequest::Refused, why),
        RequestProblem::OutcomeUnknown(why) => (FailedRequest::OutcomeUnknown, why),
    };
    tracing::warn!(registrar = registrar.id, agent = one.agent, error, "a registrar failed");
    let attempts = one.attempts.saturating_add(1);
    let next_attempt_at = lease.now + registrar::pause(attempts);
    let failed = FailedAttempt { request, error: &error, next_attempt_at };
    if attempts != REPORTED_ATTEMPT {
        let mut connection = app.pool.acquire().await?;
        store::mark_failed(&mut connection, &one, lease, failed).await?;
        return Ok(false);
    }
    let mut work = AuditedTransaction::begin(&app.pool).await?;
    if store::mark_failed(work.connection(), &one, lease, failed).await? {
        let kind =
            EventKind::RegistrarDelayed { registrar: registrar.id.clone(), operation, attempts, error };
        work.commit(&[about(kind, &one, lease)]).await?;
    }
    Ok(false)
}

/// Why a turn has no result.
enum TurnError {
    Request(RequestProblem),
    Failed(Fault),
}

impl From<RequestProblem> for TurnError {
    fn from(problem: RequestProblem) -> Self {
        Self::Request(problem)
    }
}

impl From<Fault> for TurnError {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

async fn register(
    app: &App,
    opened: &mut OpenedRegistrar<'_>,
    one: &AgentRegistration,
    lease: RegistrationLease,
) -> Result<(), TurnError> {
    let (registrar, outbound) = (opened.registrar, &app.vault.outbound);
    let agent =
        app.read(async |connection| client::store::find(&app.rows, connection, &one.agent).await).await?;
    let agent =
        agent.filter(|agent| !agent.keys.is_empty()).ok_or_else(|| Fault::new("an agent without a key"))?;
    let authorization = match opened.authorization.take() {
        Some(known) => known,
        None => requests::authorization(outbound, registrar, opened.secret.as_ref()).await?,
    };
    let text = authorization.as_ref().map(|text| text.as_str());
    let request = Registration { software_id: &one.agent, keys: &agent.keys };
    let registered = requests::register(outbound, registrar, text, request).await?;
    opened.authorization = Some(authorization);
    let mut work = AuditedTransaction::begin(&app.pool).await?;
    let sealed = match &registered.configuration {
        None => None,
        Some(configuration) => {
            let bytes = to_bytes(configuration)?;
            Some(app.vault.keys.seal(work.connection(), &registration_aad(&one.id), &bytes).await?)
        }
    };
    let stored =
        AgentRegistration { registered_as: Some(registered.client_id.clone()), sealed, ..one.clone() };
    if !store::mark_registered(work.connection(), &stored, lease).await? {
        work.abandon().await?;
        // Another server has taken over: its registration is the one that counts.
        return delete_unused(app, registered.configuration.as_ref()).await;
    }
    let kind = EventKind::RegistrarRegistered(RegisteredAgent {
        registrar: registrar.id.clone(),
        registered_as: registered.client_id,
        deletable: registered.configuration.is_some(),
        answer_lost: one.is_repeated,
    });
    work.commit(&[about(kind, one, lease)]).await?;
    Ok(())
}

async fn delete_unused(app: &App, configuration: Option<&ClientConfiguration>) -> Result<(), TurnError> {
    match configuration {
        Some(configuration) => Ok(requests::delete(&app.vault.outbound, configuration).await?),
        None => Ok(()),
    }
}

/// Deletes the registration of an agent. Without a client configuration endpoint, there is nothing to send.
async fn delete(
    app: &App,
    registrar: &Registrar,
    one: &AgentRegistration,
    lease: RegistrationLease,
) -> Result<(), TurnError> {
    if let Some(sealed) = &one.sealed {
        let opened = app
            .read(async |connection| {
                app.vault.keys.open(connection, &registration_aad(&one.id), sealed).await
            })
            .await?;
        requests::delete(&app.vault.outbound, &from_bytes(&opened)?).await?;
    }
    let mut work = AuditedTransaction::begin(&app.pool).await?;
    if store::mark_closed(work.connection(), &one.id, lease).await? {
        let kind = EventKind::RegistrarDeleted(DeletedAgent {
            registrar: registrar.id.clone(),
            registered_as: one.registered_as.clone(),
            deleted: one.sealed.is_some(),
            answer_lost: one.registered_as.is_none() && one.is_repeated,
        });
        work.commit(&[about(kind, one, lease)]).await?;
    }
    Ok(())
}

fn about(kind: EventKind, one: &AgentRegistration, lease: RegistrationLease) -> Event {
    Event {
        target: Some(one.agent.clone()),
        delegation_id: Some(one.delegation_id.clone()),
        ..Event::new(lease.now, kind, Actor::Server)
    }
}
