//! A declared delegation: its delegator, its parent, and the check that it does not exceed its parent.

use std::collections::BTreeSet;

use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::error::ApplyError;
use crate::domain::client::{self, ClientKind};
use crate::domain::delegation::{
    self, Delegation, DelegationLimits, DelegationRecord, DelegationState, LimitDimension, Provenance,
};
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::domain::registry::Registry;
use crate::platform::clock::rfc3339;
use crate::platform::yaml::InvalidDeclaration;
use crate::services::delegations::{NewDelegation, check_reason};
use crate::services::manifest::DelegationDeclaration;
use crate::services::request_context::RequestContext;
use actchain_protocol::trusted_issuer_jwt;

/// Data that a declared delegation refers to.
pub(super) struct Known<'a> {
    pub(super) ctx: &'a RequestContext<'a>,
    pub(super) registry: &'a Registry,
    pub(super) clients: &'a BTreeSet<String>,
}

/// A declared delegation, and the stored delegation of the same id.
pub(super) struct DelegationChange {
    pub(super) wanted: Delegation,
    pub(super) old: Option<Delegation>,
    /// States to what the lifetime was shortened.
    pub(super) note: Option<String>,
}

/// Converts a declaration to a delegation.
///
/// # Errors
/// A fault with the place and the reason: an unknown name, a cycle, or a limit that exceeds the parent.
pub(super) async fn read(
    connection: &mut PgConnection,
    known: &Known<'_>,
    declared: &DelegationDeclaration,
) -> Result<DelegationChange, ApplyError> {
    declared.check()?;
    let place = &declared.place;
    let (terms, max_uses) = terms(known, declared)?;
    let old = delegation::store::find(known.ctx.rows, connection, &declared.id).await?;
    let delegate = delegate(connection, known.ctx, declared, old.as_ref()).await?;
    let parent = match &declared.parent {
        None => None,
        Some(id) => {
            let found = delegation::store::path(known.ctx.rows, connection, id).await?;
            Some(found.ok_or_else(|| place.fault("parent", format!("there is no delegation {id}")))?)
        }
    };
    let above: Vec<&Delegation> = parent.iter().flat_map(|path| &path.0).collect();
    let (root, delegator) = match (&declared.delegator, above.last()) {
        (Some(delegator), _) => (delegator.clone(), delegator.clone()),
        (None, Some(leaf)) => (leaf.root.clone(), Principal::new(known.ctx.issuer, leaf.delegate.clone())),
        (None, None) => return Err(place.whole("needs a delegator or a parent").into()),
    };
    check_root(known, declared, &root)?;
    let acts = above.iter().any(|one| one.delegate == delegate);
    if acts || root == Principal::new(known.ctx.issuer, delegate.clone()) {
        return Err(place.fault("delegate", format!("{delegate} would act for itself")).into());
    }
    let (expires_at, note) = end(known, declared, &above)?;
    let wanted = Delegation {
        path: above.iter().map(|one| one.id.clone()).chain([declared.id.clone()]).collect(),
        id: declared.id.clone(),
        parent: declared.parent.clone(),
        root,
        delegator,
        delegate,
        terms,
        origin: Provenance::Declared,
        requested_at: known.ctx.now,
        requested_by: None,
        requested_ttl: None,
        reason: declared.reason.clone(),
        agent: None,
        facts: DelegationRecord::unused(Some(known.ctx.now), expires_at, max_uses),
        revoke_reason: None,
        pending_jwk: None,
        standing_grant_id: None,
    };
    match &old {
        None => check_within(known, declared, &above, &wanted)?,
        // The terms of a stored delegation were checked when it was created.
        Some(old) => check_same(declared, old, &wanted)?,
    }
    Ok(DelegationChange { wanted, old, note })
}

/// The limits: the same checks as at `POST /delegate`, and that every name in them is declared.
fn terms(
    known: &Known<'_>,
    declared: &DelegationDeclaration,
) -> Result<(DelegationLimits, Option<i64>), InvalidDeclaration> {
    let place = &declared.place;
    let request = NewDelegation {
        scopes: declared.scopes.clone().map(Vec::from_iter),
        audiences: declared.audiences.clone().map(Vec::from_iter),
        authorization_details: declared.authorization_details.clone(),
        capability_ceiling: declared.capability_ceiling.clone(),
        ceremony_required_for: declared.ceremony_required_for.iter().cloned().collect(),
        max_uses: declared.max_uses,
        max_depth: declared.max_depth,
        offline_access: Some(declared.offline_access),
        expires_in: declared.expires_in,
        ..NewDelegation::default()
    };
    let refused = |refusal: Refusal| place.whole(refusal.sentence());
    if declared.capability_ceiling.as_ref().is_some_and(|name| !known.ctx.capability_levels.knows(name)) {
        return Err(place
            .fault("capability_ceiling", "its capability_ceiling is not one of delegations.capabilities"));
    }
    let (terms, max_uses) = request.terms(known.ctx.capability_levels).map_err(refused)?;
    check_reason(declared.reason.as_deref()).map_err(refused)?;
    let registry = known.registry;
    for name in declared.scopes.iter().flatten() {
        if !registry.has_scope(name) {
            return Err(place.fault("scopes", format!("no resource declares the scope {name}")));
        }
    }
    for name in &declared.ceremony_required_for {
        if !registry.has_scope(name) && !known.ctx.capability_levels.knows(name) {
            let why = format!("{name} is neither a capability nor a scope that a resource declares");
            return Err(place.fault("ceremony_required_for", why));
        }
    }
    for name in declared.audiences.iter().flatten() {
        if !registry.resources.contains_key(name) {
            return Err(place.fault("audiences", format!("there is no resource {name}")));
        }
    }
    for kind in terms.details.iter().flat_map(|details| details.types()) {
        if !registry.has_detail_type(kind) {
            let why = format!("no resource declares the type {kind}");
            return Err(place.fault("authorization_details", why));
        }
    }
    Ok((terms, max_uses))
}

/// The delegate: a client of kind `agent` that is not ephemeral and, for a new delegation, is enabled.
async fn delegate(
    connection: &mut PgConnection,
    ctx: &RequestContext<'_>,
    declared: &DelegationDeclaration,
    old: Option<&Delegation>,
) -> Result<String, ApplyError> {
    let refuse = |why: String| declared.place.fault("delegate", why);
    let name = &declared.delegate;
    let found = client::store::find(ctx.rows, connection, name).await?;
    let found = found.ok_or_else(|| refuse(format!("there is no client {name}")))?;
    if found.ephemeral.is_some() {
        return Err(refuse(format!("{name} was made for one delegation, and cannot receive another")).into());
    }
    if old.is_none() && found.kind != ClientKind::Agent {
        return Err(refuse(format!("{name} is not a client of kind agent")).into());
    }
    if old.is_none() && found.is_inactive() {
        return Err(refuse(format!("{name} is disabled: actchain client enable {name}")).into());
    }
    Ok(found.client_id)
}

fn check_root(
    known: &Known<'_>,
    declared: &DelegationDeclaration,
    root: &Principal,
) -> Result<(), InvalidDeclaration> {
    let ours = root.iss == known.ctx.issuer && known.clients.contains(&root.sub);
    let trusted = known.registry.issuer(&root.iss).is_some() && trusted_issuer_jwt::is_name(&root.sub);
    if ours || trusted {
        return Ok(());
    }
    let why = format!("{} is no trusted issuer, nor {} a client of this server", root.iss, root.sub);
    Err(declared.place.fault("delegator", why))
}

/// The expiry: as declared, but not after the ancestors' expiry and the configured maximum. The note says what was
/// shortened.
fn end(
    known: &Known<'_>,
    declared: &DelegationDeclaration,
    above: &[&Delegation],
) -> Result<(OffsetDateTime, Option<String>), InvalidDeclaration> {
    let earliest = above.iter().min_by_key(|one| one.facts.expires_at);
    let longest = known.ctx.now + Duration::seconds(known.ctx.config.delegations.max_ttl.into());
    let asked = match (declared.expires_in, earliest) {
        (Some(seconds), _) => known.ctx.now + Duration::seconds(seconds.into()),
        (None, Some(parent)) => parent.facts.expires_at,
        (None, None) => return Err(declared.place.whole("needs expires_in")),
    };
    let above = earliest.map(|one| (one.facts.expires_at, one.id.as_str()));
    let (bound, of) = match above {
        Some((end, id)) if end <= longest => (end, id),
        _ => (longest, "delegations.max_ttl"),
    };
    if asked <= bound {
        return Ok((asked, None));
    }
    let what = if declared.expires_in.is_some() {
        "expires_in is shortened"
    } else {
        "it is shorter than its parent"
    };
    Ok((bound, Some(format!("{what}: it ends with {of} at {}", rfc3339(bound)))))
}

/// Checks that no limit exceeds the ancestors. An absent limit is the parent's.
fn check_within(
    known: &Known<'_>,
    declared: &DelegationDeclaration,
    above: &[&Delegation],
    wanted: &Delegation,
) -> Result<(), InvalidDeclaration> {
    let place = &declared.place;
    let server = (known.ctx.config.tokens.max_depth, "tokens.max_depth");
    let depths = above.iter().filter_map(|one| one.terms.max_depth.map(|depth| (depth, one.id.as_str())));
    let (most, of) = depths.fold(server, |least, one| if one.0 < least.0 { one } else { least });
    if u32::try_from(wanted.path.len()).unwrap_or(u32::MAX) > most {
        return Err(place.whole(format!("it would be deeper than {of} allows ({most})")));
    }
    for one in above {
        one.facts
            .check(wanted.requested_at)
            .map_err(Refusal::from)
            .map_err(|refusal| place.fault("parent", format!("{}: {}", one.id, refusal.sentence())))?;
        match wanted.check_within_parent(one, known.ctx.capability_levels) {
            Err(LimitDimension::Expiry) => {
                return Err(place.fault("expires_in", format!("it would outlive {}", one.id)));
            }
            Err(wider) => {
                let member = wider.member();
                return Err(place.fault(member, format!("it would be wider than {} in {member}", one.id)));
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// The terms of a delegation cannot change; the fault names the differing members.
fn check_same(
    declared: &DelegationDeclaration,
    old: &Delegation,
    wanted: &Delegation,
) -> Result<(), InvalidDeclaration> {
    if old.same_terms(wanted) {
        return Ok(());
    }
    let differs = [
        ("parent", old.path != wanted.path),
        ("delegator", old.delegator != wanted.delegator),
        ("delegate", old.delegate != wanted.delegate),
        ("scopes", old.terms.scopes != wanted.terms.scopes),
        ("audiences", old.terms.audiences != wanted.terms.audiences),
        ("authorization_details", old.terms.details != wanted.terms.details),
        ("capability_ceiling", old.terms.ceiling != wanted.terms.ceiling),
        ("ceremony_required_for", old.terms.ceremonies != wanted.terms.ceremonies),
        ("max_depth", old.terms.max_depth != wanted.terms.max_depth),
        ("offline_access", old.terms.offline_access != wanted.terms.offline_access),
        ("max_uses", old.facts.max_uses != wanted.facts.max_uses),
    ];
    let names: Vec<&str> = differs.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
    Err(declared.place.whole(format!(
        "delegation {id} is there with other terms ({}), which do not change: revoke it (actchain delegation \
         revoke {id}) and declare another id",
        names.join(", "),
        id = old.id
    )))
}

/// The remedy for a declared delegation that is not active.
pub(super) fn warning(old: &Delegation, now: OffsetDateTime) -> Option<String> {
    let id = &old.id;
    let state = old.facts.state(now);
    let what = match state {
        DelegationState::Active => return None,
        DelegationState::Expired => format!(
            "it is not renewed by apply: declare it under another id. Before the next one expires, renew it: actchain \
             delegation renew {id} --expires-in SECONDS"
        ),
        DelegationState::Revoked => "it is not restored by apply: declare it under another id".to_owned(),
        DelegationState::Requested => format!("it waits for its delegator: actchain delegation approve {id}"),
    };
    Some(format!("{}, and stays so; {what}", state.name()))
}
