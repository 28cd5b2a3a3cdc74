//! Revocation of all authority of a subject in one request: revoke-all of a principal, disabling a client, removing a
//! key, ending a task. Each changes one row that every use checks; the affected delegations and tokens are counted
//! after the commit. Administrators and auditors are left to operators, as in a manifest.

use serde::{Deserialize, Deserializer, Serialize};
use sqlx::PgConnection;

use super::console_ends;
use super::delegations::{Affected, check_reason, count_affected};
use super::request_context::RequestContext;
use super::transition::{Attempt, ChangeLock, Effect, Reply, Target};
use crate::domain::audit::detail::SessionEnd;
use crate::domain::audit::{Event, EventKind, Operation, PersonalText};
use crate::domain::client::changes::ClientKeys;
use crate::domain::client::{self, Client};
use crate::domain::console;
use crate::domain::delegation::impact::{BOUND, Impact, RevocationScope, impact};
use crate::domain::principal::{self, Principal};
use crate::domain::refusal::{Error, Refusal};
use crate::domain::standing_grant::transitions::forget_ended_keys;
use crate::domain::token::store::TokensOfKey;
use crate::domain::{delegation, registry, token};
use crate::platform::clock::rfc3339;
use actchain_protocol::trusted_issuer_jwt::is_name;

/// The subject of an impact query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationSubject {
    Principal(Principal),
    Client(String),
    Delegation(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalRevocation {
    pub iss: String,
    pub sub: String,
    pub at: String,
    /// `None` if they could not be counted.
    pub affected: Option<Affected>,
}

/// A disabled or enabled client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSwitch {
    pub client_id: String,
    pub state: ClientState,
    /// Whether the client was in the other state before.
    pub changed: bool,
    /// Only where a client was disabled; `null` if they could not be counted.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub affected: Option<Option<Affected>>,
}

/// Reads `null` as a member that is present.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Affected>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientState {
    Enabled,
    Disabled,
}

/// A key of a client that was removed or restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    pub client_id: String,
    pub jkt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored_at: Option<String>,
}

#[derive(Debug, Clone, Copy)]
pub struct ClientKey<'a> {
    pub client_id: &'a str,
    pub jkt: &'a str,
}

/// Revokes everything that is rooted at a principal or passes through it, up to now. Later delegations are not
/// affected.
pub async fn revoke_all(
    ctx: &RequestContext<'_>,
    who: &Principal,
    reason: &str,
) -> Result<Reply<PrincipalRevocation>, Error> {
    let attempt = Attempt { operation: Operation::RevokePrincipal, target: Target::Principal(who) };
    ctx.attempt(attempt, try_to_revoke_all(ctx, who, reason)).await
}

async fn try_to_revoke_all(
    ctx: &RequestContext<'_>,
    who: &Principal,
    reason: &str,
) -> Result<Reply<PrincipalRevocation>, Error> {
    check_reason(Some(reason))?;
    let check = async |connection: &mut PgConnection| {
        ctx.caller.require_administrator()?;
        let client = check_principal(ctx, connection, who).await?;
        client.as_ref().map_or(Ok(()), |client| ctx.caller.require_may_change(client.kind))?;
        Ok(client.map(|client| client.client_id))
    };
    let mut revoked = None;
    let change = async |connection: &mut PgConnection, client_id: Option<String>| {
        let before = principal::store::cutoff_epoch(connection, who).await?;
        revoked = Some((client_id, before));
        let agent = revoked.as_ref().and_then(|(client_id, _)| client_id.as_deref());
        principal::store::put_revocation(connection, who, ctx.issuer, reason, ctx.now).await?;
        forget_ended_keys(connection, who, agent, ctx.now).await?;
        let mut event = Event { subject: Some(who.clone()), ..ctx.event(EventKind::PrincipalRevoked) };
        event.add_text(PersonalText::Reason, Some(reason));
        let (iss, sub) = (who.iss.clone(), who.sub.clone());
        let ended = console::store::mark_all_ended(connection, who, ctx.now).await?;
        let mut events = vec![event];
        events.extend(console_ends::ended_by(ctx, ended, SessionEnd::RevokeAll));
        let value = PrincipalRevocation { iss, sub, at: rfc3339(ctx.now), affected: None };
        Ok(Effect::Made { value, events })
    };
    let mut reply = ctx.transition(ChangeLock::Exclusive, check, change).await?;
    if let Some((client_id, before)) = revoked {
        let scope = RevocationScope::Principal { who, client_id: client_id.as_deref(), before };
        reply.value.affected = count_affected(ctx, &scope).await;
        ctx.update_stored_result(&reply.value).await;
    }
    Ok(reply)
}

/// The client of this server; for a user, checks that the issuer is trusted.
async fn check_principal(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    who: &Principal,
) -> Result<Option<Client>, Error> {
    if who.iss == ctx.issuer {
        return Ok(Some(find_client(ctx, connection, &who.sub).await?));
    }
    // A mistyped principal must not pass for a successful revocation.
    let registry = registry::store::load(ctx.rows, connection, ctx.issuer).await?;
    let known = registry.issuer(&who.iss).is_some() && is_name(&who.sub);
    if known { Ok(None) } else { Err(Refusal::DelegatorUnknown.into()) }
}

/// What a revocation would affect.
pub async fn show_impact(ctx: &RequestContext<'_>, subject: &RevocationSubject) -> Result<Impact, Error> {
    let mut connection = ctx.pool.acquire().await?;
    if let RevocationSubject::Delegation(id) = subject {
        let found = delegation::store::path(ctx.rows, &mut connection, id).await?;
        let path = found.filter(|path| ctx.caller.may_see(path, ctx.issuer)).ok_or(Refusal::NotFound)?;
        // An inactive delegation has nothing left to revoke.
        if path.is_over(ctx.now) {
            return Ok(Impact::default());
        }
    } else {
        ctx.caller.require_administrator()?;
    }
    let found = match subject {
        RevocationSubject::Delegation(id) => {
            impact(&mut connection, &RevocationScope::Delegation(id), ctx.now).await?
        }
        RevocationSubject::Client(id) => {
            client::store::find(ctx.rows, &mut connection, id).await?.ok_or(Refusal::NotFound)?;
            impact(&mut connection, &RevocationScope::Client { id, issuer: ctx.issuer }, ctx.now).await?
        }
        RevocationSubject::Principal(who) => {
            let client = check_principal(ctx, &mut connection, who).await?;
            let client_id = client.as_ref().map(|client| client.client_id.as_str());
            let before = principal::store::cutoff_epoch(&mut connection, who).await?;
            let scope = RevocationScope::Principal { who, client_id, before };
            impact(&mut connection, &scope, ctx.now).await?
        }
    };
    Ok(found)
}

/// What the removal of a key would affect: the tokens that were obtained with the key or are bound to it. Tokens that were
/// made from these are not counted.
pub async fn show_key_impact(ctx: &RequestContext<'_>, key: ClientKey<'_>) -> Result<Impact, Error> {
    ctx.caller.require_administrator()?;
    let mut connection = ctx.pool.acquire().await?;
    find_client(ctx, &mut connection, key.client_id).await?;
    check_thumbprint(key.jkt)?;
    let ClientKey { client_id, jkt } = key;
    let used = TokensOfKey { client_id, jkt, most: BOUND + 1, now: ctx.now };
    let tokens = token::store::count_of_key(&mut connection, used).await?;
    Ok(Impact { tokens: tokens.min(BOUND), at_least: tokens > BOUND, ..Impact::default() })
}

/// Disables a client: every server refuses the client and all tokens through it, from the next request on, until the
/// client is enabled again.
pub async fn disable(ctx: &RequestContext<'_>, client_id: &str) -> Result<Reply<ClientSwitch>, Error> {
    let switching = switch(ctx, client_id, ClientState::Disabled);
    let mut reply = ctx.attempt(Attempt::on(Operation::DisableClient, client_id), switching).await?;
    if reply.value.changed && !reply.replayed {
        let scope = RevocationScope::Client { id: client_id, issuer: ctx.issuer };
        reply.value.affected = Some(count_affected(ctx, &scope).await);
        ctx.update_stored_result(&reply.value).await;
    }
    Ok(reply)
}

pub async fn enable(ctx: &RequestContext<'_>, client_id: &str) -> Result<Reply<ClientSwitch>, Error> {
    let switching = switch(ctx, client_id, ClientState::Enabled);
    ctx.attempt(Attempt::on(Operation::EnableClient, client_id), switching).await
}

async fn switch(
    ctx: &RequestContext<'_>,
    client_id: &str,
    state: ClientState,
) -> Result<Reply<ClientSwitch>, Error> {
    let check = async |connection: &mut PgConnection| {
        ctx.caller.require_administrator()?;
        let client = find_client(ctx, connection, client_id).await?;
        ctx.caller.require_may_change(client.kind)?;
        // An agent that has ended does not come back.
        if client.ephemeral.as_ref().is_some_and(|agent| agent.deactivated_at.is_some()) {
            return Err(Refusal::AgentDeactivated.into());
        }
        Ok(())
    };
    let change = async |connection: &mut PgConnection, ()| {
        let (changed, kind) = match state {
            ClientState::Disabled => (
                client::changes::mark_disabled(ctx.rows, connection, client_id, ctx.now).await?,
                EventKind::ClientDisabled,
            ),
            ClientState::Enabled => (
                client::changes::mark_enabled(ctx.rows, connection, client_id, ctx.now).await?,
                EventKind::ClientEnabled,
            ),
        };
        let value = ClientSwitch { client_id: client_id.to_owned(), state, changed, affected: None };
        if !changed {
            return Ok(Effect::Unneeded(value));
        }
        let event = Event { target: Some(client_id.to_owned()), ..ctx.event(kind) };
        Ok(Effect::made(value, event))
    };
    ctx.transition(ChangeLock::Exclusive, check, change).await
}

pub(super) async fn find_client(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    client_id: &str,
) -> Result<Client, Error> {
    let found = match client::is_client_id(client_id) {
        true => client::store::find(ctx.rows, connection, client_id).await?,
        false => None,
    };
    found.ok_or_else(|| Refusal::NotFound.into())
}

/// Removes a key of a client: tokens bound to the key or obtained with it are revoked, with all tokens derived from
/// them.
pub async fn remove_key(ctx: &RequestContext<'_>, key: ClientKey<'_>) -> Result<Reply<KeyChange>, Error> {
    ctx.attempt(Attempt::on(Operation::RemoveClientKey, key.client_id), try_to_remove_key(ctx, key)).await
}

async fn try_to_remove_key(ctx: &RequestContext<'_>, key: ClientKey<'_>) -> Result<Reply<KeyChange>, Error> {
    let ClientKey { client_id, jkt } = key;
    ctx.caller.require_administrator()?;
    check_thumbprint(jkt)?;
    let check = async |connection: &mut PgConnection| {
        let client = find_client(ctx, connection, client_id).await?;
        ctx.caller.require_may_change(client.kind)?;
        Ok(client)
    };
    let change = async |connection: &mut PgConnection, client: Client| {
        let left: Vec<String> = client.dpop_keys.iter().filter(|one| *one != jkt).cloned().collect();
        let jwks = client.jwks.as_ref().map(|jwks| client::without_key(jwks, jkt));
        let keys = ClientKeys { jwks: jwks.as_ref(), dpop_keys: &left };
        client::changes::put_keys(ctx.rows, connection, client_id, keys, ctx.now).await?;
        let removed = [jkt.to_owned()];
        client::changes::put_removed_keys(ctx.rows, connection, client_id, &removed, ctx.now).await?;
        registry::store::raise_version(connection).await?;
        let kind = EventKind::ClientKeyRemoved { jkt: jkt.to_owned() };
        let event = Event { target: Some(client_id.to_owned()), ..ctx.event(kind) };
        Ok(Effect::made(KeyChange { removed_at: Some(rfc3339(ctx.now)), ..KeyChange::of(key) }, event))
    };
    ctx.transition(ChangeLock::Exclusive, check, change).await
}

impl KeyChange {
    fn of(key: ClientKey<'_>) -> Self {
        let (client_id, jkt) = (key.client_id.to_owned(), key.jkt.to_owned());
        Self { client_id, jkt, removed_at: None, restored_at: None }
    }
}

/// A thumbprint (RFC 7638) is 32 bytes in base64url.
fn check_thumbprint(jkt: &str) -> Result<(), Refusal> {
    let fits =
        jkt.len() == 43 && jkt.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if fits { Ok(()) } else { Err(Refusal::Malformed("The value is not a thumbprint of a key")) }
}

/// Restores a removed key. Only operators can, so that a stolen administrator token cannot restore a stolen key.
/// Tokens issued before the removal stay revoked.
pub async fn restore_key(ctx: &RequestContext<'_>, key: ClientKey<'_>) -> Result<Reply<KeyChange>, Error> {
    ctx.attempt(Attempt::on(Operation::RestoreClientKey, key.client_id), try_to_restore_key(ctx, key)).await
}

async fn try_to_restore_key(ctx: &RequestContext<'_>, key: ClientKey<'_>) -> Result<Reply<KeyChange>, Error> {
    let ClientKey { client_id, jkt } = key;
    ctx.caller.require_operator()?;
    check_thumbprint(jkt)?;
    let check = async |connection: &mut PgConnection| find_client(ctx, connection, client_id).await;
    let change = async |connection: &mut PgConnection, _: Client| {
        if !client::changes::mark_key_restored(ctx.rows, connection, client_id, jkt, ctx.now).await? {
            return Err(Refusal::NotFound.into());
        }
        let kind = EventKind::ClientKeyRestored { jkt: jkt.to_owned() };
        let event = Event { target: Some(client_id.to_owned()), ..ctx.event(kind) };
        Ok(Effect::made(KeyChange { restored_at: Some(rfc3339(ctx.now)), ..KeyChange::of(key) }, event))
    };
    ctx.transition(ChangeLock::Exclusive, check, change).await
}
