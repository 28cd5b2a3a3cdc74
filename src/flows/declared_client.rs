//! What a declared client changes about the one that is there.

use std::collections::BTreeSet;

use crate::domain::client::Client;
use crate::platform::fault::Fault;

/// Thumbprints of the keys that a client had and will not have, of either kind. Where it will be free to use any, none
/// has been taken from it.
pub(super) fn removed_keys(old: &Client, wanted: &Client) -> Vec<String> {
    let keys = |one: &Client| -> BTreeSet<String> {
        let registered = one.keys.iter().map(|key| key.thumbprint().to_owned());
        let for_proofs = one.dpop_keys.iter().filter(|_| wanted.dpop_restricted).cloned();
        registered.chain(for_proofs).collect()
    };
    keys(old).difference(&keys(wanted)).cloned().collect()
}

/// Refuses a declaration that names a key that was removed from the client: only an operator restores one, by name.
pub(super) fn check_removed_keys(old: &Client, wanted: &Client) -> Result<(), Fault> {
    let declared = wanted.declared_keys();
    let Some(jkt) = declared.intersection(&old.removed_keys).next() else { return Ok(()) };
    let id = &wanted.client_id;
    Err(Fault::new(format!(
        "client {id}: the key {jkt} was removed from this client and stays removed. Declare another key; or, if this one \
         is not compromised, restore it first: actchain client key restore {id} {jkt}"
    )))
}

/// Whether nothing about it changes.
pub(super) fn same_client(old: &Client, wanted: &Client) -> bool {
    let sets = |one: &Client| {
        let sets = [&one.scopes, &one.audiences, &one.detail_types, &one.dpop_keys];
        sets.map(Clone::clone)
    };
    (old.kind, &old.name, old.auth, &old.secrets) == (wanted.kind, &wanted.name, wanted.auth, &wanted.secrets)
        && (&old.jwks, &old.jwks_uri, old.dpop) == (&wanted.jwks, &wanted.jwks_uri, wanted.dpop)
        && (&old.grant_types, &old.actor_subjects) == (&wanted.grant_types, &wanted.actor_subjects)
        && (old.max_token_ttl, old.dpop_restricted) == (wanted.max_token_ttl, wanted.dpop_restricted)
        && sets(old) == sets(wanted)
}
