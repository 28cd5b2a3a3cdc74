//! The OAuth endpoints: public, or authenticated by a client's own credentials.

pub(super) mod introspection;
pub(super) mod metadata;
pub(super) mod response;
pub(super) mod revocation;
pub(super) mod status_list;
pub(super) mod token;
