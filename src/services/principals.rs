//! Revocation of all authority of a subject in one request: revoke-all of a principal, disabling a client, removing a
//! key, ending a task. Each changes one row that every use checks; the affected delegations and tokens are counted
//! after the commit.

use serde_json::json;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::delegations::counted;
use super::request_context::{
    ApiResponse, AuditTarget, Call, Caller, Desk, Entry, record_delegation_refusal,
};
use super::transaction::{AuditedTransaction, Authorized};
use crate::domain::audit::{Action, Actor, Event};
use crate::domain::client::{self, Client};
use crate::domain::delegation::impact::{Impact, RevocationScope, impact};
use crate::domain::principal::{self, Principal};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::{delegation, registry};
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use crate::protocol::trusted_issuer_jwt::is_name;

/// The subject of an impact query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationSubject {
    Principal(Principal),
    Client(String),
    Delegation(String),
}

fn administers(call: &Call) -> Result<(), Refusal> {
    if call.caller.administers() { Ok(()) } else { Err(Refusal::InsufficientScope) }
}

/// Ends everything that is rooted at a principal or passes through it, up to now. What is delegated afresh lives.
pub async fn revoke_all(
    desk: &Desk<'_>,
    call: &Call,
    who: &Principal,
    reason: &str,
) -> Result<ApiResponse, Error> {
    let result = try_to_revoke_all(desk, call, who, reason).await;
    record_delegation_refusal(desk, call, ("revoke_all", AuditTarget::Other(&who.sub)), result).await
}

async fn try_to_revoke_all(
    desk: &Desk<'_>,
    call: &Call,
    who: &Principal,
    reason: &str,
) -> Result<ApiResponse, Error> {
    super::delegations::check_reason(Some(reason))?;
    let check = async |connection: &mut PgConnection| {
        administers(call)?;
        check_principal(connection, desk, who).await
    };
    let (mut work, client_id) = match call.begin_exclusive(desk, check).await? {
        Entry::Before(done) => return Ok(done),
        Entry::Now(work, client_id) => (work, client_id),
    };
    let before = principal::store::cutoff_epoch(work.connection(), who).await?;
    principal::store::put_revocation(work.connection(), (who, desk.issuer), reason, call.now).await?;
    let mut event = call.event(Action::PrincipalRevoked);
    event.subject = Some(who.clone());
    event.detail = Some(json!({"reason": reason}));
    let said =
        |affected| json!({"iss": who.iss, "sub": who.sub, "at": rfc3339(call.now), "affected": affected});
    let mut done = ApiResponse::with(said(None))?;
    call.store_response(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    let ending = RevocationScope::Principal { who, client_id: client_id.as_deref(), before };
    done.body = said(counted(desk, &ending, call).await);
    keep_count(desk, call, &done).await;
    Ok(done)
}

/// The client id of a client of this server; for a user, checks that the issuer is trusted.
async fn check_principal(
    connection: &mut PgConnection,
    desk: &Desk<'_>,
    who: &Principal,
) -> Result<Option<String>, Error> {
    if who.iss == desk.issuer {
        let found = match client::is_client_id(&who.sub) {
            true => client::store::find(desk.rows, connection, &who.sub).await?,
            false => None,
        };
        return found.map(|client| Some(client.client_id)).ok_or_else(|| Refusal::NotFound.into());
    }
    // A mistyped principal must not pass for a successful revocation.
    let registry = registry::store::load(desk.rows, connection, desk.issuer).await?;
    let known = registry.issuers.contains_key(&who.iss) && is_name(&who.sub);
    if known { Ok(None) } else { Err(Refusal::DelegatorUnknown.into()) }
}

async fn keep_count(desk: &Desk<'_>, call: &Call, done: &ApiResponse) {
    if let Err(fault) = call.update_stored_response(desk, done).await {
        tracing::warn!(error = %fault, "a count was not kept");
    }
}

/// What an end would reach, told before it is brought about.
pub async fn show_impact(
    desk: &Desk<'_>,
    call: &Call,
    whom: &RevocationSubject,
) -> Result<ApiResponse, Error> {
    let mut connection = desk.pool.acquire().await?;
    if let RevocationSubject::Delegation(id) = whom {
        let found = delegation::store::path(desk.rows, &mut connection, id).await?;
        let path = found.filter(|path| call.caller.may_see(path, desk.issuer)).ok_or(Refusal::NotFound)?;
        // An inactive delegation has nothing left to revoke.
        if path.is_over(call.now) {
            return Ok(ApiResponse::with(Impact::default())?);
        }
    } else {
        administers(call)?;
    }
    let found = match whom {
        RevocationSubject::Delegation(id) => {
            impact(&mut connection, &RevocationScope::Delegation(id), call.now).await?
        }
        RevocationSubject::Client(id) => {
            client::store::find(desk.rows, &mut connection, id).await?.ok_or(Refusal::NotFound)?;
            impact(&mut connection, &RevocationScope::Client { id, issuer: desk.issuer }, call.now).await?
        }
        RevocationSubject::Principal(who) => {
            let client_id = check_principal(&mut connection, desk, who).await?;
            let before = principal::store::cutoff_epoch(&mut connection, who).await?;
            let ending = RevocationScope::Principal { who, client_id: client_id.as_deref(), before };
            impact(&mut connection, &ending, call.now).await?
        }
    };
    Ok(ApiResponse::with(found)?)
}

/// Disables a client: every server refuses the client and all tokens through it, from the next request on, until the
/// client is enabled again.
pub async fn disable(desk: &Desk<'_>, call: &Call, client_id: &str) -> Result<ApiResponse, Error> {
    let result = switch(desk, call, (client_id, Switch::Off)).await;
    record_delegation_refusal(desk, call, ("disable", AuditTarget::Other(client_id)), result).await
}

pub async fn enable(desk: &Desk<'_>, call: &Call, client_id: &str) -> Result<ApiResponse, Error> {
    let result = switch(desk, call, (client_id, Switch::On)).await;
    record_delegation_refusal(desk, call, ("enable", AuditTarget::Other(client_id)), result).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Switch {
    On,
    Off,
}

async fn switch(desk: &Desk<'_>, call: &Call, (client_id, to): (&str, Switch)) -> Result<ApiResponse, Error> {
    let check = async |connection: &mut PgConnection| {
        administers(call)?;
        let client = find_client(desk, connection, client_id).await?;
        // An agent that has ended does not come back.
        if client.ephemeral.as_ref().is_some_and(|agent| agent.deactivated_at.is_some()) {
            return Err(Refusal::AgentDeactivated.into());
        }
        Ok(())
    };
    let mut work = match call.begin_exclusive(desk, check).await? {
        Entry::Before(done) => return Ok(done),
        Entry::Now(work, ()) => work,
    };
    let (changed, action, state) = match to {
        Switch::Off => (
            client::changes::mark_disabled(desk.rows, work.connection(), client_id, call.now).await?,
            Action::ClientDisabled,
            "disabled",
        ),
        Switch::On => (
            client::changes::mark_enabled(desk.rows, work.connection(), client_id, call.now).await?,
            Action::ClientEnabled,
            "enabled",
        ),
    };
    let mut done = ApiResponse::with(json!({"client_id": client_id, "state": state, "changed": changed}))?;
    if !changed {
        return Ok(done);
    }
    let mut event = call.event(action);
    event.target = Some(client_id.to_owned());
    call.store_response(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    if to == Switch::Off {
        let affected =
            counted(desk, &RevocationScope::Client { id: client_id, issuer: desk.issuer }, call).await;
        done.body = json!({"client_id": client_id, "state": state, "changed": true, "affected": affected});
        keep_count(desk, call, &done).await;
    }
    Ok(done)
}

async fn find_client(
    desk: &Desk<'_>,
    connection: &mut PgConnection,
    client_id: &str,
) -> Result<Client, Error> {
    let found = match client::is_client_id(client_id) {
        true => client::store::find(desk.rows, connection, client_id).await?,
        false => None,
    };
    found.ok_or_else(|| Refusal::NotFound.into())
}

/// Removes a key of a client: tokens bound to the key or obtained with it are revoked, with all tokens derived from
/// them.
pub async fn remove_key(
    desk: &Desk<'_>,
    call: &Call,
    (client_id, jkt): (&str, &str),
) -> Result<ApiResponse, Error> {
    let result = try_to_remove_key(desk, call, (client_id, jkt)).await;
    record_delegation_refusal(desk, call, ("remove a key", AuditTarget::Other(client_id)), result).await
}

async fn try_to_remove_key(
    desk: &Desk<'_>,
    call: &Call,
    (client_id, jkt): (&str, &str),
) -> Result<ApiResponse, Error> {
    administers(call)?;
    check_thumbprint(jkt)?;
    let check = async |connection: &mut PgConnection| find_client(desk, connection, client_id).await;
    let (mut work, client) = match call.begin_exclusive(desk, check).await? {
        Entry::Before(done) => return Ok(done),
        Entry::Now(work, client) => (work, client),
    };
    let left: Vec<String> = client.dpop_keys.iter().filter(|one| *one != jkt).cloned().collect();
    let jwks = client.jwks.as_ref().map(|jwks| client::without_key(jwks, jkt));
    client::changes::put_keys(desk.rows, work.connection(), client_id, (jwks.as_ref(), &left), call.now)
        .await?;
    client::changes::put_removed_keys(desk.rows, work.connection(), client_id, &[jkt.to_owned()], call.now)
        .await?;
    let mut event = call.event(Action::ClientKeyRemoved);
    event.target = Some(client_id.to_owned());
    event.detail = Some(json!({"jkt": jkt}));
    let done =
        ApiResponse::with(json!({"client_id": client_id, "jkt": jkt, "removed_at": rfc3339(call.now)}))?;
    call.store_response(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    Ok(done)
}

/// A thumbprint (RFC 7638) is 32 bytes in base64url.
fn check_thumbprint(jkt: &str) -> Result<(), Refusal> {
    let fits =
        jkt.len() == 43 && jkt.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if fits { Ok(()) } else { Err(Refusal::Malformed("This is no thumbprint of a key")) }
}

/// Restores a removed key. Only operators can, so that a stolen administrator token cannot restore a stolen key.
/// Tokens issued before the removal stay revoked.
pub async fn restore_key(desk: &Desk<'_>, call: &Call, key: &ClientKey<'_>) -> Result<ApiResponse, Error> {
    let result = try_to_restore_key(desk, call, key).await;
    record_delegation_refusal(desk, call, ("restore a key", AuditTarget::Other(key.client_id)), result).await
}

#[derive(Debug, Clone, Copy)]
pub struct ClientKey<'a> {
    pub client_id: &'a str,
    /// Thumbprint (RFC 7638).
    pub jkt: &'a str,
}

async fn try_to_restore_key(desk: &Desk<'_>, call: &Call, key: &ClientKey<'_>) -> Result<ApiResponse, Error> {
    if !matches!(call.caller, Caller::Operator) {
        return Err(Refusal::InsufficientScope.into());
    }
    let ClientKey { client_id, jkt } = *key;
    check_thumbprint(jkt)?;
    let check = async |connection: &mut PgConnection| find_client(desk, connection, client_id).await;
    let mut work = match call.begin_exclusive(desk, check).await? {
        Entry::Before(done) => return Ok(done),
        Entry::Now(work, _) => work,
    };
    if !client::changes::mark_key_restored(desk.rows, work.connection(), client_id, jkt, call.now).await? {
        return Err(Refusal::NotFound.into());
    }
    let mut event = call.event(Action::ClientKeyRestored);
    event.target = Some(client_id.to_owned());
    event.detail = Some(json!({"jkt": jkt}));
    let done =
        ApiResponse::with(json!({"client_id": client_id, "jkt": jkt, "restored_at": rfc3339(call.now)}))?;
    work.commit(&[event]).await?;
    Ok(done)
}

/// Ends a task: deactivates its ephemeral agents and revokes their delegations. Users and agents end only the agents
/// that they created; administrators and operators end all agents of the task.
pub async fn end_task(desk: &Desk<'_>, call: &Call, task_id: &str) -> Result<ApiResponse, Error> {
    let result = try_to_end_task(desk, call, task_id).await;
    record_delegation_refusal(desk, call, ("end a task", AuditTarget::Other(task_id)), result).await
}

async fn try_to_end_task(desk: &Desk<'_>, call: &Call, task_id: &str) -> Result<ApiResponse, Error> {
    let owner = match &call.caller {
        Caller::Admin(..) | Caller::Operator => None,
        Caller::User(_) | Caller::Agent(..) => call.caller.principal(desk.issuer),
        Caller::Auditor(..) => return Err(Refusal::InsufficientScope.into()),
    };
    let check = async |connection: &mut PgConnection| {
        let agents = client::store::of_task(connection, task_id, owner.as_ref()).await?;
        if agents.is_empty() { Err(Refusal::NotFound.into()) } else { Ok(agents) }
    };
    let (mut work, agents) = match call.begin_exclusive(desk, check).await? {
        Entry::Before(done) => return Ok(done),
        Entry::Now(work, agents) => (work, agents),
    };
    let (ids, homes): (Vec<String>, Vec<String>) = agents.into_iter().unzip();
    let ended = client::changes::mark_ended(desk.rows, work.connection(), &ids, call.now).await?;
    let revoked =
        delegation::transitions::mark_all_revoked(work.connection(), &homes, "its task ended", call.now)
            .await?;
    let mut events = Vec::new();
    for path in delegation::store::all_paths(desk.rows, work.connection(), &revoked).await? {
        let mut event = call.event_about(desk, Action::DelegationRevoked, &path);
        event.detail = Some(json!({"reason": "its task ended", "task_id": task_id}));
        events.push(event);
    }
    events.extend(
        ended
            .iter()
            .map(|client_id| agent_deactivated(call.event(Action::AgentDeactivated), client_id, task_id)),
    );
    let said =
        |affected| json!({"task_id": task_id, "ended": ended.len(), "agents": ended, "affected": affected});
    let mut done = ApiResponse::with(said(None))?;
    call.store_response(desk, &mut work, &done).await?;
    work.commit(&events).await?;
    let affected = counted(desk, &RevocationScope::Delegations(&revoked), call).await;
    done.body = said(affected);
    keep_count(desk, call, &done).await;
    Ok(done)
}

fn agent_deactivated(event: Event, client_id: &str, task_id: &str) -> Event {
    Event { target: Some(client_id.to_owned()), detail: Some(json!({"task_id": task_id})), ..event }
}

/// Deactivates ephemeral agents whose delegation has ended, and returns their number. Cleanup only: such agents are
/// refused already.
pub async fn sweep_agents(desk: &Desk<'_>, now: OffsetDateTime) -> Result<usize, Fault> {
    const MOST: i64 = 500;
    let mut connection = desk.pool.acquire().await?;
    let orphans = client::store::orphans(&mut connection, now, MOST).await?;
    drop(connection);
    if orphans.is_empty() {
        return Ok(0);
    }
    let mut work = AuditedTransaction::begin_exclusive(desk.pool, Authorized::without_request()).await?;
    let ended = client::changes::mark_ended(desk.rows, work.connection(), &orphans, now).await?;
    if ended.is_empty() {
        return Ok(0);
    }
    let event = |client_id: &String| Event {
        target: Some(client_id.clone()),
        ..Event::new(now, Action::AgentDeactivated, Actor::server())
    };
    let events: Vec<Event> = ended.iter().map(event).collect();
    work.commit(&events).await?;
    Ok(ended.len())
}
