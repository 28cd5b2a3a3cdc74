//! What a declared delegation means: whose it is, what it hangs below, and that it is never wider than that.

use std::collections::BTreeSet;

use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::declaration::DelegationDeclaration;
use crate::domain::audit::{Action, Actor, Event};
use crate::domain::capability::Ladder;
use crate::domain::client;
use crate::domain::delegation::{self, Delegation, Facts, Origin, Terms, Wider};
use crate::domain::limit::Limit;
use crate::domain::principal::Principal;
use crate::domain::registry::Registry;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;

/// What a declaration may refer to.
pub(super) struct Known<'a> {
    pub(super) own_issuer: &'a str,
    pub(super) now: OffsetDateTime,
    pub(super) registry: &'a Registry,
    pub(super) clients: &'a BTreeSet<String>,
    pub(super) ladder: &'a Ladder,
}

/// What a declaration means.
pub(super) struct Read {
    pub(super) wanted: Delegation,
    /// What its author should know.
    pub(super) note: Option<String>,
}

/// Reads a declaration into the delegation that it means.
///
/// # Errors
/// A fault that says what cannot be: an unknown name, a cycle, or more than there is above it.
pub(super) async fn read(
    connection: &mut PgConnection,
    known: &Known<'_>,
    declared: DelegationDeclaration,
) -> Result<Read, Fault> {
    let what = format!("delegation {}", declared.id);
    let refuse = |why: String| Fault::new(format!("{what}: {why}"));
    let details = declared.read_details()?;
    let delegate = client::store::find(connection, &declared.delegate).await?;
    let delegate = delegate.ok_or_else(|| refuse(format!("there is no client {}", declared.delegate)))?;
    if delegate.ephemeral.is_some() {
        return Err(refuse(format!(
            "{} was made for one delegation, and is given no other",
            declared.delegate
        )));
    }
    let parent = match &declared.parent {
        None => None,
        Some(id) => {
            let found = delegation::store::path(connection, id).await?;
            Some(found.ok_or_else(|| refuse(format!("there is no delegation {id}")))?)
        }
    };
    let above: Vec<&Delegation> = parent.iter().flat_map(|path| &path.0).collect();
    let leaf = above.last().copied();
    let (root, delegator) = match (&declared.delegator, leaf) {
        (Some(delegator), _) => (delegator.clone(), delegator.clone()),
        (None, Some(leaf)) => (leaf.root.clone(), Principal::new(known.own_issuer, leaf.delegate.clone())),
        (None, None) => return Err(refuse("needs a delegator or a parent".into())),
    };
    let trusted = known.registry.issuers.contains_key(&root.iss)
        || (root.iss == known.own_issuer && known.clients.contains(&root.sub));
    if !trusted {
        return Err(refuse(format!("{} is no trusted issuer, nor {} a client of ours", root.iss, root.sub)));
    }
    let acts = above.iter().any(|one| one.delegate == delegate.client_id);
    if acts || root == Principal::new(known.own_issuer, delegate.client_id.clone()) {
        return Err(refuse(format!("{} would act for itself", delegate.client_id)));
    }
    // A lifetime is an upper bound: below a parent, it ends with what is above.
    let longest = above.iter().map(|one| one.facts.expires_at).min();
    let expires_at = match (declared.expires_in, longest) {
        (Some(seconds), longest) => {
            let asked = known.now + Duration::seconds(seconds.into());
            longest.map_or(asked, |longest| asked.min(longest))
        }
        (None, Some(longest)) => longest,
        (None, None) => return Err(refuse("needs expires_in".into())),
    };
    let asked = declared.expires_in.map(|seconds| known.now + Duration::seconds(seconds.into()));
    let note = (asked > Some(expires_at)).then(|| format!("shortened, until {}", rfc3339(expires_at)));
    let wanted = Delegation {
        path: above.iter().map(|one| one.id.clone()).chain([declared.id.clone()]).collect(),
        id: declared.id.clone(),
        parent: declared.parent.clone(),
        root,
        delegator,
        delegate: delegate.client_id,
        terms: Terms {
            scopes: declared.scopes.map_or(Limit::Any, Limit::Only),
            audiences: declared.audiences.map_or(Limit::Any, Limit::Only),
            details,
            ceiling: declared.capability_ceiling,
            ceremonies: declared.ceremony_required_for,
            max_depth: declared.max_depth,
        },
        origin: Origin::Declared,
        requested_at: known.now,
        requested_by: None,
        lifetime: None,
        reason: declared.reason,
        agent: None,
        facts: Facts {
            activated_at: Some(known.now),
            expires_at,
            revoked_at: None,
            cut_off_at: None,
            rebinding: false,
            max_uses: declared.max_uses.map(i64::from),
            uses: 0,
            used_up_at: None,
        },
        revoke_reason: None,
        pending_jwk: None,
    };
    if wanted.terms.ceiling.as_ref().is_some_and(|name| !known.ladder.knows(name)) {
        return Err(refuse("its capability_ceiling is not on the ladder".into()));
    }
    // One that is there already was checked when it was given.
    if delegation::store::find(connection, &wanted.id).await?.is_none() {
        above.iter().try_for_each(|one| check_within(one, &wanted, known.ladder)).map_err(refuse)?;
    }
    Ok(Read { wanted, note })
}

/// The event that a declared delegation was stored.
pub(super) async fn created(
    connection: &mut PgConnection,
    known: &Known<'_>,
    one: Delegation,
) -> Result<Event, Fault> {
    let path = delegation::store::path(connection, &one.id).await?;
    let path =
        path.ok_or_else(|| Fault::new(format!("delegation {} disappeared while it was stored", one.id)))?;
    let about = (&path, known.own_issuer);
    Ok(Event {
        detail: Some(one.recorded_terms().into()),
        target: Some(one.id),
        ..Event::of_delegation(known.now, Action::DelegationCreated, Actor::operator(), about)
    })
}

/// Never wider than what it hangs below, in any dimension. A limit that is left out is the one above.
fn check_within(above: &Delegation, wanted: &Delegation, ladder: &Ladder) -> Result<(), String> {
    match wanted.fits_below(above, ladder) {
        Err(Wider::Expiry) => Err(format!("it would outlive {}", above.id)),
        Err(wider) => Err(format!("it would be wider than {} in {}", above.id, wider.member())),
        Ok(()) => {
            let active = above.facts.check(wanted.requested_at);
            active.map_err(|refusal| format!("{}: {}", above.id, refusal.sentence()))
        }
    }
}
