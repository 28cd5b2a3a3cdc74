//! What a declared client changes about the one that is there.

use std::collections::BTreeSet;

use crate::domain::client::Client;
use crate::platform::fault::Fault;

/// Thumbprints of the keys that a client had and will not have, of `jwks` and of `dpop_keys`. Where the client will be free to
/// use any key for DPoP, no such key is removed; where a URL will publish its keys, no key of `jwks` is: the URL decides.
pub(super) fn removed_keys(old: &Client, wanted: &Client) -> Vec<String> {
    let keys = |one: &Client| -> BTreeSet<String> {
        let declared = one.keys.iter().filter(|_| wanted.jwks_uri.is_none());
        let registered = declared.map(|key| key.thumbprint().to_owned());
        let for_proofs = one.dpop_keys.iter().filter(|_| wanted.dpop_restricted).cloned();
        registered.chain(for_proofs).collect()
    };
    keys(old).difference(&keys(wanted)).cloned().collect()
}

/// Thumbprints of the keys of `jwks` that will be usable as long as the client's URL publishes them.
pub(super) fn unpinned_keys(old: &Client, wanted: &Client) -> Vec<String> {
    let removed = removed_keys(old, wanted);
    let keys = old.keys.iter().filter(|_| wanted.jwks_uri.is_some()).map(|key| key.thumbprint().to_owned());
    keys.filter(|jkt| !removed.contains(jkt)).collect()
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
