//! The OAuth endpoints, under the credentials of a client or public.

pub(super) mod introspection;
pub(super) mod metadata;
pub(super) mod response;
pub(super) mod token;
