//! The chain of a token as events record it.

use std::collections::BTreeSet;

use crate::domain::audit::ChainLink;
use crate::domain::principal::Principal;
use crate::domain::standing_grant::suspension::ProvenClientKey;
use actchain_protocol::access_token::Act;

/// The actors of a token, root first.
pub(in crate::services) fn chain(act: Option<&Act>) -> Vec<ChainLink> {
    let mut links: Vec<ChainLink> = act
        .into_iter()
        .flat_map(Act::newest_first)
        .map(|act| ChainLink {
            who: Principal::new(&act.iss, &act.sub),
            jkt: act.cnf.as_ref().map(|cnf| cnf.jkt.clone()),
        })
        .collect();
    links.reverse();
    links
}

/// The keys that a client has proven: by its DPoP proof, and by its assertion.
pub(super) type ProvenKeys = BTreeSet<ProvenClientKey>;
