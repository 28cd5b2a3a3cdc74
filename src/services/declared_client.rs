//! Differences between a declared client and the stored client.

use std::collections::BTreeSet;

use crate::domain::client::Client;
use crate::platform::yaml::InvalidDeclaration;

/// Thumbprints of the keys that a client loses, of `jwks` and `dpop_keys`. If the client may use any DPoP key from
/// now on, no DPoP key is lost; if a `jwks_uri` is declared, no key of `jwks` is lost, because the URL decides.
pub(super) fn removed_keys(old: &Client, wanted: &Client) -> Vec<String> {
    let keys = |one: &Client| -> BTreeSet<String> {
        let declared = one.keys.iter().filter(|_| wanted.jwks_uri.is_none());
        let registered = declared.map(|key| key.thumbprint().to_owned());
        let for_proofs = one.dpop_keys.iter().filter(|_| wanted.dpop_restricted).cloned();
        registered.chain(for_proofs).collect()
    };
    keys(old).difference(&keys(wanted)).cloned().collect()
}

/// Thumbprints of the `jwks` keys that are usable only while the client's URL publishes them.
pub(super) fn unpinned_keys(old: &Client, wanted: &Client) -> Vec<String> {
    let removed = removed_keys(old, wanted);
    let keys = old.keys.iter().filter(|_| wanted.jwks_uri.is_some()).map(|key| key.thumbprint().to_owned());
    keys.filter(|jkt| !removed.contains(jkt)).collect()
}

/// Refuses a declaration with a removed key of the client: only an operator restores a key.
pub(super) fn check_removed_keys(old: &Client, wanted: &Client) -> Result<(), InvalidDeclaration> {
    let declared = wanted.declared_keys();
    let Some(jkt) = declared.intersection(&old.removed_keys).next() else { return Ok(()) };
    let id = &wanted.client_id;
    Err(InvalidDeclaration::new(format!(
        "client {id}: the key {jkt} was removed from this client and stays removed. Declare another key; or, if this one \
         is not compromised, restore it first: actchain client key restore {id} {jkt}"
    )))
}
