//! The lifecycle of standing grants: created, renewed, suspended, revalidated, revoked. Each transition is one guarded row
//! and one event; a refused transition is an event too.

mod create;
mod expiry;
mod queries;
mod refusals;
mod renew;
mod revalidate;
mod revoke;
mod suspend;

pub use self::create::{NewStandingGrant, create};
pub(super) use self::expiry::record_expiries;
pub use self::queries::{
    GrantActivity, StandingGrantDetail, impact, keys_of_agent, keys_of_request, list, show,
};
pub use self::refusals::RecentRefusals;
pub use self::renew::renew;
pub use self::revalidate::{KeyConfirmation, revalidate};
pub use self::revoke::{StandingGrantRevocation, revoke};
pub(super) use self::suspend::{record_proven, suspend_unpinned};

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::caller::Caller;
use super::delegations::require_console;
use super::request_context::RequestContext;
use crate::domain::audit::{Event, EventKind};
use crate::domain::client::{self, Client, ClientKind, published_keys};
use crate::domain::issuer::GrantCreators;
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry::Registry;
use crate::domain::standing_grant::coverage::MAX_KEY_SETS;
use crate::domain::standing_grant::store::{GrantParties, key_sets};
use crate::domain::standing_grant::transitions::KEYS_KEPT;
use crate::domain::standing_grant::view::StandingGrantView;
use crate::domain::standing_grant::{self, StandingGrant, list as grants};
use crate::platform::fault::Fault;

/// Keys of one standing grant.
const MAX_KEYS: usize = 16;

/// A standing grant that the caller can see. A missing grant and an invisible one have the same response.
async fn visible(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    id: &str,
) -> Result<StandingGrant, Error> {
    let found = standing_grant::store::find(ctx.rows, connection, id).await?;
    let may_see = |one: &StandingGrant| ctx.caller.administers() || ctx.caller.is(&one.grantor, ctx.issuer);
    Ok(found.filter(may_see).ok_or(Refusal::NotFound)?)
}

/// Refuses callers who may not give anything in the name of a user: others than the user itself, and than administrators and
/// operators where the issuer of the user allows it.
fn require_giver(ctx: &RequestContext<'_>, registry: &Registry, grantor: &Principal) -> Result<(), Refusal> {
    require_console(ctx)?;
    if ctx.caller.is(grantor, ctx.issuer) && !matches!(ctx.caller, Caller::Agent(_)) {
        return Ok(());
    }
    if !ctx.caller.administers() {
        return Err(Refusal::InsufficientScope);
    }
    match registry.issuer(&grantor.iss).map(|issuer| issuer.declared.standing_grants) {
        Some(GrantCreators::ByUserOrAdmin) => Ok(()),
        Some(GrantCreators::ByUser) => Err(Refusal::OnlyUserGrants),
        None => Err(Refusal::DelegatorUnknown),
    }
}

/// The agent of a standing grant, if it can have one: an ephemeral agent cannot.
async fn agent(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    client_id: &str,
) -> Result<Client, Error> {
    let found = match client::is_client_id(client_id) {
        true => client::store::find(ctx.rows, connection, client_id).await?,
        false => None,
    };
    let agent = found.filter(|one| one.kind == ClientKind::Agent && one.ephemeral.is_none());
    Ok(agent.ok_or(Refusal::DelegateUnknown)?)
}

/// How an agent proves itself, as it is registered.
struct KeyRegistration {
    /// The keys that the agent may use, those that it publishes at its `jwks_uri` included.
    keys: BTreeSet<String>,
    /// Grows with each change of the registration and of the published keys.
    version: i64,
}

impl KeyRegistration {
    async fn of(connection: &mut PgConnection, agent: &Client) -> Result<Self, Fault> {
        let published = published_keys::find(connection, &agent.client_id).await?;
        let version = agent.version + published.as_ref().map_or(0, |stored| stored.version);
        let published =
            published.map(|stored| stored.last).filter(|one| agent.jwks_uri.as_ref() == Some(&one.jwks_uri));
        let keys = agent.declared_keys().into_iter().chain(published.into_iter().flat_map(|one| one.keys));
        Ok(Self { keys: keys.filter(|jkt| !agent.removed_keys.contains(jkt)).collect(), version })
    }
}

/// Checks that an agent may use the keys that are to be pinned.
fn check_keys(agent: &Client, registered: &BTreeSet<String>, keys: &BTreeSet<String>) -> Result<(), Refusal> {
    // Without a proof, no use would be under a pinned key.
    if !agent.always_proves_a_key() {
        return Err(Refusal::Malformed("the agent needs no DPoP proof, so its keys cannot be pinned"));
    }
    if keys.is_empty() {
        return Err(Refusal::Malformed(
            "keys is needed: the agent has no registered key that could be pinned",
        ));
    }
    if keys.len() > MAX_KEYS {
        return Err(Refusal::Malformed("keys has at most 16 thumbprints"));
    }
    match keys.iter().all(|jkt| registered.contains(jkt) || agent.may_use_key(jkt)) {
        true => Ok(()),
        false => Err(Refusal::Malformed("keys has a thumbprint of a key that the agent may not use")),
    }
}

/// Checks the number of sets of keys that a user has pinned for an agent, before these keys take the place of those of one
/// grant, or are added. Sets of grants that have expired of late count, too, so that they do not pile up.
async fn check_key_sets(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    parties: GrantParties<'_>,
    replaced: Option<&str>,
    keys: &BTreeSet<String>,
) -> Result<(), Error> {
    let since = ctx.now - KEYS_KEPT;
    let mut sets = key_sets(connection, parties, replaced, since, MAX_KEY_SETS + 1).await?;
    sets.insert(keys.clone());
    match sets.len() <= MAX_KEY_SETS {
        true => Ok(()),
        false => Err(Refusal::StandingGrantLimit.into()),
    }
}

/// Whether a text can be a thumbprint (RFC 7638): 32 bytes in base64url.
fn is_thumbprint(text: &str) -> bool {
    text.len() == 43 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Reads thumbprints of keys.
fn thumbprints(keys: &[String]) -> Result<BTreeSet<String>, Refusal> {
    match keys.iter().all(|jkt| is_thumbprint(jkt)) {
        true => Ok(keys.iter().cloned().collect()),
        false => Err(Refusal::Malformed("A key is named by its thumbprint: 43 characters of base64url")),
    }
}

/// An event about a standing grant.
fn event_about(ctx: &RequestContext<'_>, kind: EventKind, one: &StandingGrant) -> Event {
    Event {
        subject: Some(one.grantor.clone()),
        target: Some(one.client_id.clone()),
        standing_grant_id: Some(one.id.clone()),
        ..ctx.event(kind)
    }
}

async fn view(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    one: &StandingGrant,
) -> Result<StandingGrantView, Error> {
    let used = grants::last_uses(connection, std::slice::from_ref(&one.id)).await?;
    Ok(StandingGrantView::of(one, used.get(&one.id).copied(), ctx.now))
}

/// Reads and shows a standing grant after a change.
async fn view_again(
    ctx: &RequestContext<'_>,
    connection: &mut PgConnection,
    id: &str,
) -> Result<StandingGrantView, Error> {
    let one = visible(ctx, connection, id).await?;
    view(ctx, connection, &one).await
}
