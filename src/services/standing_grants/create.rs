//! Creates a standing grant: by the user, or for the user where the issuer of the user allows it.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;
use sqlx::PgConnection;

use super::{
    KeyRegistration, agent, check_key_sets, check_keys, event_about, require_giver, thumbprints, view,
};
use crate::domain::audit::{EventKind, Operation};
use crate::domain::client::Client;
use crate::domain::delegation::LimitDimension;
use crate::domain::limit::Limit;
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::registry::{self, Registry};
use crate::domain::standing_grant::coverage::MAX_BETWEEN;
use crate::domain::standing_grant::store::{GrantParties, between, lock_parties};
use crate::domain::standing_grant::transitions::insert;
use crate::domain::standing_grant::view::StandingGrantView;
use crate::domain::standing_grant::{
    GrantCreator, GrantFacts, GrantedLimits, StandingGrant, StandingGrantState,
};
use crate::services::caller::{Caller, PrivilegedCaller};
use crate::services::delegations::{Approval, after};
use crate::services::request_context::RequestContext;
use crate::services::transition::{Attempt, ChangeLock, Effect, Reply};
use actchain_protocol::{json, random, trusted_issuer_jwt};

/// A requested standing grant.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewStandingGrant {
    /// The user; a user that creates one for itself leaves it out.
    #[serde(default, deserialize_with = "json::object")]
    pub grantor: Option<Principal>,
    pub client_id: String,
    /// Thumbprints of the keys to pin; the registered keys of the agent if absent.
    pub keys: Option<Vec<String>>,
    pub scopes: Vec<String>,
    pub audiences: Vec<String>,
    pub authorization_details: Option<Value>,
    pub capability_ceiling: Option<String>,
    /// Longest lifetime of each delegation, in seconds.
    pub max_ttl: Option<u32>,
    pub max_uses: Option<u32>,
    pub max_depth: Option<u32>,
    #[serde(default)]
    pub offline_access: bool,
    pub expires_in: Option<u32>,
}

impl NewStandingGrant {
    /// The limits in the form that requests and approvals of delegations have.
    fn as_approval(&self) -> Approval {
        Approval {
            scopes: Some(self.scopes.clone()),
            audiences: Some(self.audiences.clone()),
            authorization_details: self.authorization_details.clone(),
            capability_ceiling: self.capability_ceiling.clone(),
            ceremony_required_for: Vec::new(),
            max_uses: self.max_uses,
            max_depth: self.max_depth,
            offline_access: Some(self.offline_access),
            expires_in: self.expires_in,
        }
    }

    fn limits(&self, ctx: &RequestContext<'_>) -> Result<GrantedLimits, Refusal> {
        let terms = self.as_approval().approved_terms(ctx.capability_levels)?;
        let (scopes, audiences) = (terms.scopes.unwrap_or_default(), terms.audiences.unwrap_or_default());
        if scopes.is_empty() || audiences.is_empty() {
            return Err(Refusal::Malformed("scopes and audiences have at least one name each"));
        }
        if self.max_ttl == Some(0) {
            return Err(Refusal::Malformed("max_ttl is at least 1"));
        }
        let settings = &ctx.config.delegations;
        Ok(GrantedLimits {
            scopes,
            audiences,
            details: terms.details,
            ceiling: terms.ceiling,
            max_ttl: self.max_ttl.unwrap_or(settings.default_ttl).min(settings.max_ttl),
            max_uses: terms.max_uses,
            max_depth: terms.max_depth,
            offline_access: self.offline_access,
        })
    }
}

/// Creates a standing grant. A lifetime that is longer than allowed is shortened.
///
/// # Errors
/// A refusal, which is recorded. A standing grant never exceeds what resources declare and what the user has.
pub async fn create(
    ctx: &RequestContext<'_>,
    request: &NewStandingGrant,
) -> Result<Reply<StandingGrantView>, Error> {
    let attempt = Attempt::on(Operation::CreateStandingGrant, &request.client_id);
    ctx.attempt(attempt, try_to_create(ctx, request)).await
}

async fn try_to_create(
    ctx: &RequestContext<'_>,
    request: &NewStandingGrant,
) -> Result<Reply<StandingGrantView>, Error> {
    let limits = request.limits(ctx)?;
    let grantor = grantor(ctx, request)?;
    let named = request.keys.as_deref().map(thumbprints).transpose()?;
    let check = async |connection: &mut PgConnection| {
        let registry = registry::store::load(ctx.rows, connection, ctx.issuer).await?;
        if registry.issuer(&grantor.iss).is_none() {
            return Err(Refusal::DelegatorUnknown.into());
        }
        require_giver(ctx, &registry, &grantor)?;
        request.as_approval().check_declared(&registry, ctx.capability_levels)?;
        check_rights(ctx, &registry, &limits)?;
        let agent = agent(ctx, connection, &request.client_id).await?;
        if agent.is_inactive() {
            return Err(Refusal::DelegateDisabled.into());
        }
        let registered = KeyRegistration::of(connection, &agent).await?.keys;
        let keys = named.clone().unwrap_or_else(|| registered.clone());
        check_keys(&agent, &registered, &keys)?;
        let parties = GrantParties { grantor: &grantor, client_id: &agent.client_id };
        lock_parties(connection, parties).await?;
        let lasting = |one: &&StandingGrant| {
            matches!(one.state(ctx.now), StandingGrantState::Active | StandingGrantState::Suspended)
        };
        if between(ctx.rows, connection, parties).await?.iter().filter(lasting).count() >= MAX_BETWEEN {
            return Err(Refusal::StandingGrantLimit.into());
        }
        check_key_sets(ctx, connection, parties, None, &keys).await?;
        Ok((agent, keys))
    };
    let change = async |connection: &mut PgConnection, (agent, keys): (Client, BTreeSet<String>)| {
        let settings = &ctx.config.standing_grants;
        let seconds = request.expires_in.unwrap_or(settings.default_ttl).min(settings.max_ttl);
        let one = StandingGrant {
            id: random::id(ctx.now)?.to_string(),
            grantor: grantor.clone(),
            client_id: agent.client_id.clone(),
            keys,
            limits: limits.clone(),
            created_at: ctx.now,
            created_by: creator(ctx, &grantor),
            facts: GrantFacts {
                expires_at: after(ctx.now, seconds),
                revoked_at: None,
                principal_revoked_at: None,
                suspension: None,
            },
        };
        insert(ctx.rows, connection, &one).await?;
        let event = event_about(ctx, EventKind::StandingGrantCreated(one.recorded()), &one);
        let shortened = request.expires_in.is_some_and(|asked| asked > seconds).then_some(true);
        let value = StandingGrantView { shortened, ..view(ctx, connection, &one).await? };
        Ok(Effect::made(value, event))
    };
    ctx.transition(ChangeLock::Shared, check, change).await
}

/// The user whose authority is granted: the caller, or the one that an administrator or operator names.
fn grantor(ctx: &RequestContext<'_>, request: &NewStandingGrant) -> Result<Principal, Refusal> {
    match (&ctx.caller, &request.grantor) {
        (Caller::Agent(_) | Caller::Auditor(_), _) => Err(Refusal::InsufficientScope),
        (_, Some(named)) if trusted_issuer_jwt::is_name(&named.sub) => Ok(named.clone()),
        (_, Some(_)) => Err(Refusal::DelegatorUnknown),
        (Caller::User(user) | Caller::Admin(PrivilegedCaller::Person(user)), None) => Ok(user.who.clone()),
        (Caller::Admin(_) | Caller::Operator, None) => Err(Refusal::Malformed("grantor is missing")),
    }
}

fn creator(ctx: &RequestContext<'_>, grantor: &Principal) -> GrantCreator {
    match &ctx.caller {
        Caller::Operator | Caller::Admin(PrivilegedCaller::Operator(_)) => GrantCreator::Operator,
        caller if caller.is(grantor, ctx.issuer) => GrantCreator::User,
        _ => GrantCreator::Admin,
    }
}

/// Refuses scopes that the user does not have, as far as its issuer says so, or that no named audience has.
fn check_rights(
    ctx: &RequestContext<'_>,
    registry: &Registry,
    limits: &GrantedLimits,
) -> Result<(), Refusal> {
    let own = match &ctx.caller {
        Caller::User(user) => &user.scopes,
        _ => &Limit::Any,
    };
    let resources = limits.audiences.iter().filter_map(|name| registry.resources.get(name));
    let here: BTreeSet<&String> = resources.flat_map(|resource| &resource.scopes).collect();
    match limits.scopes.iter().all(|scope| own.allows(scope) && here.contains(scope)) {
        true => Ok(()),
        false => Err(Refusal::ExceedsGrantor(LimitDimension::Scopes)),
    }
}
