//! Key rotation of an ephemeral agent: tokens bound to the old key are revoked at once, and the delegation waits
//! until its delegator confirms the new key.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use sqlx::PgConnection;

use super::request::public_key;
use super::{invalid_state_transition, leaf, view_again, visible};
use crate::domain::audit::Action;
use crate::domain::delegation::State;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::{client, delegation};
use crate::services::request_context::{
    ApiResponse, AuditTarget, AuthenticatedClient, Call, Caller, Desk, Entry, record_delegation_refusal,
};

/// Asks for another key.
pub async fn rotate_key(
    desk: &Desk<'_>,
    call: &Call,
    id: &str,
    jwk: &Map<String, Value>,
) -> Result<ApiResponse, Error> {
    let result = try_to(desk, call, id, jwk).await;
    record_delegation_refusal(desk, call, ("rotate_key", AuditTarget::Delegation(id)), result).await
}

async fn try_to(
    desk: &Desk<'_>,
    call: &Call,
    id: &str,
    jwk: &Map<String, Value>,
) -> Result<ApiResponse, Error> {
    let key = public_key(jwk)?;
    let check = async |connection: &mut PgConnection| {
        let path = visible(connection, desk, call, id).await?;
        let agent = match &call.caller {
            Caller::Agent(AuthenticatedClient { client, .. })
                if client.ephemeral.as_ref().is_some_and(|agent| agent.delegation_id == id) =>
            {
                client
            }
            _ => return Err(Refusal::InsufficientScope.into()),
        };
        let (state, _) = path.state(call.now);
        if state != State::Active {
            return Err(Refusal::InvalidStateTransition(state).into());
        }
        if agent.dpop_keys.contains(key.thumbprint()) {
            return Err(Refusal::Malformed("This is the key that the agent has").into());
        }
        // A stolen key must not return by rotation. The agent's earlier keys count as removed.
        if client::store::is_removed_key(connection, key.thumbprint()).await? {
            return Err(Refusal::KeyNotReusable.into());
        }
        Ok((path, Arc::clone(agent)))
    };
    let (mut work, (path, agent)) = match call.begin_exclusive(desk, check).await? {
        Entry::Before(done) => return Ok(done),
        Entry::Now(work, found) => (work, found),
    };
    let old: Vec<String> = agent.dpop_keys.iter().cloned().collect();
    let jwk = Value::Object(jwk.clone());
    if !delegation::transitions::mark_key_rotating(desk.rows, work.connection(), leaf(&path)?, &jwk, call.now)
        .await?
    {
        return Err(invalid_state_transition(desk.rows, work.connection(), id, call.now).await?);
    }
    client::changes::put_removed_keys(desk.rows, work.connection(), &agent.client_id, &old, call.now).await?;
    client::changes::put_keys(desk.rows, work.connection(), &agent.client_id, (None, &[]), call.now).await?;
    let mut event = call.event_about(desk, Action::DelegationKeyRotationRequested, &path);
    event.detail = Some(json!({"old": old, "new": key.thumbprint()}));
    let done = ApiResponse::with(view_again(desk.rows, work.connection(), id, call.now).await?)?;
    let done = ApiResponse { status: 202, ..done };
    call.store_response(desk, &mut work, &done).await?;
    work.commit(&[event]).await?;
    Ok(done)
}
