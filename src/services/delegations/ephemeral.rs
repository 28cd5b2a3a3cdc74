//! Ephemeral agents: clients that are created with a delegation, for it alone.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::PgConnection;

use super::request::EphemeralRequest;
use crate::domain::audit::{Event, EventKind, PersonalText};
use crate::domain::client::{
    self, AssertionAudience, AuthMethod, Client, ClientKind, DpopPolicy, Ephemeral, GrantType, TokenBinding,
};
use crate::domain::delegation::{Delegation, DelegationPath};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registrar;
use crate::domain::registry::Registry;
use crate::platform::fault::Fault;
use crate::services::caller::{AuthenticatedClient, Caller};
use crate::services::request_context::RequestContext;
use actchain_protocol::jose::PublicKey;

/// An ephemeral agent of a delegation. It authenticates by its key only, and has only the rights of its delegation.
pub(super) fn ephemeral_agent(
    ctx: &RequestContext<'_>,
    registry: &Registry,
    one: &Delegation,
    request: &EphemeralRequest,
    key: &PublicKey,
) -> Client {
    let rights = rights(&ctx.caller, registry, ctx.issuer);
    Client {
        client_id: one.delegate.clone(),
        version: 1,
        kind: ClientKind::Agent,
        name: format!("Agent of task {}", request.task_id),
        auth: AuthMethod::None,
        secrets: Vec::new(),
        declared_secret: None,
        jwks: Some(json!({"keys": [Value::Object(request.jwk.clone())]})),
        keys: Vec::new(),
        jwks_uri: None,
        scopes: rights.scopes,
        audiences: rights.audiences,
        detail_types: rights.detail_types,
        grant_types: BTreeSet::from([
            GrantType::ClientCredentials,
            GrantType::TokenExchange,
            GrantType::RefreshToken,
        ]),
        dpop: DpopPolicy::Required,
        token_type: TokenBinding::Dpop,
        assertion_audience: AssertionAudience::Issuer,
        dpop_keys: BTreeSet::from([key.thumbprint().to_owned()]),
        dpop_restricted: true,
        removed_keys: BTreeSet::new(),
        actor_subjects: Vec::new(),
        max_token_ttl: None,
        disabled_at: None,
        ephemeral: Some(Ephemeral {
            delegation_id: one.id.clone(),
            task_id: request.task_id.clone(),
            owner: ctx.caller.principal(ctx.issuer).unwrap_or_else(|| one.delegator.clone()),
            deactivated_at: None,
        }),
    }
}

/// Creates an ephemeral agent, unless its key was removed before or its task has as many agents as allowed.
pub(super) async fn create_agent(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    path: &DelegationPath,
    agent: Client,
) -> Result<Event, Error> {
    let Some(Ephemeral { owner, task_id, delegation_id, .. }) = &agent.ephemeral else {
        return Err(Fault::new("an agent without its task").into());
    };
    for jkt in &agent.dpop_keys {
        if client::store::is_removed_key(connection, jkt).await? {
            return Err(Refusal::KeyNotReusable.into());
        }
    }
    let present = client::store::lock_task(connection, owner, task_id).await?;
    if present >= i64::from(ctx.config.agents.max_per_task) {
        return Err(Refusal::TaskAgentLimit.into());
    }
    client::changes::put(ctx.rows, connection, &agent, ctx.now).await?;
    registrar::store::enqueue(connection, &agent.client_id, delegation_id, ctx.now).await?;
    let kind = EventKind::AgentCreated { owner: owner.clone(), jkt: agent.dpop_keys.first().cloned() };
    let mut event = ctx.event_about(kind, path);
    event.add_text(PersonalText::TaskId, Some(task_id.as_str()));
    Ok(Event { target: Some(agent.client_id), ..event })
}

/// The maximum rights of a client.
#[derive(Default)]
struct Rights {
    scopes: BTreeSet<String>,
    audiences: BTreeSet<String>,
    detail_types: BTreeSet<String>,
}

/// The maximum rights of an ephemeral agent: those of the agent that creates it; all registered rights if a user
/// creates it, because the delegation bounds it.
fn rights(caller: &Caller, registry: &Registry, own_issuer: &str) -> Rights {
    if let Caller::Agent(AuthenticatedClient { client, .. }) = caller {
        return Rights {
            scopes: client.scopes.clone(),
            audiences: client.audiences.clone(),
            detail_types: client.detail_types.clone(),
        };
    }
    let mut rights = Rights::default();
    for resource in registry.resources.values().filter(|resource| resource.id != own_issuer) {
        rights.scopes.extend(resource.scopes.iter().cloned());
        rights.audiences.insert(resource.id.clone());
        rights.detail_types.extend(resource.detail_types.iter().cloned());
    }
    rights
}
