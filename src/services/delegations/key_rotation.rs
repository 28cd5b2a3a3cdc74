//! Key rotation of an ephemeral agent: tokens bound to the old key are revoked at once, and the delegation waits
//! until its delegator confirms the new key.

use std::sync::Arc;

use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::request::public_key;
use super::{invalid_state_transition, leaf, view_again, visible};
use crate::domain::audit::{EventKind, Operation};
use crate::domain::client::Client;
use crate::domain::client::changes::ClientKeys;
use crate::domain::delegation::view::View;
use crate::domain::delegation::{DelegationPath, DelegationState};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::{client, delegation};
use crate::services::caller::{AuthenticatedClient, Caller};
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply};

/// Removes the present key of the calling ephemeral agent, and requests the delegator's approval of another key.
pub async fn rotate_key(
    ctx: &RequestContext<'_>,
    id: &str,
    jwk: &Map<String, Value>,
) -> Result<Reply<View>, Error> {
    ctx.attempt(Attempt::on_delegation(Operation::RotateDelegationKey, id), try_to_rotate(ctx, id, jwk)).await
}

async fn try_to_rotate(
    ctx: &RequestContext<'_>,
    id: &str,
    jwk: &Map<String, Value>,
) -> Result<Reply<View>, Error> {
    let key = public_key(jwk)?;
    let check = async |connection: &mut PgConnection| {
        let path = visible(ctx, connection, id).await?;
        let agent = match &ctx.caller {
            Caller::Agent(AuthenticatedClient { client, .. })
                if client.ephemeral.as_ref().is_some_and(|agent| agent.delegation_id == id) =>
            {
                client
            }
            _ => return Err(Refusal::InsufficientScope.into()),
        };
        let (state, _) = path.state(ctx.now);
        if state != DelegationState::Active {
            return Err(Refusal::InvalidStateTransition(state).into());
        }
        if agent.dpop_keys.contains(key.thumbprint()) {
            return Err(Refusal::Malformed("The agent already has this key").into());
        }
        // A stolen key must not return by rotation. The agent's earlier keys count as removed.
        if client::store::is_removed_key(connection, key.thumbprint()).await? {
            return Err(Refusal::KeyNotReusable.into());
        }
        Ok((path, Arc::clone(agent)))
    };
    let change = async |connection: &mut PgConnection, (path, agent): (DelegationPath, Arc<Client>)| {
        let old: Vec<String> = agent.dpop_keys.iter().cloned().collect();
        let jwk = Value::Object(jwk.clone());
        if !delegation::transitions::mark_key_rotating(ctx.rows, connection, leaf(&path)?, &jwk, ctx.now)
            .await?
        {
            return Err(invalid_state_transition(ctx, connection, id).await?);
        }
        let agent = agent.client_id.as_str();
        client::changes::put_removed_keys(ctx.rows, connection, agent, &old, ctx.now).await?;
        client::changes::put_keys(ctx.rows, connection, agent, ClientKeys::default(), ctx.now).await?;
        let new = key.thumbprint().to_owned();
        let event = ctx.event_about(EventKind::DelegationKeyRotationRequested { old, new }, &path);
        Ok(Effect::made(view_again(ctx, connection, id).await?, event))
    };
    ctx.transition(ChangeLock::Exclusive, check, change).await
}
